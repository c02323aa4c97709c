//! One node: a Raft group of the built-in key-value state machine behind the real transport, with the
//! runtimes that a cluster node has.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Address, Entropy, NodeName, OsEntropy, OsVfs, PeerIdentity, ProposeError, Proposer,
    RaftGroupId, RaftNodeId, Reply, RpcError, RpcHandler, RpcKind, RpcRequest, RpcResponse, Vfs,
};
use rivven_raft_store::{
    Identity, KvStateMachine, Member, RaftHandle, RaftNode, RaftNodeConfig, RaftNodeOptions, Voter,
};
use rivven_tests::Failure;
use rivven_transport::{
    Compression, Secret, Security, Transport, TransportConfig, TransportLimits, TransportRuntimes,
};
use tokio::runtime::{Builder, Runtime};

/// A linearizable read; the body of the request is the key.
pub(crate) const READ: RpcKind = RpcKind(0x7001);
/// Who leads, and up to where is applied: two words in the body.
pub(crate) const STATUS: RpcKind = RpcKind(0x7002);
/// Form the group from the nodes in the body, one `name raft-id address` a line.
pub(crate) const FORM: RpcKind = RpcKind(0x7003);
/// Add the node in the body as a learner.
pub(crate) const ADD: RpcKind = RpcKind(0x7004);

const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn security() -> Result<Security, Failure> {
    let secret = Secret::new("a secret for measurements on loopback");
    let secret = secret.map_err(|e| Failure::new(e.to_string()))?;
    Ok(Security::SharedSecret(secret))
}

pub(crate) fn runtime(name: &str, threads: usize) -> Result<Runtime, Failure> {
    let built = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build();
    Ok(built?)
}

fn fail(error: impl ToString) -> Failure {
    Failure::new(error.to_string())
}

/// `--node NAME LISTEN DIR PRESET`; ends when its standard input does.
pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let [name, listen, dir, preset] = arguments else {
        return Err(Failure::new("--node NAME LISTEN DIR PRESET"));
    };
    let control = runtime("control", 1)?;
    let data = runtime("data", 1)?;
    let runtimes = TransportRuntimes {
        control: control.handle().clone(),
        data: data.handle().clone(),
    };
    control.block_on(serve(name, listen, Path::new(dir), preset, runtimes))?;
    // Whatever still runs is killed with the process; the figures are taken by then.
    std::process::exit(0)
}

async fn serve(
    name: &str,
    listen: &str,
    dir: &Path,
    preset: &str,
    runtimes: TransportRuntimes,
) -> Result<(), Failure> {
    let name = NodeName::new(name).map_err(fail)?;
    let listen: SocketAddr = listen.parse().map_err(fail)?;
    let vfs: Arc<dyn Vfs> = Arc::new(OsVfs);
    let entropy: Arc<dyn Entropy> = Arc::new(OsEntropy);
    let identity = Identity::load_or_create(&vfs, dir, &name, entropy.as_ref()).map_err(fail)?;
    let raft_id = identity.raft_id;
    let config = TransportConfig {
        name: name.clone(),
        incarnation: identity.incarnation,
        cluster_id: None,
        listen,
        security: security()?,
        compression: Compression::default(),
        limits: TransportLimits::default(),
    };
    let transport = Transport::bind(config, runtimes, entropy)
        .await
        .map_err(fail)?;
    let mut config = RaftNodeConfig {
        node_id: name.to_string(),
        data_dir: dir.into(),
        ..RaftNodeConfig::default()
    };
    if preset == "fast" {
        config = config.fast();
    }
    let mut options = RaftNodeOptions::default();
    options.limits.two_phase_commit = preset != "one-phase";
    let machine = KvStateMachine::new();
    let reader = machine.reader();
    let rpc = Arc::new(transport.clone());
    let node = RaftNode::open(config, identity, options, Box::new(machine), rpc);
    let mut node = node.await.map_err(fail)?;
    node.start().await.map_err(fail)?;
    let raft = node.handle();
    let book = tokio::spawn(follow_addresses(raft.clone(), transport.clone(), name));
    transport.serve(Arc::new(Handler {
        raft,
        reader,
        transport: transport.clone(),
    }));
    println!("{raft_id}");
    // The parent holds the other end of this pipe open for as long as it lives.
    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin()))
        .await
        .map_err(fail)??;
    book.abort();
    Ok(())
}

