//! For tests: the metadata of a cluster whose nodes run different builds.

use std::sync::Arc;

use rivven_core_types::{
    Address, ClusterId, CommittedEntry, Incarnation, LogDirId, LogIndex, NodeInfo, NodeName,
    RaftNodeId, StateMachine, Term,
};
use rivven_metadata::{
    ClusterState, Command, CommandResult, LevelCommand, LevelRange, MetadataLevel,
    MetadataStateMachine, Registration,
};

pub(crate) fn range(min: u16, max: u16) -> LevelRange {
    let (min, max) = (MetadataLevel::new(min), MetadataLevel::new(max));
    LevelRange { min, max }
}

/// Broker `n`, whose Raft id is `n`, by a build that understands the levels `min` to `max`.
pub(crate) fn registration(n: u8, min: u16, max: u16) -> Registration {
    let address: Address = "127.0.0.1:1".parse().unwrap();
    let name = NodeName::new(format!("node-{n}")).unwrap();
    Registration {
        info: NodeInfo::new(name, address.clone(), address),
        incarnation: Incarnation::from_bytes([n; 16]),
        raft_id: RaftNodeId::new(u64::from(n)),
        log_dir: LogDirId::from_bytes([n; 16]),
        lossy: Vec::new(),
        levels: range(min, max),
    }
}

/// A formed cluster, seen by a node that understands the levels 1 to 9.
pub(crate) struct Builds {
    machine: MetadataStateMachine,
    index: u64,
}

impl Builds {
    pub(crate) fn new() -> Self {
        let machine = MetadataStateMachine::new(Arc::new(|_| {}));
        let mut builds = Self {
            machine: machine.supporting(range(1, 9)),
            index: 0,
        };
        builds.apply(&Command::FormCluster {
            cluster_id: ClusterId::from_bytes([1; 16]),
        });
        builds
    }

    pub(crate) fn apply(&mut self, command: &Command) -> CommandResult {
        self.index += 1;
        let entry = CommittedEntry {
            index: LogIndex::new(self.index),
            term: Term::new(1),
            command: command.encode().unwrap(),
        };
        let results = self.machine.apply(&[entry]).unwrap();
        let result = CommandResult::decode(&results[0]).unwrap();
        result.into_result().unwrap()
    }

    pub(crate) fn register(&mut self, n: u8, min: u16, max: u16) {
        self.apply(&registration(n, min, max).into_command());
    }

    pub(crate) fn remove(&mut self, raft_id: u64) {
        let removed = self.state().broker_by_raft_id(RaftNodeId::new(raft_id));
        let (broker, node_epoch) = removed.map(|b| (b.id, b.node_epoch)).unwrap();
        self.apply(&Command::RemoveBroker {
            broker,
            node_epoch,
            accept_loss: false,
        });
    }

    pub(crate) fn raise(&mut self, from: u16, to: u16) {
        let (from, to) = (MetadataLevel::new(from), MetadataLevel::new(to));
        self.apply(&Command::Level(LevelCommand::Raise { from, to }));
    }

    pub(crate) fn state(&self) -> &ClusterState {
        self.machine.state()
    }
}
