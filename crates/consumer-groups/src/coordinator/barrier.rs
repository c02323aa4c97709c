//! The join barrier of a classic group: who has joined, for whom it waits, and until when.

use std::collections::{BTreeMap, BTreeSet};

use rivven_core_types::MonoTime;

use super::requests::{JoinRequest, Ticket};
use crate::command::ClassicMember;
use crate::ids::{InstanceId, MemberId};

#[derive(Debug)]
struct Joining {
    ticket: Ticket,
    order: usize,
    member: ClassicMember,
    knows_skip_assignment: bool,
}

/// A barrier.
#[derive(Debug)]
pub(super) struct Barrier {
    joined: BTreeMap<MemberId, Joining>,
    /// Members of the last generation that have not joined yet.
    pub(super) expected: BTreeSet<MemberId>,
    pub(super) protocol_type: String,
    /// It does not end before, so that the first members of a group start together.
    pub(super) earliest: MonoTime,
    /// What further joins may extend `earliest` to.
    pub(super) latest: MonoTime,
    /// It ends then, whoever is missing.
    pub(super) deadline: MonoTime,
    /// Its end is on its way into the log, as the round of this number.
    pub(super) proposing: Option<u64>,
    /// How many of the joined know each assignor.
    known: BTreeMap<String, usize>,
    order: usize,
}

impl Barrier {
    pub(super) fn new(
        protocol_type: String,
        expected: BTreeSet<MemberId>,
        earliest: MonoTime,
        latest: MonoTime,
        deadline: MonoTime,
    ) -> Self {
        Self {
            joined: BTreeMap::new(),
            expected,
            protocol_type,
            earliest,
            latest,
            deadline,
            proposing: None,
            known: BTreeMap::new(),
            order: 0,
        }
    }

    /// Whether the member has joined.
    pub(super) fn has(&self, member: &MemberId) -> bool {
        self.joined.contains_key(member)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.joined.is_empty()
    }

    pub(super) fn member_of(&self, instance: &InstanceId) -> Option<&MemberId> {
        let found = |j: &&Joining| j.member.instance.as_ref() == Some(instance);
        self.joined.values().find(found).map(|j| &j.member.id)
    }

    /// Whether the member would have an assignor in common with all who have joined.
    pub(super) fn accepts(&self, member: Option<&MemberId>, request: &JoinRequest) -> bool {
        let before = member.and_then(|id| self.joined.get(id));
        let others = self.joined.len() - usize::from(before.is_some());
        let mine = |name: &str| {
            before.is_some_and(|j| j.member.protocols.iter().any(|(known, _)| known == name))
        };
        others == 0
            || request.protocols.iter().any(|(name, _)| {
                let known = self.known.get(name).copied().unwrap_or(0);
                known - usize::from(mine(name)) == others
            })
    }

    /// Takes a member in; returns the ticket of its earlier join, if it had one.
    pub(super) fn add(
        &mut self,
        id: MemberId,
        ticket: Ticket,
        request: JoinRequest,
    ) -> Option<Ticket> {
        let before = self.remove(&id);
        self.expected.remove(&id);
        for (name, _) in &request.protocols {
            *self.known.entry(name.clone()).or_insert(0) += 1;
        }
        self.order += 1;
        let joining = Joining {
            ticket,
            order: self.order,
            knows_skip_assignment: request.knows_skip_assignment,
            member: request.into_member(id.clone()),
        };
        self.joined.insert(id, joining);
        before
    }

    /// Takes a member out; returns its ticket.
    pub(super) fn remove(&mut self, id: &MemberId) -> Option<Ticket> {
        let gone = self.joined.remove(id)?;
        for (name, _) in &gone.member.protocols {
            if let Some(count) = self.known.get_mut(name) {
                *count = count.saturating_sub(1);
            }
        }
        Some(gone.ticket)
    }

    /// The members as they joined.
    pub(super) fn members(&self) -> impl Iterator<Item = &ClassicMember> {
        self.joined.values().map(|j| &j.member)
    }

    pub(super) fn len(&self) -> usize {
        self.joined.len()
    }

    /// Who joined first.
    pub(super) fn first(&self) -> Option<&MemberId> {
        let first = self.joined.values().min_by_key(|j| j.order)?;
        Some(&first.member.id)
    }

    /// The longest time that any of the joined may take to rejoin, in milliseconds.
    pub(super) fn rebalance_timeout_ms(&self) -> u32 {
        let longest = self.members().map(|m| m.rebalance_timeout_ms).max();
        longest.unwrap_or(0)
    }

    /// The assignor that most prefer among those that all know.
    pub(super) fn choose(&self, all: &[&ClassicMember]) -> Option<String> {
        let knows = |m: &ClassicMember, name: &str| m.protocols.iter().any(|(n, _)| n == name);
        let common = |name: &str| all.iter().all(|m| knows(m, name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        let names: BTreeSet<&str> = self.known.keys().map(String::as_str).collect();
        let candidates: BTreeSet<&str> = names.into_iter().filter(|n| common(n)).collect();
        for member in all {
            let mut known = member.protocols.iter().map(|(name, _)| name.as_str());
            if let Some(first) = known.find(|name| candidates.contains(name)) {
                *votes.entry(first).or_insert(0) += 1;
            }
        }
        let chosen = votes.into_iter().rev().max_by_key(|(_, votes)| *votes);
        chosen.map(|(name, _)| name.to_owned())
    }

    /// The tickets with the members that they belong to.
    pub(super) fn into_joined(self) -> Vec<(Ticket, MemberId, bool)> {
        let joined = self.joined.into_iter();
        joined
            .map(|(id, j)| (j.ticket, id, j.knows_skip_assignment))
            .collect()
    }

    pub(super) fn into_tickets(self) -> impl Iterator<Item = Ticket> {
        self.joined.into_values().map(|j| j.ticket)
    }
}
