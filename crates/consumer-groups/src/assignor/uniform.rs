//! Even shares among members that all want the same topics, with as few moves as possible.
//!
//! Of `P` partitions and `M` members each gets `P / M`, and `P % M` of them one more: those who hold
//! more than the share already come first (KAFKA-18688 is what happens otherwise), so that the
//! partitions moved are exactly those without an owner and those beyond a member's share.

use super::spec::{GroupSpec, NOBODY};

pub(super) fn assign(spec: &GroupSpec, claims: &[u32]) -> Vec<u32> {
    let mut owners = claims.to_vec();
    let wanted = wanted(spec);
    let total: usize = wanted.iter().map(|run| run.len()).sum();
    let near = Near::new(spec);
    if let Some(near) = &near {
        // A share is worth more than a rack, and a rack more than staying.
        for run in &wanted {
            for number in run.clone() {
                let owner = &mut owners[number];
                if *owner != NOBODY && !near.is_near(spec, *owner, number) {
                    *owner = NOBODY;
                }
            }
        }
    }
    let mut room = quotas(spec, &owners, total);
    for owner in &mut owners {
        if let Some(left) = room.get_mut(*owner as usize) {
            if *left == 0 {
                *owner = NOBODY;
            } else {
                *left -= 1;
            }
        }
    }
    let free = wanted.into_iter().flatten();
    let mut free: Vec<usize> = free.filter(|number| owners[*number] == NOBODY).collect();
    if let Some(near) = &near {
        near.fill(spec, &mut owners, &mut room, &mut free, claims);
    }
    let mut takers = (0u32..).zip(room.iter_mut()).filter(|(_, left)| **left > 0);
    let mut taker = takers.next();
    for number in free {
        while let Some((member, left)) = &mut taker {
            if **left > 0 {
                **left -= 1;
                owners[number] = *member;
                break;
            }
            taker = takers.next();
        }
    }
    owners
}

/// The numbers of the partitions that are wanted, as ranges.
fn wanted(spec: &GroupSpec) -> Vec<std::ops::Range<usize>> {
    let Some(member) = spec.members.first() else {
        return Vec::new();
    };
    let ranges = member.topics.iter().filter_map(|topic| {
        let position = *topic as usize;
        let first = *spec.first.get(position)? as usize;
        Some(first..first + spec.topics[position].partitions as usize)
    });
    ranges.collect()
}

/// How many partitions each member gets.
fn quotas(spec: &GroupSpec, owners: &[u32], total: usize) -> Vec<u32> {
    let members = spec.members.len();
    let share = u32::try_from(total / members).unwrap_or(u32::MAX);
    let mut longer = total % members;
    let mut counts = vec![0u32; members];
    for owner in owners {
        if let Some(count) = counts.get_mut(*owner as usize) {
            *count += 1;
        }
    }
    let mut quotas = vec![share; members];
    for holds_more in [true, false] {
        for (quota, count) in quotas.iter_mut().zip(&counts) {
            if longer > 0 && (*count > share) == holds_more {
                *quota += 1;
                longer -= 1;
            }
        }
    }
    quotas
}

/// Racks: where each number belongs, and who is in which rack.
struct Near {
    position: Vec<u32>,
}

impl Near {
    fn new(spec: &GroupSpec) -> Option<Self> {
        if !spec.has_racks() {
            return None;
        }
        let mut position = Vec::with_capacity(spec.total as usize);
        for (at, topic) in (0u32..).zip(&spec.topics) {
            position.extend(std::iter::repeat_n(at, topic.partitions as usize));
        }
        Some(Self { position })
    }

    fn is_near(&self, spec: &GroupSpec, member: u32, number: usize) -> bool {
        let position = self.position[number] as usize;
        let first = spec.first[position] as usize;
        let index = u32::try_from(number - first).unwrap_or(u32::MAX);
        spec.is_near(member, position, index)
    }

    /// Gives free partitions to members of their racks, then back to whom they belonged.
    fn fill(
        &self,
        spec: &GroupSpec,
        owners: &mut [u32],
        room: &mut [u32],
        free: &mut Vec<usize>,
        before: &[u32],
    ) {
        let mut by_rack: std::collections::BTreeMap<&rivven_core_types::RackId, Vec<u32>> =
            std::collections::BTreeMap::new();
        for (member, spec) in (0u32..).zip(&spec.members) {
            if let Some(rack) = &spec.rack {
                by_rack.entry(rack).or_default().push(member);
            }
        }
        // They are taken from the end.
        by_rack.values_mut().for_each(|members| members.reverse());
        free.retain(|number| {
            let position = self.position[*number] as usize;
            let index = number - spec.first[position] as usize;
            let racks = spec.topics[position].racks.get(index);
            for rack in racks.into_iter().flatten() {
                let Some(members) = by_rack.get_mut(rack) else {
                    continue;
                };
                while let Some(member) = members.last().copied() {
                    let left = &mut room[member as usize];
                    if *left > 0 {
                        *left -= 1;
                        owners[*number] = member;
                        return false;
                    }
                    members.pop();
                }
            }
            true
        });
        free.retain(|number| {
            let old = before[*number];
            match room.get_mut(old as usize) {
                Some(left) if *left > 0 => {
                    *left -= 1;
                    owners[*number] = old;
                    false
                }
                _ => true,
            }
        });
    }
}
