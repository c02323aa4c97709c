//! The placer: nodes in, replicas out.

use rivven_core_types::limits::{MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR};
use rivven_core_types::{NodeInfo, NodeName, TopicName};

use crate::config::{PlacementConfig, PlacementOptions, PlacementStrategy, RackMode};
use crate::error::PlacementError;
use crate::hash::TopicKey;
use crate::ledger::{Ledger, NodeLoad, Slot};
use crate::plan::leaders::{Candidates, are_within_shares, even_out};
use crate::ring::{Ring, WalkScratch};
use crate::strategy::balanced::Balancer;
use crate::strategy::choice::{Few, Request, Rules};
use crate::strategy::copyset::Copysets;
use crate::strategy::{consistent_hash, scan};
use crate::table::Held;
use crate::topology::Topology;

/// Decides which nodes hold a partition and which of them leads it.
///
/// It keeps the table of what it has assigned, or was told with [`Self::adopt`], and balances new
/// partitions against it. It is a plain value: the same nodes (added in any order) and the same
/// sequence of assignments give the same replicas in every process. Its size is that of the table:
/// the caller's metadata bounds nodes and partitions.
#[derive(Debug, Clone)]
pub struct PartitionPlacer {
    config: PlacementConfig,
    options: PlacementOptions,
    ledger: Ledger,
    derived: Derived,
    /// Replicas of the topic in focus that are about to be placed in one go; 0 if that is not known.
    expected: usize,
}

/// What follows from the rest, made when first needed after a change, so that adding a thousand nodes
/// sorts once.
#[derive(Debug, Clone, Default)]
struct Derived {
    topology: Option<Topology>,
    ring: Option<Ring>,
    balancer: Option<Balancer>,
    copysets: Option<Copysets>,
    walk: WalkScratch,
}

impl Derived {
    /// The membership has changed.
    fn forget_members(&mut self) {
        self.topology = None;
        self.ring = None;
        self.forget_table();
    }

    /// The table has changed otherwise than by an assignment, or another topic is in focus.
    fn forget_table(&mut self) {
        self.balancer = None;
        self.copysets = None;
    }
}

impl PartitionPlacer {
    /// A placer without nodes. An invalid configuration is reported by the first assignment; call
    /// [`PlacementConfig::validate`] to learn of it earlier.
    pub fn new(config: PlacementConfig) -> Self {
        Self::with_options(config, PlacementOptions::default())
    }

    /// As [`Self::new`], with more to choose.
    pub fn with_options(config: PlacementConfig, options: PlacementOptions) -> Self {
        Self {
            config,
            options,
            ledger: Ledger::default(),
            derived: Derived::default(),
            expected: 0,
        }
    }

    /// Adds a node, or replaces what is known of one of that name. A node of weight 0 (one that is
    /// being drained, say) keeps what it has and is given nothing new.
    pub fn add_node(&mut self, node: &NodeInfo) {
        if self.ledger.put_member(node) {
            self.derived.forget_members();
        }
    }

    /// Removes a node, which is given nothing from now on. The table still names it: ask for the
    /// partition again to have it replaced. Returns whether it was there.
    pub fn remove_node(&mut self, node: &NodeName) -> bool {
        let removed = self.ledger.remove_member(node);
        if removed {
            self.derived.forget_members();
        }
        removed
    }

    /// Counts load on a node for partitions that are placed elsewhere, so that new ones are balanced
    /// against them without the whole table.
    pub fn add_load(&mut self, node: &NodeName, load: NodeLoad) {
        self.ledger.add_load(node, load);
        self.derived.forget_table();
    }

