//! Partitions: ISR changes by their leaders, and elections when nobody is electable.

use rivven_core_types::{
    AlterPartitionError, AlterPartitionOutcome, AlterPartitionProposal, BrokerId, LogIndex,
    NodeEpoch, PartitionEpoch, PartitionId, PartitionState, RecoveryState, limits, planted,
};

use super::placement::complete;
use super::{clamp, current_life};
use crate::command::ReplicaClaim;
use crate::election::{IsrChange, change_isr, install_leader};
use crate::rejection::Rejection;
use crate::result::CommandResult;
use crate::state::ClusterState;

pub(super) fn alter(
    state: &mut ClusterState,
    index: LogIndex,
    (broker, node_epoch): (BrokerId, NodeEpoch),
    proposals: &[AlterPartitionProposal],
) -> Result<CommandResult, Rejection> {
    current_life(state, broker, node_epoch)?;
    if proposals.len() > limits::MAX_PARTITIONS_PER_REQUEST {
        return Err(Rejection::TooManyItems {
            found: clamp(proposals.len()),
            max: clamp(limits::MAX_PARTITIONS_PER_REQUEST),
        });
    }
    let outcomes = proposals
        .iter()
        .map(|proposal| AlterPartitionOutcome {
            partition: proposal.partition,
            result: alter_one(state, index, broker, proposal),
        })
        .collect();
    Ok(CommandResult::PartitionsAltered { outcomes })
}

fn alter_one(
    state: &mut ClusterState,
    index: LogIndex,
    sender: BrokerId,
    proposal: &AlterPartitionProposal,
) -> Result<PartitionState, AlterPartitionError> {
    let old = state
        .partition(&proposal.partition)
        .ok_or(AlterPartitionError::UnknownPartition)?;
    validate(state, old, sender, proposal)?;
    let isr: Vec<BrokerId> = proposal.new_isr.iter().map(|m| m.broker).collect();
    let change = IsrChange {
        isr: &isr,
        lost: None,
        recovery: proposal.recovery,
    };
    let new = change_isr(old, &change, |b| state.is_active(b)).unwrap_or_else(|| {
        // The same set again. The partition epoch moves all the same: it is how a leader withdraws a
        // proposal of which a copy may still be under way.
        let mut new = old.clone();
        new.partition_epoch = old.partition_epoch.next().unwrap_or(old.partition_epoch);
        new
    });
    state.put_partition(new.clone(), index);
    Ok(complete(state, index, &proposal.partition).unwrap_or(new))
}

/// The checks of KIP-497, KIP-841 and KIP-903, in the order of Kafka's controller: what the sender
/// has to do next depends on which of them fails first (KAFKA-14154).
fn validate(
    state: &ClusterState,
    old: &PartitionState,
    sender: BrokerId,
    proposal: &AlterPartitionProposal,
) -> Result<(), AlterPartitionError> {
    if proposal.leader_epoch > old.leader_epoch || proposal.partition_epoch > old.partition_epoch {
        return Err(AlterPartitionError::NotController);
    }
    if proposal.leader_epoch < old.leader_epoch {
        return Err(AlterPartitionError::FencedLeaderEpoch);
    }
    if old.leader != Some(sender) {
        return Err(AlterPartitionError::InvalidRequest);
    }
    if proposal.partition_epoch < old.partition_epoch
        && !planted("metadata.takes-an-old-in-sync-set")
    {
        return Err(AlterPartitionError::InvalidUpdateVersion);
    }
    let members = &proposal.new_isr;
    let is_set_of_replicas = members.len() <= old.replicas.len()
        && members.iter().enumerate().all(|(place, member)| {
            let earlier = members.iter().take(place);
            old.is_replica(member.broker) && earlier.clone().all(|m| m.broker != member.broker)
        });
    let recovering = proposal.recovery == RecoveryState::Recovering;
    let valid = is_set_of_replicas
        && members.iter().any(|member| member.broker == sender)
        && !(recovering && members.len() > 1)
        && !(recovering && old.recovery == RecoveryState::Recovered)
        && old.partition_epoch.next().is_some();
    if !valid {
        return Err(AlterPartitionError::InvalidRequest);
    }
    let eligible = members.iter().all(|member| {
        state.broker(member.broker).is_some_and(|b| {
            let same_life =
                b.node_epoch == member.node_epoch || planted("metadata.another-life-may-join");
            b.is_active() && same_life
        })
    });
    if !eligible {
        return Err(AlterPartitionError::IneligibleReplica);
    }
    Ok(())
}

