//! The shape of the file, before validation. Unknown keys are errors, so that a misspelt setting is
//! never silently ignored.

use serde::Deserialize;
use serde_saphyr::Spanned;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) cluster: Cluster,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Cluster {
    pub(super) node_id: Spanned<String>,
    pub(super) mode: Option<Mode>,
    pub(super) rack: Option<Spanned<String>>,
    pub(super) data_dir: Option<Spanned<String>>,
    pub(super) client_addr: Option<Spanned<String>>,
    pub(super) cluster_addr: Option<Spanned<String>>,
    pub(super) advertised_client_addr: Option<Spanned<String>>,
    pub(super) advertised_cluster_addr: Option<Spanned<String>>,
    pub(super) admin_addr: Option<Spanned<String>>,
    pub(super) transport: Option<Spanned<Transport>>,
    pub(super) quic_addr: Option<Spanned<String>>,
    pub(super) advertised_quic_addr: Option<Spanned<String>>,
    pub(super) quic_early_data: Option<Spanned<bool>>,
    pub(super) compression: Option<Compression>,
    #[serde(default)]
    pub(super) seeds: Vec<Spanned<String>>,
    #[serde(default)]
    pub(super) initial_members: Vec<Member>,
    pub(super) security: Option<Security>,
    #[serde(default)]
    pub(super) swim: Swim,
    #[serde(default)]
    pub(super) raft: Raft,
    #[serde(default)]
    pub(super) replication: Replication,
    #[serde(default)]
    pub(super) session: Session,
    #[serde(default)]
    pub(super) topic_defaults: TopicDefaults,
    #[serde(default)]
    pub(super) placement: Placement,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mode {
    Cluster,
    Standalone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Transport {
    Tcp,
    Quic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Compression {
    None,
    Zstd,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Member {
    pub(super) node_id: Spanned<String>,
    pub(super) cluster_addr: Spanned<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Security {
    pub(super) mode: Spanned<SecurityMode>,
    pub(super) secret_file: Option<Spanned<String>>,
    pub(super) previous_secret_file: Option<Spanned<String>>,
    pub(super) ca_file: Option<Spanned<String>>,
    pub(super) certificate_file: Option<Spanned<String>>,
    pub(super) key_file: Option<Spanned<String>>,
    pub(super) denied_file: Option<Spanned<String>>,
    pub(super) gossip_secret_file: Option<Spanned<String>>,
    pub(super) previous_gossip_secret_file: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum SecurityMode {
    MutualTls,
    SharedSecret,
    InsecureDev,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Swim {
    pub(super) ping_interval_ms: Option<Spanned<u64>>,
    pub(super) ping_timeout_ms: Option<Spanned<u64>>,
    pub(super) indirect_probes: Option<Spanned<u32>>,
    pub(super) suspicion_multiplier: Option<Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raft {
    pub(super) heartbeat_interval_ms: Option<Spanned<u64>>,
    pub(super) election_timeout_min_ms: Option<Spanned<u64>>,
    pub(super) election_timeout_max_ms: Option<Spanned<u64>>,
    pub(super) snapshot_threshold: Option<Spanned<u64>>,
    pub(super) voters: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Replication {
    pub(super) min_isr: Option<Spanned<u32>>,
    pub(super) replica_lag_max_messages: Option<Spanned<u64>>,
    pub(super) replica_lag_max_time_secs: Option<Spanned<u64>>,
    pub(super) fetch_interval_ms: Option<Spanned<u64>>,
    pub(super) leader_throttled_bytes_per_second: Option<Spanned<u64>>,
    pub(super) follower_throttled_bytes_per_second: Option<Spanned<u64>>,
    pub(super) max_open_log_files: Option<Spanned<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    pub(super) timeout_ms: Option<Spanned<u64>>,
    pub(super) heartbeat_interval_ms: Option<Spanned<u64>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicDefaults {
    pub(super) partitions: Option<Spanned<u32>>,
    pub(super) replication_factor: Option<Spanned<u32>>,
    pub(super) auto_create: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Placement {
    pub(super) strategy: Option<Spanned<String>>,
    pub(super) rack_aware: Option<bool>,
    pub(super) virtual_nodes: Option<Spanned<u32>>,
    pub(super) max_partitions_per_node: Option<Spanned<u32>>,
    pub(super) max_moves: Option<Spanned<usize>>,
    pub(super) max_moves_per_node: Option<Spanned<usize>>,
    pub(super) max_bytes_in_flight: Option<Spanned<u64>>,
    pub(super) max_bytes_in_per_node: Option<Spanned<u64>>,
    pub(super) max_bytes_out_per_node: Option<Spanned<u64>>,
}
