//! From the file's text to options that make sense.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rivven_cluster::coordinator::{
    ClusterMember, ClusterMode, CoordinatorConfig, RaftTiming, SessionConfig, TopicDefaults,
};
use rivven_cluster::placement::{Limits, MAX_VIRTUAL_NODES};
use rivven_cluster::swim::{SwimConfig, SwimSecurity};
use rivven_cluster::transport::{Compression, Security};
use rivven_cluster::types::{Address, NodeInfo, NodeName, RackId};
use rivven_cluster::{
    PlacementConfig, PlacementError, PlacementStrategy, RaftNodeConfig, ReplicationConfig,
};
use serde_saphyr::Spanned;

use super::error::ConfigError;
use super::model;
use super::secret_file::SecretFiles;
use super::security::{Chosen, security};
use super::transport::{QuicOptions, compression, quic};

/// Where records and metadata live unless the file says otherwise.
const DEFAULT_DATA_DIR: &str = "/var/lib/rivven";
const DEFAULT_CLIENT_ADDR: &str = "127.0.0.1:9092";
const DEFAULT_CLUSTER_ADDR: &str = "127.0.0.1:9093";

/// A validated configuration.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The cluster node.
    pub coordinator: CoordinatorConfig,
    /// How peers prove who they are.
    pub security: Security,
    /// Files of secrets that are looked at while the node runs.
    pub secrets: Option<SecretFiles>,
    /// Where to listen for peers.
    pub cluster_listen: Address,
    /// Where to listen for Kafka clients.
    pub client_listen: Address,
    /// QUIC beside TCP.
    pub quic: Option<QuicOptions>,
    /// Whether long bodies between nodes are compressed.
    pub compression: Compression,
    /// The admin port.
    pub admin: AdminOptions,
}

/// The admin HTTP port.
#[derive(Debug, Clone, Default)]
pub struct AdminOptions {
    /// Where to listen; off if `None`.
    pub listen: Option<Address>,
}

/// Makes errors that name the place.
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
}

impl Place<'_> {
    pub(super) fn invalid<T>(
        &self,
        at: &Spanned<T>,
        key: &'static str,
        reason: impl ToString,
    ) -> ConfigError {
        ConfigError::Invalid {
            path: self.path.to_owned(),
            line: at.referenced.line(),
            column: at.referenced.column(),
            key,
            reason: reason.to_string(),
        }
    }

    pub(super) fn missing(&self, key: &'static str, reason: &str) -> ConfigError {
        ConfigError::Missing {
            path: self.path.to_owned(),
            key,
            reason: reason.to_owned(),
        }
    }

    fn address(&self, at: &Spanned<String>, key: &'static str) -> Result<Address, ConfigError> {
        let address: Address = at.value.parse().map_err(|e| self.invalid(at, key, e))?;
        if address.port() == 0 {
            return Err(self.invalid(at, key, "port 0 cannot be told to others; choose a port"));
        }
        Ok(address)
    }

    fn in_range<T: PartialOrd + Copy + std::fmt::Display>(
        &self,
        value: Option<Spanned<T>>,
        key: &'static str,
        range: std::ops::RangeInclusive<T>,
        default: T,
    ) -> Result<T, ConfigError> {
        let Some(value) = value else {
            return Ok(default);
        };
        if range.contains(&value.value) {
            return Ok(value.value);
        }
        let reason = format!(
            "{} is not within {}..={}",
            value.value,
            range.start(),
            range.end()
        );
        Err(self.invalid(&value, key, reason))
    }

    /// The address to listen on and the one to tell others.
    /// `default` stands for both where the file has neither; the second of it only for what others are
    /// told.
    pub(super) fn listen_and_advertise(
        &self,
        listen: Option<&Spanned<String>>,
        advertised: Option<&Spanned<String>>,
        (default, default_told): (&str, Option<&str>),
        keys: (&'static str, &'static str),
    ) -> Result<(Address, Address), ConfigError> {
        let parsed = |text: &str| {
            text.parse()
                .map_err(|e: rivven_cluster::types::InvalidId| self.missing(keys.0, &e.to_string()))
        };
        let listening = match listen {
            Some(at) => self.address(at, keys.0)?,
            None => parsed(default)?,
        };
        let advertised = match advertised {
            Some(at) => {
                let address = self.address(at, keys.1)?;
                if address.is_unspecified() {
                    let reason = "must be an address that others can connect to, not a wildcard";
                    return Err(self.invalid(at, keys.1, reason));
                }
                address
            }
            None if default_told.is_some() => parsed(default_told.unwrap_or_default())?,
            None if listening.is_unspecified() => {
                let reason = format!(
                    "{} listens on every interface ({listening}), so say where others reach this node",
                    keys.0
                );
                return Err(self.missing(keys.1, &reason));
            }
            None => listening.clone(),
        };
        Ok((listening, advertised))
    }
}

