//! What the operator may choose.

use std::fmt;
use std::str::FromStr;

use crate::error::PlacementError;

/// As much of an unknown name is repeated in an error.
const MAX_SHOWN_CHARS: usize = 64;

/// Version of the placement algorithms, stored with each topic: any change of an answer raises it.
///
/// 1: the first. 2: [`PlacementStrategy::Balanced`] keeps whoever is short of leaderships for the
/// place of the leader, and [`PlacementStrategy::ConsistentHash`] compares half as many bits.
pub const ALGORITHM_VERSION: u16 = 2;

/// Whether partitions may be added to a topic that algorithms of `version` have placed. Those of an
/// earlier version stay where they are, and the new ones are placed beside them by the present
/// algorithms.
///
/// # Errors
/// [`PlacementError::NewerAlgorithm`] for a version beyond [`ALGORITHM_VERSION`].
pub const fn check_version(version: u16) -> Result<(), PlacementError> {
    if version > ALGORITHM_VERSION {
        return Err(PlacementError::NewerAlgorithm {
            found: version,
            known: ALGORITHM_VERSION,
        });
    }
    Ok(())
}

/// Most virtual nodes that a node of weight 100 may have.
pub const MAX_VIRTUAL_NODES: u32 = 4_096;
/// Greatest scatter width of [`PlacementStrategy::Copyset`].
pub const MAX_SCATTER_WIDTH: u16 = 1_000;

/// How nodes are chosen for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PlacementStrategy {
    /// A hash ring with virtual nodes (Karger et al., STOC 1997) under bounded loads (Mirrokni,
    /// Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018): no node holds
    /// more than 1.1 times its share, no node leads more than its share.
    #[default]
    ConsistentHash,
    /// Striped over the nodes in an order that alternates racks, as Kafka does; the start is a hash
    /// of the topic, so that small topics do not pile up. Ignores loads and weights (but weight 0).
    RoundRobin,
    /// The least loaded node for its weight, distinct racks first.
    LeastLoaded,
    /// Racks in turn, and in each rack the least loaded node: every rack leads its share.
    RackAware,
    /// Weighted rendezvous hashing (Thaler and Ravishankar, 1998; Resch, 2014): what a node gets
    /// depends on no other node and on no load.
    Rendezvous,
    /// Recommended: even to within one replica and one leader in each rack, within the topic first and
    /// over all topics second.
    Balanced,
    /// Few distinct replica sets (Cidon et al., "Copysets", USENIX ATC 2013): the loss of as many nodes
    /// as there are replicas seldom hits all replicas of a partition; a lost node is rebuilt from
    /// fewer peers.
    Copyset {
        /// With how many other nodes a node shares partitions, at least; 1 to
        /// [`MAX_SCATTER_WIDTH`].
        scatter_width: u16,
    },
}

/// The strategies but for [`PlacementStrategy::Copyset`], under the names that files and stored topics
/// have.
const NAMES: [(&str, PlacementStrategy); 6] = [
    ("consistent_hash", PlacementStrategy::ConsistentHash),
    ("round_robin", PlacementStrategy::RoundRobin),
    ("least_loaded", PlacementStrategy::LeastLoaded),
    ("rack_aware", PlacementStrategy::RackAware),
    ("rendezvous", PlacementStrategy::Rendezvous),
    ("balanced", PlacementStrategy::Balanced),
];
const COPYSET: &str = "copyset:";

impl fmt::Display for PlacementStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Copyset { scatter_width } = self {
            return write!(f, "{COPYSET}{scatter_width}");
        }
        let name = NAMES.iter().find(|(_, strategy)| strategy == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for PlacementStrategy {
    type Err = PlacementError;

    /// Reads what `Display` writes: `balanced`, `copyset:10`. [`PlacementError::UnknownStrategy`] for
    /// anything else; the scatter width is checked by [`PlacementConfig::validate`].
    fn from_str(text: &str) -> Result<Self, PlacementError> {
        let known = NAMES.iter().find(|(name, _)| *name == text);
        let copyset = || {
            let width = text.strip_prefix(COPYSET)?.parse().ok()?;
            Some(Self::Copyset {
                scatter_width: width,
            })
        };
        known
            .map(|(_, strategy)| *strategy)
            .or_else(copyset)
            .ok_or_else(|| PlacementError::UnknownStrategy {
                found: text.chars().take(MAX_SHOWN_CHARS).collect(),
            })
    }
}

/// What racks count for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RackMode {
    /// As many racks as there are replicas (or racks), or an error.
    Strict,
    /// As many racks as have room; full racks, and with
    /// [`PlacementOptions::max_skew_percent`] overloaded ones, are done without.
    #[default]
    Prefer,
    /// Nothing.
    Off,
}

