//! Even leaders by augmenting paths.
//!
//! Partitions are edges from the node that leads them to the nodes that could. Moving one leadership
//! along each edge of a path from a node with too many to a node with too few changes nothing for the
//! nodes between. As in bipartite matching (Berge 1957), no path means that no choice of leaders is
//! more even. Leaders move without any data being copied.

/// Bounds of what each node should lead.
#[derive(Debug, Clone)]
struct Bounds {
    low: Vec<u64>,
    high: Vec<u64>,
}

/// The shares of nodes by weight.
struct Shares {
    /// Sums of leaders and of weights.
    total: u128,
    whole: u128,
    /// Few weights differ from the one before, and a division of 128 bits is slow.
    last: Option<(u32, (u64, u64))>,
}

impl Shares {
    const fn new(total: u128, whole: u128) -> Self {
        Self {
            total,
            whole: if whole == 0 { 1 } else { whole },
            last: None,
        }
    }

    /// `floor` and `ceil` of the share of a node of `weight`.
    fn of(&mut self, weight: u32) -> (u64, u64) {
        if let Some((known, share)) = self.last
            && known == weight
        {
            return share;
        }
        let exact = self.total * u128::from(weight);
        let number = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
        let share = (
            number(exact / self.whole),
            number(exact.div_ceil(self.whole)),
        );
        self.last = Some((weight, share));
        share
    }
}

/// `ceil` and `floor` of each node's share of the sum of `leaders`.
fn bounds(leaders: &[u64], weights: &[u32]) -> Bounds {
    let total = leaders.iter().map(|n| u128::from(*n)).sum();
    let whole = weights.iter().map(|w| u128::from(*w)).sum();
    let mut shares = Shares::new(total, whole);
    let (low, high) = weights.iter().map(|weight| shares.of(*weight)).unzip();
    Bounds { low, high }
}

/// Whether no node leads more than its share of `total` leaders, up to less than one; `loads` are
/// leaders and weight of each that matters, `whole` is the sum of all weights.
pub(crate) fn are_within_shares(
    mut loads: impl Iterator<Item = (u64, u32)>,
    total: u64,
    whole: u64,
) -> bool {
    let mut shares = Shares::new(u128::from(total), u128::from(whole));
    loads.all(|(held, weight)| held <= shares.of(weight).1)
}

/// Whether no node is further off its share than `tolerance_percent` of it, or than one; without
/// tolerance nothing is even enough.
pub(super) fn is_even_enough(leaders: &[u64], weights: &[u32], tolerance_percent: u32) -> bool {
    let bounds = bounds(leaders, weights);
    let percent = u64::from(tolerance_percent);
    percent > 0
        && leaders.iter().enumerate().all(|(node, held)| {
            let tolerated = (bounds.high[node].saturating_mul(percent) / 100).max(1);
            *held <= bounds.high[node].saturating_add(tolerated)
                && held.saturating_add(tolerated) >= bounds.low[node]
        })
}

/// For each partition the nodes that may lead it, the present leader first; one after the other, since
/// there are as many lists as partitions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Candidates {
    nodes: Vec<usize>,
    ends: Vec<usize>,
}

impl Candidates {
    /// Those of the next partition; none if it keeps its leader.
    pub(crate) fn push(&mut self, nodes: impl Iterator<Item = usize>) {
        self.nodes.extend(nodes);
        self.ends.push(self.nodes.len());
    }

    fn of(&self, partition: usize) -> &[usize] {
        let begin = match partition {
            0 => 0,
            _ => self.ends[partition - 1],
        };
        &self.nodes[begin..self.ends[partition]]
    }
}

/// The partitions that each node leads, in ascending order: a chain for each.
struct Leads {
    first: Vec<Option<usize>>,
    next: Vec<Option<usize>>,
}

impl Leads {
    fn new(nodes: usize, candidates: &Candidates) -> Self {
        let partitions = candidates.ends.len();
        let mut leads = Self {
            first: vec![None; nodes],
            next: vec![None; partitions],
        };
        // From the last one on, so that each goes to the front.
        for partition in (0..partitions).rev() {
            if let Some(leader) = candidates.of(partition).first() {
                leads.next[partition] = leads.first[*leader].replace(partition);
            }
        }
        leads
    }

