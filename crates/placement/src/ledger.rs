//! Who holds what: the nodes, the table of assignments, and the loads that follow from it.
//!
//! Names are turned into small numbers once: a *slot* is the number of a name for as long as the
//! ledger lives, a *position* is an index into the present members, which are sorted by name. Only
//! positions and names take part in decisions, so that the order of joining never shows.

use std::collections::BTreeMap;

use rivven_core_types::{NodeInfo, NodeName, RackId, TopicName};

use crate::table::Table;

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
    #[inline]
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

/// The number of a node's name.
pub(crate) type Slot = u32;

/// A node that may be given partitions.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) name: NodeName,
    pub(crate) rack: Option<RackId>,
    pub(crate) weight: u32,
    pub(crate) slot: Slot,
}

#[derive(Debug, Clone)]
struct Known {
    name: NodeName,
    /// Where it is among the members; `None` if it is not there now.
    position: Option<usize>,
}

/// What a node carries: side by side, since most decisions need both.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Loads {
    /// Of all topics.
    pub(crate) all: NodeLoad,
    /// Of the topic in focus.
    pub(crate) topic: NodeLoad,
}

/// The assignments of one topic.
#[derive(Debug, Clone, Default)]
struct TopicTable {
    partitions: Table,
    /// The loads within the topic, by slot, if they are more trouble to count than to keep; empty while
    /// the topic is in focus.
    loads: Vec<(Slot, NodeLoad)>,
    totals: NodeLoad,
}

/// The nodes, sorted by name, and the table. Loads always equal what the table says; a node that
/// leaves and comes back finds its load again.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger {
    members: Vec<Member>,
    known: Vec<Known>,
    slots: BTreeMap<NodeName, Slot>,
    /// Every topic but the one in focus.
    topics: BTreeMap<TopicName, TopicTable>,
    /// The topic that was used last.
    focus: Option<(TopicName, TopicTable)>,
    /// By slot; of nodes that are not there too.
    loads: Vec<Loads>,
    /// Sum over the members.
    totals: NodeLoad,
}

fn number(length: usize) -> Slot {
    // More than 2^32 names do not fit into memory.
    Slot::try_from(length).unwrap_or(Slot::MAX)
}

impl Ledger {
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    #[inline]
    pub(crate) const fn totals(&self) -> NodeLoad {
        self.totals
    }

    pub(crate) fn position(&self, node: &NodeName) -> Option<usize> {
        self.members.binary_search_by(|m| m.name.cmp(node)).ok()
    }

    #[inline]
    pub(crate) fn position_of_slot(&self, slot: Slot) -> Option<usize> {
        self.known.get(slot as usize)?.position
    }

    /// The name that a slot was given out for.
    pub(crate) fn name_of_slot(&self, slot: Slot) -> &NodeName {
        &self.known[slot as usize].name
    }

    pub(crate) fn load(&self, node: &NodeName) -> Option<NodeLoad> {
        self.members
            .get(self.position(node)?)
            .map(|m| self.loads(m.slot).all)
    }

    /// The number of a name, given out at first sight.
    pub(crate) fn slot(&mut self, node: &NodeName) -> Slot {
        if let Some(slot) = self.slots.get(node) {
            return *slot;
        }
        let slot = number(self.known.len());
        self.known.push(Known {
            name: node.clone(),
            position: None,
        });
        self.loads.push(Loads::default());
        self.slots.insert(node.clone(), slot);
        slot
    }

