//! Durable Raft consensus: openraft on redb behind our own types.

mod backend;
mod config;
mod db;
mod error;
mod executor;
mod handle;
mod identity;
mod instance;
mod kv;
mod log_store;
mod machine;
mod messages;
mod network;
mod node;
mod observe;
mod receiver;
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
pub use handle::RaftHandle;
pub use identity::Identity;
pub use kv::{
    KvCommand, KvReader, KvResult, KvStateMachine, MAX_KV_KEY_BYTES, MAX_KV_TOTAL_BYTES,
    MAX_KV_VALUE_BYTES,
};
pub use messages::raft_group_of;
pub use node::RaftNode;
pub use status::{Member, RaftState, RaftStatus, Voter};