pub(super) fn validate(file: model::File, path: &Path) -> Result<NodeOptions, ConfigError> {
    let place = Place { path };
    let cluster = file.cluster;
    let mode = match cluster.mode {
        Some(model::Mode::Standalone) => ClusterMode::Standalone,
        Some(model::Mode::Cluster) | None => ClusterMode::Cluster,
    };
    let name = NodeName::new(&cluster.node_id.value)
        .map_err(|e| place.invalid(&cluster.node_id, "cluster.node_id", e))?;
    let (client_listen, client_addr) = place.listen_and_advertise(
        cluster.client_addr.as_ref(),
        cluster.advertised_client_addr.as_ref(),
        (DEFAULT_CLIENT_ADDR, None),
        ("cluster.client_addr", "cluster.advertised_client_addr"),
    )?;
    let (cluster_listen, cluster_addr) = place.listen_and_advertise(
        cluster.cluster_addr.as_ref(),
        cluster.advertised_cluster_addr.as_ref(),
        (DEFAULT_CLUSTER_ADDR, None),
        ("cluster.cluster_addr", "cluster.advertised_cluster_addr"),
    )?;
    let admin = match &cluster.admin_addr {
        Some(at) => AdminOptions {
            listen: Some(place.address(at, "cluster.admin_addr")?),
        },
        None => AdminOptions::default(),
    };
    let loopback = [&client_listen, &client_addr, &cluster_listen, &cluster_addr]
        .iter()
        .all(|address| address.is_loopback());
    let alone_on_loopback = mode == ClusterMode::Standalone && loopback;
    let own = (&cluster_listen, &cluster_addr);
    let chosen = cluster.security.as_ref();
    let Chosen {
        security,
        swim: swim_security,
        secrets,
    } = security(&place, chosen, alone_on_loopback, &name)?;
    let quic = quic(&place, &cluster, &security, own)?;
    let members = members(
        &place,
        mode,
        &name,
        &cluster_addr,
        cluster.seeds,
        cluster.initial_members,
    )?;
    let mut node = NodeInfo::new(name, client_addr, cluster_addr);
    if let Some(rack) = &cluster.rack {
        let rack = RackId::new(&rack.value).map_err(|e| place.invalid(rack, "cluster.rack", e))?;
        node = node.with_rack(rack);
    }
    let data_dir = cluster
        .data_dir
        .map_or_else(|| DEFAULT_DATA_DIR.into(), |d| d.value);
    let coordinator = CoordinatorConfig {
        node,
        mode,
        data_dir: relative_to(path, &data_dir),
        members,
        raft: raft(&place, cluster.raft)?,
        swim: swim(&place, cluster.swim, swim_security)?,
        max_open_log_files: open_files(&place, cluster.replication.max_open_log_files.clone())?,
        replication: replication(&place, cluster.replication)?,
        groups: rivven_cluster::consumer_groups::GroupConfig::default(),
        session: session(&place, cluster.session)?,
        topic_defaults: topic_defaults(&place, cluster.topic_defaults)?,
        move_limits: move_limits(&place, &cluster.placement)?,
        placement: placement(&place, cluster.placement)?,
    };
    Ok(NodeOptions {
        coordinator,
        security,
        secrets,
        cluster_listen,
        client_listen,
        quic,
        compression: compression(cluster.compression),
        admin,
    })
}

