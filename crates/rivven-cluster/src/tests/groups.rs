//! Consumer coordination on Raft: what members were told is there after a restart, without a rebalance.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{
    BoxFuture, NodeName, PeerRpc, RackId, RaftGroupId, RpcError, RpcRequest, RpcResponse,
    SystemClock, TopicId, TopicName,
};
use rivven_raft_store::Identity;

use crate::consumer_groups::{
    ClientInfo, Committer, Epoch, GroupConfig, GroupId, GroupPorts, GroupsStateMachine,
    GroupsWatch, Heartbeat, HeartbeatAnswer, MemberId, OffsetToCommit, Op, Partitions, Request,
    Response, TopicCatalog, TopicShape,
};
use crate::{ConsumerCoordinator, PartitionId, RaftNode, RaftNodeConfig, RaftNodeOptions};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(30);

/// A node by itself.
#[derive(Debug)]
struct Nobody;

impl PeerRpc for Nobody {
    fn call(
        &self,
        peer: &NodeName,
        _: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        let peer = peer.clone();
        Box::pin(async { Err(RpcError::UnknownPeer { peer }) })
    }
}

/// One topic of two partitions.
struct Orders;

impl TopicCatalog for Orders {
    fn version(&self) -> u64 {
        1
    }

    fn by_name(&self, name: &TopicName) -> Option<TopicShape> {
        self.all().into_iter().find(|topic| topic.name == *name)
    }

    fn by_id(&self, id: TopicId) -> Option<TopicShape> {
        self.all().into_iter().find(|topic| topic.id == id)
    }

    fn all(&self) -> Vec<TopicShape> {
        vec![TopicShape {
            id: TopicId::from_bytes([1; 16]),
            name: TopicName::new("orders").unwrap(),
            partitions: 2,
        }]
    }

    fn racks(&self, _: TopicId) -> Vec<Vec<RackId>> {
        Vec::new()
    }
}

/// The group coordinator of a cluster of one.
struct Coordinating {
    node: RaftNode,
    state: GroupsWatch,
    coordinator: ConsumerCoordinator,
    running: tokio::task::JoinHandle<()>,
}

impl Coordinating {
    async fn start(dir: &Path) -> Outcome<Self> {
        let config = RaftNodeConfig {
            node_id: "node-1".to_string(),
            standalone: true,
            data_dir: dir.into(),
            ..RaftNodeConfig::default()
        };
        let options = RaftNodeOptions {
            group: RaftGroupId::GROUPS,
            ..RaftNodeOptions::default()
        };
        let name = NodeName::new("node-1")?;
        let identity = Identity::load_or_create(&options.vfs, dir, &name, &*options.entropy)?;
        let state = GroupsWatch::default();
        let machine = GroupsStateMachine::new(state.publisher());
        let peers = Arc::new(Nobody);
        let mut node = RaftNode::open(config, identity, options, Box::new(machine), peers).await?;
        node.start().await?;
        node.handle().read_barrier(DEADLINE).await?;
        let ports = GroupPorts {
            proposer: Arc::new(node.handle()),
            state: state.clone(),
            topics: Arc::new(Orders),
            clock: Arc::new(SystemClock::default()),
        };
        let coordinator = ConsumerCoordinator::new(GroupConfig::default(), ports);
        coordinator.lead();
        let driver = coordinator.clone();
        let running = tokio::spawn(async move { driver.run().await });
        Ok(Self {
            node,
            state,
            coordinator,
            running,
        })
    }

    async fn ask(&self, request: Request) -> Outcome<Response> {
        Ok(tokio::time::timeout(DEADLINE, self.coordinator.call(request)).await?)
    }

    async fn heartbeat(&self, epoch: Epoch, owned: Option<Partitions>) -> Outcome<HeartbeatAnswer> {
        let joins = epoch == Epoch::JOIN;
        let beat = Heartbeat {
            group: GroupId::new("readers")?,
            member: MemberId::new("reader-1")?,
            instance: None,
            epoch,
            rack: None,
            client: ClientInfo::default(),
            rebalance_timeout_ms: joins.then_some(60_000),
            topics: joins.then(|| Orders.all().into_iter().map(|t| t.name).collect()),
            pattern: None,
            assignor: None,
            owned,
        };
        match self.ask(Request::Heartbeat(Box::new(beat))).await? {
            Response::Heartbeat(answer) => Ok(answer?),
            other => Err(format!("{other:?}").into()),
        }
    }

    async fn stop(mut self) {
        self.running.abort();
        self.node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_coordination_outlives_a_restart_without_a_rebalance() -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let first = Coordinating::start(dir.path()).await?;
    let joined = first
        .heartbeat(Epoch::JOIN, Some(Partitions::default()))
        .await?;
    let share = joined.assignment.ok_or("it was given nothing")?;
    assert_eq!(share.len(), 2);
    let partition = PartitionId::new(TopicId::from_bytes([1; 16]), 0);
    let commit = Op::Commit {
        group: GroupId::new("readers")?,
        by: Committer {
            member: Some(MemberId::new("reader-1")?),
            instance: None,
            epoch: joined.epoch,
        },
        offsets: vec![OffsetToCommit {
            partition,
            offset: 42,
            leader_epoch: 3,
            metadata: "so far".into(),
        }],
    };
    let answer = first.ask(Request::Propose(commit)).await?;
    assert!(matches!(answer, Response::Done(Ok(()))), "{answer:?}");
    let hash = first.state.current().hash();
    first.stop().await;

    let second = Coordinating::start(dir.path()).await?;
    assert_eq!(second.state.current().hash(), hash);
    let goes_on = second.heartbeat(joined.epoch, Some(share)).await?;
    assert_eq!(goes_on.epoch, joined.epoch);
    let now = second.state.current();
    let readers = now
        .group(&GroupId::new("readers")?)
        .ok_or("the group is gone")?;
    let stored = readers.offset(&partition).ok_or("the offset is gone")?;
    assert_eq!((stored.offset, stored.leader_epoch), (42, 3));
    second.stop().await;
    Ok(())
}
