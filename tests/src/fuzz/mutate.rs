//! Changes to bytes.

use rivven_core_types::Rng;

/// Longest input that is made, in bytes.
const MAX_BYTES: usize = 8 << 10;
/// Longest piece that is cut out, doubled or put in.
const MAX_PIECE: usize = 64;
/// Values at which decoders change their minds.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0x8000,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

fn below(rng: &mut Rng, bound: usize) -> usize {
    let bound = u64::try_from(bound).unwrap_or(u64::MAX);
    usize::try_from(rng.below(bound)).unwrap_or(0)
}

/// A changed copy of `from`; one in eight is unchanged, half of the others are changed in one place.
pub(super) fn mutate(rng: &mut Rng, from: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = from.to_vec();
    if rng.below(8) == 0 {
        return bytes;
    }
    loop {
        change(rng, &mut bytes, other);
        bytes.truncate(MAX_BYTES);
        if rng.below(2) == 0 {
            return bytes;
        }
    }
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = below(rng, bytes.len());
    let piece = 1 + below(rng, MAX_PIECE);
    let end = (at + piece).min(bytes.len());
    match rng.below(12) {
        0 | 1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = rng.next_u64().to_le_bytes()[0];
            }
        }
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                let step = rng.next_u64().to_le_bytes()[0] % 9;
                *byte = byte.wrapping_add(step).wrapping_sub(4);
            }
        }
        4..=6 => overwrite(rng, bytes, at),
        7 => drop(bytes.drain(at..end)),
        8 => {
            let copy = bytes.get(at..end).unwrap_or_default().to_vec();
            drop(bytes.splice(at..at, copy));
        }
        9 => {
            let new: Vec<u8> = (0..piece % 8 + 1)
                .map(|_| rng.next_u64().to_le_bytes()[0])
                .collect();
            drop(bytes.splice(at..at, new));
        }
        10 => {
            // Its end from another one.
            let from = below(rng, other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(other.get(from..).unwrap_or_default());
        }
        _ => bytes.truncate(at),
    }
}

/// Writes a number of 1, 2, 4 or 8 bytes, in either order.
fn overwrite(rng: &mut Rng, bytes: &mut [u8], at: usize) {
    let value = EDGES.get(below(rng, EDGES.len())).copied().unwrap_or(0);
    let width = 1 << rng.below(4);
    let big = value.to_be_bytes();
    let mut number = big[8 - width..].to_vec();
    if rng.below(2) == 0 {
        number.reverse();
    }
    for (to, from) in bytes.iter_mut().skip(at).zip(number) {
        *to = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_of_every_kind_repeatable_and_bounded() {
        let make = |seed| {
            let mut rng = Rng::new(seed);
            let made = |_| mutate(&mut rng, b"some bytes to change", b"others");
            (0..2_000).map(made).collect::<Vec<_>>()
        };
        let made = make(1);
        assert_eq!(made, make(1));
        let same = made.iter().filter(|m| *m == b"some bytes to change");
        assert!((150..450).contains(&same.count()));
        assert!(made.iter().any(|m| m.len() > 20) && made.iter().any(Vec::is_empty));
        let mut rng = Rng::new(2);
        let long = vec![7; 2 * MAX_BYTES];
        assert!((0..200).all(|_| mutate(&mut rng, &long, &long).len() <= 2 * MAX_BYTES));
        assert!((0..200).all(|_| mutate(&mut rng, &[], &[]).len() <= MAX_BYTES));
    }
}
