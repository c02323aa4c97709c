//! The placer: nodes in, replicas out.

use rivven_core_types::limits::{MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR};
use rivven_core_types::{NodeInfo, NodeName, TopicName};

use crate::config::{PlacementConfig, PlacementStrategy};
use crate::error::PlacementError;
use crate::ledger::{Ledger, NodeLoad};
use crate::ring::Ring;
use crate::selection::{Request, select};

/// Decides which nodes hold a partition and which of them leads it.
///
/// It keeps the table of what it has assigned, or was told with [`Self::adopt`], and balances new
/// partitions against it. It is a plain value: the same nodes (added in any order) and the same
/// sequence of assignments give the same replicas in every process. Its size is that of the table:
/// the caller's metadata bounds nodes and partitions.
#[derive(Debug, Clone)]
pub struct PartitionPlacer {
    config: PlacementConfig,
    ledger: Ledger,
    /// Built from the members when first needed after a change, so that adding a thousand nodes
    /// sorts once.
    ring: Option<Ring>,
}

impl PartitionPlacer {
    /// A placer without nodes. An invalid configuration is reported by the first assignment; call
    /// [`PlacementConfig::validate`] to learn of it earlier.
    pub fn new(config: PlacementConfig) -> Self {
        Self {
            config,
            ledger: Ledger::default(),
            ring: None,
        }
    }

    /// Adds a node, or replaces what is known of one of that name. A node of weight 0 keeps what it
    /// has and is given nothing new.
    pub fn add_node(&mut self, node: &NodeInfo) {
        if self.ledger.put_member(node) {
            self.ring = None;
        }
    }

    /// Removes a node, which is given nothing from now on. The table still names it: ask for the
    /// partition again to have it replaced. Returns whether it was there.
    pub fn remove_node(&mut self, node: &NodeName) -> bool {
        let removed = self.ledger.remove_member(node);
        if removed {
            self.ring = None;
        }
        removed
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
    pub fn assignment(&self, topic: impl AsRef<str>, partition: u32) -> Option<&[NodeName]> {
        let topic = TopicName::new(topic).ok()?;
        self.ledger.topic(&topic)?.replicas(partition)
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
        let topic = TopicName::new(topic)?;
        self.check(partition, replication_factor)?;
        self.assign(&topic, partition, replication_factor)
    }

    /// Assigns the partitions `0..partitions` of a topic, all or none; the answer is in their order.
    /// Errors as [`Self::assign_partition`].
    pub fn assign_topic(
        &mut self,
        topic: impl AsRef<str>,
        partitions: u32,
        replication_factor: usize,
    ) -> Result<Vec<Vec<NodeName>>, PlacementError> {
        let topic = TopicName::new(topic)?;
        self.check(partitions.saturating_sub(1), replication_factor)?;
        let mut assigned = Vec::new();
        let mut before = Vec::new();
        for partition in 0..partitions {
            let held = self
                .ledger
                .topic(&topic)
                .and_then(|t| t.replicas(partition));
            before.push(held.unwrap_or_default().to_vec());
            match self.assign(&topic, partition, replication_factor) {
                Ok(replicas) => assigned.push(replicas),
                Err(error) => {
                    for (partition, replicas) in (0..partitions).zip(before) {
                        self.ledger.record(&topic, partition, &replicas);
                    }
                    return Err(error);
                }
            }
        }
        Ok(assigned)
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
        let topic = TopicName::new(topic)?;
        self.check(partition, replicas.len().max(1))?;
        let mut names: Vec<&NodeName> = replicas.iter().collect();
        names.sort_unstable();
        let mut pairs = names.iter().zip(names.iter().skip(1));
        if let Some((node, _)) = pairs.find(|(a, b)| a == b) {
            return Err(PlacementError::DuplicateReplica {
                node: NodeName::clone(node),
            });
        }
        self.ledger.record(&topic, partition, replicas);
        Ok(())
    }

    /// Forgets a deleted topic, so that its load no longer counts. Returns whether it was there.
    pub fn forget_topic(&mut self, topic: impl AsRef<str>) -> bool {
        TopicName::new(topic).is_ok_and(|topic| self.ledger.forget_topic(&topic))
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
        topic: &TopicName,
        partition: u32,
        replication_factor: usize,
    ) -> Result<Vec<NodeName>, PlacementError> {
        let held = self.ledger.topic(topic).and_then(|t| t.replicas(partition));
        let held = held.unwrap_or_default();
        let survivors: Vec<usize> = held
            .iter()
            .filter_map(|node| self.ledger.position(node))
            .take(replication_factor)
            .collect();
        if survivors.len() == replication_factor && held.len() == replication_factor {
            return Ok(held.to_vec());
        }
        let ring = self
            .ring
            .get_or_insert_with(|| Ring::build(self.ledger.members(), self.config.virtual_nodes));
        let request = Request {
            config: &self.config,
            ledger: &self.ledger,
            ring,
            topic,
            partition,
            replication_factor,
            survivors: &survivors,
        };
        let chosen = match self.config.strategy {
            PlacementStrategy::ConsistentHash => select(&request)?,
        };
        let members = self.ledger.members();
        let replicas: Vec<NodeName> = chosen
            .into_iter()
            .filter_map(|node| members.get(node).map(|m| m.name.clone()))
            .collect();
        self.ledger.record(topic, partition, &replicas);
        Ok(replicas)
    }
}

#[cfg(test)]
mod tests;
