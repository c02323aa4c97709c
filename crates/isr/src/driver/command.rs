//! What a shard is asked to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rivven_core_types::{
    AlterPartitionProposal, BrokerId, EpochEnd, LeaderEpoch, LogConfig, MonoTime, NodeEpoch,
    Offset, PartitionId, PartitionState, RecordBatch, ScrubOutcome, ScrubTicket, TimestampedOffset,
    TopicId,
};
use tokio::sync::{Notify, oneshot};

use super::api::{FetchPartition, Fetched, FetchedPartition, LocalLog, Produced};
use super::protocol::FetchEntry;
use super::session::Session;
use crate::core::{
    Acks, AlterResult, ClusterView, FetchPosition, FetchReply, OffsetSpec, ReplicaFetched,
};
use crate::error::ReplicationError;

pub(super) type Answer<T> = oneshot::Sender<Result<T, ReplicationError>>;

/// A flush that has run.
#[derive(Debug)]
pub(super) struct FlushDone {
    pub(super) partition: PartitionId,
    pub(super) instance: u64,
    pub(super) end: Offset,
    pub(super) generation: u64,
    pub(super) result: std::io::Result<()>,
}

/// A piece of a log to be verified.
#[derive(Debug)]
pub(super) struct ScrubJob {
    pub(super) partition: PartitionId,
    pub(super) instance: u64,
    pub(super) ticket: ScrubTicket,
}

/// A piece of a log that has been verified.
#[derive(Debug)]
pub(super) struct ScrubDone {
    pub(super) partition: PartitionId,
    pub(super) instance: u64,
    pub(super) generation: u64,
    pub(super) outcome: ScrubOutcome,
}

/// A follower's fetch, as far as one shard has to answer it.
#[derive(Debug)]
pub(super) struct ReplicaRead {
    pub(super) broker: BrokerId,
    pub(super) node_epoch: NodeEpoch,
    pub(super) entries: Vec<Stand>,
    pub(super) max_bytes: usize,
    pub(super) partition_max_bytes: usize,
    /// Told when one of the logs grows; `None` for a fetch outside of any session.
    pub(super) session: Option<Arc<Session>>,
    pub(super) reply: oneshot::Sender<Vec<(FetchEntry, ReplicaAnswer)>>,
}

/// Where a follower stands with a partition, and the number of the fetch that said so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stand {
    pub(super) entry: FetchEntry,
    pub(super) session_epoch: u64,
}

pub(super) type ReplicaAnswer = Result<ReplicaFetched, ReplicationError>;

/// A consumer's fetch, as far as one shard has to answer it.
#[derive(Debug)]
pub(super) struct ConsumerFetch {
    /// Position in the request, and what to read.
    pub(super) partitions: Vec<(usize, FetchPartition)>,
    pub(super) max_bytes: usize,
    /// Woken when one of the high watermarks moves.
    pub(super) wake: Arc<Notify>,
    pub(super) reply: oneshot::Sender<Vec<(usize, FetchedPartition)>>,
}

/// Where the followers of one leader stand.
#[derive(Debug, Default)]
pub(super) struct Positions {
    pub(super) entries: Vec<FetchEntry>,
    /// When the first refused partition may be fetched again.
    pub(super) retry_at: Option<MonoTime>,
    /// When the quota grants something for those that it holds back.
    pub(super) held_until: Option<MonoTime>,
    /// More partitions have moved than the limit allows.
    pub(super) is_cut_short: bool,
}

/// The earlier of two times, if there is one.
pub(super) fn earlier(a: Option<MonoTime>, b: Option<MonoTime>) -> Option<MonoTime> {
    a.into_iter().chain(b).min()
}

/// Which positions a fetch names.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// All of them: the session is new.
    All,
    /// Those that the session has not heard, and those of a fetch that was given up.
    Session(Vec<PartitionId>),
    /// Those that have moved since they were last told in whatever way.
    Moved,
}

/// A metadata change, as far as it concerns one shard.
#[derive(Debug)]
pub(super) struct ShardUpdate {
    pub(super) view: Arc<ClusterView>,
    pub(super) changed: Vec<PartitionState>,
    pub(super) log_configs: Arc<BTreeMap<TopicId, LogConfig>>,
    pub(super) removed: Vec<PartitionId>,
}

/// What an update did.
#[derive(Debug, Default)]
pub(super) struct ShardUpdated {
    /// The leaders that this shard's replicas follow.
    pub(super) followed: BTreeSet<BrokerId>,
    /// Those of them for which something changed.
    pub(super) touched: BTreeSet<BrokerId>,
}

/// What a shard is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Produce {
        partition: PartitionId,
        batch: RecordBatch,
        acks: Acks,
        deadline: MonoTime,
        reply: Answer<Produced>,
    },
    Read(ConsumerFetch),
    ListOffset {
        partition: PartitionId,
        spec: OffsetSpec,
        epoch: Option<LeaderEpoch>,
        reply: Answer<Option<TimestampedOffset>>,
    },
    EpochEnd {
        partition: PartitionId,
        asked: LeaderEpoch,
        epoch: Option<LeaderEpoch>,
        reply: Answer<Option<EpochEnd>>,
    },
    DeleteRecords {
        partition: PartitionId,
        before: Option<Offset>,
        deadline: MonoTime,
        reply: Answer<Produced>,
    },
    /// The next piece to verify, if there is one.
    NextScrub {
        reply: oneshot::Sender<Option<ScrubJob>>,
    },
    Scrubbed(ScrubDone),
    ReplicaRead(ReplicaRead),
    /// A follower's fetch by call instead of RPC.
    LocalFetch {
        partition: PartitionId,
        broker: BrokerId,
        offset: Offset,
        reply: Answer<Fetched>,
    },
    Apply {
        update: ShardUpdate,
        reply: oneshot::Sender<ShardUpdated>,
    },
    OpenLogs {
        reply: Answer<Vec<LocalLog>>,
    },
    Positions {
        leader: BrokerId,
        wanted: Wanted,
        /// Most of them; the others come with the next fetch.
        limit: usize,
        reply: oneshot::Sender<Positions>,
    },
    Fetched {
        /// Who answered.
        leader: BrokerId,
        /// What the fetch had said if it was outside of any session, and the answer.
        replies: Vec<(PartitionId, Option<FetchPosition>, FetchReply)>,
        reply: oneshot::Sender<()>,
    },
    AlterAnswered(Vec<(AlterPartitionProposal, Option<AlterResult>)>),
    Flushed(FlushDone),
    Tick,
    Shutdown {
        reply: oneshot::Sender<()>,
    },
}
