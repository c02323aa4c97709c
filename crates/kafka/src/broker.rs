//! What the Kafka port needs of the node behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_coordinator::metadata::TopicChange;
use rivven_core_types::{
    BoxFuture, BrokerId, Durability, EpochEnd, LeaderEpoch, LogConfig, Offset, PartitionId,
    ProducerEpoch, ProducerId, RecordBatch, TopicId, TopicName,
};

use crate::error::BrokerError;
use crate::group_broker::GroupBroker;
use crate::snapshot::ClusterSnapshot;

/// The node as the Kafka port sees it.
///
/// Rules for an implementation:
/// - No method blocks: what takes time happens in the returned future or behind it.
/// - Each future ends within the time its request names; the port waits a few seconds longer and then
///   answers for it.
/// - Dropping a future gives up the answer, never a change that has begun.
pub trait Broker: Send + Sync + 'static {
    /// The newest metadata. Called once or more per request, so it must be cheap (an `Arc` clone).
    fn cluster(&self) -> Arc<ClusterSnapshot>;

    /// Appends one batch, whose CRC and records have been checked.
    ///
    /// The append must be *queued when this method returns*, before the future is first polled: the
    /// port calls it in the order of a connection's requests, and that is the order of the records in
    /// the log. The future answers when `acks` is met or `timeout` has passed.
    ///
    /// [`BrokerError::NotEnoughReplicas`] is answered at once and not waited out, as Kafka does: a
    /// batch that is tried again later would overtake, or be overtaken by, the batches behind it.
    ///
    /// A batch that repeats an idempotent producer's earlier one answers as the first time did.
    fn produce(
        &self,
        partition: PartitionId,
        batch: RecordBatch,
        acks: Acks,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Produced, BrokerError>>;

    /// Reads from partitions; one answer per partition, in the order asked.
    ///
    /// Waits until [`FetchRequest::min_bytes`] are there, a partition fails, or
    /// [`FetchRequest::max_wait`] has passed. The first partition that has records gives one whole batch
    /// at least, whatever the byte limits (KIP-74); the answer is whole batches and otherwise no longer
    /// than [`FetchRequest::max_bytes`].
    fn fetch(&self, request: FetchRequest) -> BoxFuture<'static, Vec<Fetched>>;

    /// Finds an offset. `None` when no record matches.
    fn list_offset(
        &self,
        partition: PartitionId,
        current_leader_epoch: Option<LeaderEpoch>,
        query: OffsetQuery,
    ) -> BoxFuture<'static, Result<Option<ListedOffset>, BrokerError>>;

    /// Where a leader epoch ends in the leader's log (KIP-320): the greatest epoch not above `asked` with
    /// its exclusive end; `None` if `asked` is above all that the log has.
    fn epoch_end(
        &self,
        partition: PartitionId,
        asked: LeaderEpoch,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> BoxFuture<'static, Result<Option<EpochEnd>, BrokerError>>;

    /// Allocates an id for an idempotent producer (KIP-98).
    fn init_producer_id(
        &self,
    ) -> BoxFuture<'static, Result<(ProducerId, ProducerEpoch), BrokerError>>;

    /// Creates topics; one answer per topic, in the order asked.
    fn create_topics(
        &self,
        request: CreateTopics,
    ) -> BoxFuture<'static, Vec<Result<CreatedTopic, TopicFailure>>>;

    /// Deletes a topic with all its records.
    fn delete_topic(
        &self,
        name: TopicName,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>>;
    /// Changes settings of a topic.
    fn alter_topic(
        &self,
        name: TopicName,
        change: TopicChange,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>>;
    /// Deletes the records below `before` (`None`: below the high watermark); answers with the new log
    /// start once every in-sync replica has done so (KIP-107).
    fn delete_records(
        &self,
        partition: PartitionId,
        before: Option<Offset>,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Offset, BrokerError>>;
    /// Adds partitions to topics (KIP-195), or only checks; one answer for each, in the order asked. The
    /// topics differ; each is placed with the partitions of those before it.
    fn create_partitions(
        &self,
        topics: Vec<MorePartitions>,
        validate_only: bool,
        timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>>;
    /// Begins, redirects and cancels reassignments (KIP-455); one answer for each, in the order asked. The
    /// partitions differ. The answer says that the change has begun, not that replicas have caught up.
    fn reassign(
        &self,
        changes: Vec<ReplicaChange>,
        timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>>;
    /// The reassignments under way, by partition.
    fn reassignments(&self) -> BTreeMap<PartitionId, Reassigning>;
    /// Makes the first replica of each partition its leader (KIP-460); one answer for each, in the order
    /// asked. [`BrokerError::ElectionNotNeeded`] where it is, [`BrokerError::PreferredLeaderNotAvailable`]
    /// where it is not in sync or not active.
    fn elect_preferred(
        &self,
        partitions: Vec<PartitionId>,
        timeout: Duration,
    ) -> BoxFuture<'static, Vec<Result<(), TopicFailure>>>;
    /// Has any active replica lead a partition without leader, whatever it lacks (KIP-460).
    fn elect_unclean(
        &self,
        partition: PartitionId,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<(), TopicFailure>>;
    /// `min.insync.replicas` of a topic whose creator did not say, if it has enough replicas.
    fn default_min_isr(&self) -> u32;
    /// The consumer groups.
    fn groups(&self) -> Arc<dyn GroupBroker>;

    /// Whether a Metadata request that allows it may create topics that it names.
    fn auto_create_topics(&self) -> bool;
}

/// When a produce request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    /// Not at all (`acks=0`): the future only tells whether the batch was refused.
    None,
    /// When the leader has it (`acks=1`).
    Leader,
    /// When it is committed (`acks=all`).
    All,
}

/// Where a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Offset of the batch's first record.
    pub base_offset: Offset,
    /// Unix milliseconds, if the topic stamps records when they are appended.
    pub log_append_time: Option<i64>,
    /// The log's start.
    pub log_start: Offset,
}

/// A read from one or more partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchRequest {
    /// What to read.
    pub partitions: Vec<FetchPartition>,
    /// How long to wait for `min_bytes`.
    pub max_wait: Duration,
    /// Answer as soon as so many bytes are there; 0 and 1 differ: 0 never waits.
    pub min_bytes: usize,
    /// Most bytes in the answer.
    pub max_bytes: usize,
}

/// A read from one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchPartition {
    /// Which partition.
    pub partition: PartitionId,
    /// The first offset wanted.
    pub offset: Offset,
    /// The leader epoch that the client knows, to be compared with the current one (KIP-320).
    pub current_leader_epoch: Option<LeaderEpoch>,
    /// Most bytes from this partition.
    pub max_bytes: usize,
}

/// The answer for one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// What was read, or why nothing was.
    pub result: Result<FetchedRecords, BrokerError>,
}

/// Records of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedRecords {
    /// The high watermark: clients see nothing beyond.
    pub high_watermark: Offset,
    /// The log's start.
    pub log_start: Offset,
    /// Whole batches, all below the high watermark; empty when there is nothing.
    pub records: Bytes,
}

/// Which offset is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetQuery {
    /// The log's start.
    Earliest,
    /// The high watermark.
    Latest,
    /// The record with the greatest timestamp (KIP-734).
    MaxTimestamp,
    /// The first record at or after this time, Unix milliseconds.
    AtOrAfter(i64),
}

