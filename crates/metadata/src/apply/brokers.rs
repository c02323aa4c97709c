//! Brokers: registration, fencing, unfencing, controlled shutdown.

use std::collections::BTreeSet;

use rivven_core_types::{
    BrokerId, FencedState, LogIndex, NodeEpoch, PartitionId, PartitionState, limits, planted,
};

use super::placement::complete;
use super::{clamp, current_life};
use crate::election::{IsrChange, change_isr};
use crate::levels::Registration;
use crate::records::BrokerRecord;
use crate::rejection::Rejection;
use crate::result::CommandResult;
use crate::state::ClusterState;

pub(super) fn register(
    state: &mut ClusterState,
    index: LogIndex,
    registration: Registration,
) -> Result<CommandResult, Rejection> {
    let Registration {
        info,
        incarnation,
        raft_id,
        log_dir,
        lossy,
        levels,
    } = registration;
    state.check_build(&info.name, levels)?;
    let node_epoch = i64::try_from(index.get())
        .map(NodeEpoch::new)
        .map_err(|_| Rejection::EpochsExhausted)?;
    if let Some(owner) = state.broker_by_raft_id(raft_id)
        && (owner.info.name != info.name || owner.incarnation != incarnation)
    {
        return Err(Rejection::RaftIdInUse {
            raft_id,
            owner: owner.id,
        });
    }
    let earlier = state.broker_by_name(&info.name);
    if let Some(removed) = earlier.filter(|e| is_removed(e) && e.incarnation == incarnation) {
        return Err(Rejection::BrokerRemoved { broker: removed.id });
    }
    let id = match earlier {
        Some(earlier) => earlier.id,
        None => next_broker_id(state)?,
    };
    // Another disk holds nothing of what this broker once had (KIP-858, KIP-903).
    let all_lost = earlier.is_some_and(|e| e.incarnation != incarnation || e.log_dir != log_dir);
    state.put_broker(BrokerRecord {
        id,
        info,
        incarnation,
        raft_id,
        log_dir,
        node_epoch,
        state: FencedState::Fenced,
        leaving: false,
    });
    state.set_levels(id, levels);
    let lossy: BTreeSet<PartitionId> = lossy.into_iter().collect();
    retire(state, index, id, |partition| {
        (all_lost || lossy.contains(partition)) && !planted("metadata.lossy-stays-eligible")
    });
    if all_lost {
        mark_lost(state, id);
    }
    Ok(CommandResult::Registered {
        broker: id,
        node_epoch,
    })
}

/// Numbers go up from 1, and no broker is ever forgotten.
fn next_broker_id(state: &ClusterState) -> Result<BrokerId, Rejection> {
    let full = Rejection::TooManyBrokers {
        max: clamp(limits::MAX_BROKERS),
    };
    if state.broker_count() >= limits::MAX_BROKERS {
        return Err(full);
    }
    let last = state.last_broker_id().map_or(0, BrokerId::get);
    last.checked_add(1).map(BrokerId::new).ok_or(full)
}

pub(super) fn unfence(
    state: &mut ClusterState,
    index: LogIndex,
    broker: BrokerId,
    node_epoch: NodeEpoch,
) -> Result<CommandResult, Rejection> {
    let mut record = current_life(state, broker, node_epoch)?.clone();
    if is_removed(&record) {
        return Err(Rejection::BrokerRemoved { broker });
    }
    if record.leaving {
        return Err(Rejection::BrokerShuttingDown { broker });
    }
    if record.is_active() {
        return Ok(changed(broker, FencedState::Active, 0));
    }
    record.state = FencedState::Active;
    state.put_broker(record);
    let leaderless: Vec<PartitionId> = state
        .partitions_of(broker)
        .filter(|partition| partition.leader.is_none())
        .map(|partition| partition.id)
        .collect();
    let count = elect_each(state, index, &leaderless);
    Ok(changed(broker, FencedState::Active, count))
}

pub(super) fn fence(
    state: &mut ClusterState,
    index: LogIndex,
    broker: BrokerId,
    node_epoch: NodeEpoch,
) -> Result<CommandResult, Rejection> {
    let mut record = current_life(state, broker, node_epoch)?.clone();
    if is_removed(&record) {
        return Err(Rejection::BrokerRemoved { broker });
    }
    if record.state == FencedState::Fenced {
        return Ok(changed(broker, FencedState::Fenced, 0));
    }
    record.state = FencedState::Fenced;
    state.put_broker(record);
    let count = retire(state, index, broker, |_| false);
    Ok(changed(broker, FencedState::Fenced, count))
}

