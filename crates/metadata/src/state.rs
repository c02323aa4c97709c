//! The cluster's metadata at one log index: an immutable value that is cheap to clone.

use std::ops::RangeInclusive;

use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use serde::{Deserialize, Serialize};

use rivven_core_types::{
    BrokerId, ClusterId, FencedState, LogIndex, NodeName, PartitionId, PartitionState, ProducerId,
    RaftNodeId, TopicId, TopicName,
};

use crate::command::Command;
use crate::digest::{Kind, record_hash};
use crate::feed::ChangeFeed;
use crate::levels::{self, LevelRange, MetadataLevel};
use crate::placement::Reassignment;
use crate::records::{BrokerRecord, TopicRecord};
use crate::rejection::Rejection;

/// Most partitions of a cluster.
pub const MAX_PARTITIONS: u32 = 1_000_000;

/// A partition's record and the log index of its last change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionEntry {
    pub(crate) state: PartitionState,
    pub(crate) changed: LogIndex,
    /// Members of the last known ISR whose disk was exchanged after they held its records, until they
    /// are in sync again or the partition goes on without them. Their logs, whatever those hold by now,
    /// do not tell what was committed.
    pub(crate) lost: Vec<BrokerId>,
}

/// The cluster's metadata at one log index. Cloning is O(1): the maps share their nodes.
#[derive(Debug, Clone)]
pub struct ClusterState {
    pub(crate) cluster_id: Option<ClusterId>,
    pub(crate) applied: LogIndex,
    pub(crate) next_producer_id: ProducerId,
    brokers: RedBlackTreeMapSync<BrokerId, BrokerRecord>,
    names: RedBlackTreeMapSync<NodeName, BrokerId>,
    raft_ids: RedBlackTreeMapSync<RaftNodeId, BrokerId>,
    topics: RedBlackTreeMapSync<TopicId, TopicRecord>,
    topic_names: RedBlackTreeMapSync<TopicName, TopicId>,
    partitions: RedBlackTreeMapSync<PartitionId, PartitionEntry>,
    /// Which partitions a broker holds a replica of.
    assignments: RedBlackTreeSetSync<(BrokerId, PartitionId)>,
    /// The partitions that changed lately.
    changes: ChangeFeed,
    /// The partitions without a leader.
    leaderless: RedBlackTreeSetSync<PartitionId>,
    /// The partitions whose replicas are on their way elsewhere.
    reassignments: RedBlackTreeMapSync<PartitionId, Reassignment>,
    /// The brokers that are to hold nothing.
    draining: RedBlackTreeSetSync<BrokerId>,
    /// Whether replicas are to be evened out.
    rebalancing: bool,
    /// The active metadata level.
    level: MetadataLevel,
    /// What the brokers' builds understand, where they have said more than [`LevelRange::UNSAID`].
    levels: RedBlackTreeMapSync<BrokerId, LevelRange>,
    hash: u64,
}

impl Default for ClusterState {
    fn default() -> Self {
        Self {
            cluster_id: None,
            applied: LogIndex::default(),
            next_producer_id: ProducerId::default(),
            brokers: RedBlackTreeMapSync::new_sync(),
            names: RedBlackTreeMapSync::new_sync(),
            raft_ids: RedBlackTreeMapSync::new_sync(),
            topics: RedBlackTreeMapSync::new_sync(),
            topic_names: RedBlackTreeMapSync::new_sync(),
            partitions: RedBlackTreeMapSync::new_sync(),
            assignments: RedBlackTreeSetSync::new_sync(),
            changes: ChangeFeed::default(),
            leaderless: RedBlackTreeSetSync::new_sync(),
            reassignments: RedBlackTreeMapSync::new_sync(),
            draining: RedBlackTreeSetSync::new_sync(),
            rebalancing: false,
            level: MetadataLevel::FIRST,
            levels: RedBlackTreeMapSync::new_sync(),
            hash: 0,
        }
    }
}

const FIRST_PARTITION: PartitionId = PartitionId::new(TopicId::from_bytes([0; 16]), 0);
const LAST_PARTITION: PartitionId = PartitionId::new(TopicId::from_bytes([0xff; 16]), u32::MAX);

