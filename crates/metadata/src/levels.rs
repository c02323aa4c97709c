//! The metadata level: which commands a cluster may use while its nodes run different builds
//! (KIP-584, KIP-778; etcd's cluster version).
//!
//! Each node registers the range of levels that its build understands. The active level rises by a
//! command, and only to what every registered broker understands, so that no node ever meets a command
//! that it does not know. It never falls.

use std::fmt;

use rivven_core_types::{Incarnation, LogDirId, NodeInfo, PartitionId, RaftNodeId};
use serde::{Deserialize, Serialize};

use crate::command::Command;
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

    /// What the cluster does from here on is not for this build, if the level is above the greatest. One
    /// below the least is no reason to stop: every log begins at the first level, and its node goes
    /// through what was raised since.
    pub(crate) fn check_not_above(&self, level: MetadataLevel) -> Result<(), String> {
        if level <= self.max {
            return Ok(());
        }
        Err(format!(
            "metadata level {level} is active; this build understands {self}"
        ))
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

impl Registration {
    /// The command that announces it. A build that has no more to say than [`LevelRange::UNSAID`] says
    /// nothing, so that builds which do not know [`LevelCommand`] go on.
    pub fn into_command(self) -> Command {
        if self.levels != LevelRange::UNSAID {
            return Command::Level(LevelCommand::Register(self));
        }
        let Self {
            info,
            incarnation,
            raft_id,
            log_dir,
            lossy,
            levels: _,
        } = self;
        Command::RegisterBroker {
            info,
            incarnation,
            raft_id,
            log_dir,
            lossy,
        }
    }
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

impl LevelCommand {
    /// As [`Command::level`].
    pub(crate) const fn level(&self) -> MetadataLevel {
        match self {
            Self::Register(_) | Self::Raise { .. } => MetadataLevel::FIRST,
        }
    }
}

/// A name of which the deletion of a topic counts as a command of the second level: there is none yet by
/// which the gate could be tried.
#[cfg(any(test, feature = "test-util"))]
pub const TOPIC_OF_LEVEL_2: &str = "rivven.test.level-2";

/// Refuses what needs a level that is not active yet.
pub(crate) fn check(needed: MetadataLevel, active: MetadataLevel) -> Result<(), Rejection> {
    if needed <= active {
        return Ok(());
    }
    Err(Rejection::LevelTooLow { needed, active })
}
