//! Shares as even as possible among members that want different topics, keeping what they have.
//!
//! First the free partitions are poured, topic by topic, over the topic's least loaded members. Then
//! partitions flow from more to less loaded members of each topic until no single move makes anything
//! more even. So two members with the same subscription differ by one partition at most.

use super::spec::{GroupSpec, NOBODY};

/// Most passes over all topics. Each pass but the last makes the shares more even; how even they can
/// be is reached long before.
const MAX_PASSES: usize = 64;

pub(super) fn assign(spec: &GroupSpec, claims: &[u32]) -> Vec<u32> {
    let mut owners = claims.to_vec();
    let subscribers = spec.subscribers();
    let mut loads = vec![0u32; spec.members.len()];
    for owner in &owners {
        if let Some(load) = loads.get_mut(*owner as usize) {
            *load += 1;
        }
    }
    // The topics with the least choice first.
    let mut order: Vec<usize> = (0..spec.topics.len())
        .filter(|topic| !subscribers[*topic].is_empty())
        .collect();
    order.sort_by_key(|topic| subscribers[*topic].len());
    for topic in &order {
        pour(spec, *topic, &subscribers[*topic], &mut owners, &mut loads);
    }
    for _ in 0..MAX_PASSES {
        let mut moved = false;
        for topic in &order {
            moved |= level(spec, *topic, &subscribers[*topic], &mut owners, &mut loads);
        }
        if !moved {
            break;
        }
    }
    owners
}

fn partitions(spec: &GroupSpec, topic: usize) -> std::ops::Range<usize> {
    let first = spec.first[topic] as usize;
    first..first + spec.topics[topic].partitions as usize
}

/// The members in the order of their loads, equal ones in the order given. A counting sort: loads are
/// small numbers, and this runs for every topic.
fn by_load(members: &[u32], loads: &[u32]) -> Vec<u32> {
    let load = |member: &u32| loads[*member as usize];
    let least = members.iter().map(load).min().unwrap_or(0);
    let most = members.iter().map(load).max().unwrap_or(0);
    if (most - least) as usize > members.len().saturating_mul(4) {
        let mut sorted = members.to_vec();
        sorted.sort_by_key(load);
        return sorted;
    }
    let mut starts = vec![0u32; (most - least) as usize + 2];
    for member in members {
        starts[(load(member) - least) as usize + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut sorted = vec![0u32; members.len()];
    for member in members {
        let at = &mut starts[(load(member) - least) as usize];
        sorted[*at as usize] = *member;
        *at += 1;
    }
    sorted
}

/// Gives the topic's free partitions to its least loaded members.
fn pour(spec: &GroupSpec, topic: usize, members: &[u32], owners: &mut [u32], loads: &mut [u32]) {
    let mut free = owners[partitions(spec, topic)]
        .iter_mut()
        .filter(|owner| **owner == NOBODY)
        .peekable();
    if free.peek().is_none() {
        return;
    }
    let sorted = by_load(members, loads);
    // The first `wide` members stand at the same level; the water rises over them and then takes the
    // next one in.
    let mut wide = 1;
    while free.peek().is_some() {
        let level = loads[sorted[0] as usize];
        while wide < sorted.len() && loads[sorted[wide] as usize] <= level {
            wide += 1;
        }
        for member in &sorted[..wide] {
            let Some(owner) = free.next() else {
                return;
            };
            *owner = *member;
            loads[*member as usize] += 1;
        }
    }
}

/// Moves partitions of the topic from more to less loaded members. Says whether any moved.
fn level(
    spec: &GroupSpec,
    topic: usize,
    members: &[u32],
    owners: &mut [u32],
    loads: &mut [u32],
) -> bool {
    let load = |member: &u32, loads: &[u32]| loads[*member as usize];
    let mut least = members.iter().map(|m| load(m, loads)).min().unwrap_or(0);
    let mut takers = members
        .iter()
        .copied()
        .filter(|m| load(m, loads) == least)
        .collect::<Vec<_>>();
    let mut moved = false;
    for owner in &mut owners[partitions(spec, topic)] {
        if *owner == NOBODY || load(owner, loads) < least + 2 {
            continue;
        }
        let Some(taker) = takers.pop() else {
            continue;
        };
        loads[*owner as usize] -= 1;
        loads[taker as usize] += 1;
        *owner = taker;
        moved = true;
        if takers.is_empty() {
            least = members.iter().map(|m| load(m, loads)).min().unwrap_or(0);
            takers.extend(members.iter().copied().filter(|m| load(m, loads) == least));
        }
    }
    moved
}
