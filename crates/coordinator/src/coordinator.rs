//! One cluster node, wired: the only place that knows all parts.

mod administration;
mod shutdown;
mod watchers;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use rivven_consumer_groups::GroupsWatch;
use rivven_core_types::watch;
use rivven_core_types::{BrokerId, ClusterId, Incarnation, MonoTime, ProducerId, planted};
use rivven_core_types::{Clock, Entropy, LogStore, SharedIoExecutor, TopicId, Vfs};
use rivven_isr::{LocalBroker, ReplicaRole, ReplicationManager, ReplicationPorts};
use rivven_metadata::ClusterState;
use rivven_raft_store::{Identity, RaftHandle, RaftNode, RaftStatus, RuntimeHooks};
use rivven_swim::{ClusterTag, Membership, SwimPorts};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::blocking;
use crate::broker::{self, BrokerSession, DiskInventory, SessionStatus};
use crate::config::{ClusterMode, CoordinatorConfig};
use crate::controller::Controller;
use crate::error::CoordinatorError;
use crate::formation::Former;
use crate::groups::GroupService;
use crate::health::ClusterHealth;
use crate::log_sizes::LogSizes;
use crate::member_probe::MemberProbe;
use crate::members::Members;
use crate::messages::FirstVoter;
use crate::network::{BoundNetwork, NetworkFactory, NetworkIdentity};
use crate::partitions::{self, AlterPartitions};
use crate::producer_ids::ProducerIds;
use crate::proposals::MetadataProposer;
use crate::rebalancer::Rebalancer;
use crate::recovery::Recovery;
use crate::router::Router;
use crate::startup::{self, rpc_of};
use crate::state::StateWatch;
use crate::topics::{NewTopic, TopicCreator};

/// What a coordinator needs of its surroundings; the simulator brings its own.
#[derive(Clone)]
pub struct CoordinatorPorts {
    /// The disk.
    pub vfs: Arc<dyn Vfs>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub entropy: Arc<dyn Entropy>,
    /// Runs the I/O loops: the Raft log writer, each shard, the flusher.
    pub io: SharedIoExecutor,
    /// Binds the network.
    pub network: Arc<dyn NetworkFactory>,
    /// Runs consensus, membership, sessions.
    pub control: Handle,
    /// Whose clock, randomness and fate the Raft nodes have: the operating system's, or those of a
    /// simulated node.
    pub runtime: RuntimeHooks,
    /// Runs record I/O. Another runtime than `control`, so that a stalled disk or a flood of records
    /// never delays a heartbeat (D8).
    pub data: Handle,
}

impl std::fmt::Debug for CoordinatorPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CoordinatorPorts")
    }
}

/// A running node of a cluster. Clones share it.
#[derive(Clone)]
pub struct ClusterCoordinator {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for ClusterCoordinator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterCoordinator")
            .field("node", &self.inner.config.node.name)
            .finish()
    }
}