pub(super) fn relative_to(config: &Path, path: &str) -> PathBuf {
    config.parent().unwrap_or_else(|| Path::new(".")).join(path)
}

fn members(
    place: &Place<'_>,
    mode: ClusterMode,
    own: &NodeName,
    own_address: &Address,
    seeds: Vec<Spanned<String>>,
    initial: Vec<model::Member>,
) -> Result<Vec<ClusterMember>, ConfigError> {
    if mode == ClusterMode::Standalone {
        if let Some(seed) = seeds.first() {
            let reason = "a standalone node has no peers; remove the seeds, or use mode: cluster";
            return Err(place.invalid(seed, "cluster.seeds", reason));
        }
        return Ok(Vec::new());
    }
    let mut members: Vec<ClusterMember> = Vec::new();
    let mut listed = initial.is_empty();
    for member in initial {
        let key = "cluster.initial_members.node_id";
        let name = NodeName::new(&member.node_id.value)
            .map_err(|e| place.invalid(&member.node_id, key, e))?;
        let address =
            place.address(&member.cluster_addr, "cluster.initial_members.cluster_addr")?;
        if name == *own {
            listed = true;
        } else if members.iter().any(|m| m.name.as_ref() == Some(&name)) {
            return Err(place.invalid(&member.node_id, key, "this name is listed twice"));
        } else {
            members.push(ClusterMember {
                name: Some(name),
                address,
            });
        }
    }
    if !listed {
        let reason = "lists other nodes, but not this one";
        return Err(place.missing("cluster.initial_members", reason));
    }
    if members.is_empty() {
        for seed in &seeds {
            let address = place.address(seed, "cluster.seeds")?;
            // A list that is the same on all nodes names this one too.
            if address != *own_address && members.iter().all(|m| m.address != address) {
                members.push(ClusterMember {
                    name: None,
                    address,
                });
            }
        }
    }
    if members.is_empty() {
        let reason = "name the other nodes here (or set mode: standalone)";
        return Err(place.missing("cluster.seeds", reason));
    }
    Ok(members)
}

fn raft(place: &Place<'_>, raft: model::Raft) -> Result<RaftTiming, ConfigError> {
    let default = RaftTiming::default();
    let max_at = raft.election_timeout_max_ms.clone();
    let timing = RaftTiming {
        heartbeat_interval_ms: place.in_range(
            raft.heartbeat_interval_ms,
            "cluster.raft.heartbeat_interval_ms",
            10..=10_000,
            default.heartbeat_interval_ms,
        )?,
        election_timeout_min_ms: place.in_range(
            raft.election_timeout_min_ms,
            "cluster.raft.election_timeout_min_ms",
            20..=60_000,
            default.election_timeout_min_ms,
        )?,
        election_timeout_max_ms: place.in_range(
            raft.election_timeout_max_ms,
            "cluster.raft.election_timeout_max_ms",
            30..=60_000,
            default.election_timeout_max_ms,
        )?,
        snapshot_threshold: place.in_range(
            raft.snapshot_threshold,
            "cluster.raft.snapshot_threshold",
            100..=1_000_000_000,
            default.snapshot_threshold,
        )?,
        voters: voters(place, raft.voters)?,
        limits: default.limits,
    };
    let check = RaftNodeConfig {
        heartbeat_interval_ms: timing.heartbeat_interval_ms,
        election_timeout_min_ms: timing.election_timeout_min_ms,
        election_timeout_max_ms: timing.election_timeout_max_ms,
        snapshot_threshold: timing.snapshot_threshold,
        ..RaftNodeConfig::default()
    };
    match (check.validate(), max_at) {
        (Ok(()), _) => Ok(timing),
        (Err(e), Some(at)) => Err(place.invalid(&at, "cluster.raft.election_timeout_max_ms", e)),
        (Err(e), None) => {
            Err(place.missing("cluster.raft.election_timeout_max_ms", &e.to_string()))
        }
    }
}

