//! What the detector hands to its driver.

use bytes::Bytes;
use rivven_core_types::{Address, NodeName};

use crate::member::MemberState;

/// What the driver has to do or to know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Send `payload` to `to`; best effort. A name may resolve to several addresses: send to each.
    Send {
        /// Where to.
        to: Address,
        /// The datagram.
        payload: Bytes,
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
    /// A datagram, or one piece of evidence in it, was dropped without any effect.
    Dropped {
        /// Why.
        reason: DropReason,
    },
    /// The departure has been told; the driver may stop.
    LeaveFinished,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProbeOutcome {
    /// The member answered.
    Direct,
    /// The member answered to another member.
    Indirect,
    /// No answer.
    Failed,
}

impl ProbeOutcome {
    /// The outcome as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Indirect => "indirect",
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
    /// A bound is reached: members, replay windows, relays or join answers.
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
            Self::Overloaded => "overloaded",
        }
    }
}
