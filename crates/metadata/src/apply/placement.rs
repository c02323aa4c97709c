//! Reassignment, preferred leaders, draining, more partitions.

use rivven_core_types::{
    BrokerId, LogIndex, PartitionId, PartitionState, RecoveryState, TopicName, limits,
};

use super::{clamp, topics};
use crate::election::{prefer, replace_replicas};
use crate::placement::{PlacementCommand, Reassignment, ReplicaTarget};
use crate::rejection::Rejection;
use crate::result::CommandResult;
use crate::state::ClusterState;

pub(super) fn apply(
    state: &mut ClusterState,
    index: LogIndex,
    command: PlacementCommand,
) -> Result<CommandResult, Rejection> {
    let partitions_changed = match command {
        PlacementCommand::Reassign { changes } => reassign(state, index, changes)?,
        PlacementCommand::ElectPreferred { partitions } => {
            elect_preferred(state, index, &partitions)?
        }
        PlacementCommand::SetDraining { broker, draining } => {
            if state.broker(broker).is_none() {
                return Err(Rejection::UnknownBroker { broker });
            }
            state.set_draining(broker, draining);
            0
        }
        PlacementCommand::SetRebalancing { rebalancing } => {
            state.set_rebalancing(rebalancing);
            0
        }
        PlacementCommand::AddPartitions {
            topic,
            partitions_now,
            replicas,
        } => add_partitions(state, index, &topic, partitions_now, replicas)?,
    };
    Ok(CommandResult::Placed { partitions_changed })
}

fn check_length(length: usize) -> Result<(), Rejection> {
    if length > limits::MAX_PARTITIONS_PER_REQUEST {
        return Err(Rejection::TooManyItems {
            found: clamp(length),
            max: clamp(limits::MAX_PARTITIONS_PER_REQUEST),
        });
    }
    Ok(())
}

/// A change that has been checked.
struct Change {
    partition: PartitionState,
    reassignment: Option<Reassignment>,
}

fn reassign(
    state: &mut ClusterState,
    index: LogIndex,
    changes: Vec<ReplicaTarget>,
) -> Result<u32, Rejection> {
    check_length(changes.len())?;
    let mut ids: Vec<PartitionId> = changes.iter().map(|change| change.partition).collect();
    ids.sort_unstable();
    if let Some(twice) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(Rejection::InvalidTarget {
            partition: twice[0],
        });
    }
    let checked: Result<Vec<Change>, Rejection> =
        changes.into_iter().map(|c| check(state, c)).collect();
    let mut count = 0u32;
    for change in checked? {
        let id = change.partition.id;
        state.set_reassignment(id, change.reassignment);
        let differs = state.partition(&id) != Some(&change.partition);
        if differs {
            state.put_partition(change.partition, index);
        }
        // All of the target may be in sync already.
        let completed = complete(state, index, &id).is_some();
        count = count.saturating_add(u32::from(differs || completed));
    }
    Ok(count)
}

fn check(state: &ClusterState, change: ReplicaTarget) -> Result<Change, Rejection> {
    let id = change.partition;
    let unknown = Rejection::UnknownPartition { partition: id };
    let old = state.partition(&id).ok_or(unknown)?;
    if old.partition_epoch != change.partition_epoch {
        return Err(Rejection::StalePartitionEpoch {
            found: change.partition_epoch,
            current: old.partition_epoch,
        });
    }
    let under_way = state.reassignment(&id);
    let original = under_way.map_or(&old.replicas, |r| &r.original).clone();
    let (target, cancels) = match (change.target, under_way) {
        (Some(target), _) => (target, false),
        (None, Some(under_way)) => (under_way.original.clone(), true),
        (None, None) => return Err(Rejection::NoReassignment { partition: id }),
    };
    let distinct = target
        .iter()
        .enumerate()
        .all(|(place, broker)| !target.iter().take(place).any(|other| other == broker));
    let known = target.iter().all(|broker| state.broker(*broker).is_some());
    let invalid = Rejection::InvalidTarget { partition: id };
    if target.is_empty() || !distinct || !known {
        return Err(invalid);
    }
    // Those it had first, so that nothing else changes until all of the target is in sync.
    let adding = target.iter().filter(|broker| !original.contains(broker));
    let mut replicas: Vec<BrokerId> = original.iter().chain(adding).copied().collect();
    let reorders = target.len() == original.len() && replicas.len() == original.len();
    if cancels || reorders {
        replicas.clone_from(&target);
    }
    if replicas.len() > limits::MAX_REPLICATION_FACTOR {
        return Err(invalid);
    }
    check_safety(old, &replicas)?;
    // Those that are added are awaited, also where nobody goes.
    let done = cancels || reorders;
    let reassignment = (!done).then_some(Reassignment { target, original });
    let min_isr = state
        .topic_by_id(&id.topic)
        .map_or(old.min_isr, |t| t.min_isr);
    let min_isr = min_isr_during(min_isr, reassignment.as_ref());
    let partition = replace_replicas(old, &replicas, min_isr, |b| state.is_active(b));
    Ok(Change {
        partition,
        reassignment,
    })
}