    /// Adds or replaces a node. Returns whether anything that places partitions changed.
    pub(crate) fn put_member(&mut self, node: &NodeInfo) -> bool {
        match self.members.binary_search_by(|m| m.name.cmp(&node.name)) {
            Ok(at) => {
                let member = &mut self.members[at];
                let changed = member.rack != node.rack || member.weight != node.weight;
                member.rack.clone_from(&node.rack);
                member.weight = node.weight;
                changed
            }
            Err(at) => {
                let slot = self.slot(&node.name);
                self.totals.add(self.loads(slot).all);
                let member = Member {
                    name: node.name.clone(),
                    rack: node.rack.clone(),
                    weight: node.weight,
                    slot,
                };
                self.members.insert(at, member);
                self.renumber(at);
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
        self.totals.subtract(self.loads(member.slot).all);
        self.known[member.slot as usize].position = None;
        self.renumber(at);
        true
    }

    fn renumber(&mut self, from: usize) {
        for (position, member) in self.members.iter().enumerate().skip(from) {
            self.known[member.slot as usize].position = Some(position);
        }
    }

    /// Adds load to a node that no table accounts for: replicas that are placed elsewhere.
    pub(crate) fn add_load(&mut self, node: &NodeName, load: NodeLoad) {
        let slot = self.slot(node);
        self.loads[slot as usize].all.add(load);
        if self.known[slot as usize].position.is_some() {
            self.totals.add(load);
        }
    }

    /// Makes `topic` the one in focus.
    pub(crate) fn focus(&mut self, topic: &str) -> Result<(), rivven_core_types::InvalidId> {
        if self.is_focus(topic) {
            return Ok(());
        }
        let topic = TopicName::new(topic)?;
        self.unfocus();
        let mut table = self.topics.remove(&topic).unwrap_or_default();
        if table.loads.is_empty() {
            for replicas in table.partitions.replicas() {
                for (place, slot) in replicas.iter().enumerate() {
                    self.loads[*slot as usize].topic.credit(place == 0);
                }
            }
        }
        for (slot, load) in std::mem::take(&mut table.loads) {
            self.loads[slot as usize].topic = load;
        }
        self.focus = Some((topic, table));
        Ok(())
    }

    pub(crate) fn is_focus(&self, topic: &str) -> bool {
        self.focus
            .as_ref()
            .is_some_and(|(name, _)| name.as_str() == topic)
    }

    fn unfocus(&mut self) {
        let Some((name, mut table)) = self.focus.take() else {
            return;
        };
        // Whichever costs less when the topic is in focus again.
        let keep = table.totals.replicas > self.loads.len() as u64;
        for (slot, loads) in (0..).zip(&mut self.loads) {
            let load = std::mem::take(&mut loads.topic);
            if keep && !load.is_empty() {
                table.loads.push((slot, load));
            }
        }
        if !table.partitions.is_empty() {
            self.topics.insert(name, table);
        }
    }

    /// What a node carries.
    #[inline]
    pub(crate) fn loads(&self, slot: Slot) -> Loads {
        self.loads.get(slot as usize).copied().unwrap_or_default()
    }

    /// What the topic in focus holds in all.
    #[inline]
    pub(crate) fn topic_totals(&self) -> NodeLoad {
        self.focus
            .as_ref()
            .map(|(_, t)| t.totals)
            .unwrap_or_default()
    }

    /// The replicas of a partition of the topic in focus.
    #[inline]
    pub(crate) fn focused_replicas(&self, partition: u32) -> &[Slot] {
        let focus = self.focus.as_ref();
        focus.map_or(&[], |(_, table)| table.partitions.get(partition))
    }

    /// Makes room for as many partitions more of the topic in focus.
    pub(crate) fn reserve(&mut self, partitions: usize) {
        if let Some((_, table)) = &mut self.focus {
            table.partitions.reserve(partitions);
        }
    }

    /// The replicas of any partition.
    pub(crate) fn replicas(&self, topic: &str, partition: u32) -> &[Slot] {
        if self.is_focus(topic) {
            return self.focused_replicas(partition);
        }
        let table = TopicName::new(topic)
            .ok()
            .and_then(|topic| self.topics.get(&topic));
        table.map_or(&[], |table| table.partitions.get(partition))
    }

    /// Every distinct set of replicas in the table whose nodes are all members, as sorted positions.
    pub(crate) fn replica_sets(&self) -> std::collections::BTreeSet<Vec<usize>> {
        let focus = self.focus.as_ref().map(|(_, table)| table);
        let tables = self.topics.values().chain(focus);
        let mut sets = std::collections::BTreeSet::new();
        for replicas in tables.flat_map(|t| t.partitions.replicas()) {
            let positions = replicas.iter().map(|slot| self.position_of_slot(*slot));
            if let Some(mut set) = positions.collect::<Option<Vec<usize>>>() {
                set.sort_unstable();
                sets.insert(set);
            }
        }
        sets
    }

    /// Counts one replica more of the topic in focus on a member, which [`Self::append`] is to be told of;
    /// returns what it carries then.
    #[inline]
    pub(crate) fn credit(&mut self, slot: Slot, leads: bool) -> Loads {
        let loads = &mut self.loads[slot as usize];
        loads.topic.credit(leads);
        loads.all.credit(leads);
        *loads
    }

    /// Writes the replicas of the first partitions of the topic in focus, of which the table has nothing,
    /// as counted by [`Self::credit`]: `factor` of each, one partition after the other.
    pub(crate) fn append(&mut self, replicas: &[Slot], factor: usize) {
        let Some((_, table)) = self.focus.as_mut() else {
            return;
        };
        for (partition, replicas) in (0..).zip(replicas.chunks(factor)) {
            table.partitions.push(partition, replicas);
        }
        let placed = NodeLoad {
            replicas: replicas.len() as u64,
            leaders: (replicas.len() / factor) as u64,
        };
        table.totals.add(placed);
        self.totals.add(placed);
    }

    /// Writes the replicas, all of them members, of a partition of the topic in focus of which the table
    /// has nothing.
    #[inline]
    pub(crate) fn record_new(&mut self, partition: u32, replicas: &[Slot]) {
        let Some((_, table)) = self.focus.as_mut() else {
            return;
        };
        if !table.partitions.push(partition, replicas) {
            table.partitions.replace(partition, replicas);
        }
        for (place, slot) in replicas.iter().enumerate() {
            let loads = &mut self.loads[*slot as usize];
            loads.topic.credit(place == 0);
            loads.all.credit(place == 0);
            table.totals.credit(place == 0);
            self.totals.credit(place == 0);
        }
    }

    /// Writes the replicas of a partition of the topic in focus into the table in place of what was
    /// there; an empty list takes the partition out.
    pub(crate) fn record(&mut self, partition: u32, replicas: &[Slot]) {
        let Some((_, table)) = self.focus.as_mut() else {
            return;
        };
        let before = table.partitions.replace(partition, replicas);
        for (place, slot) in before.iter().enumerate() {
            table.totals.debit(place == 0);
            let loads = &mut self.loads[*slot as usize];
            loads.topic.debit(place == 0);
            loads.all.debit(place == 0);
            if self.known[*slot as usize].position.is_some() {
                self.totals.debit(place == 0);
            }
        }
        for (place, slot) in replicas.iter().enumerate() {
            table.totals.credit(place == 0);
            let loads = &mut self.loads[*slot as usize];
            loads.topic.credit(place == 0);
            loads.all.credit(place == 0);
            if self.known[*slot as usize].position.is_some() {
                self.totals.credit(place == 0);
            }
        }
    }

    /// Takes a whole topic out of the table. Returns whether it was there.
    pub(crate) fn forget_topic(&mut self, topic: &TopicName) -> bool {
        self.unfocus();
        let Some(table) = self.topics.remove(topic) else {
            return false;
        };
        for replicas in table.partitions.replicas() {
            for (place, slot) in replicas.iter().enumerate() {
                self.loads[*slot as usize].all.debit(place == 0);
                if self.known[*slot as usize].position.is_some() {
                    self.totals.debit(place == 0);
                }
            }
        }
        true
    }
}
