//! Proofs and session keys.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::messages::encode;
use crate::error::HandshakeError;
use crate::frame::FrameSeal;

const SEAL_KEY_INITIATOR: &[u8] = b"rivven transport 1 seal initiator";
const SEAL_KEY_RESPONDER: &[u8] = b"rivven transport 1 seal responder";

/// Everything said so far, each message preceded by its length.
#[derive(Debug, Clone, Default)]
pub(super) struct Transcript(Sha256);

impl Transcript {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.0.update(length.to_be_bytes());
        self.0.update(bytes);
    }

    pub(super) fn add_message<T: Serialize>(&mut self, message: &T) -> Result<(), HandshakeError> {
        self.add(&encode(message)?);
        Ok(())
    }
}

/// The secret serves more than this protocol (gossip, say), so it is never a key itself.
fn keyed(secret: &[u8], label: &[u8], transcript: &Transcript) -> Hmac<Sha256> {
    const ANY_LENGTH: &str = "HMAC takes a key of any length";
    let mut derive = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).expect(ANY_LENGTH);
    derive.update(b"rivven transport 1 key");
    let key = Zeroizing::new(<[u8; 32]>::from(derive.finalize().into_bytes()));
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.as_slice()).expect(ANY_LENGTH);
    mac.update(label);
    mac.update(&transcript.0.clone().finalize());
    mac
}

pub(super) fn prove(secret: &[u8], label: &[u8], transcript: &Transcript) -> [u8; 32] {
    keyed(secret, label, transcript)
        .finalize()
        .into_bytes()
        .into()
}

/// In constant time.
pub(super) fn verify(
    secret: &[u8],
    label: &[u8],
    transcript: &Transcript,
    proof: &[u8; 32],
) -> bool {
    keyed(secret, label, transcript).verify_slice(proof).is_ok()
}

/// The keys of the frame seals of one connection: one per direction. Wiped when dropped.
pub struct SessionKeys {
    send: Zeroizing<[u8; 32]>,
    receive: Zeroizing<[u8; 32]>,
}

impl SessionKeys {
    /// The initiator's view of the keys.
    pub(super) fn derive(secret: &[u8], transcript: &Transcript) -> Self {
        Self {
            send: Zeroizing::new(prove(secret, SEAL_KEY_INITIATOR, transcript)),
            receive: Zeroizing::new(prove(secret, SEAL_KEY_RESPONDER, transcript)),
        }
    }

    /// The responder's view.
    pub(super) fn swapped(self) -> Self {
        Self {
            send: self.receive,
            receive: self.send,
        }
    }

    /// Seals for the frames to send and for those to receive.
    pub fn seals(&self) -> (FrameSeal, FrameSeal) {
        (FrameSeal::new(&self.send), FrameSeal::new(&self.receive))
    }
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(redacted)")
    }
}
