//! The cluster's metadata as placement sees it.

use std::collections::{BTreeMap, BTreeSet};

use rivven_core_types::{
    BrokerId, FencedState, NodeName, PartitionId, PartitionState, TopicId, limits,
};
use rivven_metadata::{BrokerRecord, ClusterState, TopicRecord};
use rivven_placement::{
    Assignment, ClusterView, Goals, Limiting, Move, NodeLoad, NodeState, PartitionPlacer, Phase,
    PlacedPartition, PlacementError, Plan, Shortage, ViewNode, plan,
};

/// The nodes. One that is fenced keeps what it has and is given nothing, for it may come back; one
/// that is fenced and to be emptied cannot give anything away: its replicas count as lost.
fn view(state: &ClusterState) -> ClusterView {
    let node = |broker: &BrokerRecord| {
        let active = broker.is_active();
        ViewNode {
            id: broker.id,
            rack: broker.info.rack.clone(),
            weight: if active { broker.info.weight } else { 0 },
            state: if is_gone(state, broker) {
                NodeState::Gone
            } else if state.is_draining(broker.id) {
                NodeState::Draining
            } else {
                NodeState::Active
            },
        }
    };
    ClusterView {
        nodes: state.brokers().map(node).collect(),
    }
}

/// The sizes of the partitions' logs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sizes {
    pub(crate) known: BTreeMap<PartitionId, u64>,
    /// What counts as the size of the others.
    pub(crate) unknown: u64,
}

impl Sizes {
    fn of(&self, id: &PartitionId) -> u64 {
        self.known.get(id).copied().unwrap_or(self.unknown)
    }
}

fn assignment(state: &ClusterState, sizes: &Sizes) -> Assignment {
    let placed = |partition: &PartitionState| {
        let replicas = state.settled_replicas(partition).to_vec();
        PlacedPartition {
            id: partition.id,
            // Plans keep the number of replicas: only whoever asks for a reassignment changes it.
            replication_factor: replicas.len(),
            replicas,
            bytes: sizes.of(&partition.id),
        }
    };
    Assignment {
        partitions: state.partitions().map(placed).collect(),
        version: state.applied().get(),
    }
}

/// What would be done about the cluster now.
pub(crate) fn plan_for(state: &ClusterState, goals: &Goals, sizes: &Sizes) -> Plan {
    let mut plan = plan(&assignment(state, sizes), &view(state), goals);
    leave_full_out(state, &mut plan);
    plan
}

/// A partition that has as many replicas as can be has no room for the one to which another moves: its
/// moves would be refused for ever. Somebody has to take a replica from it first.
fn leave_full_out(state: &ClusterState, plan: &mut Plan) {
    let needed = |step: &Move| {
        let partition = state.partition(&step.partition)?;
        let under_way = state.reassignment(&step.partition);
        let original = under_way.map_or(&partition.replicas, |r| &r.original);
        let target = step.apply(state.settled_replicas(partition));
        let adding = target.iter().filter(|b| !original.contains(b)).count();
        Some(original.len() + adding)
    };
    let mut full: Option<Shortage> = None;
    plan.moves.retain(|step| {
        let Some(needed) = needed(step).filter(|n| *n > limits::MAX_REPLICATION_FACTOR) else {
            return true;
        };
        let shortage = full.get_or_insert_with(|| Shortage {
            limiting: Limiting::Replicas,
            needed: to_u64(needed),
            available: to_u64(limits::MAX_REPLICATION_FACTOR),
            replicas: 0,
            example: Some(step.partition),
        });
        shortage.replicas += 1;
        false
    });
    plan.shortages.extend(full);
}

