//! Planning: who should own what, computed on the leader; the result is replicated.

use std::collections::BTreeMap;
use std::sync::Arc;

use rivven_core_types::{MonoTime, TopicId, TopicName};

use super::catalog::{TopicCatalog, TopicShape};
use super::consumer::compile;
use super::timers::Timer;
use super::{GroupCoordinator, View, Waiter};
use crate::assignor::{AssignorKind, GroupSpec, MemberSpec, TopicSpec};
use crate::command::{Op, OpResult, SetTarget};
use crate::digest;
use crate::epoch::Epoch;
use crate::error::{AssignError, GroupError};
use crate::ids::{GroupId, MemberId};
use crate::shared::Shared;
use crate::state::{ConsumerGroup, Group};

/// When a group is planned for.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// A plan is on its way into the log.
    pub(super) in_flight: bool,
    due: Option<MonoTime>,
    last: Option<MonoTime>,
    /// When the first change came that is not planned for yet.
    since: Option<MonoTime>,
    /// The group epoch for which `due` stands, or that of the last plan.
    noted: Epoch,
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
        let (window, longest) = (self.config.plan_window, self.config.max_plan_delay);
        let plan = &mut self.local(group.id()).plan;
        let noted = plan.noted.max(consumer.target_epoch);
        if plan.in_flight || (plan.due.is_some() && group.epoch <= noted) {
            return;
        }
        // A single change is planned for at once. Several are taken together: until none has come for a
        // while, since each plan in between hands out what the next one takes back.
        let several = plan.since.is_some() || group.epoch.get() - noted.get() > 1;
        let since = *plan.since.get_or_insert(view.now);
        let due = if several {
            (view.now + window).min(since + longest)
        } else {
            plan.last.map_or(view.now, |last| last + window)
        };
        let due = due.max(view.now);
        (plan.due, plan.noted) = (Some(due), group.epoch);
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
        local.plan.since = None;
        local.plan.last = Some(view.now);
        let Some(found) = view.state.group(group) else {
            self.release_parked(view, group);
            return;
        };
        let Some(consumer) = found.consumer().filter(|c| c.member_count() > 0) else {
            // All have left: no plan will ever answer those that wait for one.
            self.release_parked(view, group);
            return;
        };
        // Whoever waits is not planned for, and the group stays one epoch behind until it is. So the epoch
        // of this plan is that of the change before, and where there was none there is nothing to plan.
        let waiting = local.flapping.waiting(view.now, consumer);
        let mut epoch = found.epoch;
        let mut left_out = Vec::new();
        if let Some((members, until)) = waiting {
            (local.plan.noted, local.plan.due) = (epoch, Some(until));
            self.timers.at(until, Timer::Group(group.clone()));
            epoch = Epoch::new(epoch.get() - 1);
            if epoch <= consumer.target_epoch {
                return;
            }
            left_out = members;
        }
        match target(found, epoch, consumer, &left_out, view.topics) {
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
            Ok(()) => self.release_parked(view, group),
            // Planned for again below, on what is there now, unless nobody is.
            Err(GroupError::Superseded) => {
                let consumer = view.state.group(group).and_then(Group::consumer);
                if consumer.is_none_or(|c| c.member_count() == 0) {
                    self.release_parked(view, group);
                }
            }
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
        // A wait may have ended while the plan was on its way.
        self.plan_due(view, group);
    }

    /// The topics of the cluster have changed: groups whose subscriptions that concerns are planned for.
    pub(super) fn topics_changed(&mut self, view: View<'_>) {
        for group in view.state.groups() {
            let Some(consumer) = group.consumer().filter(|c| c.member_count() > 0) else {
                continue;
            };
            // Also of a group that is to be planned for: a plan on its way knows the old topics, and one that
            // is held back for a client that flaps would hold the new partitions back too.
            let fingerprint = Wanted::of(consumer, view.topics).fingerprint();
            if fingerprint != consumer.fingerprint {
                let op = Op::TopicsChanged {
                    group: group.id().clone(),
                    epoch: group.epoch,
                    fingerprint,
                };
                self.maintenance.tells();
                self.push(op, Waiter::Nobody);
            }
        }
    }
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
        let mut last: Option<Subscription<'_>> = None;
        for member in consumer.members() {
            // Most members of a group want the same, and share it.
            let subscription = (&member.topics, member.pattern.as_str());
            if last == Some(subscription) {
                continue;
            }
            last = Some(subscription);
            let key = (member.topics.to_vec(), member.pattern.clone());
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

/// Computes the targets that differ from the present ones. `left_out` is sorted.
fn target(
    group: &Group,
    epoch: Epoch,
    consumer: &ConsumerGroup,
    left_out: &[MemberId],
    catalog: &dyn TopicCatalog,
) -> Result<SetTarget, AssignError> {
    let wanted = Wanted::of(consumer, catalog);
    let spec = spec(consumer, left_out, &wanted, catalog)?;
    let assignment = chosen_assignor(consumer).assign(&spec);
    let mut topics: Vec<TopicId> = Vec::new();
    let mut positions: BTreeMap<TopicId, u32> = BTreeMap::new();
    let mut members = Vec::new();
    for (at, list) in assignment.changes() {
        let Some(member) = spec.members().get(at) else {
            continue;
        };
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
        epoch,
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
type Subscription<'a> = (&'a Shared<Vec<TopicName>>, &'a str);

fn spec(
    consumer: &ConsumerGroup,
    left_out: &[MemberId],
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
    let resolved: BTreeMap<&(Vec<TopicName>, String), Arc<[u32]>> = wanted
        .subscriptions
        .iter()
        .map(|(key, ids)| (key, ids.iter().filter_map(position).collect()))
        .collect();
    let mut last: Option<(Subscription<'_>, Arc<[u32]>)> = None;
    let mut members = Vec::with_capacity(consumer.member_count());
    for member in consumer
        .members()
        .filter(|m| left_out.binary_search(&m.id).is_err())
    {
        let key = (&member.topics, member.pattern.as_str());
        let topics = match &last {
            Some((of, topics)) if *of == key => Arc::clone(topics),
            _ => {
                let owned = (member.topics.to_vec(), member.pattern.clone());
                let topics = resolved.get(&owned).cloned().unwrap_or_default();
                last = Some((key, Arc::clone(&topics)));
                topics
            }
        };
        members.push(MemberSpec {
            id: member.id.clone(),
            instance: member.instance.clone(),
            rack: member.rack.clone(),
            topics,
            owned: member.target.clone(),
            generation: 0,
        });
    }
    GroupSpec::new(members, topics)
}
