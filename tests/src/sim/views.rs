//! How the cluster looks: whether all is well, and what is not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use rivven_core_types::{Durability, Offset, PartitionId};
use rivven_isr::ReplicaRole;

use super::stage::Stage;

/// All nodes are active in one cluster, and agree on its metadata.
pub(super) fn whole(stage: &Stage) -> bool {
    let nodes = stage
        .cluster()
        .nodes
        .iter()
        .filter(|n| n.in_service)
        .count();
    let living = stage.living();
    let all = living.len() == nodes;
    let active = living.iter().all(|node| {
        let health = node.coordinator.health();
        health.is_active && health.healthy_nodes == nodes
    });
    let mut states = living.iter().map(|node| {
        let state = node.coordinator.cluster_state();
        (state.applied(), state.hash())
    });
    let first = states.next();
    all && active && states.all(|state| Some(state) == first)
}

/// Every partition has a leader and all of its replicas in sync.
pub(super) fn replicated(stage: &Stage) -> bool {
    stage.living().first().is_some_and(|node| {
        let state = node.coordinator.cluster_state();
        state
            .partitions()
            .all(|p| p.leader.is_some() && p.isr.len() == p.replicas.len())
    })
}

/// All replicas have the same end, everything is committed, and durable where that was promised.
pub(super) fn level(stage: &Stage) -> bool {
    let mut ends: BTreeMap<PartitionId, Offset> = BTreeMap::new();
    stage.living().iter().all(|node| {
        let statuses = node.coordinator.replication().map(|r| r.statuses());
        let state = node.coordinator.cluster_state();
        statuses.iter().flatten().all(|status| {
            // What was deleted goes away.
            let Some(record) = state.partition(&status.partition) else {
                return false;
            };
            let synced = record.durability == Durability::Fsync;
            let end = *ends.entry(status.partition).or_insert(status.log_end);
            let is_durable = status.durable_end == end || !synced;
            status.log_end == end && is_durable && status.high_watermark == end
        })
    })
}

/// What is not well, in words.
pub(super) fn diagnose(stage: &Stage) -> String {
    let mut text = format!("{} unacknowledged; ", stage.unacked.load(Ordering::Relaxed));
    for node in stage.living() {
        let health = node.coordinator.health();
        let raft = node.coordinator.raft_status();
        let session = node.coordinator.session();
        // Writing to a string does not fail.
        let _ok = write!(
            text,
            "node {}: raft {:?} term {} leader {:?} applied {:?}, active {}, fenced {}, {} of {} healthy; ",
            node.number + 1,
            raft.state,
            raft.term,
            raft.leader.as_ref().map(ToString::to_string),
            raft.applied,
            health.is_active,
            session.fenced,
            health.healthy_nodes,
            health.node_count,
        );
        let state = node.coordinator.cluster_state();
        let lacking = state
            .partitions()
            .filter(|p| p.leader.is_none() || p.isr.len() < p.replicas.len());
        for p in lacking.take(4) {
            let _ok = write!(text, "{p:?}; ");
        }
        let statuses = node.coordinator.replication().map(|r| r.statuses());
        for s in statuses.into_iter().flatten() {
            let behind = s.log_end != s.high_watermark || s.durable_end != s.log_end;
            if behind || matches!(s.role, ReplicaRole::Idle | ReplicaRole::Offline) {
                let _ok = write!(
                    text,
                    "{} {:?} epoch {}.{} hw {} end {} durable {} followers {:?} {:?}; ",
                    stage.label(s.partition),
                    s.role,
                    s.leader_epoch,
                    s.partition_epoch,
                    s.high_watermark,
                    s.log_end,
                    s.durable_end,
                    s.followers,
                    s.offline_reason,
                );
            }
        }
    }
    text
}
