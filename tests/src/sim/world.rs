//! A simulated cluster: nodes by number, each with a disk that outlives it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rivven_coordinator::{
    ClusterCoordinator, ClusterMember, ClusterMode, CoordinatorConfig, CoordinatorError,
    CoordinatorPorts, NewTopic, RaftTiming, SessionConfig, TopicDefaults,
};
use rivven_core_types::test_util::{MemVfs, SeededEntropy};
use rivven_core_types::{Address, Durability, InvalidId, NodeInfo, NodeName, Rng, TopicName};
use rivven_isr::ReplicationConfig;
use rivven_raft_store::InlineExecutor;
use rivven_swim::{SwimConfig, SwimSecurity};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::clock::TokioClock;
use super::network::SimNetwork;

/// Pause between two looks at a condition, in simulated time.
const POLL: Duration = Duration::from_millis(5);

/// A node that runs or has run.
#[derive(Debug)]
pub struct SimNode {
    /// Where it is on the simulated network.
    pub address: SocketAddr,
    /// Its disk, which outlives it.
    pub disk: MemVfs,
    /// The node itself, while it lives.
    pub coordinator: Option<ClusterCoordinator>,
}

/// A cluster of simulated nodes.
#[derive(Debug)]
pub struct SimCluster {
    /// The nodes; number `n` is called `node-{n + 1}`.
    pub nodes: Vec<SimNode>,
    /// The network between them.
    pub network: SimNetwork,
    seed: u64,
    lives: u64,
    rng: Rng,
}

impl SimCluster {
    /// Starts `count` blank nodes; all randomness comes from `seed`.
    pub async fn start(count: u16, seed: u64) -> Result<Self, CoordinatorError> {
        let nodes = (0..count).map(|n| SimNode {
            address: SocketAddr::from(([127, 0, 0, 1], 9000 + n)),
            disk: MemVfs::new(),
            coordinator: None,
        });
        let mut cluster = Self {
            nodes: nodes.collect(),
            network: SimNetwork::new(seed),
            seed,
            lives: 0,
            rng: Rng::new(seed ^ 0x5eed),
        };
        for n in 0..cluster.nodes.len() {
            cluster.boot(n).await?;
        }
        Ok(cluster)
    }

    /// Starts node `n` on its disk.
    pub async fn boot(&mut self, n: usize) -> Result<(), CoordinatorError> {
        self.lives += 1;
        let config = self
            .config(n)
            .map_err(|e| CoordinatorError::InvalidRequest(e.to_string()))?;
        let node = &mut self.nodes[n];
        let ports = CoordinatorPorts {
            vfs: Arc::new(node.disk.clone()),
            clock: Arc::new(TokioClock::new()),
            entropy: Arc::new(SeededEntropy::new(
                self.seed.wrapping_mul(1000) + self.lives,
            )),
            io: Arc::new(InlineExecutor),
            network: self.network.factory(node.address),
            control: Handle::current(),
            data: Handle::current(),
        };
        node.coordinator = Some(ClusterCoordinator::start(config, ports).await?);
        Ok(())
    }

    /// Kills node `n` as `kill -9` does: what it wrote stays in the page cache.
    pub fn kill(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        self.network.kill(node.address);
        node.disk = node.disk.restart_process();
        node.coordinator = None;
    }

    /// Cuts the power of node `n`: unsynced writes are lost in part or whole.
    pub fn lose_power(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        self.network.kill(node.address);
        node.disk = node.disk.lose_power(&mut self.rng);
        node.coordinator = None;
    }

    /// The nodes that live.
    pub fn living(&self) -> impl Iterator<Item = &ClusterCoordinator> {
        self.nodes
            .iter()
            .filter_map(|node| node.coordinator.as_ref())
    }

    /// Which living node is the controller, as itself sees it.
    pub fn controller(&self) -> Option<usize> {
        self.nodes.iter().position(|node| {
            node.coordinator
                .as_ref()
                .is_some_and(|c| c.health().is_leader)
        })
    }

    /// Waits, in simulated time, until `condition` holds for the cluster; false after `limit`.
    pub async fn wait(&self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let started = Instant::now();
        while !condition(self) {
            if started.elapsed() > limit {
                return false;
            }
            tokio::time::sleep(POLL).await;
        }
        true
    }

    /// A topic of fully replicated partitions.
    pub fn topic(name: &str, partitions: u32) -> Result<NewTopic, InvalidId> {
        Ok(NewTopic {
            name: TopicName::new(name)?,
            partitions: Some(partitions),
            replication_factor: Some(3),
            assignment: None,
            min_isr: Some(2),
            durability: Durability::Fsync,
        })
    }

    fn config(&self, n: usize) -> Result<CoordinatorConfig, InvalidId> {
        let name = |n: usize| NodeName::new(format!("node-{}", n + 1));
        let address = |n: usize| Address::from(self.nodes[n].address);
        let members = (0..self.nodes.len())
            .filter(|other| *other != n)
            .map(|other| {
                Ok(ClusterMember {
                    name: Some(name(other)?),
                    address: address(other),
                })
            });
        let swim = SwimConfig {
            security: SwimSecurity::InsecureDev,
            ..SwimConfig::default()
        };
        Ok(CoordinatorConfig {
            node: NodeInfo::new(name(n)?, address(n), address(n)),
            mode: ClusterMode::Cluster,
            data_dir: "/data".into(),
            members: members.collect::<Result<_, InvalidId>>()?,
            raft: RaftTiming::default(),
            swim,
            replication: ReplicationConfig::default(),
            session: SessionConfig::default(),
            topic_defaults: TopicDefaults::default(),
        })
    }
}
