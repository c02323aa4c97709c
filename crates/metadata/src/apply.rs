//! Applies one command to the state: validates it whole, then changes.

mod brokers;
mod levels;
mod partitions;
mod placement;
mod topics;

use rivven_core_types::{BrokerId, ClusterId, LogIndex, NodeEpoch, ProducerId, planted};

use crate::command::Command;
use crate::levels::{LevelRange, Registration};
use crate::records::BrokerRecord;
use crate::rejection::Rejection;
use crate::result::{CommandResult, PRODUCER_ID_BLOCK};
use crate::state::ClusterState;

/// Applies a command at `index`. An error means that nothing has changed.
pub(crate) fn apply(
    state: &mut ClusterState,
    index: LogIndex,
    command: Command,
) -> Result<CommandResult, Rejection> {
    if let Command::FormCluster { cluster_id } = command {
        return form_cluster(state, cluster_id);
    }
    if state.cluster_id().is_none() {
        return Err(Rejection::NotFormed);
    }
    state.check_level(&command)?;
    match command {
        Command::FormCluster { cluster_id } => form_cluster(state, cluster_id),
        Command::RegisterBroker {
            info,
            incarnation,
            raft_id,
            log_dir,
            lossy,
        } => {
            let registration = Registration {
                info,
                incarnation,
                raft_id,
                log_dir,
                lossy,
                levels: LevelRange::UNSAID,
            };
            brokers::register(state, index, registration)
        }
        Command::UnfenceBroker { broker, node_epoch } => {
            brokers::unfence(state, index, broker, node_epoch)
        }
        Command::FenceBroker { broker, node_epoch } => {
            brokers::fence(state, index, broker, node_epoch)
        }
        Command::BeginControlledShutdown { broker, node_epoch } => {
            brokers::begin_shutdown(state, index, broker, node_epoch)
        }
        Command::CreateTopic {
            name,
            id,
            replicas,
            min_isr,
            durability,
            log,
            placement,
        } => {
            let topic = topics::NewTopic {
                name,
                id,
                replicas,
                min_isr,
                durability,
                log,
                placement,
            };
            topics::create(state, index, topic)
        }
        Command::DeleteTopic { name } => topics::delete(state, &name),
        Command::AlterPartitions {
            broker,
            node_epoch,
            proposals,
        } => partitions::alter(state, index, (broker, node_epoch), &proposals),
        Command::AllocateProducerIds { broker, node_epoch } => {
            allocate_producer_ids(state, broker, node_epoch)
        }
        Command::RecoverPartition {
            partition,
            partition_epoch,
            claims,
        } => partitions::recover(state, index, partition, partition_epoch, &claims),
        Command::ElectUnclean { partition } => partitions::elect_unclean(state, index, partition),
        Command::RemoveBroker {
            broker,
            node_epoch,
            accept_loss,
        } => brokers::remove(state, index, (broker, node_epoch), accept_loss),
        Command::AlterTopic { name, change } => topics::alter(state, index, &name, &change),
        Command::Place(command) => placement::apply(state, index, command),
        Command::Level(command) => levels::apply(state, index, command),
    }
}

fn form_cluster(
    state: &mut ClusterState,
    cluster_id: ClusterId,
) -> Result<CommandResult, Rejection> {
    match state.cluster_id() {
        Some(ours) if ours != cluster_id => Err(Rejection::ForeignCluster {
            ours,
            theirs: cluster_id,
        }),
        Some(_) => Ok(CommandResult::ClusterFormed { cluster_id }),
        None => {
            state.set_cluster_id(cluster_id);
            Ok(CommandResult::ClusterFormed { cluster_id })
        }
    }
}

/// The broker's record, if `node_epoch` is its current life (KIP-841, KIP-903).
fn current_life(
    state: &ClusterState,
    broker: BrokerId,
    node_epoch: NodeEpoch,
) -> Result<&BrokerRecord, Rejection> {
    let record = state
        .broker(broker)
        .ok_or(Rejection::UnknownBroker { broker })?;
    if record.node_epoch != node_epoch {
        return Err(Rejection::StaleNodeEpoch {
            broker,
            found: node_epoch,
            current: record.node_epoch,
        });
    }
    Ok(record)
}

/// A length as the 32 bits of a rejection.
fn clamp(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn allocate_producer_ids(
    state: &mut ClusterState,
    broker: BrokerId,
    node_epoch: NodeEpoch,
) -> Result<CommandResult, Rejection> {
    current_life(state, broker, node_epoch)?;
    let first = state.next_producer_id();
    let next = first
        .get()
        .checked_add(i64::from(PRODUCER_ID_BLOCK))
        .ok_or(Rejection::ProducerIdsExhausted)?;
    if !planted("metadata.producer-ids-twice") {
        state.set_next_producer_id(ProducerId::new(next));
    }
    Ok(CommandResult::ProducerIdBlock {
        first,
        len: PRODUCER_ID_BLOCK,
    })
}
