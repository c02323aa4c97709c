//! Durable Raft consensus: openraft on redb behind our own types.

mod config;
mod error;
mod executor;
mod handle;
mod identity;
mod kv;
mod node;
mod status;

pub use config::{InitialMember, RaftLimits, RaftNodeConfig, RaftNodeOptions};
pub use error::RaftStoreError;
pub use executor::{InlineExecutor, ThreadExecutor};
pub use handle::RaftHandle;
pub use identity::Identity;
pub use kv::{
    KvCommand, KvReader, KvResult, KvStateMachine, MAX_KV_KEY_BYTES, MAX_KV_TOTAL_BYTES,
    MAX_KV_VALUE_BYTES,
};
pub use node::RaftNode;
pub use status::{Member, RaftState, RaftStatus, Voter};
