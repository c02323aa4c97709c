//! Carries metadata to replication, and replication's ISR proposals to the controller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::watch;
use rivven_core_types::{
    AlterPartitionError, AlterPartitionOutcome, AlterPartitionProposal, BoxFuture, BrokerId,
    NodeEpoch, NodeName, PartitionId, PartitionState,
};
use rivven_isr::{
    ControllerError, LocalBroker, MetadataUpdate, PartitionController, ReplicationManager,
};
use rivven_metadata::{ClusterState, Command, CommandResult, Rejection};

use crate::error::CoordinatorError;
use crate::proposals::MetadataProposer;
use crate::state::StateWatch;

/// How long one batch of ISR proposals may take before it is tried again.
const ALTER_DEADLINE: Duration = Duration::from_secs(5);
/// Pause before metadata is offered again to a replication manager that could not take it.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Sends ISR proposals to the controller, with this broker's id and epoch.
pub(crate) struct AlterPartitions {
    pub(crate) proposer: MetadataProposer,
    pub(crate) local: watch::Receiver<Option<LocalBroker>>,
}

impl PartitionController for AlterPartitions {
    fn alter_partitions(
        &self,
        proposals: Vec<AlterPartitionProposal>,
    ) -> BoxFuture<'static, Result<Vec<AlterPartitionOutcome>, ControllerError>> {
        let proposer = self.proposer.clone();
        let local = *self.local.borrow();
        Box::pin(async move {
            let unavailable = |reason: String| ControllerError { reason };
            let local = local.ok_or_else(|| unavailable("not registered yet".to_owned()))?;
            let partitions: Vec<_> = proposals.iter().map(|p| p.partition).collect();
            let (broker, node_epoch) = (local.id, local.node_epoch);
            let command = Command::AlterPartitions {
                broker,
                node_epoch,
                proposals,
            };
            match proposer
                .commit(&command, ALTER_DEADLINE)
                .await
                .map(|c| c.result)
            {
                Ok(CommandResult::PartitionsAltered { outcomes }) => Ok(outcomes),
                Ok(other) => Err(unavailable(format!("unexpected answer {other:?}"))),
                Err(CoordinatorError::Rejected(
                    Rejection::StaleNodeEpoch { .. } | Rejection::UnknownBroker { .. },
                )) => Ok(all_stale(&partitions)),
                Err(error) => Err(unavailable(error.to_string())),
            }
        })
    }
}

fn all_stale(partitions: &[PartitionId]) -> Vec<AlterPartitionOutcome> {
    let result = || Err(AlterPartitionError::StaleNodeEpoch);
    let outcome = |partition: &PartitionId| AlterPartitionOutcome {
        partition: *partition,
        result: result(),
    };
    partitions.iter().map(outcome).collect()
}

