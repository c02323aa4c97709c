//! What the detector hands to its driver.

use bytes::Bytes;
use rivven_core_types::NodeName;

use crate::member::MemberState;
use crate::profile::Destination;

/// What the driver has to do or to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send `payload` to `to`; best effort. A name may resolve to several addresses: send to each.
    Send {
        /// Where to.
        to: Destination,
        /// The datagram.
        payload: Bytes,
    },
    /// Ask over a stream whether this life of the member is there, within a ping timeout, and give
    /// [`crate::Input::StreamAnswer`] if it is.
    StreamProbe {
        /// The number for the answer.
        seq: u32,
        /// Whom.
        member: NodeName,
        /// Which life of it.
        boot_id: u64,
        /// Where it is.
        to: Destination,
    },
    /// Something happened.
    Event(Event),
}

/// Something that happened in the detector.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A member joined, changed its state or restarted.
    MemberChanged {
        /// Which member.
        name: NodeName,
        /// Its state now.
        state: MemberState,
        /// Its life.
        boot_id: u64,
        /// Its incarnation.
        incarnation: u64,
    },
    /// A member changed its metadata or what it says of itself.
    ProfileChanged {
        /// Which member.
        name: NodeName,
    },
    /// A member broadcast this: once per member and event.
    User {
        /// Whose.
        origin: NodeName,
        /// What, of at most 512 bytes.
        payload: Bytes,
    },
    /// A tombstone expired.
    MemberForgotten {
        /// Which member.
        name: NodeName,
    },
    /// A probe ended.
    ProbeFinished {
        /// How.
        outcome: ProbeOutcome,
    },
    /// This node itself began to suspect a member, or took a suspicion over from another.
    Suspected {
        /// Which member.
        name: NodeName,
    },
    /// This node raised its incarnation because others doubted it.
    Refuted {
        /// The new incarnation.
        incarnation: u64,
    },
    /// The first authenticated datagram of another member since the last join.
    Contacted,
    /// A newer life of this node's own name exists.
    Superseded {
        /// Its boot id.
        boot_id: u64,
    },
    /// This process was not scheduled for longer than a period; suspicions were prolonged by it.
    Paused,
    /// A probe failed while nobody at all was heard: nothing was concluded from it.
    Deaf,
    /// A datagram, or one piece of evidence in it, was dropped without any effect.
    Dropped {
        /// Why.
        reason: DropReason,
    },
    /// The departure has been told; the driver may stop.
    LeaveFinished {
        /// How many members have acknowledged it, up to three. None: nobody may know.
        acknowledged: usize,
    },
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProbeOutcome {
    /// The member answered.
    Direct,
    /// The member answered to another member.
    Indirect,
    /// The member answered over a stream.
    Stream,
    /// No answer.
    Failed,
}

impl ProbeOutcome {
    /// The outcome as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Indirect => "indirect",
            Self::Stream => "stream",
            Self::Failed => "failed",
        }
    }
}

/// Why a datagram, or one piece of evidence in it, was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DropReason {
    /// Too short, too long, of another version, or not decodable.
    Malformed,
    /// Of another cluster.
    ForeignCluster,
    /// Wrong MAC, or another security mode.
    Unauthenticated,
    /// This node's own.
    OwnDatagram,
    /// For another node.
    NotForThisNode,
    /// For an earlier life of this node.
    StaleReceiver,
    /// From an earlier life of the sender.
    StaleSender,
    /// Seen before, or older than the window.
    Replayed,
    /// Evidence that nobody can have: an incarnation far ahead, an address that nobody can reach.
    Implausible,
    /// One authenticated member sends more than any healthy one would.
    RateLimited,
    /// A bound is reached: members, relays, answers per period, bytes of metadata or of an event.
    Overloaded,
}

impl DropReason {
    /// The reason as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::ForeignCluster => "foreign_cluster",
            Self::Unauthenticated => "unauthenticated",
            Self::OwnDatagram => "own_datagram",
            Self::NotForThisNode => "not_for_this_node",
            Self::StaleReceiver => "stale_receiver",
            Self::StaleSender => "stale_sender",
            Self::Replayed => "replayed",
            Self::Implausible => "implausible",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
        }
    }
}
