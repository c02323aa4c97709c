//! Creating topics: placement, then one command.

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_core_types::{BrokerId, Durability, Entropy, LogConfig, NodeName, TopicId, TopicName};
use rivven_metadata::{
    ClusterState, Command, CommandResult, Rejection, TopicPlacement, TopicRecord,
};
use rivven_placement::{PartitionPlacer, PlacementConfig, PlacementError};

use crate::config::TopicDefaults;
use crate::error::CoordinatorError;
use crate::layout::populate;
use crate::proposals::MetadataProposer;
use crate::state::StateWatch;

/// A topic to be made. What is `None` is taken from [`TopicDefaults`].
#[derive(Debug, Clone)]
pub struct NewTopic {
    /// Its name.
    pub name: TopicName,
    /// Number of partitions.
    pub partitions: Option<u32>,
    /// Replicas of each partition.
    pub replication_factor: Option<u32>,
    /// The replicas of each partition, if the creator insists; excludes the two above.
    pub assignment: Option<Vec<Vec<BrokerId>>>,
    /// `min.insync.replicas`; by default that of the configuration, but never more than there are
    /// replicas.
    pub min_isr: Option<u32>,
    /// When a record counts as stored.
    pub durability: Durability,
    /// How long records are kept.
    pub log: LogConfig,
}

/// Places `topic` on the brokers of `state` that are active.
pub(crate) fn place(
    topic: &NewTopic,
    defaults: &TopicDefaults,
    config: &PlacementConfig,
    state: &ClusterState,
) -> Result<Vec<Vec<BrokerId>>, CoordinatorError> {
    if let Some(assignment) = &topic.assignment {
        return Ok(assignment.clone());
    }
    let partitions = topic.partitions.unwrap_or(defaults.partitions);
    let factor = topic
        .replication_factor
        .unwrap_or(defaults.replication_factor);
    let factor = usize::try_from(factor).unwrap_or(usize::MAX);
    if partitions == 0 {
        return Err(CoordinatorError::InvalidRequest(
            "a topic needs a partition".to_owned(),
        ));
    }
    if partitions > rivven_core_types::limits::MAX_PARTITIONS_PER_TOPIC {
        let max = rivven_core_types::limits::MAX_PARTITIONS_PER_TOPIC;
        return Err(PlacementError::PartitionOutOfRange {
            partition: partitions,
            max,
        }
        .into());
    }
    let mut placer = PartitionPlacer::new(config.clone());
    let ids = populate(&mut placer, state, None)?;
    let placed = placer.place_topic(topic.name.as_str(), partitions, factor)?;
    let number = |name: &NodeName| ids.get(name).copied();
    let numbers = placed
        .iter()
        .map(|names| names.filter_map(number).collect());
    Ok(numbers.collect())
}

/// The replicas by number.
fn numbers(placed: &[Vec<NodeName>], ids: &BTreeMap<&NodeName, BrokerId>) -> Vec<Vec<BrokerId>> {
    let number = |name: &NodeName| ids.get(name).copied();
    placed
        .iter()
        .map(|names| names.iter().filter_map(number).collect())
        .collect()
}

/// Places the partitions from `current` on of a topic that is to have `total` of them, balanced
/// against those that it has, by the strategy that placed those.
pub(crate) fn place_more(
    topic: &TopicRecord,
    total: u32,
    config: &PlacementConfig,
    state: &ClusterState,
) -> Result<Vec<Vec<BrokerId>>, CoordinatorError> {
    let mut config = config.clone();
    if let Some(placement) = &topic.placement {
        rivven_placement::check_version(placement.algorithm_version)?;
        config.strategy = placement.strategy.parse()?;
    }
    let mut placer = PartitionPlacer::new(config);
    let ids = populate(&mut placer, state, Some(topic))?;
    let factor = usize::try_from(state.replication_factor(topic)).unwrap_or(usize::MAX);
    let placed = (topic.partitions..total)
        .map(|index| placer.assign_partition(topic.name.as_str(), index, factor))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(numbers(&placed, &ids))
}

/// What the creation of a topic needs of its node.
pub(crate) struct TopicCreator<'a> {
    pub(crate) defaults: &'a TopicDefaults,
    pub(crate) placement: &'a PlacementConfig,
    pub(crate) default_min_isr: u32,
    pub(crate) state: &'a StateWatch,
    pub(crate) entropy: &'a dyn Entropy,
    pub(crate) proposer: &'a MetadataProposer,
}

impl TopicCreator<'_> {
    /// Creates a topic; returns its id once this node has applied the creation.
    pub(crate) async fn create(
        &self,
        topic: &NewTopic,
        deadline: Duration,
    ) -> Result<TopicId, CoordinatorError> {
        let replicas = place(topic, self.defaults, self.placement, &self.state.current())?;
        let factor = u32::try_from(replicas.first().map_or(0, Vec::len)).unwrap_or(u32::MAX);
        let id = TopicId::random(self.entropy);
        let command = Command::CreateTopic {
            name: topic.name.clone(),
            id,
            replicas,
            min_isr: topic
                .min_isr
                .unwrap_or_else(|| self.default_min_isr.min(factor)),
            durability: topic.durability,
            log: topic.log,
            placement: topic.assignment.is_none().then(|| TopicPlacement {
                strategy: self.placement.strategy.to_string(),
                algorithm_version: rivven_placement::ALGORITHM_VERSION,
            }),
        };
        match self
            .proposer
            .commit(&command, deadline)
            .await
            .map(|committed| committed.result)
        {
            Ok(CommandResult::TopicCreated { id }) => Ok(id),
            Ok(other) => Err(CoordinatorError::UnexpectedAnswer(format!("{other:?}"))),
            // Our own first attempt, whose answer was lost on the way.
            Err(CoordinatorError::Rejected(Rejection::TopicExists { .. }))
                if self.state.current().topic_by_id(&id).is_some() =>
            {
                Ok(id)
            }
            Err(error) => Err(error),
        }
    }
}