/// Configuration of a [`crate::PartitionPlacer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementConfig {
    /// How nodes are chosen. Default: [`PlacementStrategy::ConsistentHash`].
    pub strategy: PlacementStrategy,
    /// Whether replicas go to distinct racks before they share one. Default: `true`. Nodes without
    /// a rack count as one rack together, since nothing tells them apart (as in Kafka). Distinct
    /// racks come before even loads: in a cluster with very uneven racks the nodes of a small rack
    /// carry more, unless `max_partitions_per_node` or [`PlacementOptions::max_skew_percent`] stops it.
    pub rack_aware: bool,
    /// Points on the ring of a node of weight 100; other weights in proportion. Default: 150.
    pub virtual_nodes: u32,
    /// Most replicas on one node, a leader counted once; 0 = no limit. Default: 0.
    pub max_partitions_per_node: u32,
}

impl Default for PlacementConfig {
    fn default() -> Self {
        Self {
            strategy: PlacementStrategy::ConsistentHash,
            rack_aware: true,
            virtual_nodes: 150,
            max_partitions_per_node: 0,
        }
    }
}

impl PlacementConfig {
    /// Checks the ranges. [`PlacementError::InvalidVirtualNodes`] if `virtual_nodes` is 0 or more
    /// than [`MAX_VIRTUAL_NODES`]; [`PlacementError::InvalidScatterWidth`] likewise.
    pub fn validate(&self) -> Result<(), PlacementError> {
        if !(1..=MAX_VIRTUAL_NODES).contains(&self.virtual_nodes) {
            return Err(PlacementError::InvalidVirtualNodes {
                virtual_nodes: self.virtual_nodes,
                max: MAX_VIRTUAL_NODES,
            });
        }
        match self.strategy {
            PlacementStrategy::Copyset { scatter_width }
                if !(1..=MAX_SCATTER_WIDTH).contains(&scatter_width) =>
            {
                Err(PlacementError::InvalidScatterWidth {
                    scatter_width,
                    max: MAX_SCATTER_WIDTH,
                })
            }
            _ => Ok(()),
        }
    }

    /// The cap on replicas of one node; the greatest number if there is none.
    pub(crate) fn cap(&self) -> u64 {
        match self.max_partitions_per_node {
            0 => u64::MAX,
            cap => u64::from(cap),
        }
    }
}

/// What a [`crate::PartitionPlacer`] may be told beyond its [`PlacementConfig`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PlacementOptions {
    /// What racks count for; `None`: [`RackMode::Prefer`] if `rack_aware`, else [`RackMode::Off`].
    pub rack_mode: Option<RackMode>,
    /// With [`RackMode::Prefer`]: by how many percent of its share a node may be overloaded for the
    /// sake of distinct racks; 0 = without limit. Default: 0.
    pub max_skew_percent: u32,
}

impl PlacementOptions {
    pub(crate) fn rack_mode(&self, config: &PlacementConfig) -> RackMode {
        let derived = if config.rack_aware {
            RackMode::Prefer
        } else {
            RackMode::Off
        };
        self.rack_mode.unwrap_or(derived)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_documented_ones_and_valid() {
        let config = PlacementConfig {
            strategy: PlacementStrategy::ConsistentHash,
            rack_aware: true,
            virtual_nodes: 150,
            max_partitions_per_node: 0,
        };
        assert_eq!(PlacementConfig::default(), config);
        assert_eq!(config.validate(), Ok(()));
        let options = PlacementOptions::default();
        assert_eq!(options.rack_mode(&config), RackMode::Prefer);
    }

    #[test]
    fn strategies_are_written_as_they_are_read() {
        let copyset = PlacementStrategy::Copyset { scatter_width: 10 };
        let all = NAMES.iter().map(|(_, strategy)| *strategy);
        for strategy in all.chain([copyset]) {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        assert_eq!(copyset.to_string(), "copyset:10");
        for wrong in ["", "Balanced", "copyset", "copyset:", "copyset:70000"] {
            let error = wrong.parse::<PlacementStrategy>().unwrap_err();
            assert!(error.to_string().contains("rendezvous"), "{error}");
        }
    }

    #[test]
    fn what_a_later_version_has_placed_is_left_to_it() {
        assert_eq!(check_version(1), Ok(()));
        assert_eq!(check_version(ALGORITHM_VERSION), Ok(()));
        assert!(matches!(
            check_version(ALGORITHM_VERSION + 1),
            Err(PlacementError::NewerAlgorithm { .. })
        ));
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for virtual_nodes in [0, MAX_VIRTUAL_NODES + 1] {
            let config = PlacementConfig {
                virtual_nodes,
                ..Default::default()
            };
            assert!(matches!(
                config.validate(),
                Err(PlacementError::InvalidVirtualNodes { .. })
            ));
        }
        for scatter_width in [0, MAX_SCATTER_WIDTH + 1] {
            let config = PlacementConfig {
                strategy: PlacementStrategy::Copyset { scatter_width },
                ..Default::default()
            };
            assert!(matches!(
                config.validate(),
                Err(PlacementError::InvalidScatterWidth { .. })
            ));
        }
    }
}
