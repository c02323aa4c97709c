//! A core with its log, driven by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rivven_core_types::{
    BatchBuilder, BrokerId, Durability, LeaderEpoch, LogStore, MonoTime, NodeEpoch, Offset,
    PartitionEpoch, PartitionId, PartitionState, ProducerEpoch, ProducerId, RecordBatch,
    RecoveryState, ReplicaLog, SyncBy, TopicId, UnixMillis,
};

use crate::core::deletion::DeleteIn;
use crate::core::partition::PartitionReplica;
use crate::core::types::{
    Acked, Acks, ClusterView, FetchReply, Flushed, Output, ProduceIn, ReplicaFetch, ReplicaFetched,
    Settings,
};
use crate::error::ReplicationError;
use crate::mem_log::{MemLog, MemLogStore};

pub(super) const LAG: Duration = Duration::from_secs(10);

pub(super) fn broker(id: i32) -> BrokerId {
    BrokerId::new(id)
}

pub(super) fn at(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

pub(super) fn partition() -> PartitionId {
    PartitionId::new(TopicId::from_bytes([3; 16]), 0)
}

pub(super) fn settings() -> Settings {
    Settings {
        lag_max_time: LAG,
        max_pending_acks: 1000,
        max_producers: 100,
        alter_retry: Duration::from_millis(100),
        fetch_retry: Duration::from_millis(50),
    }
}

pub(super) fn record(durability: Durability) -> PartitionState {
    let all: Vec<BrokerId> = (1..=3).map(broker).collect();
    PartitionState {
        id: partition(),
        replicas: all.clone(),
        isr: all.clone(),
        elr: Vec::new(),
        last_known_isr: all,
        leader: Some(broker(1)),
        leader_epoch: LeaderEpoch::new(0),
        partition_epoch: PartitionEpoch::new(0),
        recovery: RecoveryState::Recovered,
        min_isr: 2,
        durability,
    }
}

pub(super) fn view() -> ClusterView {
    ClusterView {
        node_epochs: (1..=3).map(|b| (broker(b), NodeEpoch::new(10))).collect(),
        ineligible: BTreeSet::new(),
    }
}

pub(super) fn plain(text: &str) -> RecordBatch {
    BatchBuilder::new(0)
        .record(0, None, Some(text.as_bytes()))
        .build()
        .unwrap()
}

pub(super) fn idempotent(producer: i64, sequence: i32) -> RecordBatch {
    BatchBuilder::new(0)
        .producer(ProducerId::new(producer), ProducerEpoch::new(0), sequence)
        .record(0, None, Some(b"v"))
        .build()
        .unwrap()
}

/// One replica. Everything that it asks for collects in `out`.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) core: PartitionReplica,
    pub(super) log: MemLog,
    pub(super) now: MonoTime,
    pub(super) view: ClusterView,
    pub(super) out: Vec<Output>,
    next_id: u64,
    session: u64,
}

impl Node {
    pub(super) fn new(id: i32) -> Self {
        let store = MemLogStore::default();
        let _opened = store.open(partition()).unwrap();
        Self::over(id, store.log(partition()).unwrap())
    }

    pub(super) fn over(id: i32, log: MemLog) -> Self {
        let hint = Offset::ZERO;
        let core = PartitionReplica::open(broker(id), settings(), partition(), hint, &log).unwrap();
        Self {
            core,
            log,
            now: MonoTime::from_origin(Duration::from_secs(1000)),
            view: view(),
            out: Vec::new(),
            next_id: 0,
            session: 0,
        }
    }

    /// Loses power: what is not durable is gone, and so is everything in memory.
    pub(super) fn crash(self, keep: Offset) -> Self {
        self.log.crash(keep);
        let id = self.core.me.get();
        Self::over(id, self.log)
    }

    pub(super) fn apply(&mut self, record: &PartitionState) {
        self.core
            .apply(self.now, record, &self.view, &mut self.log, &mut self.out);
    }

    pub(super) fn produce(&mut self, batch: &RecordBatch, acks: Acks) -> u64 {
        self.next_id += 1;
        let input = ProduceIn {
            id: self.next_id,
            batch,
            acks,
            deadline: self.now + Duration::from_secs(30),
            contact: true,
        };
        self.core
            .produce(self.now, &input, &self.view, &mut self.log, &mut self.out);
        self.next_id
    }

