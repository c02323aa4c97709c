//! The incremental hash of the state: the sum (mod 2^64) of one hash per record, so that a change
//! costs the hash of what changed, and the order of insertion does not count.

use serde::Serialize;

/// Separates records of different kinds with equal bytes, and versions the hash.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Head = 1,
    ConsumerMember = 2,
    ClassicMember = 3,
    Offset = 4,
}

/// FNV-1a, 64 bit.
struct Fnv(u64);

impl Extend<u8> for Fnv {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

/// The hash of one record: FNV-1a over its encoding, finished as in SplitMix64 since the sum needs
/// well-mixed summands. Against accidents, not against an adversary.
pub(crate) fn record_hash<T: Serialize>(kind: Kind, record: &T) -> u64 {
    let seed = Fnv(0xcbf2_9ce4_8422_2325 ^ (kind as u64));
    // The sink takes all bytes, so the encoding cannot fail for want of room; were it to fail, every
    // node would still agree on the same number.
    let hash = postcard::to_extend(record, seed).map_or(0, |fnv| fnv.0);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
