//! The assignment in numbers: what the phases work on.

use std::collections::BTreeMap;

use rivven_core_types::{BrokerId, PartitionId, RackId, limits};

use super::shares::Share;
use super::types::{
    Assignment, ClusterView, Goals, Limiting, Move, NodeState, Phase, PlacedPartition, Shortage,
};
use crate::config::RackMode;
use crate::hash::{NODE_SEED, xxh64};

/// No node: the replica is missing or was on one that is gone.
pub(super) const NOBODY: u32 = u32::MAX;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) id: BrokerId,
    pub(super) rack: usize,
    pub(super) weight: u32,
    pub(super) state: NodeState,
    pub(super) hash: u64,
    /// The partitions it holds, sorted.
    pub(super) held: Vec<u32>,
}

impl Node {
    /// Keeps what it has.
    pub(super) fn is_active(&self) -> bool {
        self.state == NodeState::Active
    }

    /// May be given replicas.
    pub(super) fn is_usable(&self) -> bool {
        self.is_active() && self.weight > 0
    }

    pub(super) fn load(&self) -> u64 {
        self.held.len() as u64
    }
}

/// Nodes, partitions and replicas by number.
pub(super) struct Model<'a> {
    pub(super) goals: &'a Goals,
    /// Sorted by id.
    pub(super) nodes: Vec<Node>,
    /// How many racks there are, and per rack the usable nodes.
    pub(super) racks: Vec<Vec<usize>>,
    /// What each node should hold.
    pub(super) shares: Vec<Share>,
    /// Per partition, sorted by id: where it stands in the assignment given.
    pub(super) source: Vec<usize>,
    ids: Vec<PartitionId>,
    bytes: Vec<u64>,
    /// Per partition: the first of its topic, and the first of the next topic.
    topic: Vec<(u32, u32)>,
    /// The replicas of all partitions, one after the other.
    slots: Vec<u32>,
    begin: Vec<usize>,
    pub(super) moves: Vec<Move>,
    /// How often a replica was moved.
    pub(super) shifts: u64,
    pub(super) shortages: Vec<Shortage>,
    /// Per slot: what is given up when it moves.
    original: Vec<Option<BrokerId>>,
    /// Per slot that moves: its move.
    move_of_slot: BTreeMap<usize, usize>,
}

/// A number for an index: there are at most a few million of anything.
pub(super) fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NOBODY)
}

impl<'a> Model<'a> {
    pub(super) fn new(current: &Assignment, view: &ClusterView, goals: &'a Goals) -> Self {
        let (nodes, racks) = nodes_of(view);
        let mut source: Vec<usize> = (0..current.partitions.len()).collect();
        source.sort_by_key(|at| current.partitions[*at].id);
        source.dedup_by_key(|at| current.partitions[*at].id);
        let mut model = Self {
            goals,
            nodes,
            racks,
            shares: Vec::new(),
            ids: Vec::with_capacity(source.len()),
            bytes: Vec::with_capacity(source.len()),
            topic: Vec::with_capacity(source.len()),
            slots: Vec::with_capacity(source.len() * 3),
            begin: Vec::with_capacity(source.len() + 1),
            original: Vec::with_capacity(source.len() * 3),
            source: Vec::new(),
            moves: Vec::new(),
            shifts: 0,
            move_of_slot: BTreeMap::new(),
            shortages: Vec::new(),
        };
        model.begin.push(0);
        for (partition, at) in source.iter().enumerate() {
            model.add(partition, &current.partitions[*at]);
        }
        model.source = source;
        model.find_topics();
        model
    }

    fn add(&mut self, partition: usize, placed: &PlacedPartition) {
        self.ids.push(placed.id);
        self.bytes.push(placed.bytes);
        let start = self.slots.len();
        let wanted = placed
            .replication_factor
            .clamp(1, limits::MAX_REPLICATION_FACTOR);
        for broker in &placed.replicas {
            let node = self.nodes.binary_search_by_key(broker, |n| n.id).ok();
            let known = node
                .filter(|node| self.nodes[*node].state != NodeState::Gone)
                .map(number)
                .filter(|node| !self.slots[start..].contains(node));
            self.slots.push(known.unwrap_or(NOBODY));
            self.original.push(Some(*broker));
            if let Some(node) = known {
                self.nodes[node as usize].held.push(number(partition));
            }
        }
        while self.slots.len() - start < wanted {
            self.slots.push(NOBODY);
            self.original.push(None);
        }
        self.begin.push(self.slots.len());
    }

    fn find_topics(&mut self) {
        let mut start = 0;
        while let Some(first) = self.ids.get(start) {
            let same = |id: &PartitionId| id.topic == first.topic;
            let end = start + self.ids[start..].partition_point(same);
            for _ in start..end {
                self.topic.push((number(start), number(end)));
            }
            start = end;
        }
    }

