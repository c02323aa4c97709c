//! What an operator or a client asks of single partitions: other replicas, another leader, more of them.

use std::time::Duration;

use rivven_core_types::{BrokerId, FencedState, NodeName, PartitionId, TopicName, limits};
use rivven_metadata::{ClusterState, PlacementCommand, Rejection, ReplicaTarget, TopicRecord};

use crate::coordinator::ClusterCoordinator;
use crate::error::CoordinatorError;
use crate::topics;

/// Pause before a command is made anew from newer metadata.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What a partition's replicas are to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReassignTo {
    /// Which partition.
    pub partition: PartitionId,
    /// The brokers that are to hold it, the preferred leader first; `None` for those that it had before
    /// the reassignment under way.
    pub target: Option<Vec<BrokerId>>,
    /// Whether it may have more or fewer replicas then (KIP-860).
    pub may_change_count: bool,
}

impl ClusterCoordinator {
    /// Moves the replicas of a partition to the nodes named, the preferred leader first: as many as it has,
    /// or more, or fewer. `None` cancels a reassignment under way. It is done once all of them are in sync
    /// (KIP-455).
    ///
    /// # Errors
    /// [`CoordinatorError::InvalidRequest`] or [`CoordinatorError::Rejected`]: nothing changed.
    pub async fn reassign(
        &self,
        topic: &TopicName,
        partition: u32,
        target: Option<&[NodeName]>,
        deadline: Duration,
    ) -> Result<(), CoordinatorError> {
        let topic = record(&self.cluster_state(), topic)?.id;
        let target: Option<Vec<BrokerId>> = target
            .map(|names| names.iter().map(|name| self.broker_named(name)).collect())
            .transpose()?;
        let change = ReassignTo {
            partition: PartitionId::new(topic, partition),
            target,
            may_change_count: true,
        };
        let before = self.cluster_state();
        self.reassign_one(&before, &change, deadline).await
    }

    /// As [`Self::reassign`], for many; one answer for each, in the order asked. They are one command if
    /// none of them is refused, else each is one by itself.
    pub async fn reassign_partitions(
        &self,
        changes: &[ReassignTo],
        deadline: Duration,
    ) -> Vec<Result<(), CoordinatorError>> {
        let end = self.now() + deadline;
        let state = self.cluster_state();
        let targets: Result<Vec<ReplicaTarget>, Rejection> = changes
            .iter()
            .map(|change| target(&state, change))
            .collect();
        if changes.len() > 1
            && let Ok(changes) = targets
        {
            let count = changes.len();
            let command = PlacementCommand::Reassign { changes };
            if self.place(command, deadline).await.is_ok() {
                return std::iter::repeat_with(|| Ok(())).take(count).collect();
            }
        }
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes {
            let left = end.since(self.now());
            answers.push(self.reassign_one(&state, change, left).await);
        }
        answers
    }

