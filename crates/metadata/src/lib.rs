//! The replicated cluster metadata as a pure state machine: brokers, topics, partitions, producer-id
//! blocks, and the controller's rules for elections and ISR changes.
//!
//! It is not a controller: it decides nothing on its own, knows no clock and sends nothing. Every
//! node applies the same [`Command`]s in the same order and reaches the same [`ClusterState`], the
//! same [`CommandResult`]s and the same hash. Elections happen inside `apply`, as part of the command
//! that made them necessary.
//!
//! ```
//! use rivven_core_types::{ClusterId, CommittedEntry, LogIndex, StateMachine, Term};
//! use rivven_metadata::{Command, CommandResult, MetadataStateMachine};
//! use std::sync::Arc;
//!
//! let mut machine = MetadataStateMachine::new(Arc::new(|_published| {}));
//! let command = Command::FormCluster { cluster_id: ClusterId::from_bytes([7; 16]) }.encode()?;
//! let entry = CommittedEntry { index: LogIndex::new(1), term: Term::new(1), command };
//! let results = machine.apply(&[entry])?;
//! assert!(matches!(CommandResult::decode(&results[0])?, CommandResult::ClusterFormed { .. }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//! - `isr`, `elr` and the leader are among `replicas`; `isr` and `elr` are disjoint, in replica order.
//! - Every ISR member is an active broker; the ISR is empty exactly when there is no leader; the
//!   leader is in the ISR.
//! - Below min ISR nobody leaves `isr` and `elr` except a replica that lost records (KIP-966).
//! - `isr` and `elr` are among `last_known_isr`: everyone who was in either since the ISR was last
//!   large enough. These must all report before a partition recovers without a clean election, and one
//!   that lost its disk since cannot.
//! - While a partition is reassigned its replicas are those it had and those it is to have; they become
//!   the target in the step in which all of the target is in sync (KIP-455).
//! - The active metadata level is one that every broker that is not removed has said to understand.
//! - A rejected command leaves the state as it was.
//!
//! # Sources
//! KIP-455 (reassignment), KIP-497 (AlterPartition), KIP-841 and KIP-903 (fencing, broker epochs), KIP-966 (eligible leader
//! replicas), KIP-516 (topic ids), KIP-584 and KIP-778 (levels), KAFKA-13173, KAFKA-14154, KAFKA-18106.

mod apply;
mod command;
mod digest;
mod election;
mod feed;
mod image;
mod levels;
mod machine;
mod placement;
mod records;
mod rejection;
mod result;
mod state;
#[cfg(test)]
mod tests;

pub use command::{Command, ReplicaClaim, TopicChange};
#[cfg(any(test, feature = "test-util"))]
pub use levels::TOPIC_OF_LEVEL_2;
pub use levels::{LevelCommand, LevelRange, MetadataLevel, Registration};
pub use machine::{MetadataStateMachine, Publisher};
pub use placement::{
    MAX_STRATEGY_BYTES, PlacementCommand, Reassignment, ReplicaTarget, TopicPlacement,
};
pub use records::{BrokerRecord, TopicRecord};
pub use rejection::Rejection;
pub use result::{CommandResult, MAX_RESULT_BYTES, PRODUCER_ID_BLOCK};
pub use state::{ClusterState, MAX_PARTITIONS};
