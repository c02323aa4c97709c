//! Who holds what: the nodes, the table of assignments, and the loads that follow from it.

use std::collections::BTreeMap;

use rivven_core_types::{NodeInfo, NodeName, RackId, TopicName};

/// What one node carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NodeLoad {
    /// Partition replicas on the node, those it is the preferred leader of included.
    pub replicas: u64,
    /// Partitions whose preferred leader the node is.
    pub leaders: u64,
}

impl NodeLoad {
    const fn is_empty(self) -> bool {
        self.replicas == 0 && self.leaders == 0
    }

    /// Counts one replica more. Saturating: a count can only reach its limit after 2^64 of them.
    fn credit(&mut self, leads: bool) {
        self.replicas = self.replicas.saturating_add(1);
        self.leaders = self.leaders.saturating_add(u64::from(leads));
    }

    fn debit(&mut self, leads: bool) {
        self.replicas = self.replicas.saturating_sub(1);
        self.leaders = self.leaders.saturating_sub(u64::from(leads));
    }

    fn add(&mut self, other: Self) {
        self.replicas = self.replicas.saturating_add(other.replicas);
        self.leaders = self.leaders.saturating_add(other.leaders);
    }

    fn subtract(&mut self, other: Self) {
        self.replicas = self.replicas.saturating_sub(other.replicas);
        self.leaders = self.leaders.saturating_sub(other.leaders);
    }
}

/// A node that may be given partitions.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: NodeName,
    pub(crate) rack: Option<RackId>,
    pub(crate) weight: u32,
    pub(crate) load: NodeLoad,
}

/// The assignments of one topic.
#[derive(Debug, Clone, Default)]
pub(crate) struct TopicTable {
    partitions: BTreeMap<u32, Vec<NodeName>>,
    loads: BTreeMap<NodeName, NodeLoad>,
    totals: NodeLoad,
}

impl TopicTable {
    pub(crate) fn replicas(&self, partition: u32) -> Option<&[NodeName]> {
        self.partitions.get(&partition).map(Vec::as_slice)
    }

    pub(crate) fn load(&self, node: &NodeName) -> NodeLoad {
        self.loads.get(node).copied().unwrap_or_default()
    }

    pub(crate) const fn totals(&self) -> NodeLoad {
        self.totals
    }
}

/// The nodes, sorted by name, and the table. Loads always equal what the table says; a node that
/// leaves and comes back finds its load again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    members: Vec<Member>,
    /// Loads of nodes that the table names but that are not members now.
    absent: BTreeMap<NodeName, NodeLoad>,
    topics: BTreeMap<TopicName, TopicTable>,
    /// Sum over the members.
    totals: NodeLoad,
}

impl Ledger {
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) const fn totals(&self) -> NodeLoad {
        self.totals
    }

    pub(crate) fn topic(&self, topic: &TopicName) -> Option<&TopicTable> {
        self.topics.get(topic)
    }

    pub(crate) fn position(&self, node: &NodeName) -> Option<usize> {
        self.members.binary_search_by(|m| m.name.cmp(node)).ok()
    }

    pub(crate) fn load(&self, node: &NodeName) -> Option<NodeLoad> {
        self.members.get(self.position(node)?).map(|m| m.load)
    }

    /// Adds or replaces a node. Returns whether anything that the ring is made of changed.
    pub(crate) fn put_member(&mut self, node: &NodeInfo) -> bool {
        match self.members.binary_search_by(|m| m.name.cmp(&node.name)) {
            Ok(at) => {
                // The index is the one just found.
                let Some(member) = self.members.get_mut(at) else {
                    return false;
                };
                let changed = member.rack != node.rack || member.weight != node.weight;
                member.rack.clone_from(&node.rack);
                member.weight = node.weight;
                changed
            }
            Err(at) => {
                let load = self.absent.remove(&node.name).unwrap_or_default();
                self.totals.add(load);
                let member = Member {
                    name: node.name.clone(),
                    rack: node.rack.clone(),
                    weight: node.weight,
                    load,
                };
                self.members.insert(at, member);
                true
            }
        }
    }

    /// Removes a node; what the table says of it stays. Returns whether it was there.
    pub(crate) fn remove_member(&mut self, node: &NodeName) -> bool {
        let Some(at) = self.position(node) else {
            return false;
        };
        let member = self.members.remove(at);
        self.totals.subtract(member.load);
        if !member.load.is_empty() {
            self.absent.insert(member.name, member.load);
        }
        true
    }

    /// Writes the replicas of a partition into the table in place of what was there; an empty list
    /// takes the partition out. Returns what was there.
    pub(crate) fn record(
        &mut self,
        topic: &TopicName,
        partition: u32,
        replicas: &[NodeName],
    ) -> Vec<NodeName> {
        let table = self.topics.entry(topic.clone()).or_default();
        let before = if replicas.is_empty() {
            table.partitions.remove(&partition)
        } else {
            table.partitions.insert(partition, replicas.to_vec())
        }
        .unwrap_or_default();
        for (slot, node) in before.iter().enumerate() {
            table.totals.debit(slot == 0);
            if let Some(load) = table.loads.get_mut(node) {
                load.debit(slot == 0);
                if load.is_empty() {
                    table.loads.remove(node);
                }
            }
        }
        for (slot, node) in replicas.iter().enumerate() {
            table.totals.credit(slot == 0);
            table
                .loads
                .entry(node.clone())
                .or_default()
                .credit(slot == 0);
        }
        if table.partitions.is_empty() {
            self.topics.remove(topic);
        }
        for (slot, node) in before.iter().enumerate() {
            self.debit(node, slot == 0);
        }
        for (slot, node) in replicas.iter().enumerate() {
            self.credit(node, slot == 0);
        }
        before
    }

    /// Takes a whole topic out of the table. Returns whether it was there.
    pub(crate) fn forget_topic(&mut self, topic: &TopicName) -> bool {
        let Some(table) = self.topics.remove(topic) else {
            return false;
        };
        for replicas in table.partitions.values() {
            for (slot, node) in replicas.iter().enumerate() {
                self.debit(node, slot == 0);
            }
        }
        true
    }

    fn member_mut(&mut self, node: &NodeName) -> Option<&mut Member> {
        let at = self.position(node)?;
        self.members.get_mut(at)
    }

    fn credit(&mut self, node: &NodeName, leads: bool) {
        if let Some(member) = self.member_mut(node) {
            member.load.credit(leads);
            self.totals.credit(leads);
        } else {
            self.absent.entry(node.clone()).or_default().credit(leads);
        }
    }

    fn debit(&mut self, node: &NodeName, leads: bool) {
        if let Some(member) = self.member_mut(node) {
            member.load.debit(leads);
            self.totals.debit(leads);
        } else if let Some(load) = self.absent.get_mut(node) {
            load.debit(leads);
            if load.is_empty() {
                self.absent.remove(node);
            }
        }
    }
}
