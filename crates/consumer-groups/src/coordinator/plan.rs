//! Planning: who should own what, computed on the leader; the result is replicated.

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_core_types::{MonoTime, TopicId, TopicName};

use super::catalog::{TopicCatalog, TopicShape};
use super::consumer::compile;
use super::timers::Timer;
use super::{GroupCoordinator, Local, View, Waiter};
use crate::assignor::{AssignorKind, GroupSpec, MemberSpec, TopicSpec};
use crate::command::{Heartbeat, Op, OpResult, SetTarget};
use crate::digest;
use crate::error::{AssignError, GroupError};
use crate::ids::GroupId;
use crate::state::{ConsumerGroup, Group};

/// Leaves within [`FLAP_MEMORY`] after which a member counts as flapping.
const FLAPS: u32 = 3;
/// How long a leave is remembered.
const FLAP_MEMORY: Duration = Duration::from_secs(300);
/// Most clients of one group whose leaves are remembered.
const MAX_FLAPS: usize = 1_024;

/// When a group is planned for.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// A plan is on its way into the log.
    pub(super) in_flight: bool,
    due: Option<MonoTime>,
    last: Option<MonoTime>,
}

/// A client that leaves again and again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flap {
    leaves: u32,
    last: MonoTime,
}

impl Local {
    pub(super) fn forget_flaps(&mut self, now: MonoTime) {
        self.flaps.retain(|_, f| now.since(f.last) < FLAP_MEMORY);
    }
}

impl GroupCoordinator {
    /// Plans for the group soon, if its members or topics have changed since the last plan.
    pub(super) fn want_plan(&mut self, view: View<'_>, group: &Group) {
        let Some(consumer) = group.consumer() else {
            return;
        };
        if group.epoch <= consumer.target_epoch || consumer.member_count() == 0 {
            return;
        }
        let (window, delay) = (self.config.plan_window, self.flap_delay(view, group));
        let local = self.local(group.id());
        if local.plan.due.is_some() || local.plan.in_flight {
            return;
        }
        // The first change is planned for at once; a storm of them is taken together.
        let last = local.plan.last.map(|last| last + window);
        let due = last.unwrap_or(view.now).max(view.now) + delay;
        local.plan.due = Some(due);
        self.timers.at(due, Timer::Group(group.id().clone()));
        self.plan_due(view, group.id());
    }

    pub(super) fn plan_due(&mut self, view: View<'_>, group: &GroupId) {
        let Some(local) = self.groups.get_mut(group) else {
            return;
        };
        if local.plan.in_flight || local.plan.due.is_none_or(|due| due > view.now) {
            return;
        }
        local.plan.due = None;
        local.plan.last = Some(view.now);
        let Some(found) = view.state.group(group) else {
            return;
        };
        let Some(consumer) = found.consumer() else {
            return;
        };
        match target(found, consumer, view.topics) {
            Ok(target) => {
                local.plan.in_flight = true;
                let op = Op::SetTarget(Box::new(target));
                self.push(op, Waiter::Target(group.clone()));
            }
            // Cannot happen with members that were admitted; the members are told to try again.
            Err(_) => {
                let parked = std::mem::take(&mut local.parked);
                let refused = |t| {
                    (
                        t,
                        super::Response::Heartbeat(Err(GroupError::LoadInProgress)),
                    )
                };
                self.replies
                    .extend(parked.into_values().map(|(t, _)| refused(t)));
            }
        }
    }

    pub(super) fn target_applied(&mut self, view: View<'_>, group: &GroupId, result: OpResult) {
        self.local(group).plan.in_flight = false;
        match result {
            Ok(()) => self.release_parked(group),
            // Planned for again below, on what is there now.
            Err(GroupError::Superseded) => {}
            Err(error) => {
                let parked = std::mem::take(&mut self.local(group).parked);
                for (ticket, _) in parked.into_values() {
                    let refused = super::Response::Heartbeat(Err(error.clone()));
                    self.replies.push((ticket, refused));
                }
            }
        }
        if let Some(found) = view.state.group(group) {
            self.want_plan(view, found);
        }
    }

