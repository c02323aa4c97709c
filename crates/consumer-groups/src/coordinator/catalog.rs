//! The topics of the cluster, as the coordinator asks for them.

use std::collections::BTreeSet;

use bytes::{Buf, Bytes};
use rivven_core_types::{RackId, TopicId, TopicName};

use crate::state::Group;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicShape {
    /// Its id.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// How many partitions it has.
    pub partitions: u32,
}

/// Port: the topics of the cluster, as far as this node knows them.
pub trait TopicCatalog: Send + Sync {
    /// Changes with every change of the topics.
    fn version(&self) -> u64;
    /// The topic of that name.
    fn by_name(&self, name: &TopicName) -> Option<TopicShape>;
    /// The topic with that id.
    fn by_id(&self, id: TopicId) -> Option<TopicShape>;
    /// All topics, by name.
    fn all(&self) -> Vec<TopicShape>;
    /// The racks that hold a replica, per partition; empty when racks are not known.
    fn racks(&self, id: TopicId) -> Vec<Vec<RackId>>;
}

/// The names of the topics that the members of a classic group have subscribed to, read from their
/// metadata; `None` when a member's metadata is not that of a consumer.
pub fn subscribed_topics(group: &Group) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    if let Some(consumer) = group.consumer() {
        for member in consumer.members() {
            names.extend(member.topics.iter().map(ToString::to_string));
        }
        return Some(names);
    }
    for member in group.classic()?.members() {
        let (_, metadata) = member.protocols.first()?;
        names.extend(consumer_topics(metadata.clone())?);
    }
    Some(names)
}

/// The topics of a `ConsumerProtocolSubscription` of any version: version, then an array of strings.
fn consumer_topics(mut metadata: Bytes) -> Option<Vec<String>> {
    metadata.try_get_i16().ok()?;
    let count = usize::try_from(metadata.try_get_i32().ok()?).ok()?;
    // Each name has two bytes of length at least.
    if count > metadata.remaining() / 2 {
        return None;
    }
    (0..count)
        .map(|_| {
            let length = usize::try_from(metadata.try_get_i16().ok()?).ok()?;
            if length > metadata.remaining() {
                return None;
            }
            String::from_utf8(metadata.split_to(length).to_vec()).ok()
        })
        .collect()
}