    /// Takes a partition out of one chain and puts it into another.
    fn transfer(&mut self, partition: usize, from: usize, to: usize) {
        let after = self.next[partition];
        *self.link(from, partition) = after;
        let link = self.link(to, partition);
        let after = link.replace(partition);
        self.next[partition] = after;
    }

    /// What points to the first partition of the node's chain that is not before `partition`.
    fn link(&mut self, node: usize, partition: usize) -> &mut Option<usize> {
        let mut before = None;
        let mut at = self.first[node];
        while let Some(this) = at.filter(|this| *this < partition) {
            before = Some(this);
            at = self.next[this];
        }
        match before {
            Some(before) => &mut self.next[before],
            None => &mut self.first[node],
        }
    }
}

/// The state of the search for paths.
struct Search {
    leaders: Vec<u64>,
    weights: Vec<u32>,
    bounds: Bounds,
    /// Per partition: the nodes that may lead it; the leader's index among them.
    candidates: Candidates,
    led_by: Vec<usize>,
    leads: Leads,
    /// Per node: the number of the search that reached it last, and by which partition from where.
    reached: Vec<(u64, usize)>,
    searches: u64,
}

impl Search {
    fn leader(&self, partition: usize) -> usize {
        self.candidates.of(partition)[self.led_by[partition]]
    }

    /// Finds the shortest path from `from` to a node for which `wanted` holds and moves one leadership
    /// along it. What a failed search has reached is `barren`: no later path for the same purpose
    /// leads through it, since none leads out of it.
    fn augment(
        &mut self,
        from: usize,
        barren: &mut [bool],
        wanted: impl Fn(&Self, usize) -> bool,
    ) -> bool {
        if barren[from] {
            return false;
        }
        self.searches += 1;
        let mut queue = vec![from];
        let mut head = 0;
        self.reached[from].0 = self.searches;
        while let Some(node) = queue.get(head).copied() {
            head += 1;
            let mut led = self.leads.first[node];
            while let Some(partition) = led {
                led = self.leads.next[partition];
                for place in 0..self.candidates.of(partition).len() {
                    let next = self.candidates.of(partition)[place];
                    if self.reached[next].0 == self.searches || barren[next] {
                        continue;
                    }
                    self.reached[next] = (self.searches, partition);
                    if wanted(self, next) {
                        self.shift(from, next);
                        return true;
                    }
                    queue.push(next);
                }
            }
        }
        queue.into_iter().for_each(|node| barren[node] = true);
        false
    }

    /// Whether one leadership more on `to` and one fewer on `from` is more even.
    fn improves(&self, from: usize, to: usize) -> bool {
        let product = |count: u64, weight: u32| u128::from(count) * u128::from(weight);
        product(self.leaders[from], self.weights[to])
            > product(self.leaders[to].saturating_add(1), self.weights[from])
    }

    /// Moves the leaderships along the path that ends at `to`, backwards.
    fn shift(&mut self, from: usize, to: usize) {
        let mut node = to;
        while node != from {
            let partition = self.reached[node].1;
            let before = self.leader(partition);
            let mut candidates = self.candidates.of(partition).iter();
            let place = candidates.position(|n| *n == node);
            self.led_by[partition] = place.unwrap_or(0);
            self.leads.transfer(partition, before, node);
            node = before;
        }
        self.leaders[from] -= 1;
        self.leaders[to] += 1;
    }
}

