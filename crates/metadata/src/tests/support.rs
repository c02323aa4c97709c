//! A state machine with short-hands, which checks the invariants after every command.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rivven_core_types::{
    AlterPartitionError, AlterPartitionProposal, BrokerId, ClusterId, CommittedEntry, Durability,
    Incarnation, IsrMember, LogConfig, LogDirId, LogIndex, NodeEpoch, NodeInfo, NodeName,
    PartitionId, PartitionState, RaftNodeId, StateMachine, Term, TopicId, TopicName,
};

use crate::{ClusterState, Command, CommandResult, MetadataStateMachine, Rejection};

pub(super) type Published = Arc<Mutex<Vec<Arc<ClusterState>>>>;

pub(super) struct Cluster {
    pub(super) machine: Box<MetadataStateMachine>,
    pub(super) published: Published,
    pub(super) index: u64,
    /// Every command that was run, and its result.
    pub(super) history: Vec<CommittedEntry>,
    pub(super) results: Vec<Bytes>,
}

pub(super) const fn b(id: i32) -> BrokerId {
    BrokerId::new(id)
}

pub(super) fn ids(list: &[i32]) -> Vec<BrokerId> {
    list.iter().map(|id| b(*id)).collect()
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

pub(super) const fn topic_id(n: u8) -> TopicId {
    TopicId::from_bytes([n; 16])
}

/// A fresh machine whose published states are collected.
pub(super) fn machine() -> (MetadataStateMachine, Published) {
    let published: Published = Arc::default();
    let sink = Arc::clone(&published);
    let machine = MetadataStateMachine::new(Arc::new(move |state| {
        sink.lock().unwrap().push(state);
    }));
    (machine, published)
}

pub(super) fn entry(index: u64, command: &Command) -> CommittedEntry {
    CommittedEntry {
        index: LogIndex::new(index),
        term: Term::new(1),
        command: command.encode().unwrap(),
    }
}

/// The registration of broker `n` in a given life of its data directory.
pub(super) fn registration(n: i32, life: u8, lossy: &[PartitionId]) -> Command {
    let name = NodeName::new(format!("node-{n}")).unwrap();
    let incarnation = Incarnation::from_bytes([life; 16]);
    let raft_id = RaftNodeId::derive(&name, &incarnation);
    let address = "127.0.0.1:9092".parse().unwrap();
    let peer = "127.0.0.1:9093".parse().unwrap();
    Command::RegisterBroker {
        info: NodeInfo::new(name, address, peer),
        incarnation,
        raft_id,
        log_dir: LogDirId::from_bytes([life; 16]),
        lossy: lossy.to_vec(),
    }
}

impl Cluster {
    pub(super) fn blank() -> Self {
        let (machine, published) = machine();
        Self {
            machine: Box::new(machine),
            published,
            index: 0,
            history: Vec::new(),
            results: Vec::new(),
        }
    }

    /// A formed cluster with brokers 1 to `n`, all active.
    pub(super) fn with_brokers(n: i32) -> Self {
        let mut cluster = Self::blank();
        cluster.ok(&Command::FormCluster {
            cluster_id: ClusterId::from_bytes([1; 16]),
        });
        for broker in 1..=n {
            cluster.register(broker, 1, &[]);
            cluster.unfence(broker);
        }
        cluster
    }

    pub(super) fn run(&mut self, command: &Command) -> CommandResult {
        self.index += 1;
        let before = self.machine.state().clone();
        let entry = entry(self.index, command);
        let results = self.machine.apply(std::slice::from_ref(&entry)).unwrap();
        let result = CommandResult::decode(&results[0]).unwrap();
        self.history.push(entry);
        self.results.extend(results);
        let after = self.machine.state();
        if matches!(result, CommandResult::Rejected(_)) {
            assert_eq!(before.hash(), after.hash(), "a rejection changed the state");
            assert!(after.changed_since(&before).is_empty());
        }
        check(&before, after);
        result
    }

    pub(super) fn ok(&mut self, command: &Command) -> CommandResult {
        self.run(command).into_result().unwrap()
    }

    pub(super) fn refused(&mut self, command: &Command) -> Rejection {
        self.run(command).into_result().unwrap_err()
    }

    pub(super) fn state(&self) -> &ClusterState {
        self.machine.state()
    }

    pub(super) fn epoch(&self, broker: i32) -> NodeEpoch {
        self.state().broker(b(broker)).unwrap().node_epoch
    }

    pub(super) fn register(&mut self, n: i32, life: u8, lossy: &[PartitionId]) -> NodeEpoch {
        let result = self.ok(&registration(n, life, lossy));
        let CommandResult::Registered { broker, node_epoch } = result else {
            panic!("{result:?}");
        };
        assert_eq!(broker, b(n));
        node_epoch
    }

    pub(super) fn unfence(&mut self, n: i32) {
        let node_epoch = self.epoch(n);
        self.ok(&Command::UnfenceBroker {
            broker: b(n),
            node_epoch,
        });
    }

    pub(super) fn fence(&mut self, n: i32) {
        let node_epoch = self.epoch(n);
        self.ok(&Command::FenceBroker {
            broker: b(n),
            node_epoch,
        });
    }

    pub(super) fn shut_down(&mut self, n: i32) {
        let node_epoch = self.epoch(n);
        self.ok(&Command::BeginControlledShutdown {
            broker: b(n),
            node_epoch,
        });
    }

    /// Creates topic `n` with one partition.
    pub(super) fn topic(&mut self, n: u8, replicas: &[i32], min_isr: u32) -> PartitionId {
        self.ok(&Command::CreateTopic {
            name: topic_name(&format!("topic-{n}")),
            id: topic_id(n),
            replicas: vec![ids(replicas)],
            min_isr,
            durability: Durability::Fsync,
            log: LogConfig::default(),
            placement: None,
        });
        PartitionId::new(topic_id(n), 0)
    }

    pub(super) fn partition(&self, id: PartitionId) -> PartitionState {
        self.state().partition(&id).unwrap().clone()
    }

    /// What the partition's leader would propose now.
    pub(super) fn proposal(&self, id: PartitionId, isr: &[i32]) -> AlterPartitionProposal {
        let partition = self.partition(id);
        AlterPartitionProposal {
            partition: id,
            leader_epoch: partition.leader_epoch,
            partition_epoch: partition.partition_epoch,
            new_isr: isr
                .iter()
                .map(|n| IsrMember {
                    broker: b(*n),
                    node_epoch: self.epoch(*n),
                })
                .collect(),
            recovery: partition.recovery,
        }
    }

    pub(super) fn propose(
        &mut self,
        sender: i32,
        proposal: AlterPartitionProposal,
    ) -> Result<PartitionState, AlterPartitionError> {
        let node_epoch = self.epoch(sender);
        let result = self.ok(&Command::AlterPartitions {
            broker: b(sender),
            node_epoch,
            proposals: vec![proposal],
        });
        let CommandResult::PartitionsAltered { mut outcomes } = result else {
            panic!("{result:?}");
        };
        outcomes.remove(0).result
    }

    /// Has the leader change the ISR, which must succeed.
    pub(super) fn alter(&mut self, id: PartitionId, isr: &[i32]) -> PartitionState {
        let leader = self.partition(id).leader.unwrap().get();
        let proposal = self.proposal(id, isr);
        self.propose(leader, proposal).unwrap()
    }

    /// Asserts leader, ISR, ELR and last known ISR.
    #[track_caller]
    pub(super) fn expect(
        &self,
        id: PartitionId,
        leader: Option<i32>,
        isr: &[i32],
        elr: &[i32],
        last: &[i32],
    ) {
        let p = self.partition(id);
        assert_eq!(
            (p.leader, p.isr, p.elr, p.last_known_isr),
            (leader.map(b), ids(isr), ids(elr), ids(last))
        );
    }
}

/// Checks every partition, and every change from the state before.
pub(super) fn check(before: &ClusterState, after: &ClusterState) {
    for p in after.partitions() {
        let distinct = |list: &[BrokerId]| {
            let mut sorted = list.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            sorted.len() == list.len()
        };
        assert!(distinct(&p.isr) && distinct(&p.elr), "{p:?}");
        assert!(
            p.isr.iter().chain(&p.elr).all(|m| p.is_replica(*m)),
            "{p:?}"
        );
        assert!(p.isr.iter().all(|m| !p.elr.contains(m)), "{p:?}");
        assert!(p.isr.iter().all(|m| after.is_active(*m)), "{p:?}");
        assert!(
            p.isr
                .iter()
                .chain(&p.elr)
                .all(|m| p.last_known_isr.contains(m)),
            "{p:?}"
        );
        assert_eq!(p.leader.is_none(), p.isr.is_empty(), "{p:?}");
        assert!(p.leader.is_none_or(|l| p.isr.contains(&l)), "{p:?}");
        assert!(p.is_under_min_isr() || p.elr.is_empty(), "{p:?}");
        assert!(!p.last_known_isr.is_empty(), "{p:?}");
        let lost = after.lost_members(&p.id);
        let awaited = |m: &BrokerId| p.last_known_isr.contains(m) && !p.isr.contains(m);
        assert!(distinct(lost) && lost.iter().all(awaited), "{p:?} {lost:?}");
        let Some(old) = before.partition(&p.id) else {
            continue;
        };
        assert_eq!(
            p.partition_epoch.get() - old.partition_epoch.get(),
            i32::from(p != old),
            "{old:?} -> {p:?}"
        );
        let has_gone = |replica: &BrokerId| !p.replicas.contains(replica);
        let is_new_reign = p.leader != old.leader || old.replicas.iter().any(has_gone);
        // One command may exchange a member and end the reassignment with it.
        let raised = p.leader_epoch.get() - old.leader_epoch.get();
        assert!(
            (raised > 0) == is_new_reign && (0..=2).contains(&raised),
            "{old:?} -> {p:?}"
        );
        let is_in_feed = after.partition_changed_at(&p.id) > Some(before.applied());
        assert_eq!(is_in_feed, p != old);
    }
}