/// An offset that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedOffset {
    /// The offset.
    pub offset: Offset,
    /// The record's timestamp, Unix milliseconds, if a record was looked for.
    pub timestamp: Option<i64>,
    /// The leader epoch at the offset, if known.
    pub leader_epoch: Option<LeaderEpoch>,
}

/// Topics to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateTopics {
    /// The topics; names differ.
    pub topics: Vec<NewTopic>,
    /// Only check; create nothing.
    pub validate_only: bool,
    /// How long to wait until brokers have learnt of them.
    pub timeout: Duration,
}

/// A topic to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: TopicName,
    /// Number of partitions; `None` for the cluster's default.
    pub partitions: Option<u32>,
    /// Replicas per partition; `None` for the cluster's default.
    pub replication_factor: Option<u16>,
    /// The replicas of partition 0, 1, ... when the client chose them; then the two numbers above are
    /// `None`. Empty when the cluster is to choose.
    pub assignments: Vec<Vec<BrokerId>>,
    /// `min.insync.replicas`; `None` for the cluster's default.
    pub min_isr: Option<u32>,
    /// `durability`, a config of ours: `fsync` or `replicated`; `None` for the cluster's default.
    pub durability: Option<Durability>,
    /// How long records are kept.
    pub log: LogConfig,
}

/// A topic that was created, or would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id.
    pub id: TopicId,
    /// Its number of partitions.
    pub partitions: u32,
    /// Its replicas per partition.
    pub replication_factor: u16,
}

/// Partitions to be added to a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MorePartitions {
    /// The topic.
    pub topic: TopicName,
    /// How many partitions it is to have in all.
    pub total: u32,
    /// The replicas of each new partition when the client chose them.
    pub assignments: Option<Vec<Vec<BrokerId>>>,
}

/// What a partition's replicas are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaChange {
    /// Which partition.
    pub partition: PartitionId,
    /// The preferred leader first; `None`: those that it had before the reassignment under way.
    pub target: Option<Vec<BrokerId>>,
    /// Whether it may have more or fewer replicas then (KIP-860).
    pub may_change_count: bool,
}

/// A partition on its way to other replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassigning {
    /// All replicas that it has now.
    pub replicas: Vec<BrokerId>,
    /// Those of them that are to be in sync before it is done.
    pub adding: Vec<BrokerId>,
    /// Those of them that go then.
    pub removing: Vec<BrokerId>,
}

/// Why a topic was not created, changed or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFailure {
    /// The kind.
    pub error: BrokerError,
    /// For people: what is wrong with it.
    pub message: String,
}

impl TopicFailure {
    pub(crate) fn new(error: BrokerError, message: impl Into<String>) -> Self {
        Self {
            error,
            message: message.into(),
        }
    }
}
