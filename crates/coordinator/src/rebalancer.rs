//! The controller's work on replicas and leaders: it empties brokers that are to be drained, evens the
//! cluster out when asked to, and brings leaders back to their preferred replicas.
//!
//! What is wanted stands in the metadata, so that another controller goes on where this one stopped. Each
//! round plans anew from the metadata and begins as many moves as the limits allow; nothing else is
//! remembered between rounds.

use std::collections::BTreeSet;
use std::time::Duration;

use rivven_core_types::{
    FencedState, MonoTime, PartitionId, Proposer, RaftGroupId, TopicId, limits,
};
use rivven_metadata::{
    BrokerRecord, ClusterState, Command, CommandResult, PlacementCommand, ReplicaTarget,
    TopicRecord,
};
use rivven_placement::{
    Goals, LeaderMove, Limits, Phase, PlacementConfig, PlacementStrategy, Plan,
};
use rivven_raft_store::{RaftHandle, RaftState};
use std::sync::Arc;

use crate::layout::{Sizes, in_flight, led_by_another, plan_for, still_draining, waits_for_absent};
use crate::log_sizes::{LogSizes, unknown_size};
use crate::proposals;
use crate::state::StateWatch;
use rivven_core_types::Clock;

/// How often the metadata is looked through for something to do.
const ROUND: Duration = Duration::from_secs(1);
/// How often leaders are brought back to their preferred replicas: seldom enough that a broker that
/// comes and goes does not take leaderships with it.
const LEADER_ROUND: Duration = Duration::from_secs(30);
/// Most leaders that are brought back in one round, so that clients do not all look for new leaders
/// at once.
const MAX_LEADERS_PER_ROUND: usize = 100;
/// How long a command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(2);

pub(crate) struct Rebalancer {
    pub(crate) raft: RaftHandle,
    pub(crate) state: StateWatch,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: PlacementConfig,
    pub(crate) limits: Limits,
    pub(crate) log_sizes: Arc<LogSizes>,
}

impl Rebalancer {
    /// Runs for ever; the caller aborts it at shutdown.
    pub(crate) async fn run(&self) {
        let mut leaders_due: Option<MonoTime> = None;
        loop {
            tokio::time::sleep(ROUND).await;
            if self.raft.status().state != RaftState::Leader {
                leaders_due = None;
                continue;
            }
            let state = self.state.current();
            let sizes = || Sizes {
                known: self.log_sizes.snapshot(),
                unknown: unknown_size(&self.limits),
            };
            for command in next_steps(&state, &self.config, &self.limits, sizes) {
                self.commit(command).await;
            }
            let now = self.clock.now();
            // A new controller waits for a whole interval first.
            let due = *leaders_due.get_or_insert(now + LEADER_ROUND);
            if now >= due {
                leaders_due = Some(now + LEADER_ROUND);
                if let Some(command) = even_leaders(&self.state.current(), &self.config) {
                    self.commit(command).await;
                }
                let state = self.state.current();
                if let Some(command) = bring_leaders_back(&state) {
                    self.commit(command).await;
                }
            }
        }
    }

    async fn commit(&self, command: PlacementCommand) {
        let command = Command::Place(command);
        let bytes = match proposals::encode(&command, &self.state.current()) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, "a placement command cannot be proposed");
                return;
            }
        };
        let proposal = self
            .raft
            .propose(RaftGroupId::METADATA, bytes, COMMAND_DEADLINE);
        match proposal
            .await
            .map(|proposed| CommandResult::decode(&proposed.result))
        {
            Ok(Ok(CommandResult::Placed { partitions_changed })) => {
                metrics::counter!("rivven_placement_partitions_changed_total")
                    .increment(u64::from(partitions_changed));
                tracing::info!(partitions_changed, "placement changed");
            }
            // Something changed in the meantime: the next round plans on it.
            Ok(Ok(result)) => tracing::debug!(?result, "the placement command came too late"),
            Ok(Err(error)) => tracing::error!(%error, "unreadable result"),
            Err(error) => tracing::debug!(%error, "cannot commit a placement command"),
        }
    }
}

