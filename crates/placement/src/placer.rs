//! The placer: nodes in, replicas out.

use rivven_core_types::limits::{MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR};
use rivven_core_types::{NodeInfo, NodeName, TopicName};

use crate::config::{PlacementConfig, PlacementOptions, PlacementStrategy, RackMode};
use crate::error::PlacementError;
use crate::hash::{key_hash, topic_hash};
use crate::ledger::{Ledger, NodeLoad, Slot};
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
        let assigned = self.assign(topic.as_ref(), partition, replication_factor)?;
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
        let topic = topic.as_ref();
        self.check(partitions.saturating_sub(1), replication_factor)?;
        self.focus(topic)?;
        let count = usize::try_from(partitions).unwrap_or(usize::MAX);
        let mut assigned = Vec::with_capacity(count);
        let mut before: Vec<Held> = Vec::with_capacity(count);
        self.ledger.reserve(count);
        for partition in 0..partitions {
            before.push(Held::from_slice(self.ledger.focused_replicas(partition)));
            let left = usize::try_from(partitions - partition).unwrap_or(usize::MAX);
            self.expected = left.saturating_mul(replication_factor);
            match self.assign(topic, partition, replication_factor) {
                Ok(replicas) => assigned.push(replicas),
                Err(error) => {
                    for (partition, replicas) in (0..partitions).zip(before) {
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
            self.even_out_leaders(&before, &mut assigned);
        }
        Ok(assigned.iter().map(|slots| self.names(slots)).collect())
    }

    /// Swaps leaders among the partitions that were just placed anew, until no node leads more than
    /// its share or nothing can be done about it. What was placed before keeps its leader.
    fn even_out_leaders(&mut self, before: &[Held], assigned: &mut [Held]) {
        let position = |slot: &Slot| self.ledger.position_of_slot(*slot);
        let load = |node: &usize| self.ledger.loads(self.ledger.members()[*node].slot).all;
        let weight = |node: &usize| self.ledger.members()[*node].weight;
        let first = assigned.iter().filter_map(|slots| slots.first());
        let led = first.filter_map(position);
        let loads = led.map(|node| (load(&node).leaders, weight(&node)));
        let whole = self.derived.topology.as_ref().map_or(1, |t| t.total_weight);
        if crate::plan::leaders::are_within_shares(loads, self.ledger.totals().leaders, whole) {
            return;
        }
        let candidates: Vec<Vec<usize>> = before
            .iter()
            .zip(assigned.iter())
            .map(|(before, slots)| match before.is_empty() {
                true => slots.iter().filter_map(position).collect(),
                false => Vec::new(),
            })
            .collect();
        let nodes = 0..self.ledger.members().len();
        let leaders = nodes.clone().map(|node| load(&node).leaders).collect();
        let weights = nodes.map(|node| weight(&node)).collect();
        let moved = crate::plan::leaders::even_out(leaders, weights, candidates);
        if !moved.is_empty() {
            self.derived.forget_table();
        }
        for (partition, place) in moved {
            let slots = &mut assigned[partition];
            slots.swap(0, place);
            let index = u32::try_from(partition).unwrap_or(u32::MAX);
            self.ledger.record(index, slots);
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
        topic: &str,
        partition: u32,
        replication_factor: usize,
    ) -> Result<Held, PlacementError> {
        let held = self.ledger.focused_replicas(partition);
        let survivors: Few = held
            .iter()
            .filter_map(|slot| self.ledger.position_of_slot(*slot))
            .take(replication_factor)
            .collect();
        if survivors.len() == replication_factor && held.len() == replication_factor {
            return Ok(Held::from_slice(held));
        }
        let replaces = !held.is_empty();
        let chosen = self.choose(topic, partition, replication_factor, &survivors)?;
        let members = self.ledger.members();
        let replicas: Held = chosen.iter().map(|node| members[*node].slot).collect();
        self.ledger.record(partition, &replicas);
        match (&mut self.derived.balancer, &self.derived.topology) {
            (Some(balancer), Some(topology)) if !replaces => {
                balancer.update(&self.ledger, topology, &chosen);
            }
            (balancer, _) => *balancer = None,
        }
        Ok(replicas)
    }

    fn choose(
        &mut self,
        topic: &str,
        partition: u32,
        replication_factor: usize,
        survivors: &[usize],
    ) -> Result<Few, PlacementError> {
        let ledger = &self.ledger;
        let derived = &mut self.derived;
        let topology = &*derived
            .topology
            .get_or_insert_with(|| Topology::new(ledger.members()));
        let rules = Rules {
            cap: self.config.cap(),
            rack_mode: self.options.rack_mode(&self.config),
            max_skew_percent: self.options.max_skew_percent,
        };
        let request = Request {
            ledger,
            topology,
            rules,
            hash: key_hash(topic, partition),
            replication_factor,
            survivors,
        };
        let stripe = || scan::Stripe {
            topic: topic_hash(topic),
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

#[cfg(test)]
mod tests;
