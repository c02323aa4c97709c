//! XXH64, written out here so that placements never change with a dependency or a standard library.
//!
//! Source: the xxHash specification, "XXH64 Algorithm Description". `std`'s hashers are unfit: their
//! algorithm is unspecified, and `str`'s `Hash` appends a byte that is an implementation detail.

use crate::small_key::SmallKey;

/// Seeds of the hashes: they name this version of the algorithm. Another algorithm takes others.
pub(crate) const NODE_SEED: u64 = 0x7269_7676_656e_0001;
const KEY_SEED: u64 = 0x7269_7676_656e_0002;
const PAIR_SEED: u64 = 0x7269_7676_656e_0003;

const PRIME_1: u64 = 0x9E37_79B1_85EB_CA87;
const PRIME_2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const PRIME_3: u64 = 0x1656_67B1_9E37_79F9;
const PRIME_4: u64 = 0x85EB_CA77_C2B2_AE63;
const PRIME_5: u64 = 0x27D4_EB2F_1656_67C5;

#[inline]
fn round(accumulator: u64, lane: u64) -> u64 {
    accumulator
        .wrapping_add(lane.wrapping_mul(PRIME_2))
        .rotate_left(31)
        .wrapping_mul(PRIME_1)
}

#[inline]
fn merge(hash: u64, accumulator: u64) -> u64 {
    (hash ^ round(0, accumulator))
        .wrapping_mul(PRIME_1)
        .wrapping_add(PRIME_4)
}

#[inline]
fn avalanche(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(PRIME_2);
    hash = (hash ^ (hash >> 29)).wrapping_mul(PRIME_3);
    hash ^ (hash >> 32)
}

/// The 64-bit xxHash of `input` under `seed`: the same on every machine, for ever.
#[inline]
pub(crate) fn xxh64(input: &[u8], seed: u64) -> u64 {
    let (stripes, _) = input.as_chunks::<32>();
    let mut hash = if stripes.is_empty() {
        seed.wrapping_add(PRIME_5)
    } else {
        let mut lanes = [
            seed.wrapping_add(PRIME_1).wrapping_add(PRIME_2),
            seed.wrapping_add(PRIME_2),
            seed,
            seed.wrapping_sub(PRIME_1),
        ];
        for stripe in stripes {
            let (words, _) = stripe.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane = round(*lane, u64::from_le_bytes(*word));
            }
        }
        let [a, b, c, d] = lanes;
        let sum = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        lanes.into_iter().fold(sum, merge)
    };
    // A `usize` has at most 64 bits on every platform Rust supports, so this never saturates.
    hash = hash.wrapping_add(u64::try_from(input.len()).unwrap_or(u64::MAX));

    let (_, tail) = input.as_chunks::<32>();
    finish(hash, tail)
}

#[inline]
fn mix_word(hash: u64, word: [u8; 8]) -> u64 {
    (hash ^ round(0, u64::from_le_bytes(word)))
        .rotate_left(27)
        .wrapping_mul(PRIME_1)
        .wrapping_add(PRIME_4)
}

/// Mixes in what is behind the last stripe, or behind the last whole word of that.
#[inline]
fn finish(mut hash: u64, tail: &[u8]) -> u64 {
    let (words, tail) = tail.as_chunks::<8>();
    for word in words {
        hash = mix_word(hash, *word);
    }
    let (halves, tail) = tail.as_chunks::<4>();
    for half in halves {
        hash = (hash ^ u64::from(u32::from_le_bytes(*half)).wrapping_mul(PRIME_1))
            .rotate_left(23)
            .wrapping_mul(PRIME_2)
            .wrapping_add(PRIME_3);
    }
    for byte in tail {
        hash = (hash ^ u64::from(*byte).wrapping_mul(PRIME_5))
            .rotate_left(11)
            .wrapping_mul(PRIME_1);
    }
    avalanche(hash)
}

/// Hashes the partitions of one topic: its name is mixed in once.
#[derive(Debug)]
pub(crate) struct TopicKey {
    /// The name and a zero byte, which no name holds: no two keys are spelt the same.
    key: SmallKey,
    prefix: usize,
    /// What all partitions begin with, unless the key makes up a stripe.
    begun: Option<Begun>,
}

/// The hash of the whole words of a prefix, and its rest with room for a partition.
#[derive(Debug)]
struct Begun {
    hash: u64,
    rest: [u8; 11],
    length: usize,
}

impl TopicKey {
    pub(crate) fn new(topic: &str) -> Self {
        let mut key = SmallKey::default();
        key.extend(topic.as_bytes());
        key.extend(&[0]);
        let prefix = key.bytes().len();
        let length = prefix + size_of::<u32>();
        let begun = (length < 32).then(|| {
            let (words, tail) = key.bytes().as_chunks::<8>();
            // Without a stripe the state is the seed and the length.
            let hash = KEY_SEED.wrapping_add(PRIME_5).wrapping_add(length as u64);
            let mut rest = [0; 11];
            rest[..tail.len()].copy_from_slice(tail);
            Begun {
                hash: words.iter().fold(hash, |hash, word| mix_word(hash, *word)),
                rest,
                length: tail.len(),
            }
        });
        Self { key, prefix, begun }
    }

    /// The hash of a partition.
    #[inline]
    pub(crate) fn partition(&mut self, partition: u32) -> u64 {
        if let Some(begun) = &mut self.begun {
            let end = begun.length + size_of::<u32>();
            begun.rest[begun.length..end].copy_from_slice(&partition.to_be_bytes());
            return finish(begun.hash, &begun.rest[..end]);
        }
        self.key.truncate(self.prefix);
        self.key.extend(&partition.to_be_bytes());
        xxh64(self.key.bytes(), KEY_SEED)
    }

    /// The hash of the topic.
    pub(crate) fn topic(&self) -> u64 {
        let name = self.key.bytes().split(|byte| *byte == 0).next();
        xxh64(name.unwrap_or_default(), KEY_SEED)
    }
}

/// A number for a pair of hashes: that of a partition and that of a node, say.
pub(crate) fn pair_hash(a: u64, b: u64) -> u64 {
    // One round of XXH64 for the second, mixed into the first.
    avalanche(merge(a ^ PAIR_SEED, b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_begun_once_is_the_hash_of_the_whole() {
        for length in 1..80 {
            let topic = "t".repeat(length);
            let mut key = TopicKey::new(&topic);
            for partition in [0, 1, 255, 70_000] {
                let mut whole = topic.clone().into_bytes();
                whole.push(0);
                whole.extend_from_slice(&u32::to_be_bytes(partition));
                assert_eq!(
                    key.partition(partition),
                    xxh64(&whole, KEY_SEED),
                    "{length}"
                );
            }
            assert_eq!(key.topic(), xxh64(topic.as_bytes(), KEY_SEED));
        }
    }

    #[test]
    fn xxh64_gives_the_published_vectors() {
        assert_eq!(xxh64(b"", 0), 0xEF46_DB37_51D8_E999);
        assert_eq!(xxh64(b"a", 0), 0xD24E_C4F1_A98C_6E5B);
        assert_eq!(xxh64(b"abc", 0), 0x44BC_2CF5_AD77_0999);
        assert_eq!(
            xxh64(b"Nobody inspects the spammish repetition", 0),
            0xFBCE_A83C_8A37_8BF1
        );
    }
}
