//! The controller's rules for one partition, as pure functions: who is in the ISR, who is eligible
//! to lead (KIP-966), who leads, and which epochs grow.

use rivven_core_types::{BrokerId, Durability, PartitionState, RecoveryState, planted};

/// A change of one partition's ISR.
pub(crate) struct IsrChange<'a> {
    /// The members it is to have, before any election.
    pub(crate) isr: &'a [BrokerId],
    /// A replica that lost records: it may be in neither ISR nor ELR.
    pub(crate) lost: Option<BrokerId>,
    /// The state of recovery.
    pub(crate) recovery: RecoveryState,
}

/// The partition after the change and the election it makes necessary; `None` if it is the same.
///
/// The members that leave a too small ISR become eligible leaders, for nothing commits while it is
/// too small; once it is large enough again they are forgotten (KIP-966). A leader stays as long as
/// it is in the ISR and active. Otherwise the first active ISR member in replica order leads, else
/// the first active eligible leader, which then is the ISR; else nobody.
pub(crate) fn change_isr(
    old: &PartitionState,
    change: &IsrChange<'_>,
    is_active: impl Fn(BrokerId) -> bool,
) -> Option<PartitionState> {
    let mut new = old.clone();
    new.recovery = change.recovery;
    let stays = |broker: &BrokerId| change.isr.contains(broker) && change.lost != Some(*broker);
    new.isr = members(old, stays);
    new.elr = members(old, |broker| {
        old.isr.contains(broker) || old.elr.contains(broker)
    });
    if let Some(lost) = change.lost {
        new.elr.retain(|broker| *broker != lost);
    }
    elect(&mut new, &is_active);
    settle(old, &mut new);
    finish(old, new)
}

/// The partition with `leader` as the only member of its ISR, though that one may lack committed
/// records. Everyone else has to catch up with it.
pub(crate) fn install_leader(
    old: &PartitionState,
    leader: BrokerId,
    recovery: RecoveryState,
) -> PartitionState {
    let mut new = old.clone();
    new.isr = vec![leader];
    new.elr = Vec::new();
    new.leader = Some(leader);
    new.recovery = recovery;
    if recovery == RecoveryState::Recovering {
        // From here on the committed records are by definition those that this leader has: nobody
        // else needs to report should it fail.
        new.last_known_isr = vec![leader];
    } else {
        settle(old, &mut new);
    }
    finish(old, new).unwrap_or_else(|| old.clone())
}

/// The partition after a change of its topic's settings. Once it is not under min ISR any more the
/// leader commits without the eligible leaders, so that they are eligible no longer (KIP-966). Its
/// epoch grows in any case, so that the change feed brings every replica the topic's new settings.
pub(crate) fn change_settings(
    old: &PartitionState,
    min_isr: u32,
    durability: Durability,
) -> PartitionState {
    let mut new = old.clone();
    new.min_isr = min_isr;
    new.durability = durability;
    settle(old, &mut new);
    new.partition_epoch = old.partition_epoch.next().unwrap_or(old.partition_epoch);
    new
}

/// The partition with other replicas and min ISR. Whoever is in sync and stays, stays in sync; a leader that
/// goes is replaced by the first member of the ISR. The caller has made sure that enough members stay, and
/// that the ISR is no more or less too small than it was, or all of the replicas.
pub(crate) fn replace_replicas(
    old: &PartitionState,
    replicas: &[BrokerId],
    min_isr: u32,
    is_active: impl Fn(BrokerId) -> bool,
) -> PartitionState {
    let mut new = old.clone();
    new.replicas = replicas.to_vec();
    new.min_isr = min_isr;
    let keep = |list: &[BrokerId]| -> Vec<BrokerId> {
        let stays = |broker: &&BrokerId| list.contains(broker);
        replicas.iter().filter(stays).copied().collect()
    };
    new.isr = keep(&old.isr);
    new.elr = keep(&old.elr);
    new.last_known_isr = keep(&old.last_known_isr);
    new.leader = old.leader.filter(|leader| replicas.contains(leader));
    elect(&mut new, &is_active);
    finish(old, new).unwrap_or_else(|| old.clone())
}

/// The partition with the first of its replicas as leader, if that one is in sync and active.
pub(crate) fn prefer(
    old: &PartitionState,
    is_active: impl Fn(BrokerId) -> bool,
) -> Option<PartitionState> {
    let first = old.replicas.first().copied()?;
    if !old.isr.contains(&first) || !is_active(first) {
        return None;
    }
    let mut new = old.clone();
    new.leader = Some(first);
    finish(old, new)
}

/// The replicas that `keep` picks, in replica order, so that equal sets are equal lists.
fn members(state: &PartitionState, keep: impl Fn(&BrokerId) -> bool) -> Vec<BrokerId> {
    state.replicas.iter().copied().filter(keep).collect()
}

fn elect(new: &mut PartitionState, is_active: &impl Fn(BrokerId) -> bool) {
    let first_active = |among: &[BrokerId]| among.iter().copied().find(|b| is_active(*b));
    let stays = new
        .leader
        .filter(|leader| new.isr.contains(leader) && is_active(*leader));
    new.leader = stays.or_else(|| first_active(&new.isr));
    if new.leader.is_none() && new.isr.is_empty() {
        new.leader = first_active(&new.elr);
        new.isr.extend(new.leader);
    }
}

/// Brings ELR and last known ISR in line with the ISR.
fn settle(old: &PartitionState, new: &mut PartitionState) {
    if new.is_under_min_isr() {
        let isr = &new.isr;
        new.elr.retain(|broker| !isr.contains(broker));
        new.last_known_isr = members(old, |broker| {
            old.last_known_isr.contains(broker)
                || old.isr.contains(broker)
                || old.elr.contains(broker)
                || isr.contains(broker)
        });
    } else {
        if !planted("metadata.eligible-for-ever") {
            new.elr = Vec::new();
        }
        new.last_known_isr = new.isr.clone();
    }
}

/// Raises the epochs; `None` if nothing changed.
///
/// A replica that goes ends the leader's epoch as a new leader does: should it come back, a fetch that it
/// sent before must not speak for the empty log that it then has (Kafka's rule since KIP-455).
///
/// An epoch at the end of its range stays there: that takes 2^31 changes of one partition, and a
/// fenced leader has to go whatever the epoch. Proposals are refused before (see `apply`).
fn finish(old: &PartitionState, mut new: PartitionState) -> Option<PartitionState> {
    if new == *old {
        return None;
    }
    let has_gone = |replica: &BrokerId| !new.replicas.contains(replica);
    let is_new_reign = new.leader != old.leader || old.replicas.iter().any(has_gone);
    if is_new_reign && !planted("metadata.election-keeps-the-epoch") {
        new.leader_epoch = old.leader_epoch.next().unwrap_or(old.leader_epoch);
    }
    new.partition_epoch = old.partition_epoch.next().unwrap_or(old.partition_epoch);
    Some(new)
}
