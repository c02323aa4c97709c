//! Why membership could not do what it was asked.

use std::time::Duration;

use rivven_core_types::{Address, InvalidId};

/// Why membership could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwimError {
    /// A field of the configuration is out of range. Nothing changed; retrying cannot help.
    #[error("swim.{field}: {reason}")]
    InvalidConfig {
        /// The field.
        field: &'static str,
        /// What is wrong and what is allowed.
        reason: String,
    },
    /// The address can be reached by others, but nothing says how to tell friend from foe. Nothing
    /// changed; retrying cannot help.
    #[error(
        "{address} is not a loopback address and swim.security is not set: set it to \
         SharedSecret (at least 16 bytes, equal on all nodes), or to InsecureDev to run \
         unauthenticated on purpose"
    )]
    SecurityRequired {
        /// The address that others can reach.
        address: Address,
    },
    /// Peers cannot send to this address. Nothing changed; retrying cannot help.
    #[error("cluster address {address} cannot be reached by peers: advertise a name or an IP")]
    UnusableAddress {
        /// The address.
        address: Address,
    },
    /// A seed is not `host:port`. Nothing changed; retrying cannot help.
    #[error("seed {seed:?} is not an address: {source}")]
    InvalidSeed {
        /// The text.
        seed: String,
        /// What is wrong with it.
        source: InvalidId,
    },
    /// The address could not be resolved or bound. Nothing changed; may be retried.
    #[error("cannot bind {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// No seed answered in time. The seeds are kept and asked again in the background for as long as
    /// this node is alone, so that waiting (or joining again) may help.
    #[error("no seed of {seeds:?} answered within {waited:?}; they are asked again while alone")]
    NoSeedAnswered {
        /// The seeds asked.
        seeds: Vec<Address>,
        /// How long was waited.
        waited: Duration,
    },
    /// No such key is held. Nothing changed; install it first.
    #[error("no key {id} is held: install its secret first")]
    UnknownKey {
        /// The key's number.
        id: u8,
    },
    /// The primary key cannot be removed. Nothing changed; use another one first.
    #[error("key {id} is the primary one: use another before it is removed")]
    PrimaryKey {
        /// The key's number.
        id: u8,
    },
    /// The membership is not authenticated, so that there are no keys. Nothing changed.
    #[error("datagrams are not authenticated: there are no keys to rotate")]
    NoKeys,
    /// The state file could not be read or written. Nothing was started.
    #[error("cannot use the state file {path}: {source}")]
    State {
        /// The file.
        path: std::path::PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The driver has stopped: shutdown was signalled, or this node left. Nothing changed; retrying
    /// cannot help.
    #[error("membership has stopped")]
    Stopped,
}

impl SwimError {
    /// Whether the same call may succeed later.
    pub const fn is_retriable(&self) -> bool {
        matches!(self, Self::Bind { .. } | Self::NoSeedAnswered { .. })
    }

    pub(crate) fn config(field: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidConfig {
            field,
            reason: reason.into(),
        }
    }
}
