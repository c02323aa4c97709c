//! What is due without anybody asking: changed topics, expired offsets (KIP-211).

use std::collections::BTreeSet;

use rivven_core_types::{MonoTime, PartitionId, TopicId, UnixMillis};

use super::catalog::{TopicCatalog, subscribed_topics};
use super::config::GroupConfig;
use super::{GroupCoordinator, View, Waiter};
use crate::command::Op;
use crate::digest::{Kind, record_hash};
use crate::state::{Group, GroupPhase};

/// How often the topics are compared with those of the last look.
const TOPICS_INTERVAL: std::time::Duration = std::time::Duration::from_millis(200);

/// How often the groups that nobody is in any more are forgotten.
const FORGET_INTERVAL: std::time::Duration = std::time::Duration::from_secs(10);

/// When to look next, and what was there last.
#[derive(Debug, Default)]
pub(super) struct Maintenance {
    topics_version: u64,
    /// Of the topics at the last look; `None` before the first one, and to have all groups looked at.
    shapes_hash: Option<u64>,
    topics: BTreeSet<TopicId>,
    /// How many groups are being told of changed topics: of each, one command is queued or on its way.
    telling: usize,
    next_topics: MonoTime,
    next_offsets: MonoTime,
    next_forget: MonoTime,
    /// Topics with offsets that this node did not know at the last look at the offsets. It may have
    /// been behind; whoever is missing once more a whole interval later was deleted.
    missing: BTreeSet<TopicId>,
}

impl Maintenance {
    pub(super) fn start(&mut self, view: View<'_>, config: &GroupConfig) {
        *self = Self {
            next_topics: view.now + TOPICS_INTERVAL,
            next_offsets: view.now + config.offsets_check_interval,
            next_forget: view.now + FORGET_INTERVAL,
            ..Self::default()
        };
    }

    /// A group is told that its topics have changed.
    pub(super) const fn tells(&mut self) {
        self.telling = self.telling.saturating_add(1);
    }

    /// A group has been told, or not, for the command was lost or refused: nobody waits for it, so that
    /// nobody would say it again. The next look finds it.
    pub(super) const fn told(&mut self, heard: bool) {
        self.telling = self.telling.saturating_sub(1);
        if !heard {
            self.shapes_hash = None;
        }
    }

    pub(super) fn next(&self) -> MonoTime {
        self.next_topics
            .min(self.next_offsets)
            .min(self.next_forget)
    }
}

impl GroupCoordinator {
    pub(super) fn maintain(&mut self, view: View<'_>) {
        if self.maintenance.next_topics <= view.now {
            self.maintenance.next_topics = view.now + TOPICS_INTERVAL;
            let version = view.topics.version();
            let is_new = version != self.maintenance.topics_version
                || self.maintenance.shapes_hash.is_none();
            // A group that has not heard of the last change yet would be told once more with each look,
            // and the queue grow as long as nothing is committed.
            if is_new && self.maintenance.telling == 0 {
                self.maintenance.topics_version = version;
                let shapes: Vec<(TopicId, u32)> = view
                    .topics
                    .all()
                    .iter()
                    .map(|topic| (topic.id, topic.partitions))
                    .collect();
                // Most changes of the metadata concern no topic.
                let shapes_hash = record_hash(Kind::Head, &shapes);
                if self.maintenance.shapes_hash != Some(shapes_hash) {
                    self.maintenance.shapes_hash = Some(shapes_hash);
                    self.topics_changed(view);
                    self.topics_deleted(shapes.into_iter().map(|(id, _)| id).collect());
                }
            }
        }
        if self.maintenance.next_offsets <= view.now {
            self.maintenance.next_offsets = view.now + self.config.offsets_check_interval;
            self.expire_offsets(view);
        }
        if self.maintenance.next_forget <= view.now {
            self.maintenance.next_forget = view.now + FORGET_INTERVAL;
            self.forget_idle(view.now);
            if !self.unsure.is_empty() {
                // A change of nothing: once it is applied, it is known what became of those before it.
                self.push(Op::DeleteTopics { topics: Vec::new() }, Waiter::Nobody);
            }
        }
    }