impl ClusterState {
    /// The cluster's id; `None` before [`crate::Command::FormCluster`].
    pub const fn cluster_id(&self) -> Option<ClusterId> {
        self.cluster_id
    }

    /// The log index of the last command applied, rejected ones included.
    pub const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// All brokers, by number.
    pub fn brokers(&self) -> impl Iterator<Item = &BrokerRecord> {
        self.brokers.values()
    }

    /// A broker by its number.
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerRecord> {
        self.brokers.get(&id)
    }

    /// A broker by its node's name.
    pub fn broker_by_name(&self, name: &NodeName) -> Option<&BrokerRecord> {
        self.names.get(name).and_then(|id| self.brokers.get(id))
    }

    /// A broker by the Raft id of its current life.
    pub fn broker_by_raft_id(&self, id: RaftNodeId) -> Option<&BrokerRecord> {
        self.raft_ids.get(&id).and_then(|id| self.brokers.get(id))
    }

    /// How many brokers there are, fenced ones included.
    pub fn broker_count(&self) -> usize {
        self.brokers.size()
    }

    /// Whether the broker may lead and be in an ISR.
    pub fn is_active(&self, broker: BrokerId) -> bool {
        self.broker(broker).is_some_and(BrokerRecord::is_active)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &TopicRecord> {
        self.topic_names
            .values()
            .filter_map(|id| self.topics.get(id))
    }

    /// A topic by its name.
    pub fn topic(&self, name: &TopicName) -> Option<&TopicRecord> {
        self.topic_names
            .get(name)
            .and_then(|id| self.topics.get(id))
    }

    /// A topic by its id.
    pub fn topic_by_id(&self, id: &TopicId) -> Option<&TopicRecord> {
        self.topics.get(id)
    }

    /// How many topics there are.
    pub fn topic_count(&self) -> usize {
        self.topics.size()
    }

    /// A partition's record.
    pub fn partition(&self, id: &PartitionId) -> Option<&PartitionState> {
        self.partitions.get(id).map(|entry| &entry.state)
    }

    /// The log index at which the partition's record last changed.
    pub fn partition_changed_at(&self, id: &PartitionId) -> Option<LogIndex> {
        self.partitions.get(id).map(|entry| entry.changed)
    }

    /// All partitions, by id.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionState> {
        self.partitions.values().map(|entry| &entry.state)
    }

    /// The partitions of a topic, by index.
    pub fn partitions_of_topic(&self, topic: TopicId) -> impl Iterator<Item = &PartitionState> {
        let range = PartitionId::new(topic, 0)..=PartitionId::new(topic, u32::MAX);
        self.partitions.range(range).map(|(_, entry)| &entry.state)
    }

    /// How many partitions there are.
    pub fn partition_count(&self) -> usize {
        self.partitions.size()
    }

    /// The partitions of which the broker has a replica, by id. Costs as much as there are.
    pub fn partitions_of(&self, broker: BrokerId) -> impl Iterator<Item = &PartitionState> {
        let range: RangeInclusive<(BrokerId, PartitionId)> =
            (broker, FIRST_PARTITION)..=(broker, LAST_PARTITION);
        self.assignments
            .range(range)
            .filter_map(|(_, id)| self.partition(id))
    }

    /// How many partitions the broker leads.
    pub fn leaderships_of(&self, broker: BrokerId) -> usize {
        self.partitions_of(broker)
            .filter(|partition| partition.leader == Some(broker))
            .count()
    }

    /// The partitions without a leader, by id.
    pub fn leaderless(&self) -> impl Iterator<Item = &PartitionState> {
        self.leaderless.iter().filter_map(|id| self.partition(id))
    }

    /// The leaderless partitions for which nobody is left whose return would elect a leader: they
    /// need [`crate::Command::RecoverPartition`]. Without those of which a member of the last ISR came
    /// back with another disk: no claims recover them, only [`crate::Command::ElectUnclean`].
    pub fn needing_recovery(&self) -> impl Iterator<Item = &PartitionState> {
        self.leaderless()
            .filter(|partition| partition.elr.is_empty())
            .filter(|partition| self.lost_members(&partition.id).is_empty())
    }

    /// The members of the partition's last known ISR that came back with another disk and have not been
    /// in sync since.
    pub fn lost_members(&self, id: &PartitionId) -> &[BrokerId] {
        self.partitions
            .get(id)
            .map_or(&[], |entry| entry.lost.as_slice())
    }

