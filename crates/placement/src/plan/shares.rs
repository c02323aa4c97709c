//! What each node should hold: water-filling by weight under caps and under what racks allow.

use super::model::Model;
use crate::config::RackMode;

/// What a node should hold: from `low` to `high`, which differ by one at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Share {
    pub(super) low: u64,
    pub(super) high: u64,
}

/// Something that takes a part of a whole in proportion to its weight, within bounds.
#[derive(Debug, Clone, Copy)]
struct Taker {
    weight: u128,
    least: u128,
    most: u128,
}

/// A part: a whole number once a bound has fixed it, else a fraction.
#[derive(Debug, Clone, Copy)]
struct Part {
    numerator: u128,
    denominator: u128,
}

impl Part {
    const fn whole(number: u128) -> Self {
        Self {
            numerator: number,
            denominator: 1,
        }
    }

    fn floor(self) -> u128 {
        self.numerator / self.denominator
    }

    fn ceil(self) -> u128 {
        self.numerator.div_ceil(self.denominator)
    }
}

/// Divides `total` (a fraction) among `takers`. Those whose proportional part breaks a bound get the
/// bound, first those of the side that is further off, and the others divide what is left, until
/// nobody breaks one; in whole arithmetic.
fn divide(total: Part, takers: &[Taker]) -> Vec<Part> {
    let mut parts: Vec<Option<Part>> = vec![None; takers.len()];
    loop {
        let fixed: u128 = parts.iter().flatten().map(|p| p.numerator).sum();
        // The fixed ones are whole: what is left has the denominator of the total.
        let left = total.numerator.saturating_sub(fixed * total.denominator);
        let free = || takers.iter().zip(&parts).filter(|(_, part)| part.is_none());
        let weight: u128 = free().map(|(taker, _)| taker.weight).sum::<u128>().max(1);
        let denominator = total.denominator * weight;
        // Everything over the common denominator.
        let of = |taker: &Taker| left * taker.weight;
        let above = |t: &Taker| of(t).saturating_sub(t.most.saturating_mul(denominator));
        let below = |t: &Taker| t.least.saturating_mul(denominator).saturating_sub(of(t));
        let excess: u128 = free().map(|(t, _)| above(t)).fold(0, u128::saturating_add);
        let deficit: u128 = free().map(|(t, _)| below(t)).fold(0, u128::saturating_add);
        if excess == 0 && deficit == 0 {
            let part = |(taker, part): (&Taker, &Option<Part>)| {
                part.unwrap_or(Part {
                    numerator: of(taker),
                    denominator,
                })
            };
            return takers.iter().zip(&parts).map(part).collect();
        }
        let clamped: Vec<Option<Part>> = takers
            .iter()
            .zip(&parts)
            .map(|(taker, part)| match part {
                Some(part) => Some(*part),
                None if excess >= deficit => (above(taker) > 0).then(|| Part::whole(taker.most)),
                None => (below(taker) > 0).then(|| Part::whole(taker.least)),
            })
            .collect();
        parts = clamped;
    }
}

/// The share of each node. A node that may not be given anything has what it holds, and one that is
/// to be emptied nothing.
pub(super) fn compute(model: &Model<'_>) -> Vec<Share> {
    let mut pinned = 0u128;
    let mut shares = vec![Share::default(); model.nodes.len()];
    for (node, share) in model.nodes.iter().zip(&mut shares) {
        if node.is_active() && !node.is_usable() {
            let held = node.load();
            *share = Share {
                low: held,
                high: held,
            };
            pinned += u128::from(held);
        }
    }
    let total = u128::from(model.total_slots()).saturating_sub(pinned);
    let cap = u128::from(model.cap()).min(model.partitions() as u128);
    let racks: Vec<Taker> = rack_takers(model, cap);
    let parts = divide(Part::whole(total), &racks);
    for (nodes, part) in model.racks.iter().zip(parts) {
        let taker = |node: &usize| Taker {
            weight: u128::from(model.nodes[*node].weight),
            least: 0,
            most: cap,
        };
        let takers: Vec<Taker> = nodes.iter().map(taker).collect();
        for (node, part) in nodes.iter().zip(divide(part, &takers)) {
            let number = |n: u128| u64::try_from(n).unwrap_or(u64::MAX);
            shares[*node] = Share {
                low: number(part.floor()),
                high: number(part.ceil()).min(number(cap)),
            };
        }
    }
    shares
}

/// What a rack may and must take: with as many racks as replicas, one of each partition at most.
fn rack_takers(model: &Model<'_>, cap: u128) -> Vec<Taker> {
    let usable = model.racks.iter().filter(|rack| !rack.is_empty()).count();
    let mut factors = std::collections::BTreeMap::<usize, u128>::new();
    for partition in 0..model.partitions() {
        *factors.entry(model.replicas(partition).len()).or_default() += 1;
    }
    let matters = model.goals.rack_mode != RackMode::Off;
    let takers = model.racks.iter().map(|nodes| {
        let room = |count: usize| count.min(nodes.len()) as u128;
        let (mut least, mut most) = (0, 0);
        for (factor, count) in &factors {
            most += count
                * room(if matters {
                    model.per_rack(*factor)
                } else {
                    *factor
                });
            if matters && usable > 0 {
                least += count * room(factor / usable);
            }
        }
        let places = cap * nodes.len() as u128;
        Taker {
            weight: nodes
                .iter()
                .map(|n| u128::from(model.nodes[*n].weight))
                .sum(),
            least: least.min(places),
            most: most.min(places),
        }
    });
    let takers: Vec<Taker> = takers.collect();
    relax(takers, model, cap)
}

/// Where the racks together cannot take everything, those with room take more than one each, as
/// [`RackMode::Prefer`] has it.
fn relax(mut takers: Vec<Taker>, model: &Model<'_>, cap: u128) -> Vec<Taker> {
    let most: u128 = takers.iter().map(|t| t.most).sum();
    if most < u128::from(model.total_slots()) {
        for (taker, nodes) in takers.iter_mut().zip(&model.racks) {
            taker.most = cap * nodes.len() as u128;
        }
    }
    takers
}
