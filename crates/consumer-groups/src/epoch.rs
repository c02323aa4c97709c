//! The epoch of a group and of its members.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A group epoch, a target assignment epoch, a member epoch (KIP-848), or a generation of the classic
/// protocol, which is its group's epoch. Never falls and never restarts in the life of a cluster.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Epoch(i32);

impl Epoch {
    /// What a joining member says.
    pub const JOIN: Self = Self(0);
    /// What a leaving member says; also "none" in an offset commit.
    pub const LEAVE: Self = Self(-1);
    /// What a static member says that will come back.
    pub const LEAVE_STATIC: Self = Self(-2);

    /// Wraps the number.
    pub const fn new(value: i32) -> Self {
        Self(value)
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// The next epoch; `None` at the end of the 32 bits that the protocol has.
    pub(crate) fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Self)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
