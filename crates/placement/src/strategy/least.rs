//! Which of many carry least, found without looking at all of them.

/// What something would carry for its weight with one more: of the topic, and in all. The least goes
/// first.
pub(crate) type Fill = (u64, u64);
/// Cannot be given anything.
pub(crate) const CLOSED: Fill = (u64::MAX, u64::MAX);

/// A set of things with fills, of which one with the least fill is found quickly.
#[derive(Debug, Clone)]
pub(crate) struct Least {
    fills: Vec<Fill>,
    least: Fill,
    /// One bit for each thing that has the least fill; none for what is closed.
    words: Vec<u64>,
    /// How many have it.
    count: usize,
}

impl Default for Least {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Least {
    pub(crate) fn new(fills: Vec<Fill>) -> Self {
        let mut this = Self {
            words: vec![0; fills.len().div_ceil(64)],
            fills,
            least: CLOSED,
            count: 0,
        };
        this.rebuild();
        this
    }

    #[inline]
    pub(crate) fn fill(&self, at: usize) -> Fill {
        self.fills[at]
    }

    #[inline]
    pub(crate) fn is_least(&self, at: usize) -> bool {
        self.fills[at] == self.least
    }

    #[inline]
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    /// Replaces the first part of each fill, but for what is closed.
    pub(crate) fn restart(&mut self, firsts: &[u64]) {
        for (fill, first) in self.fills.iter_mut().zip(firsts) {
            if *fill != CLOSED {
                fill.0 = *first;
            }
        }
        self.rebuild();
    }

    /// Looks for the least in one pass: what is found before a lesser one counts no more.
    fn rebuild(&mut self) {
        self.least = CLOSED;
        self.count = 0;
        for (at, fills) in self.fills.chunks(64).enumerate() {
            let mut word = 0u64;
            for (bit, fill) in fills.iter().enumerate() {
                if *fill < self.least {
                    self.least = *fill;
                    self.words[..at].fill(0);
                    self.count = 0;
                    word = 0;
                }
                word |= u64::from(*fill == self.least) << bit;
            }
            if self.least == CLOSED {
                word = 0;
            }
            self.words[at] = word;
            self.count += word.count_ones() as usize;
        }
    }

    #[inline]
    pub(crate) fn set(&mut self, at: usize, fill: Fill) {
        self.set_all([(at, fill)].into_iter());
    }

    /// Sets several at once, which looks for the least of all once at most.
    #[inline]
    pub(crate) fn set_all(&mut self, fills: impl Iterator<Item = (usize, Fill)>) {
        let mut outdated = false;
        for (at, fill) in fills {
            let old = std::mem::replace(&mut self.fills[at], fill);
            outdated |= fill < self.least;
            let (word, bit) = (at / 64, 1 << (at % 64));
            if old == self.least && fill != old && old != CLOSED {
                self.words[word] &= !bit;
                self.count -= 1;
            } else if old != self.least && fill == self.least && fill != CLOSED {
                self.words[word] |= bit;
                self.count += 1;
            }
        }
        if outdated || self.count == 0 {
            self.rebuild();
        }
    }

    /// One of the least filled, the next behind a place that `hash` gives, that is not `excluded`; if
    /// all of them are, the least filled of the others.
    #[inline]
    pub(crate) fn find(&self, hash: u64, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        let length = self.fills.len();
        find(length, hash, |at| self.words[at], &excluded).or_else(|| {
            // This happens in small racks only.
            let from = start(length, hash);
            (0..length)
                .filter(|at| self.fills[*at] != CLOSED && !excluded(*at))
                .min_by_key(|at| (self.fills[*at], *at < from, *at))
        })
    }
}

/// The upper half of the product: a number below `length`, without a division.
#[inline]
fn start(length: usize, hash: u64) -> usize {
    let from = (u128::from(hash) * length as u128) >> 64;
    usize::try_from(from).unwrap_or(0)
}

/// The first of `length` bits that is set and not `excluded`, behind a place that `hash` gives.
#[inline]
pub(crate) fn find(
    length: usize,
    hash: u64,
    word: impl Fn(usize) -> u64,
    excluded: impl Fn(usize) -> bool,
) -> Option<usize> {
    let from = start(length, hash);
    let (first, behind) = (from / 64, u64::MAX << (from % 64));
    let words = length.div_ceil(64);
    // The first word twice: what is behind the place at the beginning, what is before it at the end.
    for step in 0..=words {
        let at = match first + step {
            at if at < words => at,
            at => at - words,
        };
        let mask = match step {
            0 => behind,
            last if last == words => !behind,
            _ => u64::MAX,
        };
        if at >= words {
            break;
        }
        let mut bits = word(at) & mask;
        while bits != 0 {
            let found = at * 64 + bits.trailing_zeros() as usize;
            if !excluded(found) {
                return Some(found);
            }
            bits &= bits - 1;
        }
    }
    None
}
