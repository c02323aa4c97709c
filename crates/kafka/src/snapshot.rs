//! The cluster as clients are told of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::topic_config::TopicSettings;
use rivven_core_types::{BrokerId, LeaderEpoch, RackId, TopicId, TopicName};

/// A broker that clients may connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerInfo {
    /// Its id.
    pub id: BrokerId,
    /// The host that it advertises to clients.
    pub host: String,
    /// The port that it advertises to clients.
    pub port: u16,
    /// Its rack.
    pub rack: Option<RackId>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: TopicName,
    /// Its id.
    pub id: TopicId,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionInfo>,
    /// Its configuration.
    pub settings: TopicSettings,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// The leader, if there is one.
    pub leader: Option<BrokerId>,
    /// The leader epoch.
    pub leader_epoch: LeaderEpoch,
    /// Assigned replicas, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// In-sync replicas.
    pub isr: Vec<BrokerId>,
    /// Replicas that are not available.
    pub offline_replicas: Vec<BrokerId>,
}

/// An immutable picture of the cluster with indexes by name and id.
///
/// A fenced broker should stay among the brokers until its last leadership has moved: clients wait up
/// to 1.5 s longer when a leader vanishes from the list first. The port itself never names a leader
/// that is not in the list.
#[derive(Debug, Clone, Default)]
pub struct ClusterSnapshot {
    cluster_id: String,
    controller: Option<BrokerId>,
    brokers: BTreeMap<BrokerId, BrokerInfo>,
    topics: BTreeMap<Box<str>, Arc<TopicInfo>>,
    ids: BTreeMap<TopicId, Arc<TopicInfo>>,
}

impl ClusterSnapshot {
    /// Builds the indexes. Topics are shared, so that a newer snapshot can reuse those that did not
    /// change.
    pub fn new(
        cluster_id: impl Into<String>,
        controller: Option<BrokerId>,
        brokers: impl IntoIterator<Item = BrokerInfo>,
        topics: impl IntoIterator<Item = Arc<TopicInfo>>,
    ) -> Self {
        let mut snapshot = Self {
            cluster_id: cluster_id.into(),
            controller,
            brokers: brokers.into_iter().map(|b| (b.id, b)).collect(),
            ..Self::default()
        };
        for topic in topics {
            snapshot.ids.insert(topic.id, Arc::clone(&topic));
            snapshot
                .topics
                .insert(Box::from(topic.name.as_str()), topic);
        }
        snapshot
    }

    /// The cluster's id as clients see it.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The controller, if it is known and among the brokers.
    pub fn controller(&self) -> Option<BrokerId> {
        self.controller.filter(|id| self.brokers.contains_key(id))
    }

    /// The broker `id`.
    pub fn broker(&self, id: BrokerId) -> Option<&BrokerInfo> {
        self.brokers.get(&id)
    }

    /// All brokers, by id.
    pub fn brokers(&self) -> impl Iterator<Item = &BrokerInfo> {
        self.brokers.values()
    }

    /// The topic `name`.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicInfo>> {
        self.topics.get(name)
    }

    /// The topic with `id`.
    pub fn topic_by_id(&self, id: &TopicId) -> Option<&Arc<TopicInfo>> {
        self.ids.get(id)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicInfo>> {
        self.topics.values()
    }
}