pub(super) fn begin_shutdown(
    state: &mut ClusterState,
    index: LogIndex,
    broker: BrokerId,
    node_epoch: NodeEpoch,
) -> Result<CommandResult, Rejection> {
    let mut record = current_life(state, broker, node_epoch)?.clone();
    if is_removed(&record) {
        return Err(Rejection::BrokerRemoved { broker });
    }
    if record.leaving {
        return Ok(changed(broker, record.state, 0));
    }
    record.leaving = true;
    if record.is_active() {
        record.state = FencedState::ShuttingDown;
    }
    let now = record.state;
    state.put_broker(record);
    let count = retire(state, index, broker, |_| false);
    Ok(changed(broker, now, count))
}

/// Removes a broker for good. Done again it changes nothing.
pub(super) fn remove(
    state: &mut ClusterState,
    index: LogIndex,
    (broker, node_epoch): (BrokerId, NodeEpoch),
    accept_loss: bool,
) -> Result<CommandResult, Rejection> {
    let mut record = current_life(state, broker, node_epoch)?.clone();
    if is_removed(&record) {
        return Ok(changed(broker, FencedState::Removed, 0));
    }
    let replicas = state.partitions_of(broker).count();
    if record.is_active() && replicas > 0 {
        let replicas = clamp(replicas);
        return Err(Rejection::BrokerInUse { broker, replicas });
    }
    // With nobody electable the partition waits for the claims of its last ISR, this one's too.
    let held_here_only = |p: &&PartitionState| {
        let mut electable = p.isr.iter().chain(&p.elr);
        let awaited = electable.clone().next().is_some() || p.last_known_isr.contains(&broker);
        awaited && electable.all(|b| *b == broker)
    };
    let last = state.partitions_of(broker).find(held_here_only);
    if let (Some(last), false) = (last, accept_loss) {
        let partition = last.id;
        return Err(Rejection::LastElectableReplica { broker, partition });
    }
    record.state = FencedState::Removed;
    state.put_broker(record);
    let count = retire(state, index, broker, |_| true);
    Ok(changed(broker, FencedState::Removed, count))
}

fn is_removed(record: &BrokerRecord) -> bool {
    record.state == FencedState::Removed
}

const fn changed(broker: BrokerId, state: FencedState, partitions_changed: u32) -> CommandResult {
    CommandResult::BrokerChanged {
        broker,
        state,
        partitions_changed,
    }
}

/// Where the broker was in the last known ISR, it cannot report any more what it held then: not with a
/// blank log, nor with what it fetches from now on. This holds as well where an earlier registration
/// has taken it out of the ISR.
fn mark_lost(state: &mut ClusterState, broker: BrokerId) {
    let affected: Vec<PartitionId> = state
        .partitions_of(broker)
        .filter(|p| p.last_known_isr.contains(&broker))
        .map(|p| p.id)
        .collect();
    for id in affected {
        state.mark_lost(id, broker);
    }
}

/// Takes a broker that is not active any more out of every ISR, and out of every ELR where it lost
/// records. One broker per command, on the state that the last one left (KAFKA-13173); no partition's change
/// depends on another's.
fn retire(
    state: &mut ClusterState,
    index: LogIndex,
    broker: BrokerId,
    is_lost: impl Fn(&PartitionId) -> bool,
) -> u32 {
    let without = |old: &PartitionState| {
        if !old.isr.contains(&broker) && !old.elr.contains(&broker) {
            return None;
        }
        let isr: Vec<BrokerId> = old.isr.iter().copied().filter(|b| *b != broker).collect();
        let change = IsrChange {
            isr: &isr,
            lost: is_lost(&old.id).then_some(broker),
            recovery: old.recovery,
        };
        change_isr(old, &change, |b| state.is_active(b))
    };
    let changed: Vec<PartitionState> = state.partitions_of(broker).filter_map(without).collect();
    let count = clamp(changed.len());
    for new in changed {
        let id = new.id;
        state.put_partition(new, index);
        complete(state, index, &id);
    }
    count
}

/// Holds an election in each of the partitions, on the ISR and ELR they have.
fn elect_each(state: &mut ClusterState, index: LogIndex, partitions: &[PartitionId]) -> u32 {
    let mut count = 0u32;
    for id in partitions {
        let Some(old) = state.partition(id) else {
            continue;
        };
        let change = IsrChange {
            isr: &old.isr,
            lost: None,
            recovery: old.recovery,
        };
        if let Some(new) = change_isr(old, &change, |b| state.is_active(b)) {
            state.put_partition(new, index);
            complete(state, index, id);
            count = count.saturating_add(1);
        }
    }
    count
}
