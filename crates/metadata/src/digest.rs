//! The incremental hash of the state: the sum (mod 2^64) of one hash per record, so that a change
//! costs the hash of what changed. A sum does not depend on the order of insertion.

use serde::Serialize;

use rivven_core_types::wire;

/// Separates records of different kinds with equal bytes, and versions the hash.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Cluster = 1,
    Broker = 2,
    Topic = 3,
    Partition = 4,
    Producers = 5,
    Reassignment = 6,
    Draining = 7,
    Rebalancing = 8,
    Level = 9,
    Levels = 10,
}

/// FNV-1a (64 bit) over the bytes that are written to it.
struct Fnv(u64);

impl Extend<u8> for Fnv {
    fn extend<I: IntoIterator<Item = u8>>(&mut self, bytes: I) {
        self.0 = bytes.into_iter().fold(self.0, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    }
}

/// The hash of one record: FNV-1a over its encoding, finished as in SplitMix64 since the sum needs
/// well-mixed summands. Against accidents, not against an adversary.
pub(crate) fn record_hash<T: Serialize>(kind: Kind, record: &T) -> u64 {
    let fnv = Fnv(0xcbf2_9ce4_8422_2325);
    // No record holds what postcard cannot write; were one to, every node would still agree on this.
    let hash = wire::encode_into(kind as u8, record, fnv).map_or(0, |fnv| fnv.0);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