    /// The change feed: the partitions that changed after `earlier`, by log index, then those of
    /// `earlier` that were deleted. Costs as much as changed, plus the number of topics; as much as there
    /// are partitions, once `earlier` lies further back than changes are remembered. If `earlier` is in
    /// fact not earlier, only partitions that are gone are returned.
    pub fn changed_since(&self, earlier: &Self) -> Vec<PartitionId> {
        let mut changes = self.changes.after(earlier.applied).unwrap_or_else(|| {
            let all = self.partitions.iter();
            let mut all: Vec<_> = all.map(|(id, entry)| (entry.changed, *id)).collect();
            all.sort_unstable();
            all
        });
        changes
            .retain(|(at, id)| *at > earlier.applied && self.partition_changed_at(id) == Some(*at));
        let mut changed: Vec<PartitionId> = changes.into_iter().map(|(_, id)| id).collect();
        for topic in earlier.topics.values() {
            if self.topics.get(&topic.id).is_none() {
                changed.extend(topic.partition_ids());
            }
        }
        changed
    }

    /// The hash of everything but [`ClusterState::applied`]: equal states have equal hashes, on
    /// every node.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The partitions whose replicas are on their way elsewhere, by id.
    pub fn reassignments(&self) -> impl Iterator<Item = (&PartitionId, &Reassignment)> {
        self.reassignments.iter()
    }

    /// Where the replicas of a partition are on their way to.
    pub fn reassignment(&self, id: &PartitionId) -> Option<&Reassignment> {
        self.reassignments.get(id)
    }

    /// The replicas that a partition has, or is to have once its reassignment is done.
    pub fn settled_replicas<'a>(&'a self, partition: &'a PartitionState) -> &'a [BrokerId] {
        let under_way = self.reassignment(&partition.id);
        under_way.map_or(&partition.replicas, |r| &r.target)
    }

    /// How many replicas the topic's next partitions are given: as many as its first one is to have, as in
    /// Kafka. Reassignments may give its partitions different numbers of them (KIP-455).
    pub fn replication_factor(&self, topic: &TopicRecord) -> u32 {
        let first = self.partition(&PartitionId::new(topic.id, 0));
        first.map_or(topic.replication_factor, |first| {
            u32::try_from(self.settled_replicas(first).len()).unwrap_or(u32::MAX)
        })
    }

    /// The brokers that are to hold nothing, by number.
    pub fn draining(&self) -> impl Iterator<Item = &BrokerId> {
        self.draining.iter()
    }

    /// Whether the broker is to hold nothing.
    pub fn is_draining(&self, broker: BrokerId) -> bool {
        self.draining.contains(&broker)
    }

    /// Whether replicas are to be evened out until they are even.
    pub const fn is_rebalancing(&self) -> bool {
        self.rebalancing
    }

    /// The active metadata level: commands of later ones are refused.
    pub const fn level(&self) -> MetadataLevel {
        self.level
    }

    /// The metadata levels that the broker's build understands.
    pub fn levels_of(&self, broker: BrokerId) -> LevelRange {
        let said = self.levels.get(&broker).copied();
        said.unwrap_or(LevelRange::UNSAID)
    }

    /// The greatest level that all brokers understand that are not removed, if it is above the active
    /// one.
    pub fn next_level(&self) -> Option<MetadataLevel> {
        let registered = self.brokers().filter(|b| b.state != FencedState::Removed);
        let ranges: Vec<LevelRange> = registered.map(|b| self.levels_of(b.id)).collect();
        let to = ranges.iter().map(|levels| levels.max).min()?;
        let understood = ranges.iter().all(|levels| levels.contains(to));
        (to > self.level && understood).then_some(to)
    }

    /// Whether the command may be used at the active level.
    ///
    /// # Errors
    /// [`Rejection::LevelTooLow`].
    pub fn check_level(&self, command: &Command) -> Result<(), Rejection> {
        levels::check(command.level(), self.level)
    }

