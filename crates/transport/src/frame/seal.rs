//! The seal of a frame: a truncated HMAC over a frame counter and the frame.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::error::FrameError;

/// Length of a seal, in bytes (RFC 2104, section 5: at least half the hash).
pub const SEAL_BYTES: usize = 16;

/// Seals or checks the frames of one direction of one connection.
///
/// The counter is never sent: each side counts, so that a frame that is replayed, left out or
/// reordered has a wrong seal.
pub struct FrameSeal {
    keyed: Hmac<Sha256>,
    counter: u64,
}

impl FrameSeal {
    /// A seal for a direction with its own `key`, at frame 0.
    pub fn new(key: &[u8; 32]) -> Self {
        let keyed = Hmac::new_from_slice(key).expect("HMAC takes a key of any length");
        Self { keyed, counter: 0 }
    }

    fn mac_of(&mut self, parts: [&[u8]; 3]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        mac.update(&self.counter.to_be_bytes());
        for part in parts {
            mac.update(part);
        }
        // 2^64 frames take longer than any connection lives.
        self.counter = self.counter.wrapping_add(1);
        mac
    }

    /// The seal of the next frame. The header holds the lengths of the other two parts.
    pub fn seal(&mut self, header: &[u8], meta: &[u8], body: &[u8]) -> [u8; SEAL_BYTES] {
        let full = self.mac_of([header, meta, body]).finalize().into_bytes();
        let mut seal = [0; SEAL_BYTES];
        seal.copy_from_slice(&full[..SEAL_BYTES]);
        seal
    }

    /// Checks the seal of the next frame, in constant time.
    pub fn check(
        &mut self,
        header: &[u8],
        meta: &[u8],
        body: &[u8],
        seal: &[u8; SEAL_BYTES],
    ) -> Result<(), FrameError> {
        self.mac_of([header, meta, body])
            .verify_truncated_left(seal)
            .map_err(|_| FrameError::Seal)
    }
}

impl fmt::Debug for FrameSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSeal")
            .field("counter", &self.counter)
            .finish_non_exhaustive()
    }
}