    pub(super) fn partitions(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn total_slots(&self) -> u64 {
        self.slots.len() as u64
    }

    pub(super) fn id(&self, partition: usize) -> PartitionId {
        self.ids[partition]
    }

    pub(super) fn size(&self, partition: usize) -> u64 {
        self.bytes[partition]
    }

    pub(super) fn replicas(&self, partition: usize) -> &[u32] {
        &self.slots[self.begin[partition]..self.begin[partition + 1]]
    }

    pub(super) fn replicas_mut(&mut self, partition: usize) -> &mut [u32] {
        &mut self.slots[self.begin[partition]..self.begin[partition + 1]]
    }

    pub(super) fn node(&self, slot: u32) -> Option<usize> {
        (slot != NOBODY).then_some(slot as usize)
    }

    pub(super) fn broker(&self, slot: u32) -> Option<BrokerId> {
        self.node(slot).map(|node| self.nodes[node].id)
    }

    /// The cap on a node's replicas.
    pub(super) fn cap(&self) -> u64 {
        match self.goals.max_partitions_per_node {
            0 => u64::MAX,
            cap => u64::from(cap),
        }
    }

    /// How many replicas of a partition with `factor` of them a rack may hold.
    pub(super) fn per_rack(&self, factor: usize) -> usize {
        if self.goals.rack_mode == RackMode::Off {
            return factor;
        }
        let usable = self.racks.iter().filter(|rack| !rack.is_empty()).count();
        factor.div_ceil(usable.max(1))
    }

    /// How many replicas of the partition, but for the one at `except`, are in a rack.
    pub(super) fn in_rack(&self, partition: usize, rack: usize, except: usize) -> usize {
        let replicas = self.replicas(partition).iter().enumerate();
        replicas
            .filter(|(place, slot)| {
                *place != except && **slot != NOBODY && self.nodes[**slot as usize].rack == rack
            })
            .count()
    }

    /// How many partitions of the topic of `partition` the node holds.
    pub(super) fn topic_count(&self, node: usize, partition: usize) -> usize {
        let (start, end) = self.topic[partition];
        let held = &self.nodes[node].held;
        held.partition_point(|p| *p < end) - held.partition_point(|p| *p < start)
    }

    pub(super) fn topic_end(&self, partition: usize) -> u32 {
        self.topic[partition].1
    }

    /// Moves the replica at `place` to the node `to`.
    pub(super) fn shift(&mut self, partition: usize, place: usize, to: usize, phase: Phase) {
        self.shifts += 1;
        let at = self.begin[partition] + place;
        if let Some(node) = self.node(self.slots[at]) {
            let held = &mut self.nodes[node].held;
            if let Ok(found) = held.binary_search(&number(partition)) {
                held.remove(found);
            }
        }
        let held = &mut self.nodes[to].held;
        if let Err(found) = held.binary_search(&number(partition)) {
            held.insert(found, number(partition));
        }
        self.slots[at] = number(to);
        let target = self.nodes[to].id;
        // A replica that moves a second time goes to its last place at once.
        if let Some(earlier) = self.move_of_slot.get(&at) {
            self.moves[*earlier].to = target;
            return;
        }
        self.move_of_slot.insert(at, self.moves.len());
        self.moves.push(Move {
            partition: self.ids[partition],
            from: self.original[at],
            to: target,
            phase,
            bytes: self.bytes[partition],
        });
    }

    /// Takes note that a replica cannot be placed.
    pub(super) fn fall_short(
        &mut self,
        limiting: Limiting,
        (needed, available): (u64, u64),
        example: Option<PartitionId>,
    ) {
        let known = self.shortages.iter_mut().find(|s| s.limiting == limiting);
        match known {
            Some(known) => known.replicas += 1,
            None => self.shortages.push(Shortage {
                limiting,
                needed,
                available,
                replicas: 1,
                example,
            }),
        }
    }
}

/// The nodes by id, and per rack the usable ones. Nodes without a rack are one rack together.
fn nodes_of(view: &ClusterView) -> (Vec<Node>, Vec<Vec<usize>>) {
    let mut order: Vec<usize> = (0..view.nodes.len()).collect();
    order.sort_by_key(|at| view.nodes[*at].id);
    order.dedup_by_key(|at| view.nodes[*at].id);
    let mut names: Vec<Option<&RackId>> = view.nodes.iter().map(|n| n.rack.as_ref()).collect();
    names.sort_unstable();
    names.dedup();
    let mut racks = vec![Vec::new(); names.len()];
    let mut nodes = Vec::with_capacity(order.len());
    for at in order {
        let given = &view.nodes[at];
        let node = Node {
            id: given.id,
            rack: names.binary_search(&given.rack.as_ref()).unwrap_or(0),
            weight: given.weight,
            state: given.state,
            hash: xxh64(&given.id.get().to_be_bytes(), NODE_SEED),
            held: Vec::new(),
        };
        if node.is_usable() {
            racks[node.rack].push(nodes.len());
        }
        nodes.push(node);
    }
    (nodes, racks)
}