    /// The names of the nodes, sorted.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.ledger.members().iter().map(|m| &m.name)
    }

    /// What a node carries; `None` for one that was not added.
    pub fn node_load(&self, node: &NodeName) -> Option<NodeLoad> {
        self.ledger.load(node)
    }

    /// The replicas of a partition as the table has them, preferred leader first.
    pub fn assignment(&self, topic: impl AsRef<str>, partition: u32) -> Option<Vec<NodeName>> {
        let held = self.ledger.replicas(topic.as_ref(), partition);
        (!held.is_empty()).then(|| self.names(held))
    }

    /// Assigns `replication_factor` distinct nodes to a partition; the first is the preferred leader.
    ///
    /// Asking again gives the same answer. If a replica's node was removed since, or the factor was
    /// changed, the replicas that remain keep their place and only what is missing is chosen anew
    /// (what is too much is cut at the end).
    ///
    /// An error leaves the placer as it was: [`PlacementError::NotEnoughNodes`] and
    /// [`PlacementError::NoCapacity`] may pass once there are more nodes; the others will not.
    pub fn assign_partition(
        &mut self,
        topic: impl AsRef<str>,
        partition: u32,
        replication_factor: usize,
    ) -> Result<Vec<NodeName>, PlacementError> {
        self.check(partition, replication_factor)?;
        self.focus(topic.as_ref())?;
        let mut key = TopicKey::new(topic.as_ref());
        let assigned = self.assign(&mut key, partition, replication_factor)?;
        Ok(self.names(&assigned))
    }

    /// Assigns the partitions `0..partitions` of a topic, all or none; the answer is in their order.
    /// Errors as [`Self::assign_partition`].
    pub fn assign_topic(
        &mut self,
        topic: impl AsRef<str>,
        partitions: u32,
        replication_factor: usize,
    ) -> Result<Vec<Vec<NodeName>>, PlacementError> {
        let placed = self.place_topic(topic, partitions, replication_factor)?;
        let names = |replicas: Replicas<'_>| replicas.cloned().collect();
        Ok(placed.iter().map(names).collect())
    }

    /// As [`Self::assign_topic`], without a copy of any name.
    pub fn place_topic(
        &mut self,
        topic: impl AsRef<str>,
        partitions: u32,
        replication_factor: usize,
    ) -> Result<PlacedTopic<'_>, PlacementError> {
        let topic = topic.as_ref();
        self.check(partitions.saturating_sub(1), replication_factor)?;
        self.focus(topic)?;
        let count = usize::try_from(partitions).unwrap_or(usize::MAX);
        let mut assigned: Vec<Slot> = Vec::with_capacity(count.saturating_mul(replication_factor));
        // What the table has of the topic, to be put back if it cannot be placed whole.
        let mut before: Vec<Held> = Vec::new();
        if self.ledger.topic_totals().replicas > 0 {
            let held = |partition| Held::from_slice(self.ledger.focused_replicas(partition));
            before = (0..partitions).map(held).collect();
        }
        self.ledger.reserve(count);
        let mut key = TopicKey::new(topic);
        let placed = before.is_empty()
            && self.place_plainly(&mut key, partitions, replication_factor, &mut assigned);
        let rest = if placed { 0 } else { partitions };
        for partition in 0..rest {
            let left = usize::try_from(partitions - partition).unwrap_or(usize::MAX);
            self.expected = left.saturating_mul(replication_factor);
            match self.assign(&mut key, partition, replication_factor) {
                Ok(replicas) => assigned.extend_from_slice(&replicas),
                Err(error) => {
                    before.resize_with(count, Held::new);
                    for (partition, replicas) in (0..=partition).zip(before) {
                        self.ledger.record(partition, &replicas);
                    }
                    self.derived.forget_table();
                    self.expected = 0;
                    return Err(error);
                }
            }
        }
        self.expected = 0;
        if self.config.strategy == PlacementStrategy::Balanced {
            self.even_out_leaders(&before, &mut assigned, replication_factor);
        }
        Ok(PlacedTopic {
            ledger: &self.ledger,
            slots: assigned,
            replication_factor,
        })
    }

    /// Places a topic that holds nothing where the strategy is [`PlacementStrategy::Balanced`] and
    /// nothing is in its way, which takes a fraction of the time; returns whether it did.
    fn place_plainly(
        &mut self,
        key: &mut TopicKey,
        partitions: u32,
        replication_factor: usize,
        assigned: &mut Vec<Slot>,
    ) -> bool {
        if self.config.strategy != PlacementStrategy::Balanced {
            return false;
        }
        let rules = self.rules();
        let ledger = &mut self.ledger;
        let derived = &mut self.derived;
        let topology = &*derived
            .topology
            .get_or_insert_with(|| Topology::new(ledger.members()));
        let balancer = derived
            .balancer
            .get_or_insert_with(|| Balancer::new(ledger, topology, rules.cap));
        if !balancer.is_plain(&rules, replication_factor) {
            return false;
        }
        let racks_matter = rules.rack_mode != RackMode::Off;
        // The next hash is computed beside the choice, which waits for memory most of the time.
        let mut next = key.partition(0);
        for partition in 0..partitions {
            let hash = std::mem::replace(&mut next, key.partition(partition.wrapping_add(1)));
            let left = usize::try_from(partitions - partition).unwrap_or(usize::MAX);
            balancer.prepare(ledger, topology, left.saturating_mul(replication_factor));
            let request = (hash, replication_factor, racks_matter);
            balancer.place_plainly(ledger, topology, request, assigned);
        }
        ledger.append(assigned, replication_factor);
        true
    }

    /// Swaps leaders among the partitions that were just placed anew, until no node leads more than
    /// its share or nothing can be done about it. What was placed before keeps its leader.
    fn even_out_leaders(&mut self, before: &[Held], assigned: &mut [Slot], factor: usize) {
        let Some(topology) = &self.derived.topology else {
            return;
        };
        let leaders = |slot: &Slot| self.ledger.loads(*slot).all.leaders;
        let loads = assigned.iter().step_by(factor).filter_map(|slot| {
            let node = self.ledger.position_of_slot(*slot)?;
            Some((leaders(slot), topology.seats[node].weight))
        });
        let whole = topology.total_weight;
        if are_within_shares(loads, self.ledger.totals().leaders, whole) {
            return;
        }
        let position = |slot: &Slot| self.ledger.position_of_slot(*slot);
        let partitions = assigned.chunks(factor).enumerate();
        let mut candidates = Candidates::default();
        for (partition, slots) in partitions {
            let kept = before.get(partition).is_some_and(|held| !held.is_empty());
            let movable: &[Slot] = if kept { &[] } else { slots };
            candidates.push(movable.iter().filter_map(position));
        }
        let seats = topology.seats.iter();
        let leaders = seats.clone().map(|seat| leaders(&seat.slot)).collect();
        let weights = seats.map(|seat| seat.weight).collect();
        let moved = even_out(leaders, weights, candidates);
        if !moved.is_empty() {
            self.derived.forget_table();
        }
        for (partition, place) in moved {
            let first = partition * factor;
            assigned.swap(first, first + place);
            let index = u32::try_from(partition).unwrap_or(u32::MAX);
            self.ledger.record(index, &assigned[first..first + factor]);
        }
    }

    /// Takes over an assignment made before (from the replicated metadata), so that later ones are
    /// balanced against it. It may name nodes that are not there now; an empty list forgets the
    /// partition. Fails on a name given twice, a partition out of range or an invalid topic name.
    pub fn adopt(
        &mut self,
        topic: impl AsRef<str>,
        partition: u32,
        replicas: &[NodeName],
    ) -> Result<(), PlacementError> {
        self.check(partition, replicas.len().max(1))?;
        for (place, node) in replicas.iter().enumerate() {
            if replicas.iter().take(place).any(|other| other == node) {
                return Err(PlacementError::DuplicateReplica { node: node.clone() });
            }
        }
        self.focus(topic.as_ref())?;
        let slots: Vec<Slot> = replicas.iter().map(|n| self.ledger.slot(n)).collect();
        self.ledger.record(partition, &slots);
        self.derived.forget_table();
        Ok(())
    }

    /// Forgets a deleted topic, so that its load no longer counts. Returns whether it was there.
    pub fn forget_topic(&mut self, topic: impl AsRef<str>) -> bool {
        let forgotten = TopicName::new(topic).is_ok_and(|t| self.ledger.forget_topic(&t));
        if forgotten {
            self.derived.forget_table();
        }
        forgotten
    }

    fn names(&self, slots: &[Slot]) -> Vec<NodeName> {
        let names = slots.iter().map(|slot| self.ledger.name_of_slot(*slot));
        names.cloned().collect()
    }

    fn focus(&mut self, topic: &str) -> Result<(), PlacementError> {
        if !self.ledger.is_focus(topic) {
            self.ledger.focus(topic)?;
            if let Some(balancer) = &mut self.derived.balancer {
                balancer.change_topic();
            }
        }
        Ok(())
    }

    fn check(&self, partition: u32, replication_factor: usize) -> Result<(), PlacementError> {
        self.config.validate()?;
        if partition >= MAX_PARTITIONS_PER_TOPIC {
            return Err(PlacementError::PartitionOutOfRange {
                partition,
                max: MAX_PARTITIONS_PER_TOPIC,
            });
        }
        if !(1..=MAX_REPLICATION_FACTOR).contains(&replication_factor) {
            return Err(PlacementError::InvalidReplicationFactor {
                replication_factor,
                max: MAX_REPLICATION_FACTOR,
            });
        }
        Ok(())
    }

    fn assign(
        &mut self,
        key: &mut TopicKey,
        partition: u32,
        replication_factor: usize,
    ) -> Result<Held, PlacementError> {
        let held = self.ledger.focused_replicas(partition);
        let replaces = !held.is_empty();
        let mut survivors = Few::new();
        if replaces {
            let position = |slot: &Slot| self.ledger.position_of_slot(*slot);
            survivors.extend(held.iter().filter_map(position).take(replication_factor));
            if survivors.len() == replication_factor && held.len() == replication_factor {
                return Ok(Held::from_slice(held));
            }
        }
        let chosen = self.choose(key, partition, replication_factor, &survivors)?;
        let mut replicas = Held::new();
        if let Some(topology) = &self.derived.topology {
            replicas.extend(chosen.iter().map(|node| topology.seats[*node].slot));
        }
        if replaces {
            self.ledger.record(partition, &replicas);
        } else {
            self.ledger.record_new(partition, &replicas);
        }
        match (&mut self.derived.balancer, &self.derived.topology) {
            (Some(balancer), Some(topology)) if !replaces => {
                balancer.update(&self.ledger, topology);
            }
            (balancer, _) => *balancer = None,
        }
        Ok(replicas)
    }

    fn rules(&self) -> Rules {
        Rules {
            cap: self.config.cap(),
            rack_mode: self.options.rack_mode(&self.config),
            max_skew_percent: self.options.max_skew_percent,
        }
    }

    fn choose(
        &mut self,
        key: &mut TopicKey,
        partition: u32,
        replication_factor: usize,
        survivors: &[usize],
    ) -> Result<Few, PlacementError> {
        let rules = self.rules();
        let ledger = &self.ledger;
        let derived = &mut self.derived;
        let topology = &*derived
            .topology
            .get_or_insert_with(|| Topology::new(ledger.members()));
        let request = Request {
            ledger,
            topology,
            rules,
            hash: key.partition(partition),
            replication_factor,
            survivors,
        };
        let stripe = || scan::Stripe {
            topic: key.topic(),
            partition,
        };
        match self.config.strategy {
            PlacementStrategy::ConsistentHash => {
                let virtual_nodes = self.config.virtual_nodes;
                let ring = derived
                    .ring
                    .get_or_insert_with(|| Ring::build(ledger.members(), virtual_nodes));
                consistent_hash::select(&request, ring, &mut derived.walk)
            }
            PlacementStrategy::RoundRobin => scan::round_robin(&request, stripe()),
            PlacementStrategy::LeastLoaded => scan::least_loaded(&request),
            PlacementStrategy::RackAware => scan::rack_aware(&request, stripe()),
            PlacementStrategy::Rendezvous => scan::rendezvous(&request),
            PlacementStrategy::Balanced => {
                let balancer = derived
                    .balancer
                    .get_or_insert_with(|| Balancer::new(ledger, topology, rules.cap));
                balancer.prepare(ledger, topology, self.expected);
                balancer.select(&request)
            }
            PlacementStrategy::Copyset { scatter_width } => {
                if !matches!(&derived.copysets, Some(sets) if sets.fits(replication_factor)) {
                    derived.copysets = None;
                }
                let racks_matter = rules.rack_mode != RackMode::Off;
                let sets = derived.copysets.get_or_insert_with(|| {
                    Copysets::new(
                        ledger,
                        topology,
                        scatter_width,
                        replication_factor,
                        racks_matter,
                    )
                });
                sets.select(&request)
            }
        }
    }
}

/// The replicas of a topic's partitions, as [`PartitionPlacer::place_topic`] has placed them.
#[derive(Debug)]
pub struct PlacedTopic<'a> {
    ledger: &'a Ledger,
    /// Partition after partition.
    slots: Vec<Slot>,
    replication_factor: usize,
}

/// The nodes of one partition, preferred leader first.
#[derive(Debug, Clone)]
pub struct Replicas<'a> {
    ledger: &'a Ledger,
    slots: std::slice::Iter<'a, Slot>,
}

impl PlacedTopic<'_> {
    /// The partitions in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Replicas<'_>> {
        self.slots
            .chunks(self.replication_factor)
            .map(|slots| Replicas {
                ledger: self.ledger,
                slots: slots.iter(),
            })
    }
}

impl<'a> Iterator for Replicas<'a> {
    type Item = &'a NodeName;

    fn next(&mut self) -> Option<&'a NodeName> {
        self.slots
            .next()
            .map(|slot| self.ledger.name_of_slot(*slot))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.slots.size_hint()
    }
}

impl ExactSizeIterator for Replicas<'_> {}

#[cfg(test)]
mod tests;