    /// Whoever asks names no epoch, so that a change of the ISR in between is no reason to refuse.
    /// `before` is how the metadata were when the caller was asked.
    async fn reassign_one(
        &self,
        before: &ClusterState,
        change: &ReassignTo,
        deadline: Duration,
    ) -> Result<(), CoordinatorError> {
        let end = self.now() + deadline;
        loop {
            let changes = vec![target(&self.cluster_state(), change)?];
            let left = end.since(self.now());
            // A command without time may still be executed, though it is answered as failed.
            if left.is_zero() {
                return Err(CoordinatorError::NotYet);
            }
            let placed = self.place(PlacementCommand::Reassign { changes }, left);
            match placed.await {
                Err(CoordinatorError::Rejected(Rejection::StalePartitionEpoch { .. })) => {
                    if end.since(self.now()) <= RETRY_PAUSE {
                        return Err(CoordinatorError::NotYet);
                    }
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                // Our own first attempt, whose answer was lost on the way.
                Err(CoordinatorError::Rejected(Rejection::NoReassignment { .. }))
                    if cancelled_since(before, &self.cluster_state(), change) =>
                {
                    return Ok(());
                }
                outcome => return outcome.map(drop),
            }
        }
    }

    /// Makes the first replica of each partition its leader; one answer for each, in the order asked.
    ///
    /// # Errors
    /// [`Rejection::ElectionNotNeeded`] where it leads already,
    /// [`CoordinatorError::PreferredLeaderNotAvailable`] where it is not in sync or not active: nothing
    /// changed. [`CoordinatorError::Propose`]: it may still happen, and asking again is harmless.
    pub async fn elect_preferred_of(
        &self,
        partitions: &[PartitionId],
        deadline: Duration,
    ) -> Vec<Result<(), CoordinatorError>> {
        let state = self.cluster_state();
        let due = |id: &&PartitionId| electable(&state, id).is_ok();
        let wanted: Vec<PartitionId> = partitions.iter().filter(due).copied().collect();
        for chunk in wanted.chunks(limits::MAX_PARTITIONS_PER_REQUEST) {
            let partitions = chunk.to_vec();
            let elected = self.place(PlacementCommand::ElectPreferred { partitions }, deadline);
            if let Err(error) = elected.await {
                tracing::debug!(%error, "preferred leaders were not elected");
            }
        }
        let after = self.cluster_state();
        let answer = |id: &PartitionId| {
            electable(&state, id)?;
            match electable(&after, id) {
                // It leads now.
                Err(CoordinatorError::Rejected(Rejection::ElectionNotNeeded { .. })) => Ok(()),
                Err(error) => Err(error),
                // It could, but the command did not get through.
                Ok(()) => Err(CoordinatorError::NotYet),
            }
        };
        partitions.iter().map(answer).collect()
    }

    /// Adds partitions to a topic until it has `total`; `assignment` names the replicas of each new one,
    /// if the caller insists.
    ///
    /// # Errors
    /// [`CoordinatorError::InvalidRequest`] or [`CoordinatorError::Rejected`] if it has as many already
    /// or the assignment is not valid, [`CoordinatorError::Placement`] if they cannot be placed; nothing
    /// changed.
    pub async fn add_partitions(
        &self,
        topic: &TopicName,
        total: u32,
        assignment: Option<Vec<Vec<BrokerId>>>,
        deadline: Duration,
    ) -> Result<(), CoordinatorError> {
        let partitions_now = record(&self.cluster_state(), topic)?.partitions;
        let insisted = assignment.clone();
        let command = PlacementCommand::AddPartitions {
            topic: topic.clone(),
            partitions_now,
            replicas: self.check_partitions(topic, total, assignment)?,
        };
        match self.place(command, deadline).await {
            // Our own first attempt, whose answer was lost on the way, or somebody who wanted the same.
            Err(CoordinatorError::Rejected(Rejection::InvalidPartitionCount { .. }))
                if is_grown(&self.cluster_state(), topic, total, insisted.as_deref()) =>
            {
                Ok(())
            }
            outcome => outcome.map(drop),
        }
    }

    /// Where [`Self::add_partitions`] would put the new partitions now. Changes nothing; fails as it does.
    pub fn check_partitions(
        &self,
        topic: &TopicName,
        total: u32,
        assignment: Option<Vec<Vec<BrokerId>>>,
    ) -> Result<Vec<Vec<BrokerId>>, CoordinatorError> {
        let state = self.cluster_state();
        let record = record(&state, topic)?;
        let (now, max) = (record.partitions, limits::MAX_PARTITIONS_PER_TOPIC);
        if total <= now {
            return Err(CoordinatorError::InvalidRequest(format!(
                "topic {topic} has {now} partitions, and {total} would be no more; they are never taken away"
            )));
        }
        if total > max {
            return Err(Rejection::InvalidPartitionCount { found: total, max }.into());
        }
        let Some(assignment) = assignment else {
            return topics::place_more(record, total, &self.config().placement, &state);
        };
        check_assignment(&state, record, total, &assignment)?;
        Ok(assignment)
    }
}

fn record<'a>(state: &'a ClusterState, name: &TopicName) -> Result<&'a TopicRecord, Rejection> {
    let unknown = || Rejection::UnknownTopic { name: name.clone() };
    state.topic(name).ok_or_else(unknown)
}

