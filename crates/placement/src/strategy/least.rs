//! Which of many carry least, found without looking at all of them.

/// What something would carry for its weight with one more: of the topic in the upper half, in all in
/// the lower. The least goes first.
pub(crate) type Fill = u128;
/// Cannot be given anything.
pub(crate) const CLOSED: Fill = u128::MAX;

/// The fill of its two parts.
#[inline]
pub(crate) const fn fill(topic: u64, in_all: u64) -> Fill {
    (topic as Fill) << 64 | in_all as Fill
}

/// A set of indices that knows whether it is empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bits {
    words: Vec<u64>,
    count: usize,
}

impl Bits {
    fn new(length: usize) -> Self {
        Self {
            words: vec![0; length.div_ceil(64)],
            count: 0,
        }
    }

    #[inline]
    const fn split(at: usize) -> (usize, u64) {
        (at / 64, 1 << (at % 64))
    }

    #[inline]
    fn contains(&self, at: usize) -> bool {
        let (word, bit) = Self::split(at);
        self.words[word] & bit != 0
    }

    /// Puts an index in or takes it out.
    #[inline]
    fn set(&mut self, at: usize, is_in: bool) {
        let (word, bit) = Self::split(at);
        let before = self.words[word];
        let after = if is_in { before | bit } else { before & !bit };
        self.words[word] = after;
        self.count = self.count + usize::from(after > before) - usize::from(after < before);
    }

    /// Puts in what `word` gives for each 64.
    fn fill(&mut self, word: impl Fn(usize) -> u64) {
        self.count = 0;
        for (at, bits) in self.words.iter_mut().enumerate() {
            *bits = word(at);
            self.count += bits.count_ones() as usize;
        }
    }

    /// The next one at or behind `from`, begun anew behind the last, that is not `excluded`.
    #[inline]
    fn next(&self, from: usize, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let (first, behind) = (from / 64, u64::MAX << (from % 64));
        let mut word = first;
        let mut bits = self.words[first] & behind;
        // The first word twice: what is behind the place at the beginning, what is before it at the end.
        for _ in 0..=self.words.len() {
            while bits != 0 {
                let found = word * 64 + bits.trailing_zeros() as usize;
                if !excluded(found) {
                    return Some(found);
                }
                bits &= bits - 1;
            }
            word = if word + 1 < self.words.len() {
                word + 1
            } else {
                0
            };
            bits = self.words[word];
            if word == first {
                bits &= !behind;
            }
        }
        None
    }
}

/// A set of things with fills, of which one with the least fill is found quickly.
#[derive(Debug, Clone)]
pub(crate) struct Least {
    fills: Vec<Fill>,
    least: Fill,
    /// Those that have the least fill; none if all are closed.
    bits: Bits,
    /// A lesser one was put in since the least was looked for.
    outdated: bool,
}

impl Default for Least {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Least {
    pub(crate) fn new(fills: Vec<Fill>) -> Self {
        let mut this = Self {
            bits: Bits::new(fills.len()),
            fills,
            least: CLOSED,
            outdated: false,
        };
        this.rebuild();
        this
    }

    #[inline]
    pub(crate) fn fill(&self, at: usize) -> Fill {
        self.fills[at]
    }

    /// The least fill of all.
    #[inline]
    pub(crate) const fn least(&self) -> Fill {
        self.least
    }

    #[inline]
    pub(crate) fn is_least(&self, at: usize) -> bool {
        self.bits.contains(at)
    }

    /// Looks for the least in one pass: what is found before a lesser one counts no more.
    fn rebuild(&mut self) {
        self.least = CLOSED;
        self.outdated = false;
        let words = &mut self.bits.words;
        for (at, fills) in self.fills.chunks(64).enumerate() {
            let mut word = 0u64;
            for (bit, fill) in fills.iter().enumerate() {
                if *fill < self.least {
                    self.least = *fill;
                    words[..at].fill(0);
                    word = 0;
                }
                word |= u64::from(*fill == self.least) << bit;
            }
            words[at] = word;
        }
        if self.least == CLOSED {
            words.fill(0);
        }
        self.bits.count = words.iter().map(|word| word.count_ones() as usize).sum();
    }

    /// Sets one; returns whether others may have become the least, or are it no longer.
    #[inline]
    pub(crate) fn set(&mut self, at: usize, fill: Fill) -> bool {
        self.put(at, fill);
        self.settle()
    }

    /// Sets one of several, after which [`Self::settle`] is to be called.
    #[inline]
    pub(crate) fn put(&mut self, at: usize, fill: Fill) {
        self.fills[at] = fill;
        self.outdated |= fill < self.least;
        self.bits.set(at, fill == self.least && fill != CLOSED);
    }