/// What is to be begun now.
pub(crate) fn next_steps(
    state: &ClusterState,
    config: &PlacementConfig,
    limits: &Limits,
    sizes: impl FnOnce() -> Sizes,
) -> Vec<PlacementCommand> {
    let rebalancing = state.is_rebalancing();
    if !rebalancing && still_draining(state).is_empty() {
        return Vec::new();
    }
    let goals = Goals {
        racks: rebalancing,
        balance: rebalancing,
        leaders: rebalancing,
        ..Goals::of(config)
    };
    let sizes = sizes();
    let mut plan = plan_for(state, &goals, &sizes);
    let planned = plan.moves.len();
    // What somebody has asked of a partition is not redirected only to even things out. One that is to have
    // fewer replicas is no move: the wave knows nothing of it.
    let mut awaited = false;
    plan.moves.retain(|step| {
        let urgent = matches!(step.phase, Phase::Repair | Phase::Drain);
        let free = urgent || state.reassignment(&step.partition).is_none();
        awaited |= !free && !waits_for_absent(state, &step.partition);
        free
    });
    let under_min_isr = state.partitions().any(|p| p.is_under_min_isr());
    let in_flight = in_flight(state, &sizes);
    metrics::gauge!("rivven_placement_moves_in_flight").set(count(in_flight.len()));
    metrics::gauge!("rivven_placement_moves_planned").set(count(planned));
    let wave = plan.next_wave(&in_flight, limits, under_min_isr);
    if !wave.is_empty() {
        let changes = wave.iter().filter_map(|step| {
            let partition = state.partition(&step.partition)?;
            Some(ReplicaTarget {
                partition: step.partition,
                partition_epoch: partition.partition_epoch,
                target: Some(step.apply(state.settled_replicas(partition))),
            })
        });
        // Each by itself: one that comes too late must not hold up the others.
        return changes
            .map(|change| PlacementCommand::Reassign {
                changes: vec![change],
            })
            .collect();
    }
    if rebalancing && plan.moves.is_empty() && !awaited && in_flight.is_empty() {
        return finish(state, &plan);
    }
    Vec::new()
}

/// The data is where it should be: now the leaders, which costs nothing.
fn finish(state: &ClusterState, plan: &Plan) -> Vec<PlacementCommand> {
    // Where a reassignment waits for a broker that is not there, somebody else has said who is to lead.
    let free = |step: &&LeaderMove| state.reassignment(&step.partition).is_none();
    let moves = plan.leader_moves.iter().filter(free);
    let mut commands: Vec<PlacementCommand> = moves
        .take(limits::MAX_PARTITIONS_PER_REQUEST)
        .filter_map(|step| {
            let partition = state.partition(&step.partition)?;
            let change = ReplicaTarget {
                partition: step.partition,
                partition_epoch: partition.partition_epoch,
                target: Some(step.apply(state.settled_replicas(partition))),
            };
            Some(PlacementCommand::Reassign {
                changes: vec![change],
            })
        })
        .collect();
    if commands.is_empty() {
        commands.extend(bring_leaders_back(state));
    }
    if commands.is_empty() {
        commands.push(PlacementCommand::SetRebalancing { rebalancing: false });
    }
    commands
}

fn bring_leaders_back(state: &ClusterState) -> Option<PlacementCommand> {
    let away = led_by_another(state).map(|partition| partition.id);
    let partitions: Vec<PartitionId> = away.take(MAX_LEADERS_PER_ROUND).collect();
    (!partitions.is_empty()).then_some(PlacementCommand::ElectPreferred { partitions })
}

/// Preferred leaders of the topics that [`PlacementStrategy::Balanced`] has placed, evened out: what a
/// creation cannot do where nodes have come and topics gone since. Nothing is copied. Only in a cluster at
/// rest: a broker that is away leads again when it is back.
pub(crate) fn even_leaders(
    state: &ClusterState,
    config: &PlacementConfig,
) -> Option<PlacementCommand> {
    let balanced = PlacementStrategy::Balanced.to_string();
    let placed_so = |topic: &&TopicRecord| {
        let placement = topic.placement.as_ref();
        placement.is_some_and(|placement| placement.strategy == balanced)
    };
    let topics: BTreeSet<TopicId> = state.topics().filter(placed_so).map(|t| t.id).collect();
    let present = |b: &BrokerRecord| b.is_active() || b.state == FencedState::Removed;
    // The mark of one that is empty stays, also when it is removed: only those not empty yet count.
    let at_rest = !state.is_rebalancing()
        && still_draining(state).is_empty()
        && state.reassignments().next().is_none()
        && state.brokers().all(present);
    if topics.is_empty() || !at_rest {
        return None;
    }
    let goals = Goals {
        racks: false,
        balance: false,
        leaders_of: Some(topics),
        ..Goals::of(config)
    };
    let plan = plan_for(state, &goals, &Sizes::default());
    let steps = plan.leader_moves.iter().take(MAX_LEADERS_PER_ROUND);
    let changes: Vec<ReplicaTarget> = steps
        .filter_map(|step| {
            let partition = state.partition(&step.partition)?;
            Some(ReplicaTarget {
                partition: step.partition,
                partition_epoch: partition.partition_epoch,
                target: Some(step.apply(&partition.replicas)),
            })
        })
        .collect();
    // Lost replicas are not replaced on this occasion: somebody has to ask for that.
    (plan.moves.is_empty() && !changes.is_empty()).then_some(PlacementCommand::Reassign { changes })
}

/// A count as the gauge wants it.
fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