    /// Whether a broker whose build understands `levels` may be registered at the active level.
    ///
    /// # Errors
    /// [`Rejection::LevelUnsupported`].
    pub fn check_build(&self, name: &NodeName, levels: LevelRange) -> Result<(), Rejection> {
        if levels.is_valid() && levels.contains(self.level) {
            return Ok(());
        }
        Err(Rejection::LevelUnsupported {
            broker: self.broker_by_name(name).map(|b| b.id),
            level: self.level,
            levels,
        })
    }

    pub(crate) fn set_level(&mut self, level: MetadataLevel) {
        let first = MetadataLevel::FIRST;
        let old = (self.level != first).then_some(self.level);
        let new = (level != first).then_some(level);
        self.rehash(Kind::Level, old.as_ref(), new.as_ref());
        self.level = level;
    }

    pub(crate) fn set_levels(&mut self, broker: BrokerId, levels: LevelRange) {
        let old = self.levels.get(&broker).map(|old| (broker, *old));
        let new = (levels != LevelRange::UNSAID).then_some((broker, levels));
        self.rehash(Kind::Levels, old.as_ref(), new.as_ref());
        match new {
            Some((broker, levels)) => self.levels.insert_mut(broker, levels),
            None => drop(self.levels.remove_mut(&broker)),
        }
    }

    /// What brokers have said about levels, by number.
    pub(crate) fn levels(&self) -> impl Iterator<Item = (&BrokerId, &LevelRange)> {
        self.levels.iter()
    }

    pub(crate) fn set_reassignment(&mut self, id: PartitionId, new: Option<Reassignment>) {
        let old = self.reassignments.get(&id).map(|old| (id, old.clone()));
        let new = new.map(|new| (id, new));
        self.rehash(Kind::Reassignment, old.as_ref(), new.as_ref());
        match new {
            Some((id, new)) => self.reassignments.insert_mut(id, new),
            None => {
                self.reassignments.remove_mut(&id);
            }
        }
    }

    pub(crate) fn set_draining(&mut self, broker: BrokerId, draining: bool) {
        let old = self.draining.contains(&broker).then_some(broker);
        let new = draining.then_some(broker);
        self.rehash(Kind::Draining, old.as_ref(), new.as_ref());
        if draining {
            self.draining.insert_mut(broker);
        } else {
            self.draining.remove_mut(&broker);
        }
    }

    pub(crate) fn set_rebalancing(&mut self, rebalancing: bool) {
        let old = self.rebalancing.then_some(true);
        let new = rebalancing.then_some(true);
        self.rehash(Kind::Rebalancing, old.as_ref(), new.as_ref());
        self.rebalancing = rebalancing;
    }

    pub(crate) fn last_broker_id(&self) -> Option<BrokerId> {
        self.brokers.last().map(|(id, _)| *id)
    }

    /// Begins at `applied`, as a state that was read from an image does.
    pub(crate) fn begin_at(&mut self, applied: LogIndex) {
        self.applied = applied;
        self.changes = ChangeFeed::complete_after(applied);
    }

    pub(crate) const fn next_producer_id(&self) -> ProducerId {
        self.next_producer_id
    }

    pub(crate) fn set_cluster_id(&mut self, id: ClusterId) {
        let old = self.cluster_id;
        self.rehash(Kind::Cluster, old.as_ref(), Some(&id));
        self.cluster_id = Some(id);
    }

    pub(crate) fn set_next_producer_id(&mut self, id: ProducerId) {
        let old = (self.next_producer_id != ProducerId::default()).then_some(self.next_producer_id);
        let new = (id != ProducerId::default()).then_some(id);
        self.rehash(Kind::Producers, old.as_ref(), new.as_ref());
        self.next_producer_id = id;
    }

    pub(crate) fn put_broker(&mut self, record: BrokerRecord) {
        let old = self.brokers.get(&record.id).cloned();
        if let Some(old) = &old {
            self.raft_ids.remove_mut(&old.raft_id);
        }
        self.rehash(Kind::Broker, old.as_ref(), Some(&record));
        self.raft_ids.insert_mut(record.raft_id, record.id);
        self.names.insert_mut(record.info.name.clone(), record.id);
        self.brokers.insert_mut(record.id, record);
    }

    pub(crate) fn put_topic(&mut self, record: TopicRecord) {
        self.rehash(Kind::Topic, None, Some(&record));
        self.topic_names.insert_mut(record.name.clone(), record.id);
        self.topics.insert_mut(record.id, record);
    }

