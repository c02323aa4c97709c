//! Logging, and the gauges of the whole node.

use std::time::Duration;

use rivven_cluster::coordinator::ClusterCoordinator;
use rivven_cluster::metrics::PrometheusHandle;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise: openraft tells each vote at the level
/// info and each failed heartbeat at warn, which the transport and the failure detector say once.
const DEFAULT_FILTER: &str = "info,openraft=error";

/// Logs to standard error; `RUST_LOG` filters.
pub(crate) fn install_logging() {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .finish();
    // A second node in the same process keeps the first one's.
    drop(tracing::subscriber::set_global_default(subscriber));
}

/// Feeds the gauges that describe the cluster as this node sees it, and lets the recorder drop old
/// samples. Runs until aborted.
pub(crate) async fn feed(
    coordinator: ClusterCoordinator,
    recorder: PrometheusHandle,
    interval: Duration,
) {
    let build = metrics::gauge!("rivven_build_info", "version" => env!("CARGO_PKG_VERSION"));
    build.set(1.0);
    loop {
        let health = coordinator.health();
        let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        metrics::gauge!("rivven_cluster_node_count").set(count(health.node_count));
        metrics::gauge!("rivven_cluster_active_node_count").set(count(health.healthy_nodes));
        metrics::gauge!("rivven_cluster_topic_count").set(count(health.topic_count));
        metrics::gauge!("rivven_cluster_partition_count").set(count(health.partition_count));
        metrics::gauge!("rivven_cluster_offline_partitions").set(count(health.offline_partitions));
        metrics::gauge!("rivven_cluster_under_replicated_partitions")
            .set(count(health.under_replicated_partitions));
        metrics::gauge!("rivven_cluster_under_min_isr_partitions")
            .set(count(health.under_min_isr_partitions));
        metrics::gauge!("rivven_cluster_metadata_level")
            .set(f64::from(coordinator.cluster_state().level().get()));
        metrics::gauge!("rivven_broker_failed_logs").set(count(health.failed_local_logs));
        metrics::gauge!("rivven_broker_fenced").set(if health.is_active { 0.0 } else { 1.0 });
        metrics::gauge!("rivven_raft_has_leader").set(f64::from(u8::from(health.has_controller)));
        recorder.run_upkeep();
        tokio::time::sleep(interval).await;
    }
}
