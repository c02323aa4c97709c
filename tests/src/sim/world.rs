//! A simulated cluster: nodes by number, each with a disk that outlives it.
//!
//! # How a node dies
//! At the instant of a crash its network generation and its disk handle become invalid, so nothing
//! that its tasks still do reaches the world, and its I/O tasks are aborted where they stand. The rest
//! of its tasks are shut down in the background; that only frees memory. A client that gets an answer
//! must ask whether the life that gave it is still the current one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rivven_coordinator::consumer_groups::GroupConfig;
use rivven_coordinator::{
    ClusterCoordinator, ClusterMember, ClusterMode, CoordinatorConfig, CoordinatorError,
    CoordinatorPorts, NewTopic, NodeScope, RaftTiming, RuntimeHooks, SessionConfig, TopicDefaults,
};
use rivven_core_types::test_util::{MemVfs, SeededEntropy};
use rivven_core_types::{
    Address, BrokerId, Durability, InvalidId, LogConfig, NodeInfo, NodeName, Rng, TopicName,
};
use rivven_isr::ReplicationConfig;
use rivven_swim::{SwimConfig, SwimSecurity};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::clock::SimClock;
use super::disk_thread::{DiskPace, DiskThreads};
use super::network::SimNetwork;
use super::plan::Settings;

/// Pause between two looks at a condition, in simulated time.
const POLL: Duration = Duration::from_millis(5);
/// How long the remains of a dead node may take to go away.
const CLEANUP: Duration = Duration::from_secs(30);

/// A node that runs or has run.
#[derive(Debug)]
pub struct SimNode {
    /// Where it is on the simulated network.
    pub address: SocketAddr,
    /// Its disk, which outlives it.
    pub disk: MemVfs,
    /// The node itself, while it lives.
    pub coordinator: Option<ClusterCoordinator>,
    /// Which life of the node this is; grows at every crash and every start.
    pub life: u64,
    /// Its clock, its randomness and its tasks.
    pub scope: NodeScope,
    /// Whether its power has ever gone in the midst of a change of its disk.
    pub lost_power_in_change: bool,
    /// Whether it is a member of the cluster, or on its way in.
    pub in_service: bool,
    starting: bool,
    pace: Arc<DiskPace>,
    threads: Arc<DiskThreads>,
}

impl SimNode {
    /// Whether it lives or is about to.
    pub const fn is_up(&self) -> bool {
        self.starting || self.coordinator.is_some()
    }

    /// From now on a round of I/O takes up to `millis`; 0 makes the disk fast again.
    pub fn slow_disk(&self, millis: u64) {
        self.pace.set(millis);
    }
}

/// A start that is under way: the node's configuration and its ports.
#[derive(Debug)]
pub struct Boot {
    /// The life that this start is to be.
    pub life: u64,
    scope: NodeScope,
    config: CoordinatorConfig,
    ports: CoordinatorPorts,
}

impl Boot {
    /// Runs the start.
    pub async fn run(self) -> Result<ClusterCoordinator, CoordinatorError> {
        let started = ClusterCoordinator::start(self.config, self.ports);
        self.scope.hold(started).await
    }
}

/// A cluster of simulated nodes.
#[derive(Debug)]
pub struct SimCluster {
    /// The nodes; number `n` is called `node-{n + 1}`.
    pub nodes: Vec<SimNode>,
    /// The network between them.
    pub network: SimNetwork,
    /// Whether all topics promise only what is synced, so that any power may go at any time.
    pub only_synced_counts: bool,
    seed: u64,
    settings: Settings,
    /// How many nodes form the cluster; others may join it.
    founders: usize,
    lives: u64,
    rng: Rng,
}

impl SimCluster {
    /// `count` blank nodes that have not been started; all randomness comes from `seed`. Must be
    /// called on the paused runtime that will run them.
    pub fn stopped(count: u16, seed: u64) -> Self {
        Self::configured(count, 0, seed, Settings::default())
    }

    /// So many nodes that form the cluster, and so many others.
    pub(super) fn configured(count: u16, spare: u16, seed: u64, settings: Settings) -> Self {
        let nodes = (0..count + spare).map(|n| {
            let pace = Arc::new(DiskPace::new(seed ^ (u64::from(n) << 32)));
            let scope = NodeScope::new(seed.wrapping_mul(31) + u64::from(n));
            SimNode {
                address: SocketAddr::from(([127, 0, 0, 1], 9000 + n)),
                disk: MemVfs::new(),
                coordinator: None,
                life: 0,
                lost_power_in_change: false,
                in_service: n < count,
                starting: false,
                threads: Arc::new(DiskThreads::new(Arc::clone(&pace), scope.clone())),
                scope,
                pace,
            }
        });
        Self {
            nodes: nodes.collect(),
            network: SimNetwork::new(seed),
            only_synced_counts: false,
            seed,
            settings,
            founders: usize::from(count),
            lives: 0,
            rng: Rng::new(seed ^ 0x5eed),
        }
    }

    /// Starts `count` blank nodes; all randomness comes from `seed`.
    pub async fn start(count: u16, seed: u64) -> Result<Self, CoordinatorError> {
        let mut cluster = Self::stopped(count, seed);
        for n in 0..cluster.nodes.len() {
            cluster.boot(n).await?;
        }
        Ok(cluster)
    }