    /// Replaces the settings of a topic; id and name stay.
    pub(crate) fn replace_topic(&mut self, old: &TopicRecord, new: TopicRecord) {
        self.rehash(Kind::Topic, Some(old), Some(&new));
        self.topics.insert_mut(new.id, new);
    }

    /// Inserts or replaces a partition's record.
    pub(crate) fn put_partition(&mut self, state: PartitionState, changed: LogIndex) {
        self.put(state, changed, None);
    }

    /// Marks a member of the last known ISR as one that lost its disk. Not a change of the partition for
    /// those that follow it: only a recovery asks.
    pub(crate) fn mark_lost(&mut self, id: PartitionId, broker: BrokerId) {
        let Some(old) = self.partitions.get(&id).cloned() else {
            return;
        };
        if old.lost.contains(&broker) {
            return;
        }
        let mut new = old.clone();
        new.lost.push(broker);
        self.rehash(Kind::Partition, Some(&old), Some(&new));
        self.partitions.insert_mut(id, new);
    }

    /// Inserts or replaces all that is known of a partition, its last change among it, which is not
    /// news.
    pub(crate) fn put_entry(&mut self, entry: PartitionEntry) {
        self.put(entry.state, entry.changed, Some(entry.lost));
    }

    /// Those who lost their disk are `lost`, or else follow from what was known. A fence does this for each
    /// replica that the broker holds: nothing is copied, and no index is touched that stays as it is.
    fn put(&mut self, state: PartitionState, changed: LogIndex, lost: Option<Vec<BrokerId>>) {
        let id = state.id;
        let old = self.partitions.get(&id);
        let is_news = lost.is_none() && old.is_none_or(|old| old.changed != changed);
        let lost = lost.unwrap_or_else(|| {
            let matters = |b: &BrokerId| state.last_known_isr.contains(b) && !state.isr.contains(b);
            let lost = old.map_or(&[][..], |old| old.lost.as_slice()).iter();
            lost.copied().filter(matters).collect()
        });
        let entry = PartitionEntry {
            state,
            changed,
            lost,
        };
        let state = &entry.state;
        let before = old.map_or(&[][..], |old| old.state.replicas.as_slice());
        if before != state.replicas.as_slice() {
            for broker in before {
                self.assignments.remove_mut(&(*broker, id));
            }
            for broker in &state.replicas {
                self.assignments.insert_mut((*broker, id));
            }
        }
        let was_leaderless = old.is_some_and(|old| old.state.leader.is_none());
        match (was_leaderless, state.leader.is_none()) {
            (true, false) => drop(self.leaderless.remove_mut(&id)),
            (false, true) => self.leaderless.insert_mut(id),
            (true, true) | (false, false) => {}
        }
        self.hash = rehashed(self.hash, Kind::Partition, old, Some(&entry));
        if is_news {
            self.changes.note(changed, id);
        }
        self.partitions.insert_mut(id, entry);
    }

    pub(crate) fn remove_topic(&mut self, topic: &TopicRecord) {
        for id in topic.partition_ids() {
            let Some(entry) = self.partitions.get(&id).cloned() else {
                continue;
            };
            self.rehash(Kind::Partition, Some(&entry), None);
            for broker in &entry.state.replicas {
                self.assignments.remove_mut(&(*broker, id));
            }
            self.leaderless.remove_mut(&id);
            self.set_reassignment(id, None);
            self.partitions.remove_mut(&id);
        }
        self.rehash(Kind::Topic, Some(topic), None);
        self.topic_names.remove_mut(&topic.name);
        self.topics.remove_mut(&topic.id);
    }

    pub(crate) fn partition_entries(&self) -> impl Iterator<Item = &PartitionEntry> {
        self.partitions.values()
    }

    fn rehash<T: Serialize>(&mut self, kind: Kind, old: Option<&T>, new: Option<&T>) {
        self.hash = rehashed(self.hash, kind, old, new);
    }
}

/// The sum of hashes after one record has taken another's place.
fn rehashed<T: Serialize>(hash: u64, kind: Kind, old: Option<&T>, new: Option<&T>) -> u64 {
    let of = |record: Option<&T>| record.map_or(0, |record| record_hash(kind, record));
    hash.wrapping_sub(of(old)).wrapping_add(of(new))
}