/// An even number needs one more vote than the odd one below it, and survives no more failures.
fn voters(place: &Place<'_>, found: Option<Spanned<u64>>) -> Result<usize, ConfigError> {
    let Some(found) = found else {
        return Ok(RaftTiming::default().voters);
    };
    match found.value {
        1 => Ok(1),
        3 => Ok(3),
        5 => Ok(5),
        7 => Ok(7),
        _ => Err(place.invalid(&found, "cluster.raft.voters", "must be 1, 3, 5 or 7")),
    }
}

fn swim(
    place: &Place<'_>,
    swim: model::Swim,
    security: SwimSecurity,
) -> Result<SwimConfig, ConfigError> {
    let default = SwimConfig::default();
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let timeout_at = swim.ping_timeout_ms.clone();
    let interval = place.in_range(
        swim.ping_interval_ms,
        "cluster.swim.ping_interval_ms",
        10..=60_000,
        millis(default.ping_interval),
    )?;
    let timeout = place.in_range(
        swim.ping_timeout_ms,
        "cluster.swim.ping_timeout_ms",
        1..=60_000,
        millis(default.ping_timeout),
    )?;
    if timeout >= interval {
        let key = "cluster.swim.ping_timeout_ms";
        let reason = format!("{timeout} must be below ping_interval_ms, {interval}");
        return Err(timeout_at.map_or_else(
            || place.missing(key, &reason),
            |at| place.invalid(&at, key, &reason),
        ));
    }
    let indirect = place.in_range(
        swim.indirect_probes,
        "cluster.swim.indirect_probes",
        0..=16,
        3,
    )?;
    Ok(SwimConfig {
        ping_interval: Duration::from_millis(interval),
        ping_timeout: Duration::from_millis(timeout),
        indirect_probes: usize::try_from(indirect).unwrap_or(usize::MAX),
        suspicion_multiplier: place.in_range(
            swim.suspicion_multiplier,
            "cluster.swim.suspicion_multiplier",
            1..=100,
            default.suspicion_multiplier,
        )?,
        security,
        ..default
    })
}

fn open_files(
    place: &Place<'_>,
    limit: Option<Spanned<u32>>,
) -> Result<Option<usize>, ConfigError> {
    if limit.is_none() {
        return Ok(None);
    }
    let key = "cluster.replication.max_open_log_files";
    let limit = place.in_range(limit, key, 16..=1_000_000, 0)?;
    Ok(Some(usize::try_from(limit).unwrap_or(usize::MAX)))
}

fn replication(
    place: &Place<'_>,
    replication: model::Replication,
) -> Result<ReplicationConfig, ConfigError> {
    let default = ReplicationConfig::default();
    let lag = place.in_range(
        replication.replica_lag_max_time_secs,
        "cluster.replication.replica_lag_max_time_secs",
        1..=3_600,
        default.replica_lag_max_time.as_secs(),
    )?;
    let interval = place.in_range(
        replication.fetch_interval_ms,
        "cluster.replication.fetch_interval_ms",
        1..=60_000,
        u64::try_from(default.fetch_interval.as_millis()).unwrap_or(u64::MAX),
    )?;
    let throttled = |rate: Option<Spanned<u64>>, key| match rate {
        Some(rate) => {
            let rate = place.in_range(Some(rate), key, 1_024..=u64::MAX, 0)?;
            Ok(Some(rate))
        }
        None => Ok(None),
    };
    Ok(ReplicationConfig {
        leader_throttled_bytes_per_second: throttled(
            replication.leader_throttled_bytes_per_second,
            "cluster.replication.leader_throttled_bytes_per_second",
        )?,
        follower_throttled_bytes_per_second: throttled(
            replication.follower_throttled_bytes_per_second,
            "cluster.replication.follower_throttled_bytes_per_second",
        )?,
        min_isr: place.in_range(
            replication.min_isr,
            "cluster.replication.min_isr",
            1..=15,
            default.min_isr,
        )?,
        replica_lag_max_messages: place.in_range(
            replication.replica_lag_max_messages,
            "cluster.replication.replica_lag_max_messages",
            1..=u64::MAX,
            default.replica_lag_max_messages,
        )?,
        replica_lag_max_time: Duration::from_secs(lag),
        fetch_interval: Duration::from_millis(interval),
        ..default
    })
}

