//! What follows from the membership alone: racks and weights.

use rivven_core_types::RackId;

use crate::hash::{NODE_SEED, xxh64};
use crate::ledger::{Member, Slot};

/// What decisions need of a member, in few bytes: thousands are looked at in no order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seat {
    pub(crate) slot: Slot,
    pub(crate) weight: u32,
    /// The index of its rack.
    pub(crate) rack: u32,
}

/// The racks and weights of the members, by position.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    /// Per member: its slot, weight and rack.
    pub(crate) seats: Vec<Seat>,
    /// Per member: the index of its rack.
    pub(crate) rack_of: Vec<usize>,
    /// Per rack: the positions of its members of a weight above 0, sorted by name.
    pub(crate) racks: Vec<Vec<usize>>,
    /// Per rack: how many members of a weight above 0 it has.
    pub(crate) eligible: Vec<usize>,
    /// Per member: the hash of its name.
    pub(crate) hashes: Vec<u64>,
    /// Per member: its place in an order that alternates racks; only those of a weight above 0 have
    /// one.
    pub(crate) stripe: Vec<Option<usize>>,
    /// Sum of the weights.
    pub(crate) total_weight: u64,
    /// The greatest weight, at least 1.
    pub(crate) max_weight: u32,
}

impl Topology {
    /// Of `members`, which are sorted by name. Without a rack counts as one rack.
    pub(crate) fn new(members: &[Member]) -> Self {
        let mut names: Vec<Option<&RackId>> = members.iter().map(|m| m.rack.as_ref()).collect();
        names.sort_unstable();
        names.dedup();
        let index = |member: &Member| names.binary_search(&member.rack.as_ref()).unwrap_or(0);
        let rack_of: Vec<usize> = members.iter().map(index).collect();
        let mut racks = vec![Vec::new(); names.len()];
        for (position, member) in members.iter().enumerate() {
            if member.weight > 0 {
                racks[rack_of[position]].push(position);
            }
        }
        let hash = |m: &Member| xxh64(m.name.as_str().as_bytes(), NODE_SEED);
        let seat = |(m, rack): (&Member, &usize)| Seat {
            slot: m.slot,
            weight: m.weight,
            // There are no more racks than nodes.
            rack: u32::try_from(*rack).unwrap_or(u32::MAX),
        };
        Self {
            seats: members.iter().zip(&rack_of).map(seat).collect(),
            eligible: racks.iter().map(Vec::len).collect(),
            stripe: stripe(&racks, members.len()),
            rack_of,
            racks,
            hashes: members.iter().map(hash).collect(),
            total_weight: members.iter().map(|m| u64::from(m.weight)).sum(),
            max_weight: members.iter().map(|m| m.weight).max().unwrap_or(1).max(1),
        }
    }

    /// Racks that have a node which may be given something.
    pub(crate) fn usable_racks(&self) -> usize {
        self.eligible.iter().filter(|count| **count > 0).count()
    }
}

/// Takes a node of each rack in turn until all are taken.
fn stripe(racks: &[Vec<usize>], members: usize) -> Vec<Option<usize>> {
    let mut places = vec![None; members];
    let longest = racks.iter().map(Vec::len).max().unwrap_or(0);
    let rounds = (0..longest).flat_map(|round| racks.iter().filter_map(move |r| r.get(round)));
    for (place, node) in rounds.enumerate() {
        places[*node] = Some(place);
    }
    places
}
