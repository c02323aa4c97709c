//! The messages of the handshake. Postcard: fields and variants are only ever added at the end.

use bytes::Bytes;
use rivven_core_types::{Address, ClusterId, Incarnation, Lane, NodeName, limits, wire};
use serde::{Deserialize, Serialize};

use crate::config::SecurityMode;
use crate::error::HandshakeError;

/// Version of these messages; the protocol version that they negotiate is another number.
pub(super) const HANDSHAKE_VERSION: u8 = 1;

/// The initiator's first message. Says nothing about who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Least protocol version spoken.
    pub(super) min_version: u8,
    /// Greatest protocol version spoken.
    pub(super) max_version: u8,
    /// Security mode.
    pub(super) mode: SecurityMode,
    /// Lane of the connection.
    pub(super) lane: Lane,
    /// Fresh random bytes.
    pub(super) nonce: [u8; 32],
}

/// Who one side says that it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Claim {
    /// Its name.
    pub(super) name: NodeName,
    /// The life of its data directory.
    pub(super) incarnation: Incarnation,
    /// Its cluster, unless blank.
    pub(super) cluster: Option<ClusterId>,
    /// Whom it wants to reach (the initiator alone).
    pub(super) expected: Option<NodeName>,
    /// What it can do, by bits: see `Abilities`. Unknown bits are ignored.
    pub(super) abilities: u32,
    /// Where it can be reached over QUIC as well (the responder alone).
    pub(super) quic: Option<Address>,
}

/// The responder's last message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Welcome {
    /// Who it is.
    pub(super) claim: Claim,
    /// Proof of the secret; `None` in insecure mode.
    pub(super) proof: Option<[u8; 32]>,
}

/// The only message of an initiator that brings one request along and opens no lane (QUIC alone: the
/// channel has proved who it is).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Early {
    /// Protocol version of the request and of its answer.
    pub(super) version: u8,
    /// Lane of the request.
    pub(super) lane: Lane,
    /// Who it is.
    pub(super) claim: Claim,
}

/// Why the responder refuses, as it tells the initiator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum RefusalReply {
    /// Wrong secret or other security mode.
    Authentication,
    /// No common version; the responder's range.
    Version {
        /// Least version.
        min: u8,
        /// Greatest version.
        max: u8,
    },
    /// The responder belongs to another cluster. Only told to a proved member of some cluster with
    /// the same secret.
    ForeignCluster {
        /// The responder's cluster.
        theirs: ClusterId,
    },
    /// The responder is not the expected node. Only told to a proved member.
    WrongNode {
        /// The responder's name.
        found: NodeName,
    },
    /// The initiator's certificate is not that of the node it says that it is.
    UntrustedPeer {
        /// What is wrong.
        reason: String,
    },
}

/// A message of the handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum HandshakeMessage {
    /// First, by the initiator.
    Hello(Hello),
    /// Second, by the responder.
    Challenge {
        /// The version chosen.
        version: u8,
        /// Security mode.
        mode: SecurityMode,
        /// Fresh random bytes.
        nonce: [u8; 32],
    },
    /// Third, by the initiator.
    Claim {
        /// Who it is.
        claim: Claim,
        /// One proof per secret it knows, the preferred one first; none in insecure mode.
        proofs: Vec<[u8; 32]>,
    },
    /// Last, by the responder.
    Welcome(Welcome),
    /// Instead of the second or the last.
    Refusal(RefusalReply),
    /// Instead of the first, with a request behind it.
    Early(Early),
}

pub(super) fn encode<T: Serialize>(message: &T) -> Result<Bytes, HandshakeError> {
    let max = limits::MAX_UNAUTHENTICATED_FRAME_BYTES;
    Ok(wire::encode(HANDSHAKE_VERSION, message, max)?)
}

pub(super) fn decode(bytes: &[u8]) -> Result<HandshakeMessage, HandshakeError> {
    let max = limits::MAX_UNAUTHENTICATED_FRAME_BYTES;
    Ok(wire::decode(HANDSHAKE_VERSION, bytes, max)?)
}