/// Chooses leaders so that no node leads more than its share, where that is possible.
///
/// `leaders` counts what each node leads in all. Returns the partitions whose leader changes, with the
/// place of the new one in their list.
pub(crate) fn even_out(
    leaders: Vec<u64>,
    weights: Vec<u32>,
    candidates: Candidates,
) -> Vec<(usize, usize)> {
    let leads = Leads::new(leaders.len(), &candidates);
    let mut search = Search {
        bounds: bounds(&leaders, &weights),
        weights,
        reached: vec![(0, 0); leaders.len()],
        led_by: vec![0; candidates.ends.len()],
        leaders,
        candidates,
        leads,
        searches: 0,
    };
    let nodes = search.leaders.len();
    let short = |s: &Search, n: usize| s.leaders[n] < s.bounds.low[n];
    let room = |s: &Search, n: usize| s.leaders[n] < s.bounds.high[n];
    let (mut without_short, mut without_room) = (vec![false; nodes], vec![false; nodes]);
    for node in 0..nodes {
        while search.leaders[node] > search.bounds.high[node]
            && (search.augment(node, &mut without_short, short)
                || search.augment(node, &mut without_room, room))
        {}
        // More than its share all the same: at least as little more as possible.
        while search.leaders[node] > search.bounds.high[node]
            && search.augment(node, &mut vec![false; nodes], |s, n| s.improves(node, n))
        {}
    }
    lift(&mut search);
    let changed = search.led_by.iter().enumerate();
    changed
        .filter(|(_, place)| **place != 0)
        .map(|(partition, place)| (partition, *place))
        .collect()
}

/// Brings nodes that lead less than their share up to it, from nodes that lead more than the least.
fn lift(search: &mut Search) {
    let nodes = search.leaders.len();
    let short = |s: &Search, n: usize| s.leaders[n] < s.bounds.low[n];
    if !(0..nodes).any(|node| short(search, node)) {
        return;
    }
    let mut barren = vec![false; nodes];
    for node in 0..nodes {
        while search.leaders[node] > search.bounds.low[node]
            && search.augment(node, &mut barren, short)
        {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lists: &[Vec<usize>]) -> Candidates {
        let mut all = Candidates::default();
        lists
            .iter()
            .for_each(|nodes| all.push(nodes.iter().copied()));
        all
    }

    fn counts(nodes: usize, candidates: &[Vec<usize>], moved: &[(usize, usize)]) -> Vec<u64> {
        let mut led: Vec<usize> = candidates.iter().map(|c| c[0]).collect();
        for (partition, place) in moved {
            led[*partition] = candidates[*partition][*place];
        }
        let count = |node| led.iter().filter(|l| **l == node).count() as u64;
        (0..nodes).map(count).collect()
    }

    #[test]
    fn a_path_over_several_nodes_is_found() {
        // 0 leads three; only by way of 1 can 2 be given one.
        let candidates = vec![
            vec![0, 1],
            vec![0, 1],
            vec![0, 1],
            vec![1, 2],
            vec![1, 2],
            vec![2, 1],
        ];
        let leaders = vec![3, 2, 1];
        let moved = even_out(leaders, vec![1; 3], of(&candidates));
        assert_eq!(counts(3, &candidates, &moved), [2, 2, 2]);
    }

    #[test]
    fn random_clusters_end_without_a_path_to_improve() {
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = crate::hash::xxh64(&state.to_le_bytes(), 7);
            usize::try_from(state % below as u64).unwrap()
        };
        for _ in 0..2_000 {
            let nodes = 3 + random(12);
            let candidates: Vec<Vec<usize>> = (0..nodes * 9)
                .map(|_| {
                    let first = random(nodes);
                    vec![first, (first + 1 + random(nodes - 1)) % nodes]
                })
                .collect();
            let before = counts(nodes, &candidates, &[]);
            let moved = even_out(before, vec![100; nodes], of(&candidates));
            let after = counts(nodes, &candidates, &moved);
            // No path is left from a node to another that leads two fewer.
            let mut led: Vec<usize> = candidates.iter().map(|c| c[0]).collect();
            for (partition, place) in &moved {
                led[*partition] = candidates[*partition][*place];
            }
            let mut reach = vec![vec![false; nodes]; nodes];
            for (leader, others) in led.iter().zip(&candidates) {
                others
                    .iter()
                    .for_each(|other| reach[*leader][*other] = true);
            }
            for via in 0..nodes {
                let onwards = reach[via].clone();
                for row in reach.iter_mut().filter(|row| row[via]) {
                    row.iter_mut().zip(&onwards).for_each(|(to, on)| *to |= on);
                }
            }
            for (from, row) in reach.iter().enumerate() {
                // The share is 9.
                for (to, reachable) in row.iter().enumerate().filter(|_| after[from] > 9) {
                    assert!(!reachable || after[from] <= after[to] + 1, "{after:?}");
                }
            }
        }
    }
}