    /// Sets one where nothing but [`Self::find_outside`] is called before [`Self::settle`], which then looks at
    /// all of them.
    #[inline]
    pub(crate) fn put_unsettled(&mut self, at: usize, fill: Fill) {
        self.fills[at] = fill;
        self.outdated = true;
    }

    /// Replaces the topic's part of one of several, unless it is closed; then as [`Self::put`].
    #[inline]
    pub(crate) fn restart(&mut self, at: usize, topic: u64) {
        let before = self.fills[at];
        if before != CLOSED {
            let in_all = before & Fill::from(u64::MAX);
            self.put(at, Fill::from(topic) << 64 | in_all);
        }
    }

    /// Looks for the least again if what was put in asks for it. Returns as [`Self::set`].
    #[inline]
    pub(crate) fn settle(&mut self) -> bool {
        let outdated = self.outdated || self.bits.count == 0;
        if outdated {
            self.rebuild();
        }
        outdated
    }

    /// One of the least filled, the next behind a place that `hash` gives, that is not `excluded`; if
    /// all of them are, the least filled of the others.
    #[inline]
    pub(crate) fn find(&self, hash: u64, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        let length = self.fills.len();
        let from = start(length, hash);
        let found = self.bits.next(from, &excluded);
        // Among racks that differ in size, and in small racks, one may have to look further.
        found.or_else(|| self.first_of_the_least(from, excluded))
    }

    /// The least of those that are neither `excluded` nor closed; of several, the next behind `from`.
    #[inline]
    fn first_of_the_least(&self, from: usize, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        let (mut least, mut found) = (CLOSED, usize::MAX);
        for (at, fill) in self.fills.iter().enumerate() {
            let fill = if excluded(at) { CLOSED } else { *fill };
            // Which one it is cannot be foreseen: no branches.
            let sooner = (fill == least) & (at >= from) & (found < from);
            let better = (fill < least) | sooner;
            least = if better { fill } else { least };
            found = if better { at } else { found };
        }
        (least != CLOSED).then_some(found)
    }
}

impl Least {
    /// Whether looking at all of them is the quickest.
    #[inline]
    pub(crate) const fn is_small(&self) -> bool {
        self.fills.len() <= 8
    }

    /// As [`Self::find`] for at most 64 things, of which those are excluded whose bits are set. If there
    /// are few, nobody need have called [`Self::settle`].
    #[inline]
    pub(crate) fn find_outside(&self, hash: u64, excluded: u64) -> Option<usize> {
        let from = start(self.fills.len(), hash);
        if self.is_small() {
            return self.first_of_the_least(from, |at| excluded >> at & 1 == 1);
        }
        let open = self.bits.words.first()? & !excluded;
        let behind = open & (u64::MAX << from);
        let picked = if behind != 0 { behind } else { open };
        if picked != 0 {
            return Some(picked.trailing_zeros() as usize);
        }
        self.first_of_the_least(from, |at| excluded >> at & 1 == 1)
    }
}

/// The upper half of the product: a number below `length`, without a division.
#[inline]
fn start(length: usize, hash: u64) -> usize {
    let from = (u128::from(hash) * length as u128) >> 64;
    usize::try_from(from).unwrap_or(0)
}

/// Those of two sets with the least fills that are in both, and those that are in the first alone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlap {
    length: usize,
    both: Bits,
    first_alone: Bits,
}

impl Overlap {
    pub(crate) fn new(first: &Least, second: &Least) -> Self {
        let length = first.fills.len();
        let mut this = Self {
            length,
            both: Bits::new(length),
            first_alone: Bits::new(length),
        };
        this.rebuild(first, second);
        this
    }

    /// Any may have changed.
    pub(crate) fn rebuild(&mut self, first: &Least, second: &Least) {
        let (first, second) = (&first.bits.words, &second.bits.words);
        self.both.fill(|word| first[word] & second[word]);
        self.first_alone.fill(|word| first[word] & !second[word]);
    }

    /// This one may have changed.
    #[inline]
    pub(crate) fn renew(&mut self, at: usize, first: &Least, second: &Least) {
        let (first, second) = (first.is_least(at), second.is_least(at));
        self.both.set(at, first && second);
        self.first_alone.set(at, first && !second);
    }

    /// The next of those in both behind a place that `hash` gives.
    #[inline]
    pub(crate) fn find_both(&self, hash: u64, excluded: impl Fn(usize) -> bool) -> Option<usize> {
        self.both.next(start(self.length, hash), excluded)
    }

    /// The next of those in the first alone behind a place that `hash` gives.
    #[inline]
    pub(crate) fn find_first_alone(
        &self,
        hash: u64,
        excluded: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        self.first_alone.next(start(self.length, hash), excluded)
    }
}
