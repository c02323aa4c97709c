//! What an operator asks of the cluster's replicas and leaders.

use std::time::Duration;

use rivven_core_types::{BrokerId, NodeName, PartitionId, limits};
use rivven_metadata::{BrokerRecord, Command, CommandResult, PlacementCommand};
use rivven_placement::{Goals, Plan};

use crate::coordinator::ClusterCoordinator;
use crate::error::CoordinatorError;
use crate::layout::{Sizes, led_by_another, plan_for, still_draining};

/// How far the cluster is on its way to what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementStatus {
    /// The brokers that are to be emptied, and how many replicas each still has.
    pub draining: Vec<(NodeName, usize)>,
    /// Whether replicas are being evened out.
    pub rebalancing: bool,
    /// Partitions whose replicas are on their way.
    pub reassigning: usize,
    /// Partitions under their min ISR: while there is one, only lost replicas are replaced.
    pub under_min_isr: usize,
    /// Partitions that are not led by their preferred replica though it is in sync.
    pub not_preferred: usize,
}

impl ClusterCoordinator {
    /// What a rebalance would do now, without doing it. Bytes are those that leaders have told this node:
    /// all of them if it is the controller, else none.
    pub fn placement_plan(&self, goals: &Goals) -> Plan {
        let sizes = Sizes {
            known: self.log_sizes().snapshot(),
            unknown: 0,
        };
        plan_for(&self.cluster_state(), goals, &sizes)
    }

    /// How far draining and rebalancing are.
    pub fn placement_status(&self) -> PlacementStatus {
        let state = self.cluster_state();
        let replicas = |broker: BrokerId| state.partitions_of(broker).count();
        let draining = state.draining().filter_map(|id| state.broker(*id));
        PlacementStatus {
            draining: draining
                .map(|b| (b.info.name.clone(), replicas(b.id)))
                .collect(),
            rebalancing: state.is_rebalancing(),
            reassigning: state.reassignments().count(),
            under_min_isr: state.partitions().filter(|p| p.is_under_min_isr()).count(),
            not_preferred: led_by_another(&state).count(),
        }
    }

    /// Whether every broker that is to be emptied is empty.
    pub fn is_drained(&self) -> bool {
        still_draining(&self.cluster_state()).is_empty()
    }

    /// Says whether a broker is to be emptied. The controller moves its replicas away in the background;
    /// of a broker that is fenced, which cannot give anything away, they are replaced.
    ///
    /// # Errors
    /// [`CoordinatorError::InvalidRequest`] for a name that no broker has; nothing changed.
    pub async fn set_draining(
        &self,
        name: &NodeName,
        draining: bool,
        deadline: Duration,
    ) -> Result<(), CoordinatorError> {
        let broker = self.broker_named(name)?;
        let command = PlacementCommand::SetDraining { broker, draining };
        self.place(command, deadline).await.map(drop)
    }

    /// Has the controller even replicas and leaders out, or stop doing so. Moves under way are finished.
    ///
    /// # Errors
    /// [`CoordinatorError::Propose`]: the command may still be executed; asking again is harmless.
    pub async fn rebalance(
        &self,
        rebalancing: bool,
        deadline: Duration,
    ) -> Result<(), CoordinatorError> {
        let command = PlacementCommand::SetRebalancing { rebalancing };
        self.place(command, deadline).await.map(drop)
    }

    /// Makes the preferred replicas lead wherever they are in sync. Returns how many leaders changed.
    ///
    /// # Errors
    /// [`CoordinatorError::Propose`]: the command may still be executed; asking again is harmless.
    pub async fn elect_preferred(&self, deadline: Duration) -> Result<u32, CoordinatorError> {
        let state = self.cluster_state();
        let partitions: Vec<PartitionId> = led_by_another(&state)
            .map(|partition| partition.id)
            .take(limits::MAX_PARTITIONS_PER_REQUEST)
            .collect();
        if partitions.is_empty() {
            return Ok(0);
        }
        let command = PlacementCommand::ElectPreferred { partitions };
        self.place(command, deadline).await
    }

    pub(crate) fn broker_named(&self, name: &NodeName) -> Result<BrokerId, CoordinatorError> {
        let state = self.cluster_state();
        let found = state.broker_by_name(name).map(|broker| broker.id);
        found.ok_or_else(|| {
            let known: Vec<&str> = state.brokers().map(broker_name).collect();
            let known = known.join(", ");
            CoordinatorError::InvalidRequest(format!(
                "no node is called {name}; there are: {known}"
            ))
        })
    }

    pub(crate) async fn place(
        &self,
        command: PlacementCommand,
        deadline: Duration,
    ) -> Result<u32, CoordinatorError> {
        let command = Command::Place(command);
        let committed = self.proposer().commit(&command, deadline).await?;
        match committed.result {
            CommandResult::Placed { partitions_changed } => Ok(partitions_changed),
            other => Err(CoordinatorError::UnexpectedAnswer(format!("{other:?}"))),
        }
    }
}

fn broker_name(broker: &BrokerRecord) -> &str {
    broker.info.name.as_str()
}