/// The partition, if it has no leader.
fn leaderless(state: &ClusterState, id: PartitionId) -> Result<&PartitionState, Rejection> {
    let partition = state
        .partition(&id)
        .ok_or(Rejection::UnknownPartition { partition: id })?;
    match partition.leader {
        Some(leader) => Err(Rejection::ElectionNotNeeded { leader }),
        None => Ok(partition),
    }
}

pub(super) fn recover(
    state: &mut ClusterState,
    index: LogIndex,
    id: PartitionId,
    partition_epoch: PartitionEpoch,
    claims: &[ReplicaClaim],
) -> Result<CommandResult, Rejection> {
    let old = leaderless(state, id)?;
    if old.partition_epoch != partition_epoch {
        return Err(Rejection::StalePartitionEpoch {
            found: partition_epoch,
            current: old.partition_epoch,
        });
    }
    if let Some(broker) = old.elr.first().copied() {
        return Err(Rejection::AwaitingEligibleReplica { broker });
    }
    let winner = longest_log(state, old, claims)?;
    let new = install_leader(old, winner, RecoveryState::Recovered);
    state.put_partition(new.clone(), index);
    let partition = complete(state, index, &id).unwrap_or(new);
    Ok(CommandResult::PartitionElected { partition })
}

/// The replica with the greatest (last epoch, end offset), as in Raft's vote; among equals the first
/// in replica order. Claims of more replicas than must report only help: by log matching, a greater
/// last epoch means every record committed in the epochs before it.
fn longest_log(
    state: &ClusterState,
    partition: &PartitionState,
    claims: &[ReplicaClaim],
) -> Result<BrokerId, Rejection> {
    if claims.len() > limits::MAX_REPLICATION_FACTOR {
        return Err(Rejection::TooManyItems {
            found: clamp(claims.len()),
            max: clamp(limits::MAX_REPLICATION_FACTOR),
        });
    }
    for (place, claim) in claims.iter().enumerate() {
        let broker = claim.broker;
        let twice = claims.iter().take(place).any(|c| c.broker == broker);
        let from_the_future = claim.last_epoch > Some(partition.leader_epoch);
        if twice || from_the_future || !partition.is_replica(broker) {
            return Err(Rejection::InvalidClaim { broker });
        }
        if !current_life(state, broker, claim.node_epoch)?.is_active() {
            return Err(Rejection::MissingClaim { broker });
        }
    }
    let claim_of = |broker: &BrokerId| claims.iter().find(|claim| claim.broker == *broker);
    let must_report = &partition.last_known_isr;
    // One whose disk was exchanged has a log, but not the one that is asked for.
    let lost = state.lost_members(&partition.id);
    let silent = must_report
        .iter()
        .find(|b| claim_of(b).is_none() || lost.contains(b));
    if let Some(broker) = silent.filter(|_| !planted("metadata.recovers-without-everybody")) {
        return Err(Rejection::MissingClaim { broker: *broker });
    }
    let mut best: Option<&ReplicaClaim> = None;
    for claim in partition.replicas.iter().filter_map(claim_of) {
        let length = |c: &ReplicaClaim| {
            let epoch = c
                .last_epoch
                .filter(|_| !planted("metadata.recovers-by-length-alone"));
            (epoch, c.log_end)
        };
        if best.is_none_or(|best| length(claim) > length(best)) {
            best = Some(claim);
        }
    }
    let index = partition.id.index.get();
    best.map(|claim| claim.broker)
        .ok_or(Rejection::NoActiveReplica { index })
}

pub(super) fn elect_unclean(
    state: &mut ClusterState,
    index: LogIndex,
    id: PartitionId,
) -> Result<CommandResult, Rejection> {
    let old = leaderless(state, id)?;
    // Whoever was in the ISR last lacks least, unless it came back with another disk.
    let active = |broker: &&BrokerId| state.is_active(**broker);
    let lost = state.lost_members(&id);
    let kept = |broker: &&BrokerId| active(broker) && !lost.contains(broker);
    let winner = old
        .last_known_isr
        .iter()
        .find(kept)
        .or_else(|| old.replicas.iter().find(kept))
        .or_else(|| lost.iter().find(active))
        .copied()
        .ok_or_else(|| Rejection::NoActiveReplica {
            index: id.index.get(),
        })?;
    let new = install_leader(old, winner, RecoveryState::Recovering);
    state.put_partition(new.clone(), index);
    Ok(CommandResult::PartitionElected { partition: new })
}
