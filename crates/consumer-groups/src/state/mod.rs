//! All groups at one log index, and what the operations do to them.

mod apply;
mod classic;
mod consumer;
mod group;
mod subscriptions;

use rpds::RedBlackTreeMapSync;

use rivven_core_types::{LogIndex, UnixMillis};

use crate::epoch::Epoch;
use crate::error::GroupError;
use crate::ids::GroupId;

pub use classic::ClassicGroup;
pub use consumer::{ConsumerGroup, ConsumerMember, MemberState};
pub use group::{CommittedOffset, Group, GroupPhase};
pub(crate) use group::{Head, Kind};

/// Most groups of a cluster.
pub const MAX_GROUPS: usize = 1_000_000;
/// Longest metadata text of a committed offset, in bytes (Kafka's default).
pub const MAX_OFFSET_METADATA_BYTES: usize = 4_096;

/// All groups at one log index. Cloning is O(1): the maps share their nodes.
#[derive(Debug, Clone)]
pub struct GroupsState {
    pub(crate) applied: LogIndex,
    /// The greatest time that a command carried.
    pub(crate) clock: UnixMillis,
    /// Where a new group's epoch begins: no lower than that of any group that was deleted, so that a
    /// member of an earlier life of its group is always fenced.
    pub(crate) epoch_floor: Epoch,
    groups: RedBlackTreeMapSync<GroupId, Group>,
    hash: u64,
}

impl Default for GroupsState {
    fn default() -> Self {
        Self {
            applied: LogIndex::default(),
            clock: UnixMillis::default(),
            epoch_floor: Epoch::default(),
            groups: RedBlackTreeMapSync::new_sync(),
            hash: 0,
        }
    }
}

impl GroupsState {
    /// The log index of the last command applied.
    pub const fn applied(&self) -> LogIndex {
        self.applied
    }

    /// The greatest time that a command carried: the time by which offsets expire.
    pub const fn clock(&self) -> UnixMillis {
        self.clock
    }

    /// The groups, by id.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.values()
    }

    /// A group.
    pub fn group(&self, id: &GroupId) -> Option<&Group> {
        self.groups.get(id)
    }

    /// How many groups there are.
    pub fn group_count(&self) -> usize {
        self.groups.size()
    }

    /// The hash of everything but [`GroupsState::applied`] and the clock: equal states have equal
    /// hashes, on every node.
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// A group to work on: the one that exists, or a new one.
    pub(crate) fn group_or_new(&self, id: &GroupId) -> Result<Group, GroupError> {
        match self.groups.get(id) {
            Some(group) => Ok(group.clone()),
            None if self.groups.size() >= MAX_GROUPS => Err(GroupError::TooManyGroups(MAX_GROUPS)),
            None => Ok(Group::new(id.clone(), self.epoch_floor, self.clock)),
        }
    }

    /// An empty state that begins as an image's header says.
    pub(crate) fn begin(applied: LogIndex, clock: UnixMillis, epoch_floor: Epoch) -> Self {
        Self {
            applied,
            clock,
            epoch_floor,
            ..Self::default()
        }
    }

    pub(crate) fn put(&mut self, group: Group) {
        self.hash = self.hash.wrapping_add(group.digest());
        if let Some(old) = self.groups.get(&group.id) {
            self.hash = self.hash.wrapping_sub(old.digest());
        }
        self.groups.insert_mut(group.id.clone(), group);
    }

    pub(crate) fn remove(&mut self, id: &GroupId) {
        if let Some(old) = self.groups.get(id) {
            self.hash = self.hash.wrapping_sub(old.digest());
            self.epoch_floor = self.epoch_floor.max(old.epoch);
            self.groups.remove_mut(id);
        }
    }
}
