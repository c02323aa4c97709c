//! How the cluster is doing, as this node sees it.

use rivven_metadata::ClusterState;
use rivven_raft_store::{RaftState, RaftStatus};

use crate::broker::SessionStatus;

/// What an operator wants to know first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// There is a controller, every broker is active and every partition fully replicated.
    Healthy,
    /// Serving, but something is missing: a broker, a replica.
    Degraded,
    /// No controller, or a partition without a leader.
    Unhealthy,
}

/// A summary of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterHealth {
    /// The verdict.
    pub state: HealthState,
    /// Whether this node is the controller.
    pub is_leader: bool,
    /// Whether a controller is known.
    pub has_controller: bool,
    /// Whether this broker may lead.
    pub is_active: bool,
    /// Registered brokers, without those that were removed.
    pub node_count: usize,
    /// Brokers that may lead.
    pub healthy_nodes: usize,
    /// Topics.
    pub topic_count: usize,
    /// Partitions.
    pub partition_count: usize,
    /// Partitions without a leader.
    pub offline_partitions: usize,
    /// Partitions with fewer in-sync replicas than replicas.
    pub under_replicated_partitions: usize,
    /// Partitions with fewer in-sync replicas than `min.insync.replicas`.
    pub under_min_isr_partitions: usize,
    /// Partition logs of this node that have failed (disk error or corruption).
    pub failed_local_logs: usize,
}

impl ClusterHealth {
    pub(crate) fn new(
        state: &ClusterState,
        raft: &RaftStatus,
        session: SessionStatus,
        failed_local_logs: usize,
    ) -> Self {
        let removed = rivven_core_types::FencedState::Removed;
        let node_count = state.brokers().filter(|b| b.state != removed).count();
        let healthy_nodes = state.brokers().filter(|b| b.is_active()).count();
        let offline_partitions = state.leaderless().count();
        let under = |p: &&rivven_core_types::PartitionState| p.isr.len() < p.replicas.len();
        let under_replicated_partitions = state.partitions().filter(under).count();
        let under_min_isr_partitions = state.partitions().filter(|p| p.is_under_min_isr()).count();
        let has_controller = raft.leader.is_some();
        let verdict = if !has_controller || offline_partitions > 0 {
            HealthState::Unhealthy
        } else if healthy_nodes < node_count || under_replicated_partitions > 0 {
            HealthState::Degraded
        } else {
            HealthState::Healthy
        };
        Self {
            state: verdict,
            is_leader: raft.state == RaftState::Leader,
            has_controller,
            is_active: session.local.is_some() && !session.fenced,
            node_count,
            healthy_nodes,
            topic_count: state.topic_count(),
            partition_count: state.partition_count(),
            offline_partitions,
            under_replicated_partitions,
            under_min_isr_partitions,
            failed_local_logs,
        }
    }
}
