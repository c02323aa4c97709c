//! Durable Raft consensus: openraft on redb behind our own types.
//!
//! A [`RaftNode`] is one node of one Raft group. It replicates opaque commands to a
//! [`StateMachine`](rivven_core_types::StateMachine) and reaches its peers through
//! [`PeerRpc`](rivven_core_types::PeerRpc); it is not a network, and does not decide who is a member.
//! No type of openraft or redb is part of the API.
//!
//! ```
//! use rivven_raft_store::{KvCommand, RaftNode, RaftNodeConfig};
//!
//! # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let config = RaftNodeConfig {
//!     standalone: true,
//!     data_dir: dir.path().into(),
//!     ..RaftNodeConfig::default()
//! };
//! let mut node = RaftNode::with_config(config).await?;
//! node.start().await?;
//! node.propose(KvCommand::put("key", "value").encode()?).await?;
//! assert_eq!(node.kv_get(b"key").await?.as_deref(), Some(&b"value"[..]));
//! node.shutdown().await;
//! # Ok(()) }
//! ```
//!
//! # Invariants
//! - A vote is durable before it is answered, and so is an entry before it is acknowledged; both pass
//!   one queue, one transaction and one fsync per batch. After a failed write the store is given up.
//! - A damaged record, snapshot or identity is an error that names the file. Nothing is defaulted,
//!   and no node starts empty where it had a state.
//! - A data directory that has lost its store does not start under its old Raft id.
//! - The log is purged only behind a snapshot that is durable and recorded.
//! - No blocking call runs on an asynchronous worker once a node is open.
//! - Under a [`NodeScope`] a node's timers, randomness, wake-ups and I/O depend on the seed and on
//!   what it is told alone: on a paused clock the same run repeats itself exactly.
//!
//! # Sources
//! Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (2014), sections 5, 7
//! and 8; Ongaro's thesis (2014), sections 3.10 (leadership transfer), 6.4 (ReadIndex) and 9.6
//! (pre-vote); Rebello et al., "Can Applications Recover from fsync Failures?" (USENIX ATC 2020).

mod backend;
mod config;
mod db;
mod error;
mod executor;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handle;
mod identity;
mod instance;
mod kv;
mod leader_watch;
mod log_store;
mod machine;
mod messages;
mod network;
mod node;
mod observe;
pub mod offline;
mod receiver;
mod runtime;
mod snapshot;
mod status;
mod supervisor;
mod tail;
#[cfg(test)]
mod tests;
mod types;
mod worker;
mod writer;

pub use config::{InitialMember, RaftLimits, RaftNodeConfig, RaftNodeOptions};
pub use error::RaftStoreError;
pub use executor::{InlineExecutor, ThreadExecutor};
pub use handle::{RaftHandle, RaftMembership};
pub use identity::Identity;
pub use kv::{
    KvCommand, KvReader, KvResult, KvStateMachine, MAX_KV_KEY_BYTES, MAX_KV_TOTAL_BYTES,
    MAX_KV_VALUE_BYTES,
};
pub use messages::raft_group_of;
pub use node::RaftNode;
pub use runtime::{Held, NodeScope, RuntimeHooks};
pub use status::{Member, RaftState, RaftStatus, StatusWatch, Voter};
