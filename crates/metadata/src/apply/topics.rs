//! Topics: creation with a given placement, deletion.

use rivven_core_types::{
    BrokerId, Durability, LeaderEpoch, LogConfig, LogIndex, PartitionEpoch, PartitionId,
    PartitionState, RecoveryState, TopicId, TopicName, limits,
};

use super::clamp;
use super::placement::min_isr_during;
use crate::command::TopicChange;
use crate::election::change_settings;
use crate::placement::{MAX_STRATEGY_BYTES, TopicPlacement};
use crate::records::TopicRecord;
use crate::rejection::Rejection;
use crate::result::CommandResult;
use crate::state::{ClusterState, MAX_PARTITIONS};

/// A topic to be created.
pub(super) struct NewTopic {
    pub(super) name: TopicName,
    pub(super) id: TopicId,
    pub(super) replicas: Vec<Vec<BrokerId>>,
    pub(super) min_isr: u32,
    pub(super) durability: Durability,
    pub(super) log: LogConfig,
    pub(super) placement: Option<TopicPlacement>,
}

pub(super) fn create(
    state: &mut ClusterState,
    index: LogIndex,
    topic: NewTopic,
) -> Result<CommandResult, Rejection> {
    let record = validate(state, &topic)?;
    let id = topic.id;
    for (partition, replicas) in record.partition_ids().zip(topic.replicas) {
        let new = first_record(state, &record, partition, replicas);
        state.put_partition(new, index);
    }
    state.put_topic(record);
    Ok(CommandResult::TopicCreated { id })
}

/// How many more partitions the cluster may have.
pub(super) fn room(state: &ClusterState) -> u32 {
    MAX_PARTITIONS.saturating_sub(clamp(state.partition_count()))
}

fn validate(state: &ClusterState, topic: &NewTopic) -> Result<TopicRecord, Rejection> {
    if state.topic(&topic.name).is_some() {
        return Err(Rejection::TopicExists {
            name: topic.name.clone(),
        });
    }
    if let Some(other) = state.topic_by_id(&topic.id) {
        return Err(Rejection::TopicIdExists {
            name: other.name.clone(),
        });
    }
    let found = clamp(topic.replicas.len());
    let max = room(state).min(limits::MAX_PARTITIONS_PER_TOPIC);
    if found == 0 || found > max {
        return Err(Rejection::InvalidPartitionCount { found, max });
    }
    let replication_factor = topic.replicas.first().map_or(0, Vec::len);
    for (index, replicas) in (0u32..).zip(&topic.replicas) {
        validate_replicas(state, index, replicas, replication_factor)?;
    }
    let replication_factor = clamp(replication_factor);
    let record = TopicRecord {
        id: topic.id,
        name: topic.name.clone(),
        partitions: found,
        replication_factor,
        min_isr: topic.min_isr,
        durability: topic.durability,
        log: topic.log,
        placement: topic.placement.clone(),
    };
    validate_min_isr(record.min_isr, replication_factor)?;
    validate_settings(&record)?;
    if let Some(placement) = &record.placement
        && !(1..=MAX_STRATEGY_BYTES).contains(&placement.strategy.len())
    {
        return Err(Rejection::InvalidTopicConfig {
            key: "the name of the placement strategy".to_owned(),
            range: format!("1..={MAX_STRATEGY_BYTES} bytes"),
        });
    }
    Ok(record)
}

const fn validate_min_isr(found: u32, replication_factor: u32) -> Result<(), Rejection> {
    if found == 0 || found > replication_factor {
        return Err(Rejection::InvalidMinIsr {
            found,
            replication_factor,
        });
    }
    Ok(())
}

fn validate_settings(topic: &TopicRecord) -> Result<(), Rejection> {
    match topic.log.out_of_range() {
        Some((key, range)) => Err(Rejection::InvalidTopicConfig {
            key: key.to_owned(),
            range: range.to_owned(),
        }),
        None => Ok(()),
    }
}

/// Changes settings of the topic, and with it every partition.
pub(super) fn alter(
    state: &mut ClusterState,
    index: LogIndex,
    name: &TopicName,
    change: &TopicChange,
) -> Result<CommandResult, Rejection> {
    let old = state
        .topic(name)
        .cloned()
        .ok_or_else(|| Rejection::UnknownTopic { name: name.clone() })?;
    let new = TopicRecord {
        min_isr: change.min_isr.unwrap_or(old.min_isr),
        durability: change.durability.unwrap_or(old.durability),
        log: change.apply_to(old.log),
        ..old.clone()
    };
    // One that was set before partitions got fewer replicas stays, and counts as their number. It may be said
    // again with the other settings, as tools do that state the whole configuration.
    if let Some(min_isr) = change.min_isr.filter(|min_isr| *min_isr != old.min_isr) {
        validate_min_isr(min_isr, state.replication_factor(&old))?;
    }
    validate_settings(&new)?;
    let id = new.id;
    if new != old {
        for partition in new.partition_ids() {
            let Some(before) = state.partition(&partition) else {
                continue;
            };
            let min_isr = min_isr_during(new.min_isr, state.reassignment(&partition));
            let after = change_settings(before, min_isr, new.durability);
            state.put_partition(after, index);
        }
        state.replace_topic(&old, new);
    }
    Ok(CommandResult::TopicAltered { id })
}

pub(super) fn validate_replicas(
    state: &ClusterState,
    index: u32,
    replicas: &[BrokerId],
    expected: usize,
) -> Result<(), Rejection> {
    let found = replicas.len();
    if found == 0 || found > limits::MAX_REPLICATION_FACTOR || found != expected {
        return Err(Rejection::InvalidReplicationFactor {
            index,
            found: clamp(found),
            expected: clamp(expected),
            max: clamp(limits::MAX_REPLICATION_FACTOR),
        });
    }
    for (place, broker) in replicas.iter().enumerate() {
        if replicas.iter().take(place).any(|other| other == broker) {
            return Err(Rejection::DuplicateReplica {
                index,
                broker: *broker,
            });
        }
        if state.broker(*broker).is_none() {
            return Err(Rejection::UnknownBroker { broker: *broker });
        }
    }
    if !replicas.iter().any(|broker| state.is_active(*broker)) {
        return Err(Rejection::NoActiveReplica { index });
    }
    Ok(())
}

/// A partition as it begins: the replicas that are active are in sync, for there is nothing to have.
pub(super) fn first_record(
    state: &ClusterState,
    topic: &TopicRecord,
    id: PartitionId,
    replicas: Vec<BrokerId>,
) -> PartitionState {
    let isr: Vec<BrokerId> = replicas
        .iter()
        .copied()
        .filter(|broker| state.is_active(*broker))
        .collect();
    PartitionState {
        id,
        replicas,
        leader: isr.first().copied(),
        last_known_isr: isr.clone(),
        isr,
        elr: Vec::new(),
        leader_epoch: LeaderEpoch::default(),
        partition_epoch: PartitionEpoch::default(),
        recovery: RecoveryState::Recovered,
        min_isr: topic.min_isr,
        durability: topic.durability,
    }
}

pub(super) fn delete(
    state: &mut ClusterState,
    name: &TopicName,
) -> Result<CommandResult, Rejection> {
    let record = state
        .topic(name)
        .cloned()
        .ok_or_else(|| Rejection::UnknownTopic { name: name.clone() })?;
    state.remove_topic(&record);
    Ok(CommandResult::TopicDeleted { id: record.id })
}
