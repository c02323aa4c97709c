//! A node, composed: two runtimes, the coordinator, the Kafka port, the admin port, the signals.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rivven_cluster::ThreadExecutor;
use rivven_cluster::coordinator::{
    ClusterCoordinator, CoordinatorPorts, RuntimeHooks, SharedEntropy, SocketNetwork,
};
use rivven_cluster::metrics::PrometheusHandle;
use rivven_cluster::transport::{QuicConfig, QuicListen, TransportLimits, TransportRuntimes};
use rivven_cluster::types::{Address, OsEntropy, OsVfs, SystemClock};
use rivven_kafka::{CoordinatorBroker, KafkaConfig, KafkaServer};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::Admin;
use crate::config::NodeOptions;
use crate::error::NodeError;
use crate::{secrets, telemetry};

/// Threads of the control runtime: consensus, membership, sessions, the control and rpc lanes.
const CONTROL_THREADS: usize = 1;
/// How often gauges that nobody else feeds are refreshed.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);
/// How long tasks may take to end after everything has been told to stop.
const RUNTIME_GRACE: Duration = Duration::from_secs(2);

/// Runs a node until it is told to stop or fails for good.
pub(crate) fn run(options: NodeOptions, metrics: PrometheusHandle) -> Result<(), NodeError> {
    let control = runtime("rivven-control", CONTROL_THREADS)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let data = runtime("rivven-data", cores)?;
    let outcome = control.block_on(serve(options, metrics, control.handle(), data.handle()));
    data.shutdown_timeout(RUNTIME_GRACE);
    control.shutdown_timeout(RUNTIME_GRACE);
    outcome
}

fn runtime(name: &str, threads: usize) -> Result<Runtime, NodeError> {
    let built = Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .enable_all()
        .build();
    built.map_err(NodeError::Runtime)
}

async fn serve(
    options: NodeOptions,
    metrics: PrometheusHandle,
    control: &Handle,
    data: &Handle,
) -> Result<(), NodeError> {
    let mut stop = StopSignals::install()?;
    let client_listen = resolve(&options.client_listen).await?;
    let cluster_listen = resolve(&options.cluster_listen).await?;
    let quic = match options.quic {
        Some(quic) => Some(QuicListen {
            listen: resolve(&quic.listen).await?,
            advertised: Some(quic.advertised),
            config: QuicConfig {
                early_data: quic.early_data,
                ..QuicConfig::default()
            },
        }),
        None => None,
    };
    let admin_listener = match &options.admin.listen {
        Some(address) => Some(listen(resolve(address).await?).await?),
        None => None,
    };
    let security = options.security.clone();
    let ports = CoordinatorPorts {
        vfs: Arc::new(OsVfs),
        clock: Arc::new(SystemClock::default()),
        entropy: Arc::new(OsEntropy),
        io: Arc::new(ThreadExecutor),
        network: Arc::new(SocketNetwork {
            listen: cluster_listen,
            quic,
            compression: options.compression,
            security: options.security,
            limits: TransportLimits::default(),
            runtimes: TransportRuntimes {
                control: control.clone(),
                data: data.clone(),
            },
            entropy: SharedEntropy(Arc::new(OsEntropy)),
        }),
        control: control.clone(),
        runtime: RuntimeHooks::Production,
        data: data.clone(),
    };
    let coordinator = ClusterCoordinator::start(options.coordinator, ports).await?;
    let broker = Arc::new(CoordinatorBroker::new(coordinator.clone()));
    let kafka = data
        .spawn(
            async move { KafkaServer::bind(client_listen, KafkaConfig::default(), broker).await },
        )
        .await
        .map_err(|e| NodeError::Task(e.to_string()))??;
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(telemetry::feed(
        coordinator.clone(),
        metrics.clone(),
        GAUGE_INTERVAL,
    ));
    if let Some(files) = options.secrets {
        tasks.spawn(secrets::watch(files, security, coordinator.clone()));
    }
    if let Some(listener) = admin_listener {
        tasks.spawn(
            Admin {
                coordinator: coordinator.clone(),
                metrics,
            }
            .serve(listener),
        );
    }
    tracing::info!(
        node = %coordinator.config().node.name,
        clients = %client_listen,
        peers = %cluster_listen,
        "started"
    );
    let outcome = tokio::select! {
        () = stop.recv() => Ok(()),
        error = failure(&coordinator) => Err(error),
    };
    if outcome.is_ok() {
        tracing::info!("stopping");
        tokio::select! {
            () = async {
                // The coordinator first: it moves the leaderships away while clients are still
                // answered, which costs them one refresh instead of a broken connection.
                coordinator.shutdown().await;
                kafka.shutdown().await;
            } => {}
            () = stop.recv() => tracing::warn!("second signal: stopping at once"),
        }
    }
    tasks.abort_all();
    tracing::info!("stopped");
    outcome
}

async fn failure(coordinator: &ClusterCoordinator) -> NodeError {
    let mut failure = coordinator.watch_failure();
    let error = match failure.wait_for(Option::is_some).await {
        Ok(error) => (*error).as_ref().map(ToString::to_string),
        Err(_) => None,
    };
    NodeError::Failed(error.unwrap_or_else(|| "the coordinator is gone".to_owned()))
}

async fn resolve(address: &Address) -> Result<SocketAddr, NodeError> {
    let unresolved = |reason: String| NodeError::Resolve {
        address: address.clone(),
        reason,
    };
    let mut found = tokio::net::lookup_host((address.host(), address.port()))
        .await
        .map_err(|e| unresolved(e.to_string()))?;
    found
        .next()
        .ok_or_else(|| unresolved("the name has no address".to_owned()))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| NodeError::Listen { address, source })
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn install() -> Result<Self, NodeError> {
        let install = |kind| signal(kind).map_err(NodeError::Runtime);
        Ok(Self {
            terminate: install(SignalKind::terminate())?,
            interrupt: install(SignalKind::interrupt())?,
        })
    }

    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