    /// Starts node `n` on its disk.
    pub async fn boot(&mut self, n: usize) -> Result<(), CoordinatorError> {
        let boot = self.begin_boot(n)?;
        let life = boot.life;
        let started = boot.run().await?;
        self.end_boot(n, life, started);
        Ok(())
    }

    /// Begins a start of node `n`, which must be down.
    pub fn begin_boot(&mut self, n: usize) -> Result<Boot, CoordinatorError> {
        self.lives += 1;
        let config = self
            .config(n)
            .map_err(|e| CoordinatorError::InvalidRequest(e.to_string()))?;
        let node = &mut self.nodes[n];
        node.life = self.lives;
        node.starting = true;
        node.scope = node.scope.next_life();
        let threads = DiskThreads::new(Arc::clone(&node.pace), node.scope.clone());
        node.threads = Arc::new(threads);
        let ports = CoordinatorPorts {
            vfs: Arc::new(node.disk.clone()),
            clock: Arc::new(SimClock::new(node.scope.clone())),
            entropy: Arc::new(SeededEntropy::new(
                self.seed.wrapping_mul(1000) + self.lives,
            )),
            io: node.threads.clone(),
            network: self.network.factory(node.address, node.scope.clone()),
            control: Handle::current(),
            runtime: RuntimeHooks::Simulated(node.scope.clone()),
            data: Handle::current(),
        };
        Ok(Boot {
            life: node.life,
            scope: node.scope.clone(),
            config,
            ports,
        })
    }

    /// Takes the outcome of a start; false if the node was killed meanwhile.
    pub fn end_boot(&mut self, n: usize, life: u64, started: ClusterCoordinator) -> bool {
        let node = &mut self.nodes[n];
        if node.life != life {
            bury(started);
            return false;
        }
        node.starting = false;
        node.coordinator = Some(started);
        true
    }

    /// Node `n`, which is down and no member, is to join with a blank disk.
    pub fn enlist(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.disk = MemVfs::new();
        node.lost_power_in_change = false;
        node.in_service = true;
    }

    /// Takes note of a start that has failed.
    pub fn give_up_boot(&mut self, n: usize, life: u64) {
        if self.nodes[n].life == life {
            self.kill(n);
        }
    }

    /// Kills node `n` as `kill -9` does: what it wrote stays in the page cache, unless its power has gone.
    pub fn kill(&mut self, n: usize) {
        if self.only_synced_counts && self.nodes[n].disk.is_blown() {
            return self.lose_power(n);
        }
        self.nodes[n].disk = self.nodes[n].disk.restart_process();
        self.end_life(n);
    }

    /// Cuts the power of node `n`: unsynced writes are lost in part or whole.
    pub fn lose_power(&mut self, n: usize) {
        self.nodes[n].lost_power_in_change |= self.nodes[n].disk.is_blown();
        self.nodes[n].disk = self.nodes[n].disk.lose_power(&mut self.rng);
        self.end_life(n);
    }

    fn end_life(&mut self, n: usize) {
        self.lives += 1;
        let node = &mut self.nodes[n];
        node.life = self.lives;
        node.starting = false;
        self.network.kill(node.address);
        node.scope.crash();
        node.threads.kill();
        if let Some(dead) = node.coordinator.take() {
            bury(dead);
        }
    }

    /// Stops the process of node `n` as SIGSTOP does: time goes on, it does not.
    pub fn pause(&self, n: usize) {
        let node = &self.nodes[n];
        node.scope.pause();
        self.network.pause(node.address);
    }

    /// Lets the process of node `n` go on. What it was sent meanwhile comes before what it finds due itself.
    pub fn resume(&self, n: usize) {
        let node = &self.nodes[n];
        self.network.resume(node.address);
        node.scope.resume();
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

    /// The number of the living node that has registered as `broker`.
    pub fn node_of(&self, broker: BrokerId) -> Option<usize> {
        self.nodes.iter().position(|node| {
            let local = node.coordinator.as_ref().and_then(|c| c.session().local);
            local.is_some_and(|local| local.id == broker)
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
            log: LogConfig::default(),
        })
    }

    fn config(&self, n: usize) -> Result<CoordinatorConfig, InvalidId> {
        let name = |n: usize| NodeName::new(format!("node-{}", n + 1));
        let address = |n: usize| Address::from(self.nodes[n].address);
        let members = (0..self.founders).filter(|other| *other != n).map(|other| {
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
            raft: RaftTiming {
                snapshot_threshold: self.settings.snapshot_threshold,
                limits: self.settings.raft_limits,
                ..RaftTiming::default()
            },
            swim,
            // Few, so that logs lose their open files in every run.
            max_open_log_files: Some(4),
            replication: ReplicationConfig {
                replica_lag_max_time: self.settings.lag_max,
                fetch_max_wait: self.settings.fetch_wait(),
                ..ReplicationConfig::default()
            },
            groups: GroupConfig {
                consumer_session_timeout: Duration::from_secs(6),
                max_flap_delay: Duration::from_secs(3),
                ..GroupConfig::default()
            },
            session: SessionConfig::default(),
            topic_defaults: TopicDefaults::default(),
            placement: rivven_coordinator::placement::PlacementConfig::default(),
            move_limits: rivven_coordinator::placement::Limits::default(),
        })
    }
}

/// Frees what is left of a dead node.
fn bury(dead: ClusterCoordinator) {
    drop(tokio::spawn(async move {
        // Its tasks can reach nothing; one that does not end in time is a leak, not a ghost.
        drop(tokio::time::timeout(CLEANUP, dead.abandon()).await);
    }));
}
