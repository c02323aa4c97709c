//! What all rivven crates share: identifiers, epochs, limits, the Kafka record batch, the wire
//! envelope, the cluster's partition records, and the ports through which the crates meet.
//!
//! It is not a place for behaviour: no protocol lives here, and it depends on no runtime. Sibling
//! crates never see each other; what one needs of another is a trait of this crate (a *port*) that
//! the coordinator plugs.
//!
//! ```
//! use rivven_core_types::{BatchBuilder, LeaderEpoch, Offset};
//!
//! let batch = BatchBuilder::new(0).record(0, Some(b"key"), Some(b"value")).build()?;
//! let stored = batch.restamped(Offset::new(42)?, LeaderEpoch::new(1));
//! assert_eq!(stored.header().end_offset(), Some(Offset::new(43)?));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod limits;
pub mod watch;
pub mod wire;

mod batch;
mod clock;
mod cluster;
mod entropy;
mod epochs;
mod ids;
mod node;
mod planted;
mod replica_log;
mod rpc;
mod state_machine;
#[cfg(feature = "test-util")]
pub mod test_util;
mod vfs;

pub use batch::{
    BatchBuilder, BatchError, BatchHeader, Compression, HEADER_BYTES, LENGTH_PREFIX_BYTES, Record,
    RecordBatch, RecordIter, split_batches,
};
pub use clock::{Clock, MonoTime, SystemClock, UnixMillis};
pub use cluster::{
    AlterPartitionError, AlterPartitionOutcome, AlterPartitionProposal, Durability, FencedState,
    IsrMember, LogConfig, PartitionState, RecoveryState,
};
pub use entropy::{Entropy, OsEntropy, Rng};
pub use epochs::{LeaderEpoch, LogIndex, NodeEpoch, Offset, PartitionEpoch, Term};
pub use ids::{
    BrokerId, ClusterId, Incarnation, InvalidId, LogDirId, NodeName, PartitionId, PartitionIndex,
    ProducerEpoch, ProducerId, RackId, RaftGroupId, RaftNodeId, TopicId, TopicName,
};
pub use node::{Address, NodeInfo};
pub use planted::{PLANTED_BUGS, PlantedBug, planted};
#[cfg(feature = "planted")]
pub use planted::{PlantError, PlantedBugGuard, plant};
pub use replica_log::{
    Appended, EpochEnd, FlushTicket, LogError, LogSlice, LogStore, OpenedLog, ReplicaLog,
    ScrubOutcome, ScrubTicket, ScrubbedTo, SyncBy, TimestampedOffset,
};
pub use rpc::{
    BoxFuture, Datagram, HandshakeRefusal, IoExecutor, Lane, PeerIdentity, PeerRpc, Reply,
    RpcError, RpcHandler, RpcKind, RpcRequest, RpcResponse, SharedIoExecutor,
};
pub use state_machine::{
    Admission, ApplyStop, CommittedEntry, FrozenState, ProposeError, Proposed, Proposer,
    RestoreError, StateMachine,
};
pub use vfs::{OpenMode, OsVfs, Vfs, VfsDisk, VfsFile};
