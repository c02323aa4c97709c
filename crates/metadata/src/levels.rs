//! The metadata level: which commands a cluster may use while its nodes run different builds
//! (KIP-584, KIP-778; etcd's cluster version).
//!
//! Each node registers the range of levels that its build understands. The active level rises by a
//! command, and only to what every registered broker understands, so that no node ever meets a command
//! that it does not know. It never falls.

use std::fmt;

use rivven_core_types::{Incarnation, LogDirId, NodeInfo, PartitionId, RaftNodeId};
use serde::{Deserialize, Serialize};

use crate::rejection::Rejection;

/// A metadata level. A build that adds a command or a record raises the greatest level that it
/// understands, and [`crate::Command::level`] keeps the command back until that level is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MetadataLevel(u16);

impl MetadataLevel {
    /// The level that every cluster begins with.
    pub const FIRST: Self = Self(1);

    /// The level of this number.
    pub const fn new(level: u16) -> Self {
        Self(level)
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for MetadataLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The levels that a build understands, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LevelRange {
    /// The least.
    pub min: MetadataLevel,
    /// The greatest.
    pub max: MetadataLevel,
}

impl LevelRange {
    /// What a broker understands that has not said: [`crate::Command::RegisterBroker`] does not.
    pub const UNSAID: Self = Self {
        min: MetadataLevel::FIRST,
        max: MetadataLevel::FIRST,
    };

    /// What this build understands.
    pub const SUPPORTED: Self = Self {
        min: MetadataLevel::FIRST,
        max: MetadataLevel::FIRST,
    };

    /// Whether the level is in the range.
    pub fn contains(&self, level: MetadataLevel) -> bool {
        (self.min..=self.max).contains(&level)
    }

    /// Whether it is a range of levels at all.
    pub(crate) fn is_valid(&self) -> bool {
        MetadataLevel::FIRST <= self.min && self.min <= self.max
    }
}

impl fmt::Display for LevelRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// What a broker process says about itself when it announces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Name and addresses.
    pub info: NodeInfo,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Its id within Raft.
    pub raft_id: RaftNodeId,
    /// Its log directory.
    pub log_dir: LogDirId,
    /// The partitions whose logs lost records since the last life.
    pub lossy: Vec<PartitionId>,
    /// The levels that its build understands.
    pub levels: LevelRange,
}

/// A command about levels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LevelCommand {
    /// As [`crate::Command::RegisterBroker`], by a build that says which levels it understands. Refused
    /// if the active one is not among them; then nothing changes, an earlier life of the broker stays.
    Register(Registration),
    /// Raises the active level, if every broker that is not removed understands the new one.
    Raise {
        /// The active level on which this builds.
        from: MetadataLevel,
        /// The level from here on.
        to: MetadataLevel,
    },
}

/// Refuses what needs a level that is not active yet.
pub(crate) fn check(needed: MetadataLevel, active: MetadataLevel) -> Result<(), Rejection> {
    if needed <= active {
        return Ok(());
    }
    Err(Rejection::LevelTooLow { needed, active })
}