    pub(super) fn delete(&mut self, before: Option<Offset>) -> u64 {
        self.next_id += 1;
        let input = DeleteIn {
            id: self.next_id,
            before,
            deadline: self.now + Duration::from_secs(30),
        };
        self.core
            .delete_records(self.now, input, &mut self.log, &mut self.out);
        self.next_id
    }

    /// Whether the log start has moved.
    pub(super) fn retain(&mut self, now: UnixMillis) -> bool {
        self.core.apply_retention(now, &mut self.log, &mut self.out)
    }

    pub(super) fn flush(&mut self) {
        if let Some(ticket) = self.log.begin_flush() {
            let result = (ticket.job)(SyncBy::Job);
            self.core.flushed(
                self.now,
                Flushed {
                    end: ticket.end,
                    generation: ticket.generation,
                    result,
                },
                &self.view,
                &mut self.log,
                &mut self.out,
            );
        }
    }

    /// The fetch that this follower would send now.
    pub(super) fn fetch(&mut self) -> ReplicaFetch {
        self.session += 1;
        ReplicaFetch {
            broker: self.core.me,
            node_epoch: self.view.node_epochs[&self.core.me],
            session_epoch: self.session,
            position: self.core.fetch_position(&self.log),
            max_bytes: 1 << 20,
        }
    }

    pub(super) fn serve(
        &mut self,
        fetch: &ReplicaFetch,
    ) -> Result<ReplicaFetched, ReplicationError> {
        self.core
            .replica_fetch(self.now, fetch, &self.view, &self.log, &mut self.out)
    }

    pub(super) fn take(
        &mut self,
        fetch: &ReplicaFetch,
        answer: Result<ReplicaFetched, ReplicationError>,
    ) {
        let reply = match answer {
            Ok(fetched) => FetchReply::Fetched(fetched),
            Err(ReplicationError::OffsetOutOfRange {
                log_start, log_end, ..
            }) => FetchReply::OutOfRange { log_start, log_end },
            Err(_) => FetchReply::Refused,
        };
        let asked = &fetch.position;
        self.core
            .fetched(self.now, asked, reply, &mut self.log, &mut self.out);
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now = self.now + by;
        self.core
            .tick(self.now, &self.view, &self.log, &mut self.out);
    }

    pub(super) fn end(&self) -> Offset {
        self.log.log_end()
    }

    pub(super) fn high_watermark(&self) -> Offset {
        self.core.high_watermark
    }

    /// The answers to writes so far, by id.
    pub(super) fn acks(&self) -> BTreeMap<u64, Result<Acked, ReplicationError>> {
        let acks = self.out.iter().filter_map(|output| match output {
            Output::Ack { id, result } => Some((*id, result.clone())),
            _ => None,
        });
        acks.collect()
    }

    /// The proposals so far.
    pub(super) fn proposals(&self) -> Vec<rivven_core_types::AlterPartitionProposal> {
        let proposals = self.out.iter().filter_map(|output| match output {
            Output::Alter(proposal) => Some(proposal.clone()),
            _ => None,
        });
        proposals.collect()
    }
}

/// One round trip of a follower; flushes first, so that its progress is durable.
pub(super) fn sync(leader: &mut Node, follower: &mut Node) {
    follower.flush();
    let fetch = follower.fetch();
    let answer = leader.serve(&fetch);
    follower.take(&fetch, answer);
}

/// Three replicas with everything of `writes` committed; the first leads epoch 0.
pub(super) fn trio(durability: Durability, writes: usize) -> [Node; 3] {
    let mut nodes = [Node::new(1), Node::new(2), Node::new(3)];
    for node in &mut nodes {
        node.apply(&record(durability));
    }
    for i in 0..writes {
        let _id = nodes[0].produce(&plain(&format!("w{i}")), Acks::All);
    }
    nodes[0].flush();
    let [a, b, c] = &mut nodes;
    for _ in 0..3 {
        sync(a, b);
        sync(a, c);
    }
    nodes
}

/// The record in which `leader` leads the next epoch with `isr`.
pub(super) fn led_by(record: &PartitionState, leader: i32, isr: &[i32]) -> PartitionState {
    PartitionState {
        leader: Some(broker(leader)),
        isr: isr.iter().copied().map(broker).collect(),
        leader_epoch: record.leader_epoch.next().unwrap(),
        partition_epoch: record.partition_epoch.next().unwrap(),
        ..record.clone()
    }
}
