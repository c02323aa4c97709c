//! Clients that come and go again and again: each time their partitions move, and move back. Such a
//! client is kept waiting when it joins, and nobody else: plans for the others go on without it.

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_core_types::MonoTime;

use super::config::GroupConfig;
use crate::command::{ClientInfo, Heartbeat};
use crate::ids::{InstanceId, MemberId};
use crate::state::{ConsumerGroup, ConsumerMember};

/// Leaves within [`MEMORY`] after which a client counts as flapping.
const FLAPS: u32 = 3;
/// How long such a client waits at first after its last leave; twice as long after each further one.
const FIRST_DELAY: Duration = Duration::from_secs(1);
/// How long a leave is remembered.
const MEMORY: Duration = Duration::from_secs(300);
/// Most clients of one group whose leaves are remembered.
const MAX_CLIENTS: usize = 1_024;

/// How often a client left, and when it did last.
#[derive(Debug, Clone, Copy)]
struct Leaves {
    count: u32,
    last: MonoTime,
    /// None of its members has joined since.
    away: bool,
}

/// What is remembered of a group's flapping clients.
#[derive(Debug, Default)]
pub(super) struct Flapping {
    leaves: BTreeMap<String, Leaves>,
    /// Members that have joined and are not planned for yet, until when.
    withheld: BTreeMap<MemberId, MonoTime>,
}

/// A client is known by its static id, else by its client id and host.
fn key(instance: Option<&InstanceId>, client: &ClientInfo) -> String {
    instance.map_or_else(
        || format!("{}@{}", client.id, client.host),
        |instance| instance.to_string(),
    )
}

/// Whether a member is one of the client that sent the heartbeat.
fn is_of_client(member: &ConsumerMember, beat: &Heartbeat) -> bool {
    // Compared part by part: a large group is walked through.
    member.instance == beat.instance && (beat.instance.is_some() || *member.client == beat.client)
}

impl Flapping {
    pub(super) fn is_idle(&self) -> bool {
        self.leaves.is_empty() && self.withheld.is_empty()
    }

    pub(super) fn forget(&mut self, now: MonoTime) {
        self.leaves.retain(|_, l| now.since(l.last) < MEMORY);
        self.withheld.retain(|_, until| *until > now);
    }

    /// Remembers that a client left. One with several members leaves with the last of them: the restart
    /// of a host counts once. `group` may show the leaves of several of them already.
    pub(super) fn left(&mut self, now: MonoTime, beat: &Heartbeat, group: Option<&ConsumerGroup>) {
        self.forget(now);
        self.withheld.remove(&beat.member);
        let key = key(beat.instance.as_ref(), &beat.client);
        let known = self.leaves.get(&key);
        let is_counted = known.map_or(self.leaves.len() < MAX_CLIENTS, |l| !l.away);
        if !is_counted || group.is_some_and(|g| g.members().any(|m| is_of_client(m, beat))) {
            return;
        }
        let leaves = self.leaves.entry(key).or_insert(Leaves {
            count: 0,
            last: now,
            away: true,
        });
        leaves.count = leaves.count.saturating_add(1);
        (leaves.last, leaves.away) = (now, true);
    }

    /// A client is about to join: decides whether it waits. Called before the join is replicated, so that
    /// no plan can come between.
    pub(super) fn joins(
        &mut self,
        now: MonoTime,
        beat: &Heartbeat,
        group: Option<&ConsumerGroup>,
        config: &GroupConfig,
    ) {
        let key = key(beat.instance.as_ref(), &beat.client);
        let leaves = self.leaves.get_mut(&key).map(|leaves| {
            leaves.away = false;
            *leaves
        });
        let Some(group) = group.filter(|g| g.member(&beat.member).is_none()) else {
            return;
        };
        let Some(leaves) = leaves.filter(|l| l.count >= FLAPS && now.since(l.last) < MEMORY) else {
            return;
        };
        // Several members that share a client id are restarted one after another: none of them flaps.
        if group.members().any(|m| is_of_client(m, beat)) {
            return;
        }
        let doubled = FIRST_DELAY * 2u32.saturating_pow((leaves.count - FLAPS).min(16));
        let until = leaves.last + doubled.min(config.max_flap_delay);
        if until > now {
            self.withheld.insert(beat.member.clone(), until);
        }
    }

    /// Whether the member has joined and waits.
    pub(super) fn withholds(&self, now: MonoTime, member: &MemberId) -> bool {
        self.withheld.get(member).is_some_and(|until| *until > now)
    }

    /// The members of the group that are not to be planned for, sorted, and until when at most; none if nobody
    /// else would be left.
    pub(super) fn waiting(
        &mut self,
        now: MonoTime,
        group: &ConsumerGroup,
    ) -> Option<(Vec<MemberId>, MonoTime)> {
        self.withheld.retain(|_, until| *until > now);
        let present = self.withheld.iter();
        let present = present.filter(|(member, _)| group.member(member).is_some());
        let next = present.clone().map(|(_, until)| *until).min()?;
        let members: Vec<MemberId> = present.map(|(member, _)| member.clone()).collect();
        if members.len() >= group.member_count() {
            self.withheld.clear();
            return None;
        }
        Some((members, next))
    }
}