/// The change on the metadata as they are. A broker that was removed for good never catches up, so that
/// a reassignment to it would never end. The number of replicas is compared here, where the epoch is taken: if it
/// changes afterwards, the epoch has too.
pub(crate) fn target(
    state: &ClusterState,
    change: &ReassignTo,
) -> Result<ReplicaTarget, Rejection> {
    let (id, brokers) = (&change.partition, &change.target);
    let unknown = Rejection::UnknownPartition { partition: *id };
    let current = state.partition(id).ok_or(unknown)?;
    let expected = state.settled_replicas(current).len();
    let found = brokers.as_ref().map_or(expected, Vec::len);
    if found != expected && !change.may_change_count {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        return Err(Rejection::InvalidReplicationFactor {
            index: id.index.get(),
            found: number(found),
            expected: number(expected),
            max: number(limits::MAX_REPLICATION_FACTOR),
        });
    }
    let removed = |b: &BrokerId| {
        let record = state.broker(*b);
        record.is_some_and(|record| record.state == FencedState::Removed)
    };
    if brokers.iter().flatten().any(removed) {
        return Err(Rejection::InvalidTarget { partition: *id });
    }
    Ok(ReplicaTarget {
        partition: *id,
        partition_epoch: current.partition_epoch,
        target: brokers.clone(),
    })
}

/// Whether the change cancels a reassignment that was under way `before` and is cancelled now. One that was
/// completed in the meantime is not.
pub(crate) fn cancelled_since(
    before: &ClusterState,
    now: &ClusterState,
    change: &ReassignTo,
) -> bool {
    let (id, target) = (&change.partition, &change.target);
    let under_way = before.reassignment(id);
    let as_before = under_way.is_some_and(|under_way| {
        let partition = now.partition(id);
        partition.is_some_and(|partition| partition.replicas == under_way.original)
    });
    target.is_none() && now.reassignment(id).is_none() && as_before
}

/// Whether the topic has `total` partitions, the last of them on the replicas that the caller insists on.
pub(crate) fn is_grown(
    state: &ClusterState,
    topic: &TopicName,
    total: u32,
    assignment: Option<&[Vec<BrokerId>]>,
) -> bool {
    let Some(record) = state.topic(topic).filter(|t| t.partitions == total) else {
        return false;
    };
    let assignment = assignment.unwrap_or_default();
    let of_last = (0..total).rev().zip(assignment.iter().rev());
    of_last.into_iter().all(|(index, replicas)| {
        let partition = state.partition(&PartitionId::new(record.id, index));
        partition.is_some_and(|partition| partition.replicas == *replicas)
    })
}

/// Whether another than the preferred replica leads though that one may.
fn electable(state: &ClusterState, id: &PartitionId) -> Result<(), CoordinatorError> {
    let unknown = Rejection::UnknownPartition { partition: *id };
    let partition = state.partition(id).ok_or(unknown)?;
    let Some(first) = partition.replicas.first().copied() else {
        return Err(CoordinatorError::NotYet);
    };
    if partition.leader == Some(first) {
        return Err(Rejection::ElectionNotNeeded { leader: first }.into());
    }
    if !partition.isr.contains(&first) || !state.is_active(first) {
        return Err(CoordinatorError::PreferredLeaderNotAvailable {
            partition: *id,
            broker: first,
        });
    }
    Ok(())
}

/// An assignment of new partitions: as many as are added, each of as many known brokers as the topic's
/// first partition has.
fn check_assignment(
    state: &ClusterState,
    topic: &TopicRecord,
    total: u32,
    assignment: &[Vec<BrokerId>],
) -> Result<(), CoordinatorError> {
    let (name, added) = (&topic.name, total - topic.partitions);
    if usize::try_from(added).ok() != Some(assignment.len()) {
        return Err(CoordinatorError::InvalidAssignment(format!(
            "{added} partitions are added to topic {name}, but replicas are named for {}",
            assignment.len()
        )));
    }
    let factor = usize::try_from(state.replication_factor(topic)).unwrap_or(usize::MAX);
    for (index, brokers) in (topic.partitions..).zip(assignment) {
        if brokers.len() != factor {
            return Err(CoordinatorError::InvalidAssignment(format!(
                "the first partition of topic {name} has {factor} replicas, but partition {index} is given {}",
                brokers.len()
            )));
        }
        for (place, broker) in brokers.iter().enumerate() {
            let broker = *broker;
            if state.broker(broker).is_none() {
                return Err(Rejection::UnknownBroker { broker }.into());
            }
            if brokers.iter().take(place).any(|other| *other == broker) {
                return Err(Rejection::DuplicateReplica { index, broker }.into());
            }
        }
        if !brokers.iter().any(|broker| state.is_active(*broker)) {
            return Err(Rejection::NoActiveReplica { index }.into());
        }
    }
    Ok(())
}