/// Min ISR of a partition of a topic with the given one: while a reassignment is under way at most as many as
/// the partition had replicas before, so that what it needs is the same from its first step to its last.
///
/// Kafka counts the replicas that are being added (`effectiveMinIsr`): a partition with one replica under a
/// greater min ISR then refuses acks=all from the moment in which it is to move until the copy is made. Not
/// counting them puts no acknowledged record at risk: each is in every member of the ISR, of which no fewer
/// are needed than before the reassignment; nobody leads who was not in it; and the target takes over only
/// once all of it is in sync. For that reason a smaller target does not lower what is needed either.
pub(super) fn min_isr_during(min_isr: u32, under_way: Option<&Reassignment>) -> u32 {
    under_way.map_or(min_isr, |r| min_isr.min(clamp(r.original.len())))
}

/// Whoever holds committed records may go only if enough others in sync stay: nothing could be
/// recovered from a replica that is no replica any more.
fn check_safety(old: &PartitionState, replicas: &[BrokerId]) -> Result<(), Rejection> {
    let holders = old.isr.iter().chain(&old.elr).chain(&old.last_known_isr);
    let drops_one = holders.into_iter().any(|b| !replicas.contains(b));
    let stay = old.isr.iter().filter(|b| replicas.contains(b)).count();
    let min_isr = usize::try_from(old.min_isr).unwrap_or(usize::MAX);
    if drops_one && stay < min_isr.min(replicas.len()).max(1) {
        return Err(Rejection::UnsafeReassignment { partition: old.id });
    }
    Ok(())
}

/// Ends a reassignment in the step in which all of the target is in sync (KIP-455), whatever brought the
/// last of it there: its leader's proposal, or an election. Returns the partition if that changed it. One
/// that recovers from an unclean election waits until that is over, as its in-sync set says nothing yet.
pub(super) fn complete(
    state: &mut ClusterState,
    index: LogIndex,
    id: &PartitionId,
) -> Option<PartitionState> {
    let under_way = state.reassignment(id)?;
    let partition = state.partition(id)?;
    let in_sync = under_way.target.iter().all(|b| partition.isr.contains(b));
    if !in_sync || partition.recovery == RecoveryState::Recovering {
        return None;
    }
    let topic = state.topic_by_id(&id.topic);
    let min_isr = topic.map_or(partition.min_isr, |topic| topic.min_isr);
    let target = &under_way.target;
    let mut new = replace_replicas(partition, target, min_isr, |b| state.is_active(b));
    // The change that brought the last one into sync and this one are one change of the record.
    if state.partition_changed_at(id) == Some(index) {
        new.partition_epoch = partition.partition_epoch;
    }
    state.set_reassignment(*id, None);
    state.put_partition(new.clone(), index);
    Some(new)
}

fn elect_preferred(
    state: &mut ClusterState,
    index: LogIndex,
    partitions: &[PartitionId],
) -> Result<u32, Rejection> {
    check_length(partitions.len())?;
    let mut count = 0u32;
    for id in partitions {
        let old = state.partition(id);
        if let Some(new) = old.and_then(|old| prefer(old, |b| state.is_active(b))) {
            state.put_partition(new, index);
            count = count.saturating_add(1);
        }
    }
    Ok(count)
}

fn add_partitions(
    state: &mut ClusterState,
    index: LogIndex,
    name: &TopicName,
    partitions_now: u32,
    replicas: Vec<Vec<BrokerId>>,
) -> Result<u32, Rejection> {
    let unknown = || Rejection::UnknownTopic { name: name.clone() };
    let record = state.topic(name).cloned().ok_or_else(unknown)?;
    let found = clamp(replicas.len());
    let max = topics::room(state).min(limits::MAX_PARTITIONS_PER_TOPIC - record.partitions);
    if record.partitions != partitions_now || found == 0 || found > max {
        return Err(Rejection::InvalidPartitionCount { found, max });
    }
    let factor = usize::try_from(state.replication_factor(&record)).unwrap_or(usize::MAX);
    for (place, replicas) in (partitions_now..).zip(&replicas) {
        topics::validate_replicas(state, place, replicas, factor)?;
    }
    for (place, replicas) in (partitions_now..).zip(replicas) {
        let id = PartitionId::new(record.id, place);
        let new = topics::first_record(state, &record, id, replicas);
        state.put_partition(new, index);
    }
    let mut grown = record.clone();
    grown.partitions = partitions_now + found;
    state.replace_topic(&record, grown);
    Ok(found)
}
