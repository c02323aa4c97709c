//! Datagrams under way, in the order of their arrival.

use bytes::Bytes;

/// What the network made of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It arrives once at most.
    Only,
    /// It arrives several times; all have the first one's number.
    OneOfSeveral,
    /// Not all of its bytes arrive as they were sent.
    Damaged,
}

/// One datagram under way.
pub(super) struct Flight {
    pub(super) at: u64,
    /// Breaks ties.
    pub(super) number: u64,
    /// Which datagram it is.
    pub(super) sent: u64,
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) payload: Bytes,
    pub(super) kind: Kind,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}