    /// Whatever group a client names is kept track of, also if it is refused.
    fn forget_idle(&mut self, now: MonoTime) {
        self.groups.retain(|_, local| {
            local.flapping.forget(now);
            !local.is_idle()
        });
    }

    fn topics_deleted(&mut self, topics: BTreeSet<TopicId>) {
        let before = std::mem::replace(&mut self.maintenance.topics, topics);
        let gone = before.difference(&self.maintenance.topics);
        let gone: Vec<TopicId> = gone.copied().collect();
        if !gone.is_empty() {
            self.push(Op::DeleteTopics { topics: gone }, Waiter::Nobody);
        }
    }

    fn expire_offsets(&mut self, view: View<'_>) {
        let retention = self.config.offsets_retention.as_millis();
        let retention = i64::try_from(retention).unwrap_or(i64::MAX);
        // The state's own time, which never goes back, whatever this node's clock does.
        let before = UnixMillis(view.state.clock().0.saturating_sub(retention));
        let mut missing = BTreeSet::new();
        let mut ops = Vec::new();
        for group in view.state.groups() {
            for (partition, _) in group.offsets() {
                if view.topics.by_id(partition.topic).is_none() {
                    missing.insert(partition.topic);
                }
            }
            let Some(partitions) = self.expired(view.topics, group, before) else {
                continue;
            };
            let done = group.member_count() == 0
                && group.offset_count() == partitions.len()
                && group.empty_since <= before;
            if !partitions.is_empty() || done {
                ops.push(Op::Expire {
                    group: group.id().clone(),
                    epoch: group.epoch,
                    before,
                    partitions,
                });
            }
        }
        let deleted = missing.intersection(&self.maintenance.missing);
        let topics: Vec<TopicId> = deleted.copied().collect();
        self.maintenance.missing = missing;
        if view.state.group_count() > 0 {
            // Also of no topic: the state's clock moves with what is committed, and where nothing else is
            // committed for a retention, offsets expire all the same.
            ops.push(Op::DeleteTopics { topics });
        }
        ops.into_iter().for_each(|op| self.push(op, Waiter::Nobody));
    }

    /// The offsets of a group that have expired; `None` when its state forbids any to expire.
    fn expired(
        &self,
        topics: &dyn TopicCatalog,
        group: &Group,
        before: UnixMillis,
    ) -> Option<Vec<PartitionId>> {
        let old = |(p, o): (&PartitionId, &crate::state::CommittedOffset)| {
            (o.committed_at <= before).then_some(*p)
        };
        match self.phase(group) {
            // Nobody reads: kept for the whole retention after the last member left.
            GroupPhase::Empty if group.classic().is_none() && group.consumer().is_none() => {
                Some(group.offsets().filter_map(old).collect())
            }
            GroupPhase::Empty if group.empty_since > before => Some(Vec::new()),
            GroupPhase::Empty => Some(group.offsets().filter_map(old).collect()),
            // Somebody reads: only of topics that nobody subscribes to any more.
            GroupPhase::Stable => {
                let wanted = subscribed_topics(group)?;
                // A pattern may match any topic.
                if group
                    .consumer()
                    .is_some_and(|c| c.members().any(|m| !m.pattern.is_empty()))
                {
                    return Some(Vec::new());
                }
                let unwanted = |p: &PartitionId| {
                    let topic = topics.by_id(p.topic);
                    topic.is_some_and(|t| !wanted.contains(t.name.as_str()))
                };
                let offsets = group.offsets().filter(|(p, _)| unwanted(p));
                Some(offsets.filter_map(old).collect())
            }
            _ => None,
        }
    }
}
