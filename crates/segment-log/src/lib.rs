//! Segmented partition log of Kafka record batches: the embedded default behind
//! [`rivven_core_types::ReplicaLog`] and [`rivven_core_types::LogStore`].
//!
//! It is not a message broker and knows no replication: it stores batches, cuts them off by offset
//! and remembers leader epochs. What is cut and when is the replication protocol's decision.
//!
//! # Files
//! ```text
//! <dir>/../STORED-LOGS                        which logs have been stored
//! <dir>/high-watermarks                       checkpoint: a hint
//! <dir>/shutdown                              whether the last user stopped in order
//! <dir>/<topic uuid>-<index>/meta             whose directory this is, log start, pending reset
//! <dir>/<topic uuid>-<index>/epochs           leader epoch table
//! <dir>/<topic uuid>-<index>/durable-mark     lower bound of what is on stable storage
//! <dir>/<topic uuid>-<index>/cut              bytes cut by recovery, until acknowledged
//! <dir>/<topic uuid>-<index>/<base, 20 digits>.log
//! ```
//! A `.log` file holds record batches v2 as they were stamped and nothing else, so that the files of
//! replicas are equal byte by byte. All others are framed with a format version and a CRC-32C.
//!
//! # Invariants
//! - Everything below `durable_end` survives a power loss, byte by byte.
//! - A torn tail is cut and reported; changed bytes are never cut and never served.
//! - Truncation, reset and trimming are durable when they return, and a crash in between leaves the
//!   state before or after, never a mixture.
//! - After a failed write or sync nothing changes any more, and no sync is tried again.
//!
//! # Sources
//! KIP-101, KIP-279 (epoch table and truncation), KAFKA-7415, KAFKA-10706 (epochs without records);
//! Rebello et al., USENIX ATC 2020 (failed syncs).
//!
//! ```
//! use std::sync::Arc;
//! use rivven_core_types::{
//!     BatchBuilder, LeaderEpoch, Offset, OsVfs, PartitionId, ReplicaLog, SyncBy, TopicId,
//! };
//! use rivven_segment_log::{SegmentLogConfig, SegmentLogStore};
//!
//! let dir = tempfile::tempdir()?;
//! let store = SegmentLogStore::open(dir.path(), Arc::new(OsVfs), SegmentLogConfig::default())?;
//! let partition = PartitionId::new(TopicId::from_bytes([7; 16]), 0);
//! let (mut log, cut_bytes) = store.open_log(partition)?;
//! assert_eq!(cut_bytes, 0);
//!
//! let epoch = LeaderEpoch::new(0);
//! log.assign_epoch(epoch, log.log_end())?;
//! let batch = BatchBuilder::new(0).record(0, None, Some(b"hello")).build()?;
//! let appended = log.append_as_leader(epoch, &batch)?;
//! if let Some(ticket) = log.begin_flush() {
//!     log.finish_flush(ticket.end, ticket.generation, (ticket.job)(SyncBy::Job))?;
//! }
//! assert_eq!(log.durable_end(), appended.end);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod batch_reader;
mod blank;
mod config;
mod cut_record;
mod damage;
mod dump;
mod durable_mark;
mod epoch_table;
mod files;
mod inspect;
mod log;
mod meta;
mod open_files;
mod reading;
mod recovery;
mod replica_log;
mod retention;
mod scrub;
mod segment;
mod shutdown;
mod store;
mod stored_logs;
mod sync_gate;
#[cfg(test)]
mod tests;

pub use config::{SegmentLogConfig, SegmentLogError};
pub use dump::{dump_bytes, dump_bytes_from};
pub use inspect::{PartitionReport, SegmentReport, inspect};
pub use log::SegmentLog;
pub use store::SegmentLogStore;
