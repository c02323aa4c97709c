//! The body of a datagram: one message, and evidence about as many members as fit.

use bytes::Bytes;
use rivven_core_types::{NodeInfo, NodeName, limits::MAX_DATAGRAM_BYTES, wire};
use serde::{Deserialize, Serialize};

use crate::event::DropReason;
use crate::member::MemberState;

/// Version of the body.
const BODY_VERSION: u8 = 1;
/// Bytes of a body besides its updates: version, message with a node name, count.
pub(crate) const BODY_OVERHEAD_BYTES: usize = 1 + 1 + 10 + 130 + 10 + 2;
/// Bytes of an update besides its node information, at most.
const UPDATE_OVERHEAD_BYTES: usize = 1 + 10 + 10 + 5;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// "Are you there?"
    Ping { seq: u64 },
    /// "I am", to the ping of that number.
    Ack { seq: u64 },
    /// "Ask that member for me." The evidence beside it tells where the member is.
    PingReq {
        seq: u64,
        target: NodeName,
        target_boot: u64,
    },
    /// "It answered me", to the request of that number.
    IndirectAck { seq: u64, target: NodeName },
    /// Evidence alone.
    Gossip,
    /// "Who are you, and whom do you know?" The only message that needs no receiver. It carries no
    /// evidence, so that replaying it changes nothing.
    Join,
    /// The answer to a join: evidence, bound to the one who asked.
    Welcome,
}

/// Evidence about one member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Update {
    pub(crate) info: NodeInfo,
    pub(crate) state: MemberState,
    pub(crate) boot_id: u64,
    pub(crate) incarnation: u64,
    /// How long the member has been dead or gone, so that a tombstone expires everywhere instead of
    /// being handed round for ever.
    pub(crate) age_secs: u32,
}

/// The body of a datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Body {
    pub(crate) message: Message,
    pub(crate) updates: Vec<Update>,
}

impl Body {
    /// Encodes the body; `None` if it is too long, which callers prevent by their budget.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        wire::encode(BODY_VERSION, self, MAX_DATAGRAM_BYTES).ok()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DropReason> {
        wire::decode(BODY_VERSION, bytes, MAX_DATAGRAM_BYTES).map_err(|_| DropReason::Malformed)
    }
}

/// An upper bound of the bytes that evidence about this node takes.
pub(crate) fn update_bytes(info: &NodeInfo) -> usize {
    let encoded = wire::encode(BODY_VERSION, info, MAX_DATAGRAM_BYTES);
    encoded.map_or(MAX_DATAGRAM_BYTES, |bytes| bytes.len()) + UPDATE_OVERHEAD_BYTES
}