fn session(place: &Place<'_>, session: model::Session) -> Result<SessionConfig, ConfigError> {
    let default = SessionConfig::default();
    let heartbeat = place.in_range(
        session.heartbeat_interval_ms,
        "cluster.session.heartbeat_interval_ms",
        10..=60_000,
        u64::try_from(default.heartbeat_interval.as_millis()).unwrap_or(u64::MAX),
    )?;
    let timeout = place.in_range(
        session.timeout_ms,
        "cluster.session.timeout_ms",
        heartbeat.saturating_mul(3)..=600_000,
        u64::try_from(default.timeout.as_millis())
            .unwrap_or(u64::MAX)
            .max(heartbeat * 3),
    )?;
    Ok(SessionConfig {
        timeout: Duration::from_millis(timeout),
        heartbeat_interval: Duration::from_millis(heartbeat),
    })
}

fn topic_defaults(
    place: &Place<'_>,
    topics: model::TopicDefaults,
) -> Result<TopicDefaults, ConfigError> {
    let default = TopicDefaults::default();
    Ok(TopicDefaults {
        partitions: place.in_range(
            topics.partitions,
            "cluster.topic_defaults.partitions",
            1..=rivven_cluster::types::limits::MAX_PARTITIONS_PER_TOPIC,
            default.partitions,
        )?,
        replication_factor: place.in_range(
            topics.replication_factor,
            "cluster.topic_defaults.replication_factor",
            1..=15,
            default.replication_factor,
        )?,
        auto_create: topics.auto_create.unwrap_or(default.auto_create),
    })
}

fn placement(place: &Place<'_>, given: model::Placement) -> Result<PlacementConfig, ConfigError> {
    let default = PlacementConfig::default();
    let virtual_nodes = place.in_range(
        given.virtual_nodes,
        "cluster.placement.virtual_nodes",
        1..=MAX_VIRTUAL_NODES,
        default.virtual_nodes,
    )?;
    let mut config = PlacementConfig {
        virtual_nodes,
        rack_aware: given.rack_aware.unwrap_or(default.rack_aware),
        max_partitions_per_node: given
            .max_partitions_per_node
            .map_or(default.max_partitions_per_node, |cap| cap.value),
        ..default
    };
    if let Some(strategy) = given.strategy {
        let invalid =
            |error: PlacementError| place.invalid(&strategy, "cluster.placement.strategy", error);
        config.strategy = strategy
            .value
            .parse::<PlacementStrategy>()
            .map_err(invalid)?;
        // All that is left to be wrong is the strategy's own parameter.
        config.validate().map_err(invalid)?;
    }
    Ok(config)
}

/// Most moves that may be under way at a time.
const MAX_MOVES: usize = 10_000;

fn move_limits(place: &Place<'_>, given: &model::Placement) -> Result<Limits, ConfigError> {
    let default = Limits::default();
    let count = |value: &Option<Spanned<usize>>, key, default| {
        place.in_range(value.clone(), key, 1..=MAX_MOVES, default)
    };
    let bytes = |value: &Option<Spanned<u64>>| value.as_ref().map_or(0, |value| value.value);
    Ok(Limits {
        max_concurrent: count(
            &given.max_moves,
            "cluster.placement.max_moves",
            default.max_concurrent,
        )?,
        max_moves_per_node: count(
            &given.max_moves_per_node,
            "cluster.placement.max_moves_per_node",
            default.max_moves_per_node,
        )?,
        max_bytes_in_flight: bytes(&given.max_bytes_in_flight),
        max_bytes_in_per_node: bytes(&given.max_bytes_in_per_node),
        max_bytes_out_per_node: bytes(&given.max_bytes_out_per_node),
        ..default
    })
}
