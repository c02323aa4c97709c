//! A sorted set of partitions that is cheap to share.

use std::sync::Arc;

use rivven_core_types::{PartitionId, TopicId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A sorted set of partitions, shared when it is cloned. Encoded by topic, so that an id is written
/// once and not per partition.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Partitions(Option<Arc<[PartitionId]>>);

impl Partitions {
    /// The partitions of `items`, sorted, each once.
    pub fn new(mut items: Vec<PartitionId>) -> Self {
        items.sort_unstable();
        items.dedup();
        Self::from_sorted(items)
    }

    /// As [`Partitions::new`], for items that are in order already.
    pub(crate) fn from_sorted(items: Vec<PartitionId>) -> Self {
        debug_assert!(items.is_sorted());
        Self((!items.is_empty()).then(|| items.into()))
    }

    /// The partitions in order.
    pub fn as_slice(&self) -> &[PartitionId] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The partitions in order.
    pub fn iter(&self) -> impl Iterator<Item = &PartitionId> {
        self.as_slice().iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether `partition` is among them.
    pub fn contains(&self, partition: &PartitionId) -> bool {
        self.as_slice().binary_search(partition).is_ok()
    }

    /// The partitions with their topic said once: (topic, its indexes) in order.
    pub fn by_topic(&self) -> Vec<(TopicId, Vec<u32>)> {
        let mut topics: Vec<(TopicId, Vec<u32>)> = Vec::new();
        for partition in self.iter() {
            match topics.last_mut() {
                Some((topic, indexes)) if *topic == partition.topic => {
                    indexes.push(partition.index.get());
                }
                _ => topics.push((partition.topic, vec![partition.index.get()])),
            }
        }
        topics
    }
}

impl FromIterator<PartitionId> for Partitions {
    fn from_iter<I: IntoIterator<Item = PartitionId>>(items: I) -> Self {
        Self::new(items.into_iter().collect())
    }
}

impl Serialize for Partitions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.by_topic().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Partitions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let topics: Vec<(TopicId, Vec<u32>)> = Vec::deserialize(deserializer)?;
        let items = topics.into_iter().flat_map(|(topic, indexes)| {
            indexes.into_iter().map(move |i| PartitionId::new(topic, i))
        });
        Ok(items.collect())
    }
}