fn to_u64(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// Whether what the broker holds is lost to the cluster: it is not there, and nobody awaits it.
fn is_gone(state: &ClusterState, broker: &BrokerRecord) -> bool {
    // One that was removed never comes back with what it had.
    let unwanted = broker.state == FencedState::Removed || state.is_draining(broker.id);
    unwanted && !broker.is_active()
}

/// The replicas that are on their way, as moves. One on its way to a broker that is gone will never
/// arrive: it counts for nothing, so that it can be sent elsewhere.
pub(crate) fn in_flight(state: &ClusterState, sizes: &Sizes) -> Vec<Move> {
    let mut moves = Vec::new();
    for (id, reassignment) in state.reassignments() {
        let (target, original) = (&reassignment.target, &reassignment.original);
        let mut leaving = original.iter().filter(|b| !target.contains(b));
        let arrives = |to: &&BrokerId| state.broker(**to).is_some_and(|b| !is_gone(state, b));
        let adding = target.iter().filter(|b| !original.contains(b));
        for to in adding.filter(arrives) {
            moves.push(Move {
                partition: *id,
                from: leaving.next().copied(),
                to: *to,
                phase: Phase::Drain,
                bytes: sizes.of(id),
            });
        }
    }
    moves
}

/// Whether the partition's reassignment cannot end before a broker comes back that is not there: nobody
/// can say when that will be.
pub(crate) fn waits_for_absent(state: &ClusterState, id: &PartitionId) -> bool {
    let (Some(under_way), Some(partition)) = (state.reassignment(id), state.partition(id)) else {
        return false;
    };
    let lacks = |b: &BrokerId| !partition.isr.contains(b) && !state.is_active(*b);
    under_way.target.iter().any(lacks)
}

/// The loads of all brokers, but for those of one topic.
fn loads(state: &ClusterState, except: Option<TopicId>) -> BTreeMap<BrokerId, NodeLoad> {
    let mut loads: BTreeMap<BrokerId, NodeLoad> = BTreeMap::new();
    let others = state.partitions().filter(|p| Some(p.id.topic) != except);
    for partition in others {
        for (place, broker) in state.settled_replicas(partition).iter().enumerate() {
            let load = loads.entry(*broker).or_default();
            load.replicas += 1;
            load.leaders += u64::from(place == 0);
        }
    }
    loads
}

/// Tells a placer the brokers that may be given replicas, what they carry, and where the partitions of
/// `grown` are, a topic that is to have more of them.
pub(crate) fn populate<'a>(
    placer: &mut PartitionPlacer,
    state: &'a ClusterState,
    grown: Option<&TopicRecord>,
) -> Result<BTreeMap<&'a NodeName, BrokerId>, PlacementError> {
    let loads = loads(state, grown.map(|topic| topic.id));
    let mut ids = BTreeMap::new();
    let usable = |b: &&BrokerRecord| b.is_active() && !state.is_draining(b.id);
    for broker in state.brokers().filter(usable) {
        placer.add_node(&broker.info);
        let load = loads.get(&broker.id).copied().unwrap_or_default();
        placer.add_load(&broker.info.name, load);
        ids.insert(&broker.info.name, broker.id);
    }
    if let Some(topic) = grown {
        for partition in state.partitions_of_topic(topic.id) {
            let name = |id: &BrokerId| Some(state.broker(*id)?.info.name.clone());
            let replicas: Vec<NodeName> = state
                .settled_replicas(partition)
                .iter()
                .filter_map(name)
                .collect();
            placer.adopt(topic.name.as_str(), partition.id.index.get(), &replicas)?;
        }
    }
    Ok(ids)
}

/// The partitions that are led by another than their preferred replica though that one is in sync.
pub(crate) fn led_by_another(state: &ClusterState) -> impl Iterator<Item = &PartitionState> {
    state.partitions().filter(|partition| {
        partition.replicas.first().is_some_and(|first| {
            partition.leader.is_some_and(|leader| leader != *first)
                && partition.isr.contains(first)
                && state.is_active(*first)
                && !state.is_draining(*first)
        })
    })
}

/// The brokers that are to be emptied and are not empty yet.
pub(crate) fn still_draining(state: &ClusterState) -> BTreeSet<BrokerId> {
    let draining = state.draining().copied();
    draining
        .filter(|broker| state.partitions_of(*broker).next().is_some())
        .collect()
}
