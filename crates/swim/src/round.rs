//! The order in which a node probes: a fresh permutation of the table each round, kept in 16 bytes.

use rivven_core_types::Rng;

/// One round over `0..domain`: a four-round Feistel network with cycle walking visits each number
/// once in an order that the key decides (Black and Rogaway, "Ciphers with arbitrary finite domains",
/// 2002). A shuffled list would cost four bytes for every member that a node knows.
#[derive(Debug, Default)]
pub(crate) struct Round {
    key: u64,
    domain: u32,
    next: u32,
}

impl Round {
    /// The next number; `None` ends the round, and the following call begins one over `0..domain`.
    pub(crate) fn next(&mut self, domain: u32, rng: &mut Rng) -> Option<u32> {
        if self.next >= self.domain {
            let fresh = self.domain == 0;
            *self = Self {
                key: rng.next_u64(),
                domain,
                next: 0,
            };
            if !fresh || domain == 0 {
                self.domain = 0;
                return None;
            }
        }
        let mut value = self.permute(self.next);
        self.next += 1;
        // At most four times on average: the network is at most four times as large as the domain.
        while value >= self.domain {
            value = self.permute(value);
        }
        Some(value)
    }

    /// One application of a permutation of `0..4^k`, the least such range that holds the domain.
    fn permute(&self, value: u32) -> u32 {
        let digits = u32::BITS - self.domain.saturating_sub(1).leading_zeros();
        let half = digits.div_ceil(2).max(1);
        let mask = (1u64 << half) - 1;
        let mut left = u64::from(value) >> half & mask;
        let mut right = u64::from(value) & mask;
        for round in 0..4u32 {
            let mixed = mix(right ^ self.key.rotate_left(16 * round)) & mask;
            (left, right) = (right, left ^ mixed);
        }
        u32::try_from(left << half | right).unwrap_or(0)
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_round_visits_everybody_once_and_the_next_in_another_order() {
        for domain in [1, 2, 3, 5, 16, 17, 100, 1000] {
            let mut rng = Rng::new(u64::from(domain));
            let mut round = Round::default();
            let mut take =
                || -> Vec<u32> { std::iter::from_fn(|| round.next(domain, &mut rng)).collect() };
            let (first, second) = (take(), take());
            for order in [&first, &second] {
                let all: BTreeSet<u32> = order.iter().copied().collect();
                assert_eq!(order.len(), domain as usize, "{domain}");
                assert_eq!(all.len(), order.len(), "{domain}");
            }
            assert!(domain < 16 || first != second);
        }
    }
}