    /// Remembers that a client left.
    pub(super) fn note_leave(&mut self, view: View<'_>, beat: &Heartbeat) {
        let key = flap_key(beat.instance.as_ref().map(|i| i.as_str()), &beat.client);
        let local = self.local(&beat.group);
        local.forget_flaps(view.now);
        if local.flaps.len() < MAX_FLAPS || local.flaps.contains_key(&key) {
            let flap = local.flaps.entry(key).or_insert(Flap {
                leaves: 0,
                last: view.now,
            });
            flap.leaves = flap.leaves.saturating_add(1);
            flap.last = view.now;
        }
    }

    /// How much longer a plan waits because a client of the group comes and goes.
    fn flap_delay(&self, view: View<'_>, group: &Group) -> Duration {
        let Some(local) = self.groups.get(group.id()) else {
            return Duration::ZERO;
        };
        let recent = local.flaps.values();
        let recent = recent.filter(|f| view.now.since(f.last) < FLAP_MEMORY);
        let worst = recent.map(|f| f.leaves).max().unwrap_or(0);
        // One settled member at least: nobody waits when a whole group starts or stops.
        let settled = group.consumer().is_some_and(|c| c.target_epoch.get() > 0);
        if worst < FLAPS || !settled {
            return Duration::ZERO;
        }
        let doubled = self.config.plan_window * 2u32.saturating_pow((worst - FLAPS + 1).min(16));
        doubled.min(self.config.max_flap_delay)
    }

    /// The topics of the cluster have changed: groups whose subscriptions that concerns are planned for.
    pub(super) fn topics_changed(&mut self, view: View<'_>) {
        for group in view.state.groups() {
            let Some(consumer) = group.consumer().filter(|c| c.member_count() > 0) else {
                continue;
            };
            if group.epoch > consumer.target_epoch {
                continue;
            }
            let fingerprint = Wanted::of(consumer, view.topics).fingerprint();
            if fingerprint != consumer.fingerprint {
                let op = Op::TopicsChanged {
                    group: group.id().clone(),
                    epoch: group.epoch,
                    fingerprint,
                };
                self.push(op, Waiter::Nobody);
            }
        }
    }
}

/// The client is known by its static id, else by its client id and host.
fn flap_key(instance: Option<&str>, client: &crate::command::ClientInfo) -> String {
    instance.map_or_else(|| format!("{}@{}", client.id, client.host), str::to_owned)
}

/// What the members of a group want, resolved.
struct Wanted {
    /// The topics that exist and somebody wants, by id.
    topics: BTreeMap<TopicId, TopicShape>,
    /// Per distinct subscription its topics.
    subscriptions: BTreeMap<(Vec<TopicName>, String), Vec<TopicId>>,
}

impl Wanted {
    fn of(consumer: &ConsumerGroup, catalog: &dyn TopicCatalog) -> Self {
        let mut wanted = Self {
            topics: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
        };
        let mut last: Option<(&[TopicName], &str)> = None;
        for member in consumer.members() {
            // Most members of a group want the same.
            if last == Some((&member.topics, &member.pattern)) {
                continue;
            }
            last = Some((&member.topics, &member.pattern));
            let key = (member.topics.clone(), member.pattern.clone());
            if wanted.subscriptions.contains_key(&key) {
                continue;
            }
            let mut found: Vec<TopicShape> = member
                .topics
                .iter()
                .filter_map(|name| catalog.by_name(name))
                .collect();
            // It was checked when the member sent it.
            if let Ok(Some(pattern)) = compile(&member.pattern) {
                let matching = |topic: &TopicShape| pattern.is_match(topic.name.as_str());
                found.extend(catalog.all().into_iter().filter(matching));
            }
            let mut ids: Vec<TopicId> = found.iter().map(|topic| topic.id).collect();
            ids.sort_unstable();
            ids.dedup();
            wanted.topics.extend(found.into_iter().map(|t| (t.id, t)));
            wanted.subscriptions.insert(key, ids);
        }
        wanted
    }