/// Follows the metadata and hands each change to replication. Runs until the metadata feed closes.
pub(crate) async fn feed(
    state: StateWatch,
    mut local: watch::Receiver<Option<LocalBroker>>,
    replication: ReplicationManager,
    on_disk: Vec<PartitionId>,
) {
    let mut states = state.subscribe();
    let mut applied: Option<(LocalBroker, Arc<ClusterState>)> = None;
    loop {
        let current = Arc::clone(&states.borrow_and_update());
        let registered = *local.borrow_and_update();
        // Before its own registration is applied a broker must not act on anything: the metadata
        // still describes its earlier life.
        let ready = registered.filter(|l| is_current(*l, &current));
        if let Some(local) = ready {
            let update = match &applied {
                Some((before, earlier)) if *before == local => changes(local, earlier, &current),
                earlier => {
                    let earlier = earlier.as_ref().map(|(_, state)| state.as_ref());
                    everything(local, &current, &on_disk, earlier)
                }
            };
            match replication.apply(update).await {
                Ok(()) => applied = Some((local, current)),
                Err(error) => {
                    tracing::warn!(%error, "replication could not take the metadata; again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            }
        }
        let changed = tokio::select! {
            biased;
            changed = states.changed() => changed.is_ok(),
            changed = local.changed() => changed.is_ok(),
        };
        if !changed {
            return;
        }
    }
}

fn is_current(local: LocalBroker, state: &ClusterState) -> bool {
    state
        .broker(local.id)
        .is_some_and(|record| record.node_epoch == local.node_epoch)
}

/// All that a new life of the broker has to know. `on_disk` is what the process found there, `earlier` what
/// was applied last, in which logs may have been written that were not there yet.
fn everything(
    local: LocalBroker,
    state: &ClusterState,
    on_disk: &[PartitionId],
    earlier: Option<&ClusterState>,
) -> MetadataUpdate {
    let changed = state.partitions_of(local.id).cloned().collect();
    // Topics deleted while this node was down; topic ids are never reused (KIP-516).
    let gone = |id: &PartitionId| state.partition(id).is_none_or(|p| !p.is_replica(local.id));
    let held = earlier.into_iter().flat_map(|s| s.partitions_of(local.id));
    let had: BTreeSet<PartitionId> = held.map(|p| p.id).chain(on_disk.iter().copied()).collect();
    let removed = had.into_iter().filter(gone).collect();
    update(local, state, changed, removed)
}

fn changes(local: LocalBroker, earlier: &ClusterState, state: &ClusterState) -> MetadataUpdate {
    let mut changed: Vec<PartitionState> = Vec::new();
    let mut removed = Vec::new();
    for id in state.changed_since(earlier) {
        match state.partition(&id) {
            Some(partition) if partition.is_replica(local.id) => changed.push(partition.clone()),
            // Reassigned elsewhere: replication gives the copy up on the word of the record.
            Some(partition) if is_replica(earlier, &id, local.id) => {
                changed.push(partition.clone());
            }
            Some(_) => {}
            None => removed.push(id),
        }
    }
    update(local, state, changed, removed)
}

fn is_replica(state: &ClusterState, id: &PartitionId, broker: BrokerId) -> bool {
    state.partition(id).is_some_and(|p| p.is_replica(broker))
}

fn update(
    local: LocalBroker,
    state: &ClusterState,
    changed: Vec<PartitionState>,
    removed: Vec<PartitionId>,
) -> MetadataUpdate {
    let brokers: BTreeMap<BrokerId, (NodeName, NodeEpoch)> = state
        .brokers()
        .map(|b| (b.id, (b.info.name.clone(), b.node_epoch)))
        .collect();
    let ineligible: BTreeSet<BrokerId> = state
        .brokers()
        .filter(|b| !b.is_active())
        .map(|b| b.id)
        .collect();
    let topics = changed.iter().map(|p| p.id.topic);
    let log_configs = topics
        .filter_map(|id| Some((id, state.topic_by_id(&id)?.log)))
        .collect();
    MetadataUpdate {
        local,
        brokers,
        ineligible,
        log_configs,
        changed,
        removed,
    }
}

#[cfg(test)]
mod tests {
    use rivven_core_types::{Durability, LogConfig, TopicId, TopicName};

    use super::*;
    use crate::builds::Builds;

    /// A log that is blank has no directory when the process starts.
    #[test]
    fn what_was_deleted_before_a_new_registration_is_removed_though_it_was_not_on_disk_at_the_start()
     {
        let mut builds = Builds::new();
        builds.register(1, 1, 1);
        let broker = builds.state().brokers().next().unwrap();
        let local = LocalBroker {
            id: broker.id,
            node_epoch: broker.node_epoch,
        };
        builds.apply(&Command::UnfenceBroker {
            broker: local.id,
            node_epoch: local.node_epoch,
        });
        let (name, id) = (TopicName::new("t").unwrap(), TopicId::from_bytes([7; 16]));
        builds.apply(&Command::CreateTopic {
            name: name.clone(),
            id,
            replicas: vec![vec![local.id]],
            min_isr: 1,
            durability: Durability::Fsync,
            log: LogConfig::default(),
            placement: None,
        });
        let before = builds.state().clone();
        builds.apply(&Command::DeleteTopic { name });
        builds.register(1, 1, 1);
        let old = PartitionId::new(TopicId::from_bytes([6; 16]), 3);
        let told = everything(local, builds.state(), &[old], Some(&before));
        assert_eq!(told.removed, [old, PartitionId::new(id, 0)]);
        assert!(told.changed.is_empty());
    }
}
