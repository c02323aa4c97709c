//! What is planned with, and what a plan consists of.

use std::collections::BTreeSet;
use std::fmt;

use rivven_core_types::{BrokerId, PartitionId, RackId, TopicId};

use crate::config::{PlacementConfig, PlacementOptions, RackMode};

/// What is to become of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeState {
    /// Keeps its replicas and takes more.
    #[default]
    Active,
    /// Is to be emptied.
    Draining,
    /// Its replicas are lost: they are replaced first.
    Gone,
}

/// A node as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewNode {
    /// Its number.
    pub id: BrokerId,
    /// Its failure domain.
    pub rack: Option<RackId>,
    /// Its relative capacity; 0: keeps what it has and is given nothing.
    pub weight: u32,
    /// What is to become of it.
    pub state: NodeState,
}

/// The nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterView {
    /// In any order. A replica on a node that is not among them counts as lost.
    pub nodes: Vec<ViewNode>,
}

/// Where a partition is, or is on its way to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedPartition {
    /// Which one.
    pub id: PartitionId,
    /// Its replicas, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// How many there should be.
    pub replication_factor: usize,
    /// The size of one replica.
    pub bytes: u64,
}

/// The table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// In any order.
    pub partitions: Vec<PlacedPartition>,
    /// Of what version of the metadata.
    pub version: u64,
}

/// What a plan is to achieve beside repairing and draining.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Goals {
    /// What racks count for. Default: [`RackMode::Prefer`].
    pub rack_mode: RackMode,
    /// Whether partitions whose replicas share a rack without need are spread. Default: yes.
    pub racks: bool,
    /// Whether replicas are evened out. Default: yes.
    pub balance: bool,
    /// Whether preferred leaders are evened out. Default: yes.
    pub leaders: bool,
    /// The topics whose preferred leaders may change; those of the others count all the same. `None`: all.
    /// Default: all.
    pub leaders_of: Option<BTreeSet<TopicId>>,
    /// How far, in percent of its share, a node may be off before anything is evened out; once
    /// it is further off, everything is. One replica is always tolerated then. 0: as even as can be.
    /// Default: 0. A planner that acts by itself needs some: it should not move data
    /// for every topic that is created.
    pub tolerance_percent: u32,
    /// Most replicas on one node; 0 = no limit.
    pub max_partitions_per_node: u32,
}

impl Goals {
    /// Everything, as evenly as can be, within what `config` allows.
    pub fn of(config: &PlacementConfig) -> Self {
        Self {
            rack_mode: PlacementOptions::default().rack_mode(config),
            max_partitions_per_node: config.max_partitions_per_node,
            ..Self::default()
        }
    }
}

impl Default for Goals {
    fn default() -> Self {
        Self {
            rack_mode: RackMode::Prefer,
            racks: true,
            balance: true,
            leaders: true,
            leaders_of: None,
            tolerance_percent: 0,
            max_partitions_per_node: 0,
        }
    }
}

/// Why a replica moves; the order is that of importance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Phase {
    /// The replica is lost.
    Repair,
    /// Its node is to be emptied.
    Drain,
    /// It shares a rack with another without need.
    Rack,
    /// Its node holds more than its share, or the other less.
    Balance,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repair => "repair",
            Self::Drain => "drain",
            Self::Rack => "rack",
            Self::Balance => "balance",
        })
    }
}

/// One replica that goes elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Which partition.
    pub partition: PartitionId,
    /// Whose replica is given up; `None` if one was missing.
    pub from: Option<BrokerId>,
    /// Who gets one.
    pub to: BrokerId,
    /// Why.
    pub phase: Phase,
    /// How much is copied.
    pub bytes: u64,
}

impl Move {
    /// The replicas after this move: the new one takes the place of the old one.
    pub fn apply(&self, replicas: &[BrokerId]) -> Vec<BrokerId> {
        let mut after = replicas.to_vec();
        let place = self
            .from
            .and_then(|from| after.iter().rposition(|broker| *broker == from));
        match place {
            Some(place) => after[place] = self.to,
            None => after.push(self.to),
        }
        after
    }
}

/// A change of the preferred leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderMove {
    /// Which partition.
    pub partition: PartitionId,
    /// The preferred leader once the partition's moves are made.
    pub from: BrokerId,
    /// Who is to be it.
    pub to: BrokerId,
}

impl LeaderMove {
    /// The replicas after this change: the two exchange their places.
    pub fn apply(&self, replicas: &[BrokerId]) -> Vec<BrokerId> {
        let mut after = replicas.to_vec();
        if let Some(place) = after.iter().position(|broker| *broker == self.to) {
            after.swap(0, place);
        }
        after
    }
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Limiting {
    /// Nodes that may be given replicas.
    Nodes,
    /// Room under `max_partitions_per_node`.
    Capacity,
    /// Racks, under [`RackMode::Strict`].
    Racks,
    /// Room under `max_partitions_per_node` in the cluster as a whole: replicas against places.
    TotalCapacity,
    /// Replicas that a partition may have: while one moves, the old and the new one count.
    Replicas,
}

/// Something that cannot be achieved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortage {
    /// What there is too little of.
    pub limiting: Limiting,
    /// How many are needed: by the partition given as example, or in all.
    pub needed: u64,
    /// How many there are.
    pub available: u64,
    /// How many replicas stay where they are, or missing, for it.
    pub replicas: u64,
    /// One of the partitions.
    pub example: Option<PartitionId>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.limiting {
            Limiting::Nodes => "nodes that may be given replicas",
            Limiting::Capacity => "nodes with room under max_partitions_per_node",
            Limiting::Racks => "racks",
            Limiting::Replicas => "replicas of a partition, the old one beside the new,",
            Limiting::TotalCapacity => "places under max_partitions_per_node in all",
        };
        write!(
            f,
            "{} {what} are needed, {} exist",
            self.needed, self.available
        )?;
        if let Some(example) = self.example {
            write!(
                f,
                "; {} replicas wait, one of partition {example}",
                self.replicas
            )?;
        }
        Ok(())
    }
}
