//! What the operator may choose.

use crate::error::PlacementError;

/// Most virtual nodes that a node of weight 100 may have.
pub const MAX_VIRTUAL_NODES: u32 = 4_096;

/// How nodes are chosen for a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PlacementStrategy {
    /// A hash ring with virtual nodes (Karger et al., STOC 1997) under bounded loads (Mirrokni,
    /// Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018).
    #[default]
    ConsistentHash,
}

/// Configuration of a [`crate::PartitionPlacer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementConfig {
    /// How nodes are chosen. Default: [`PlacementStrategy::ConsistentHash`].
    pub strategy: PlacementStrategy,
    /// Whether replicas go to distinct racks before they share one. Default: `true`. Nodes without
    /// a rack count as one rack together, since nothing tells them apart (as in Kafka). Distinct
    /// racks come before even loads: in a cluster with very uneven racks the nodes of a small rack
    /// carry more, unless `max_partitions_per_node` stops it.
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
    /// than [`MAX_VIRTUAL_NODES`].
    pub fn validate(&self) -> Result<(), PlacementError> {
        if (1..=MAX_VIRTUAL_NODES).contains(&self.virtual_nodes) {
            Ok(())
        } else {
            Err(PlacementError::InvalidVirtualNodes {
                virtual_nodes: self.virtual_nodes,
                max: MAX_VIRTUAL_NODES,
            })
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
    }

    #[test]
    fn virtual_nodes_out_of_range_are_refused() {
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
    }
}