    /// Changes when the topics or their partitions do.
    fn fingerprint(&self) -> u64 {
        let shapes: Vec<(TopicId, u32)> =
            self.topics.values().map(|t| (t.id, t.partitions)).collect();
        digest::record_hash(digest::Kind::Head, &shapes)
    }
}

/// Computes the targets that differ from the present ones.
fn target(
    group: &Group,
    consumer: &ConsumerGroup,
    catalog: &dyn TopicCatalog,
) -> Result<SetTarget, AssignError> {
    let wanted = Wanted::of(consumer, catalog);
    let spec = spec(consumer, &wanted, catalog)?;
    let lists = chosen_assignor(consumer).assign(&spec);
    let mut topics: Vec<TopicId> = Vec::new();
    let mut positions: BTreeMap<TopicId, u32> = BTreeMap::new();
    let mut members = Vec::new();
    for (member, list) in spec.members().iter().zip(lists) {
        let same = consumer
            .member(&member.id)
            .is_some_and(|known| known.target.as_slice() == list);
        if same {
            continue;
        }
        let runs = list.chunk_by(|a, b| a.topic == b.topic).filter_map(|run| {
            let topic = run.first()?.topic;
            let position = *positions.entry(topic).or_insert_with(|| {
                topics.push(topic);
                u32::try_from(topics.len() - 1).unwrap_or(u32::MAX)
            });
            Some((position, run.iter().map(|p| p.index.get()).collect()))
        });
        let runs = runs.collect();
        members.push((member.id.clone(), runs));
    }
    Ok(SetTarget {
        group: group.id().clone(),
        epoch: group.epoch,
        fingerprint: wanted.fingerprint(),
        topics,
        members,
    })
}

/// The assignor that most members want.
fn chosen_assignor(consumer: &ConsumerGroup) -> AssignorKind {
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    let names = consumer.members().map(|m| m.assignor.as_str());
    for name in names.filter(|name| !name.is_empty()) {
        *votes.entry(name).or_insert(0) += 1;
    }
    let most = votes.into_iter().rev().max_by_key(|(_, votes)| *votes);
    most.and_then(|(name, _)| AssignorKind::by_name(name))
        .unwrap_or_default()
}

/// Topics and pattern.
type Subscription<'a> = (&'a [TopicName], &'a str);

fn spec(
    consumer: &ConsumerGroup,
    wanted: &Wanted,
    catalog: &dyn TopicCatalog,
) -> Result<GroupSpec, AssignError> {
    let racks_count = consumer.members().any(|m| m.rack.is_some());
    let topics: Vec<TopicSpec> = wanted
        .topics
        .values()
        .map(|topic| TopicSpec {
            id: topic.id,
            partitions: topic.partitions,
            racks: if racks_count {
                catalog.racks(topic.id)
            } else {
                Vec::new()
            },
        })
        .collect();
    let position = |id: &TopicId| {
        let found = topics.binary_search_by(|t| t.id.cmp(id)).ok()?;
        u32::try_from(found).ok()
    };
    let resolved: BTreeMap<&(Vec<TopicName>, String), Vec<u32>> = wanted
        .subscriptions
        .iter()
        .map(|(key, ids)| (key, ids.iter().filter_map(position).collect()))
        .collect();
    let mut last: Option<(Subscription<'_>, Vec<u32>)> = None;
    let mut members = Vec::with_capacity(consumer.member_count());
    for member in consumer.members() {
        let key = (member.topics.as_slice(), member.pattern.as_str());
        let topics = match &last {
            Some((of, topics)) if *of == key => topics.clone(),
            _ => {
                let owned = (member.topics.clone(), member.pattern.clone());
                let topics = resolved.get(&owned).cloned().unwrap_or_default();
                last = Some((key, topics.clone()));
                topics
            }
        };
        members.push(MemberSpec {
            id: member.id.clone(),
            instance: member.instance.clone(),
            rack: member.rack.clone(),
            topics,
            owned: member.target.as_slice().to_vec(),
            generation: 0,
        });
    }
    GroupSpec::new(members, topics)
}
