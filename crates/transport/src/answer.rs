//! How a failed call travels back to its caller.
//!
//! An [`RpcError`] names the peer as its reader sees it, and says whether the request may have been
//! executed; so it is not sent as it is. What a handler returns becomes a [`FailedAnswer`], and that
//! an [`RpcError`] about the peer which sent it.

use bytes::Bytes;
use rivven_core_types::wire::{self, WireError};
use rivven_core_types::{NodeName, RpcError, RpcKind, limits};
use serde::{Deserialize, Serialize};

/// Version of [`FailedAnswer`] on the wire.
const ANSWER_VERSION: u8 = 1;
/// Longest reason sent along, in bytes.
const MAX_REASON_BYTES: usize = 1024;

/// A failure on the wire. Variants are only ever added at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum FailedAnswer {
    /// No handler for the kind. Not executed.
    UnknownKind(RpcKind),
    /// A queue is full. Not executed.
    Overloaded,
    /// The request could not be decoded. Not executed.
    Malformed(String),
    /// The handler refused. Not executed.
    Refused(String),
    /// The node is shutting down. Not executed.
    Shutdown,
    /// The handler panicked, or its answer cannot be sent, or a call that it made for us may have
    /// been executed. Maybe executed.
    Failed(String),
    /// It came before the handshake was over, and is not one that may. Not executed.
    TooEarly,
}

impl FailedAnswer {
    /// What a handler's error becomes on the wire.
    pub fn from_handler(error: &RpcError) -> Self {
        #[expect(
            clippy::wildcard_enum_match_arm,
            reason = "the error is non-exhaustive; any other one is told as its text"
        )]
        match error {
            RpcError::UnknownKind { kind } => Self::UnknownKind(*kind),
            RpcError::Overloaded { .. } => Self::Overloaded,
            RpcError::Shutdown => Self::Shutdown,
            RpcError::Malformed(reason) => Self::Malformed(truncated(reason)),
            RpcError::Refused(reason) => Self::Refused(truncated(reason)),
            other if other.maybe_executed() => Self::Failed(truncated(&other.to_string())),
            other => Self::Refused(truncated(&other.to_string())),
        }
    }

    /// What the caller sees.
    pub fn into_rpc_error(self, peer: &NodeName) -> RpcError {
        match self {
            Self::UnknownKind(kind) => RpcError::UnknownKind { kind },
            Self::Overloaded => RpcError::Overloaded { peer: peer.clone() },
            Self::Malformed(reason) => RpcError::Malformed(reason),
            Self::Refused(reason) => RpcError::Refused(reason),
            Self::Shutdown => RpcError::Refused("the peer is shutting down".to_owned()),
            Self::Failed(reason) => RpcError::AnswerFailed {
                peer: peer.clone(),
                reason,
            },
            Self::TooEarly => RpcError::Unreachable {
                peer: peer.clone(),
                reason: "the call came before the handshake was over".to_owned(),
            },
        }
    }
}

fn truncated(text: &str) -> String {
    let mut end = text.len().min(MAX_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Encodes a failure for a failure frame.
pub fn encode_failure(failure: &FailedAnswer) -> Result<Bytes, WireError> {
    wire::encode(ANSWER_VERSION, failure, limits::MAX_RPC_META_BYTES)
}

/// Decodes the message part of a failure frame from `peer`.
pub fn decode_answer(peer: &NodeName, meta: &[u8]) -> RpcError {
    wire::decode::<FailedAnswer>(ANSWER_VERSION, meta, limits::MAX_RPC_META_BYTES).map_or_else(
        // The peer did answer, in words of a later version: nothing says that it did not execute.
        |e| RpcError::AnswerFailed {
            peer: peer.clone(),
            reason: format!("unreadable failure: {e}"),
        },
        |failure| failure.into_rpc_error(peer),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::new(text).unwrap()
    }

    #[test]
    fn what_may_have_been_executed_stays_so_across_a_hop() {
        let hop = |error: &RpcError| {
            let bytes = encode_failure(&FailedAnswer::from_handler(error)).unwrap();
            decode_answer(&name("b"), &bytes)
        };
        let timeout = RpcError::Timeout {
            peer: name("c"),
            waited: Duration::from_secs(1),
        };
        assert!(hop(&timeout).maybe_executed());
        let unreachable = RpcError::Unreachable {
            peer: name("c"),
            reason: "no route".to_owned(),
        };
        assert!(!hop(&unreachable).maybe_executed());
        let kind = RpcKind::PROPOSE;
        assert_eq!(
            hop(&RpcError::UnknownKind { kind }),
            RpcError::UnknownKind { kind }
        );
        let malformed = RpcError::Malformed("why".to_owned());
        assert_eq!(hop(&malformed), malformed);
        assert!(decode_answer(&name("b"), &[9, 9]).maybe_executed());
    }

    #[test]
    fn a_long_reason_is_cut_at_a_character() {
        let error = RpcError::Refused("ä".repeat(MAX_REASON_BYTES));
        let FailedAnswer::Refused(text) = FailedAnswer::from_handler(&error) else {
            panic!("a refusal stays one");
        };
        assert_eq!(text.len(), MAX_REASON_BYTES);
    }
}
