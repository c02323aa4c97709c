//! Epochs, offsets and terms: the numbers that safety rests on.
//!
//! | epoch | grows when | guards |
//! |---|---|---|
//! | [`LeaderEpoch`] | the leader changes | the log: truncation is by epoch (KIP-101, KIP-279, KIP-320) |
//! | [`PartitionEpoch`] | the partition's record changes at all | concurrent ISR changes (KIP-497) |
//! | [`NodeEpoch`] | a process registers | a request from an earlier life of a broker (KIP-841, KIP-903) |

use crate::ids::{InvalidId, number_type};
use serde::{Deserialize, Serialize};
use std::fmt;

number_type! {
    /// A partition leader's epoch; starts at 0, `-1` stands for "none" on the wire only.
    LeaderEpoch, i32
}
number_type! {
    /// The version of a partition's record in the cluster metadata; +1 with every change of it.
    PartitionEpoch, i32
}
number_type! {
    /// A broker process's epoch: the Raft log index at which its registration was committed.
    NodeEpoch, i64
}
number_type! {
    /// A Raft term.
    Term, u64
}
number_type! {
    /// A Raft log index.
    LogIndex, u64
}

impl LeaderEpoch {
    /// The epoch after this one. `None` when the range of `i32` is used up.
    pub fn next(self) -> Option<Self> {
        self.get().checked_add(1).map(Self::new)
    }
}

impl PartitionEpoch {
    /// The epoch after this one. `None` when the range of `i32` is used up.
    pub fn next(self) -> Option<Self> {
        self.get().checked_add(1).map(Self::new)
    }
}

/// A record's position in a partition, from 0. As an end (log end, high watermark, durable end) it
/// is exclusive: the position of the next record.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct Offset(i64);

impl Offset {
    /// The first position.
    pub const ZERO: Self = Self(0);
    /// The greatest position.
    pub const MAX: Self = Self(i64::MAX);

    /// Wraps a position; refuses negative numbers.
    pub fn new(value: i64) -> Result<Self, InvalidId> {
        if value < 0 {
            return Err(InvalidId::OutOfRange {
                what: "offset",
                value,
                min: 0,
                max: i64::MAX,
            });
        }
        Ok(Self(value))
    }

    /// The number, never negative.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The position `records` further on; `None` beyond [`Offset::MAX`].
    pub fn checked_add(self, records: u64) -> Option<Self> {
        let records = i64::try_from(records).ok()?;
        self.0.checked_add(records).map(Self)
    }

    /// How many records lie between `earlier` and this position; 0 if `earlier` is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_bounded_at_both_ends() {
        assert!(Offset::new(-1).is_err());
        assert_eq!(Offset::MAX.checked_add(1), None);
        assert_eq!(Offset::ZERO.checked_add(u64::MAX), None);
        assert_eq!(Offset::ZERO.since(Offset::MAX), 0);
    }

    #[test]
    fn an_epoch_does_not_wrap() {
        assert_eq!(LeaderEpoch::new(i32::MAX).next(), None);
    }
}