struct Inner {
    config: CoordinatorConfig,
    ports: CoordinatorPorts,
    network: BoundNetwork,
    raft: RaftHandle,
    raft_node: tokio::sync::Mutex<RaftNode>,
    groups: GroupService,
    groups_raft: RaftHandle,
    groups_node: tokio::sync::Mutex<RaftNode>,
    state: StateWatch,
    log_sizes: Arc<LogSizes>,
    former: Arc<Former>,
    members: Arc<Members>,
    proposer: MetadataProposer,
    membership: Arc<OnceLock<Membership>>,
    replication: Arc<OnceLock<ReplicationManager>>,
    producer_ids: ProducerIds,
    session: watch::Sender<SessionStatus>,
    failure: tokio::sync::watch::Sender<Option<Arc<CoordinatorError>>>,
    stopping: Arc<AtomicBool>,
    swim_shutdown: tokio::sync::watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl ClusterCoordinator {
    /// Starts a node: reads its identity, binds its network, opens its stores and begins to form or
    /// rejoin its cluster in the background. Returns as soon as it answers peers; use
    /// [`Self::watch_session`] to learn when it serves, and [`Self::watch_failure`] to learn why it
    /// never will.
    ///
    /// # Errors
    /// An occupied port, a damaged or foreign data directory: nothing runs then.
    pub async fn start(
        config: CoordinatorConfig,
        ports: CoordinatorPorts,
    ) -> Result<Self, CoordinatorError> {
        config.replication.validate()?;
        let identity = startup::load_identity(&config, &ports).await?;
        let network = ports.network.bind(NetworkIdentity {
            name: config.node.name.clone(),
            incarnation: identity.incarnation,
            cluster: identity.cluster_id,
        });
        let network = network.await?;
        let state = StateWatch::default();
        // The Raft store first: it locks the data directory against a second process.
        let mut raft_node =
            startup::open_raft(&config, &ports, &identity, &network, &state).await?;
        let groups_state = GroupsWatch::default();
        let mut groups_node =
            startup::open_groups_raft(&config, &ports, &identity, &network, &groups_state).await?;
        let logs = startup::open_log_store(&config, &ports).await?;
        let boot = startup::next_boot_id(&config, &ports).await?;
        raft_node.start().await?;
        groups_node.start().await?;
        let groups = GroupService::new(
            config.node.name.clone(),
            groups_node.handle(),
            groups_state,
            state.clone(),
            Arc::clone(&ports.clock),
            Arc::clone(&ports.entropy),
            config.groups.clone(),
        );
        let nodes = (raft_node, groups_node, groups);
        let this = Self::assemble(config, ports, network, nodes, identity, state);
        this.serve_and_run(logs, boot);
        Ok(this)
    }

    fn assemble(
        config: CoordinatorConfig,
        ports: CoordinatorPorts,
        network: BoundNetwork,
        (raft_node, groups_node, groups): (RaftNode, RaftNode, GroupService),
        identity: Identity,
        state: StateWatch,
    ) -> Self {
        let groups_raft = groups_node.handle();
        let raft = raft_node.handle();
        let own = FirstVoter {
            name: config.node.name.clone(),
            incarnation: identity.incarnation,
            raft_id: identity.raft_id,
            address: config.node.cluster_addr.clone(),
        };
        let former = Arc::new(Former {
            identity: Mutex::new(identity),
            own,
            members: config.members.clone(),
            raft: raft.clone(),
            groups: groups_raft.clone(),
            network: Arc::clone(&network.rpc),
            entropy: Arc::clone(&ports.entropy),
            io: Arc::clone(&ports.io),
            state: state.clone(),
            names: Mutex::default(),
        });
        let proposer = MetadataProposer::new(
            config.node.name.clone(),
            raft.clone(),
            rpc_of(&network),
            Arc::clone(&ports.clock),
            state.clone(),
        );
        let members = Arc::new(Members {
            own: former.own.clone(),
            target_voters: config.raft.voters,
            raft: raft.clone(),
            state: state.clone(),
            proposer: proposer.clone(),
            rpc: rpc_of(&network),
            clock: Arc::clone(&ports.clock),
            away_since: Mutex::default(),
        });
        let session = SessionStatus {
            local: None,
            fenced: true,
            may_stop: false,
        };
        let inner = Inner {
            config,
            ports,
            network,
            raft,
            raft_node: tokio::sync::Mutex::new(raft_node),
            groups,
            groups_raft,
            groups_node: tokio::sync::Mutex::new(groups_node),
            state,
            log_sizes: Arc::default(),
            former,
            members,
            proposer,
            membership: Arc::default(),
            replication: Arc::default(),
            producer_ids: ProducerIds::default(),
            session: watch::Sender::new(session),
            failure: tokio::sync::watch::Sender::new(None),
            stopping: Arc::default(),
            swim_shutdown: tokio::sync::watch::Sender::new(false),
            tasks: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    fn serve_and_run(&self, logs: Arc<dyn LogStore>, boot: u64) {
        let inner = &self.inner;
        let controller = Arc::new(Controller {
            own_name: inner.config.node.name.clone(),
            raft: inner.raft.clone(),
            state: inner.state.clone(),
            clock: Arc::clone(&inner.ports.clock),
            config: inner.config.session.clone(),
            former: Arc::clone(&inner.former),
            groups: inner.groups.clone(),
            rpc: rpc_of(&inner.network),
            membership: Arc::clone(&inner.membership),
            sessions: Mutex::default(),
            log_sizes: Arc::clone(&inner.log_sizes),
        });
        let recovery = Arc::new(Recovery {
            own_name: inner.config.node.name.clone(),
            state: inner.state.clone(),
            rpc: rpc_of(&inner.network),
            proposer: inner.proposer.clone(),
            replication: Arc::clone(&inner.replication),
            session: inner.session.subscribe(),
        });
        inner.network.rpc.serve(Arc::new(Router {
            raft: inner.raft.clone(),
            groups_raft: inner.groups_raft.clone(),
            groups: inner.groups.clone(),
            former: Arc::clone(&inner.former),
            controller: Arc::clone(&controller),
            members: Arc::clone(&inner.members),
            proposer: inner.proposer.clone(),
            recovery: Arc::clone(&recovery),
            state: inner.state.clone(),
            replication: Arc::clone(&inner.replication),
            boot_id: boot,
        }));
        let raft = inner.raft.clone();
        self.spawn_control(async move { recovery.run(|| raft.is_leader()).await });
        let rebalancer = Rebalancer {
            raft: inner.raft.clone(),
            state: inner.state.clone(),
            clock: Arc::clone(&inner.ports.clock),
            config: inner.config.placement.clone(),
            limits: inner.config.move_limits.clone(),
            log_sizes: Arc::clone(&inner.log_sizes),
        };
        self.spawn_control(async move { rebalancer.run().await });
        let this = self.clone();
        let life = async move {
            if let Err(error) = this.live(controller, logs, boot).await {
                tracing::error!(%error, "the node cannot take part in its cluster");
                this.inner.failure.send_replace(Some(Arc::new(error)));
            }
        };
        self.spawn_control(life);
        self.spawn_control(watchers::follow_addresses(Arc::clone(inner)));
        self.spawn_control(watchers::watch_raft(Arc::clone(inner), inner.raft.clone()));
        self.spawn_control(watchers::watch_raft(
            Arc::clone(inner),
            inner.groups_raft.clone(),
        ));
        // Among the records: a large group's plan or a commit storm must not hold up the controller.
        let groups = inner.ports.runtime.hold(inner.groups.clone().run());
        self.remember(inner.ports.data.spawn(groups));
        let (groups, metadata) = (inner.groups.clone(), inner.raft.clone());
        self.spawn_control(async move { groups.follow_voters(&metadata).await });
        if inner.config.mode == ClusterMode::Cluster {
            let members = Arc::clone(&inner.members);
            self.spawn_control(async move { members.run().await });
            self.spawn_control(watchers::watch_standing(Arc::clone(inner)));
        }
    }

    fn spawn_control(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ports = &self.inner.ports;
        self.remember(ports.control.spawn(ports.runtime.hold(task)));
    }

    fn remember(&self, task: JoinHandle<()>) {
        let mut tasks = self
            .inner
            .tasks
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        tasks.push(task);
    }

    /// Forms or rejoins the cluster, then keeps the session until aborted.
    async fn live(
        &self,
        controller: Arc<Controller>,
        logs: Arc<dyn LogStore>,
        boot: u64,
    ) -> Result<(), CoordinatorError> {
        let inner = &self.inner;
        match inner.config.mode {
            ClusterMode::Standalone => {
                let known = inner.former.cluster_id();
                let entropy = inner.ports.entropy.as_ref();
                let cluster = known.unwrap_or_else(|| ClusterId::random(entropy));
                inner.former.join_cluster(cluster).await?;
            }
            ClusterMode::Cluster => inner.former.run().await?,
        }
        self.start_membership(boot).await?;
        self.spawn_control({
            let controller = Arc::clone(&controller);
            async move { controller.run().await }
        });
        let inventory = broker::take_inventory(&inner.ports.io, &logs).await?;
        let session = self.broker_session(controller);
        let mut local = session.register(&inventory.lossy).await;
        // Nothing elects this broker before its first heartbeat: there is still time to correct what
        // it said it holds.
        let missing = inventory.missing(local.id, &inner.state.current());
        if !missing.is_empty() && !planted("coordinator.missing-log-not-told") {
            tracing::error!(
                logs = missing.len(),
                "logs that this broker should hold are gone"
            );
            let lossy = [inventory.lossy.clone(), missing].concat();
            local = session.register(&lossy).await;
        }
        blocking::run(&inner.ports.io, "rivven-recovery", {
            let (logs, lossy) = (Arc::clone(&logs), inventory.lossy.clone());
            move || {
                // What was missing has been told.
                logs.remember_stored()?;
                lossy
                    .iter()
                    .try_for_each(|partition| logs.acknowledge_cut(*partition))
            }
        })
        .await??;
        let lossy = inventory.lossy.clone();
        let replication = self.start_replication(&session, local, logs, inventory);
        session.run(local, replication, &lossy).await;
        Ok(())
    }

    async fn start_membership(&self, boot: u64) -> Result<(), CoordinatorError> {
        let inner = &self.inner;
        if inner.config.mode == ClusterMode::Standalone {
            return Ok(());
        }
        let mut config = inner.config.swim.clone();
        config.boot_id = Some(boot);
        config.cluster = inner
            .former
            .cluster_id()
            .map(ClusterTag::from)
            .unwrap_or_default();
        let ports = SwimPorts {
            datagram: Arc::clone(&inner.network.datagram),
            clock: Arc::clone(&inner.ports.clock),
            entropy: Arc::clone(&inner.ports.entropy),
            stream: Some(Arc::new(MemberProbe {
                rpc: rpc_of(&inner.network),
                deadline: config.ping_timeout,
            })),
        };
        let shutdown = inner.swim_shutdown.subscribe();
        let node = inner.config.node.clone();
        let membership = Membership::with_ports(node, config, ports, shutdown).await?;
        let seeds = watchers::seeds(inner);
        let joining = membership.clone();
        self.spawn_control(async move {
            // The driver goes on contacting the seeds; failing to reach one now is no failure.
            if let Err(error) = joining.join(&seeds).await {
                tracing::info!(%error, "no seed has answered yet");
            }
        });
        // It is set once: `live` runs once.
        drop(inner.membership.set(membership));
        Ok(())
    }

    fn broker_session(&self, controller: Arc<Controller>) -> BrokerSession {
        let inner = &self.inner;
        let identity = &inner.former.own;
        BrokerSession {
            info: inner.config.node.clone(),
            incarnation: identity.incarnation,
            raft_id: identity.raft_id,
            log_dir: inner.former.log_dir_id(),
            config: inner.config.session.clone(),
            raft: inner.raft.clone(),
            rpc: rpc_of(&inner.network),
            clock: Arc::clone(&inner.ports.clock),
            state: inner.state.clone(),
            proposer: inner.proposer.clone(),
            controller,
            stopping: Arc::clone(&inner.stopping),
            local: watch::Sender::new(None),
            status: inner.session.clone(),
        }
    }

    fn start_replication(
        &self,
        session: &BrokerSession,
        local: LocalBroker,
        logs: Arc<dyn LogStore>,
        inventory: DiskInventory,
    ) -> ReplicationManager {
        let inner = &self.inner;
        let ports = ReplicationPorts {
            logs,
            rpc: rpc_of(&inner.network),
            controller: Arc::new(AlterPartitions {
                proposer: inner.proposer.clone(),
                local: session.local.subscribe(),
            }),
            clock: Arc::clone(&inner.ports.clock),
            shards: Arc::clone(&inner.ports.io),
            flusher: Arc::clone(&inner.ports.io),
        };
        // Fetchers and timers of the manager belong to the data runtime.
        let _data = inner.ports.data.enter();
        let config = inner.config.replication.clone();
        let replication = ReplicationManager::with_ports(local.id, config, ports);
        drop(inner.replication.set(replication.clone()));
        let feed = inner.ports.runtime.hold(partitions::feed(
            inner.state.clone(),
            session.local.subscribe(),
            replication.clone(),
            inventory.partitions,
        ));
        self.remember(inner.ports.data.spawn(feed));
        replication
    }

    /// The newest cluster metadata that this node has applied.
    pub fn cluster_state(&self) -> Arc<ClusterState> {
        self.inner.state.current()
    }

    /// Follows the cluster metadata.
    pub fn watch_cluster_state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.inner.state.subscribe()
    }

    /// Where this broker stands with the controller.
    pub fn session(&self) -> SessionStatus {
        *self.inner.session.borrow()
    }

    /// Follows [`Self::session`].
    pub fn watch_session(&self) -> watch::Receiver<SessionStatus> {
        self.inner.session.subscribe()
    }

    /// Why this node can never take part in its cluster, once that is known. The process should say
    /// so and stop.
    pub fn watch_failure(&self) -> tokio::sync::watch::Receiver<Option<Arc<CoordinatorError>>> {
        self.inner.failure.subscribe()
    }

    /// Record I/O of this node; `None` until the broker has been registered.
    pub fn replication(&self) -> Option<ReplicationManager> {
        self.inner.replication.get().cloned()
    }

    /// The metadata group as this node sees it.
    pub fn raft_status(&self) -> RaftStatus {
        self.inner.raft.status()
    }

    /// The consumer groups.
    pub fn groups(&self) -> &GroupService {
        &self.inner.groups
    }

    /// The broker that coordinates the consumer groups; waits a moment for one to be elected.
    pub async fn group_coordinator(&self) -> Option<BrokerId> {
        let rpc = rpc_of(&self.inner.network);
        let name = self.inner.groups.find_coordinator(&rpc).await?;
        self.cluster_state().broker_by_name(&name).map(|b| b.id)
    }

    /// The hash of the applied metadata, comparable between nodes at equal index.
    pub fn metadata_hash(&self) -> u64 {
        self.inner.state.current().hash()
    }

    /// This node's monotonic clock.
    pub fn now(&self) -> MonoTime {
        self.inner.ports.clock.now()
    }

    /// The configuration it was started with.
    pub fn config(&self) -> &CoordinatorConfig {
        &self.inner.config
    }

    /// How the cluster is doing.
    pub fn health(&self) -> ClusterHealth {
        let statuses = self.replication().map(|r| r.statuses()).unwrap_or_default();
        let failed = statuses
            .iter()
            .filter(|p| p.role == ReplicaRole::Offline)
            .count();
        ClusterHealth::new(
            &self.cluster_state(),
            &self.raft_status(),
            self.session(),
            failed,
        )
    }

    /// Creates a topic and waits until this node has applied it.
    ///
    /// # Errors
    /// [`CoordinatorError::Rejected`] and [`CoordinatorError::Placement`] changed nothing;
    /// [`CoordinatorError::Propose`] may still create it.
    pub async fn create_topic(
        &self,
        topic: &NewTopic,
        deadline: Duration,
    ) -> Result<TopicId, CoordinatorError> {
        let inner = &self.inner;
        let creator = TopicCreator {
            defaults: &inner.config.topic_defaults,
            placement: &inner.config.placement,
            default_min_isr: inner.config.replication.min_isr,
            state: &inner.state,
            entropy: inner.ports.entropy.as_ref(),
            proposer: &inner.proposer,
        };
        creator.create(topic, deadline).await
    }

    /// Checks a topic as [`Self::create_topic`] would, without creating it.
    /// Returns the placement that it would have now.
    pub fn check_topic(&self, topic: &NewTopic) -> Result<Vec<Vec<BrokerId>>, CoordinatorError> {
        let state = self.cluster_state();
        if state.topic(&topic.name).is_some() {
            let name = topic.name.clone();
            return Err(rivven_metadata::Rejection::TopicExists { name }.into());
        }
        let config = &self.inner.config;
        crate::topics::place(topic, &config.topic_defaults, &config.placement, &state)
    }

    pub(crate) fn log_sizes(&self) -> &LogSizes {
        &self.inner.log_sizes
    }

    pub(crate) fn proposer(&self) -> &MetadataProposer {
        &self.inner.proposer
    }

    /// A producer id that no other producer of this cluster has had or will have (KIP-98).
    pub async fn next_producer_id(
        &self,
        deadline: Duration,
    ) -> Result<ProducerId, CoordinatorError> {
        let local = self
            .session()
            .local
            .ok_or(CoordinatorError::NotRegistered)?;
        self.inner
            .producer_ids
            .next(local, &self.inner.proposer, deadline)
            .await
    }

    /// The incarnation of this node's data directory.
    pub fn incarnation(&self) -> Incarnation {
        self.inner.former.own.incarnation
    }
}
