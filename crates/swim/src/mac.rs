//! HMAC-SHA256 (RFC 2104, over FIPS 180-4) of what all datagrams are: short, and under a key that stays.
//!
//! The general one of crate `hmac` copies two hashers with their buffers for each tag; with the blocks
//! laid out here the two (for a ping: the only two) compressions remain. The tests hold it against that
//! crate's.

use ctutils::CtEq;
use sha2::block_api::compress256;
use zeroize::Zeroizing;

/// Bytes of a tag: HMAC-SHA256 truncated to 128 bits, half the output (RFC 2104, section 5).
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes that follow each message: the receiver's id.
const SUFFIX_BYTES: usize = 8;

const BLOCK_BYTES: usize = 64;
const LENGTH_BYTES: usize = 8;
/// The first byte of the padding.
const PADDING: u8 = 0x80;
const INNER_PAD: u8 = 0x36;
const OUTER_PAD: u8 = 0x5c;
/// The initial hash value of SHA-256 (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// A key, as the two states of SHA-256 after its padded block: wiped from memory when dropped.
pub(crate) struct MacKey {
    inner: Zeroizing<[u32; 8]>,
    outer: Zeroizing<[u32; 8]>,
}

impl MacKey {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        let state = |pad: u8| {
            let mut block = Zeroizing::new([pad; BLOCK_BYTES]);
            for (padded, byte) in block.iter_mut().zip(key) {
                *padded ^= byte;
            }
            let mut state = Zeroizing::new(INITIAL);
            compress256(&mut state, std::slice::from_ref(&*block));
            state
        };
        Self {
            inner: state(INNER_PAD),
            outer: state(OUTER_PAD),
        }
    }

    /// Whether it is the same key, in constant time.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let inner = (*self.inner).ct_eq(&*other.inner);
        (inner & (*self.outer).ct_eq(&*other.outer)).to_bool()
    }

    /// The tag of the message with this number behind it.
    pub(crate) fn tag(&self, message: &[u8], suffix: u64) -> [u8; TAG_BYTES] {
        let mut state = *self.inner;
        let (blocks, rest) = message.as_chunks::<BLOCK_BYTES>();
        compress256(&mut state, blocks);
        let mut tail = [[0; BLOCK_BYTES]; 2];
        let used = 1 + usize::from(rest.len() + SUFFIX_BYTES + 1 + LENGTH_BYTES > BLOCK_BYTES);
        let flat = tail.as_flattened_mut();
        let bits = 8 * (BLOCK_BYTES + message.len() + SUFFIX_BYTES) as u64;
        put(flat, 0, rest);
        put(flat, rest.len(), &suffix.to_be_bytes());
        put(flat, rest.len() + SUFFIX_BYTES, &[PADDING]);
        put(flat, used * BLOCK_BYTES - LENGTH_BYTES, &bits.to_be_bytes());
        compress256(&mut state, tail.get(..used).unwrap_or_default());

        let mut block = [0; BLOCK_BYTES];
        for (place, word) in block.chunks_exact_mut(4).zip(state) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        let digest = 4 * state.len();
        put(&mut block, digest, &[PADDING]);
        let bits = 8 * (BLOCK_BYTES + digest) as u64;
        put(&mut block, BLOCK_BYTES - LENGTH_BYTES, &bits.to_be_bytes());
        let mut state = *self.outer;
        compress256(&mut state, &[block]);
        let mut tag = [0; TAG_BYTES];
        for (place, word) in tag.chunks_exact_mut(4).zip(state) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        tag
    }

    /// Whether that is the tag, in constant time.
    pub(crate) fn verify(&self, message: &[u8], suffix: u64, tag: &[u8; TAG_BYTES]) -> bool {
        self.tag(message, suffix).ct_eq(tag).to_bool()
    }
}

/// Puts bytes at a place; there is always room.
fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use hmac::{Hmac, KeyInit, Mac};
    use proptest::prelude::*;
    use sha2::Sha256;

    use super::*;

    fn reference(key: &[u8; 32], message: &[u8], suffix: u64) -> Vec<u8> {
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
        let mac = mac.chain_update(message).chain_update(suffix.to_be_bytes());
        mac.finalize().into_bytes()[..TAG_BYTES].to_vec()
    }

    /// Every place where the padding may begin, and every length of a datagram.
    #[test]
    fn messages_of_every_length_have_the_tag_of_rfc_2104() {
        let key = std::array::from_fn(|i| u8::try_from(i * 7).unwrap());
        let mac = MacKey::new(&key);
        let message: Vec<u8> = (0..=255).cycle().take(1_300).collect();
        for length in 0..=message.len() {
            let message = &message[..length];
            let expected = reference(&key, message, 0x0102_0304_0506_0708);
            assert_eq!(
                mac.tag(message, 0x0102_0304_0506_0708).as_slice(),
                expected,
                "{length}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_key_and_message_have_the_tag_of_rfc_2104(
            key in any::<[u8; 32]>(),
            message in proptest::collection::vec(any::<u8>(), 0..300),
            suffix in any::<u64>(),
            flip in 0usize..TAG_BYTES * 8,
        ) {
            let mac = MacKey::new(&key);
            let mut tag = mac.tag(&message, suffix);
            let expected = reference(&key, &message, suffix);
            prop_assert_eq!(tag.as_slice(), expected);
            prop_assert!(mac.verify(&message, suffix, &tag));
            tag[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!mac.verify(&message, suffix, &tag));
        }
    }
}