async fn follow_addresses(raft: RaftHandle, transport: Transport, own: NodeName) {
    let mut status = raft.watch_status();
    loop {
        let members: Vec<Member> = {
            let status = status.borrow_and_update();
            status
                .voters
                .iter()
                .chain(&status.learners)
                .cloned()
                .collect()
        };
        for member in members.into_iter().filter(|m| m.name != own) {
            transport.add_peer(member.name, member.address);
        }
        if status.changed().await.is_err() {
            return;
        }
    }
}

struct Handler {
    raft: RaftHandle,
    reader: rivven_raft_store::KvReader,
    transport: Transport,
}

fn refused(error: impl ToString) -> RpcError {
    RpcError::Refused(error.to_string())
}

fn body(bytes: Bytes) -> RpcResponse {
    RpcResponse {
        meta: Bytes::new(),
        body: bytes,
    }
}

pub(crate) fn members(text: &[u8]) -> Result<Vec<Voter>, RpcError> {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [name, raft_id, address] = words.as_slice() else {
                return Err(refused("name raft-id address"));
            };
            Ok(Voter {
                raft_id: RaftNodeId::new(raft_id.parse().map_err(refused)?),
                name: NodeName::new(*name).map_err(refused)?,
                address: address.parse::<Address>().map_err(refused)?,
            })
        })
        .collect()
}

impl Handler {
    fn propose(&self, command: Bytes) -> Reply {
        let proposal = self.raft.propose(RaftGroupId::METADATA, command, DEADLINE);
        Reply::Later(Box::pin(async move {
            match proposal.await {
                Ok(_) => Ok(RpcResponse::default()),
                Err(ProposeError::NotLeader { .. }) => Err(refused("not the leader")),
                Err(error) => Err(refused(error)),
            }
        }))
    }

    fn read(&self, key: Bytes) -> Reply {
        let (raft, reader) = (self.raft.clone(), self.reader.clone());
        Reply::Later(Box::pin(async move {
            raft.read_barrier(DEADLINE).await.map_err(refused)?;
            Ok(body(reader.get(&key).unwrap_or_default()))
        }))
    }

    fn change(&self, kind: RpcKind, text: &[u8]) -> Reply {
        let (raft, transport) = (self.raft.clone(), self.transport.clone());
        let nodes = members(text);
        Reply::Later(Box::pin(async move {
            let nodes = nodes?;
            for node in &nodes {
                transport.add_peer(node.name.clone(), node.address.clone());
            }
            if kind == FORM {
                raft.initialize(nodes).await.map_err(refused)?;
            } else {
                for node in nodes {
                    raft.add_learner(node, DEADLINE).await.map_err(refused)?;
                }
            }
            Ok(RpcResponse::default())
        }))
    }
}

impl RpcHandler for Handler {
    fn handle(&self, peer: &PeerIdentity, request: RpcRequest) -> Reply {
        match request.kind {
            RpcKind::PROPOSE => self.propose(request.body),
            READ => self.read(request.body),
            STATUS => {
                let status = self.raft.status();
                let leader = status
                    .leader
                    .map_or_else(|| "-".to_owned(), |l| l.to_string());
                let applied = status.applied.map_or(0, rivven_core_types::LogIndex::get);
                Reply::Now(Ok(body(format!("{leader} {applied}").into())))
            }
            FORM | ADD => self.change(request.kind, &request.body),
            _ => self.raft.handle(peer, request),
        }
    }
}
