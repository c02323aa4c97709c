use super::*;
use rivven_cluster::coordinator::ClusterMode;
use rivven_cluster::placement::Limits;
use rivven_cluster::{PlacementConfig, PlacementStrategy};
use std::time::Duration;

/// The seed document's configuration, as it stands there.
const SEED: &str = r#"
cluster:
  node_id: "node-1"
  mode: cluster  # or "standalone"
  rack: "rack-1"
  
  client_addr: "0.0.0.0:9092"
  cluster_addr: "0.0.0.0:9093"
  
  seeds:
    - "node-2:9093"
    - "node-3:9093"
  
  swim:
    ping_interval_ms: 100
    ping_timeout_ms: 50
    indirect_probes: 3
    suspicion_multiplier: 3
    
  raft:
    heartbeat_interval_ms: 50
    election_timeout_min_ms: 150
    election_timeout_max_ms: 300
    snapshot_threshold: 10000
    
  replication:
    min_isr: 2
    replica_lag_max_messages: 1000
    replica_lag_max_time_secs: 10
    fetch_interval_ms: 50
    
  topic_defaults:
    partitions: 6
    replication_factor: 3
"#;

/// What the seed's configuration leaves open on addresses of every interface.
const REST: &str = "
  data_dir: data
  advertised_client_addr: node-1:9092
  advertised_cluster_addr: node-1:9093
  security: { mode: insecure_dev }
";

fn parsed(text: &str) -> Result<NodeOptions, ConfigError> {
    parse(text, Path::new("/etc/rivven/node.yaml"))
}

fn complaint(text: &str) -> String {
    parsed(text).unwrap_err().to_string()
}

#[test]
fn the_seeds_configuration_is_understood() {
    let options = parsed(&format!("{SEED}{REST}")).unwrap();
    let config = options.coordinator;
    assert_eq!(config.node.name.as_str(), "node-1");
    assert_eq!(config.mode, ClusterMode::Cluster);
    assert_eq!(config.node.rack.unwrap().as_str(), "rack-1");
    assert_eq!(options.client_listen.to_string(), "0.0.0.0:9092");
    assert_eq!(config.node.cluster_addr.to_string(), "node-1:9093");
    assert_eq!(config.members.len(), 2);
    assert_eq!(config.swim.ping_interval, Duration::from_millis(100));
    assert_eq!(config.raft.election_timeout_max_ms, 300);
    assert_eq!(
        config.replication.replica_lag_max_time,
        Duration::from_secs(10)
    );
    assert_eq!(
        (
            config.topic_defaults.partitions,
            config.topic_defaults.replication_factor
        ),
        (6, 3)
    );
    assert_eq!(config.data_dir, Path::new("/etc/rivven/data"));
}

#[test]
fn a_wildcard_address_needs_an_advertised_one() {
    let text = complaint(SEED);
    assert!(
        text.contains("cluster.advertised_client_addr is missing"),
        "{text}"
    );
    let wildcard = REST.replace("node-1:9093", "0.0.0.0:9093");
    let text = complaint(&format!("{SEED}{wildcard}"));
    assert!(
        text.contains("advertised_cluster_addr") && text.contains(":38:"),
        "{text}"
    );
}

#[test]
fn security_must_be_chosen_except_alone_on_loopback() {
    let cluster = "cluster: { node_id: a, seeds: ['127.0.0.1:1'] }";
    assert!(complaint(cluster).contains("cluster.security is missing"));
    parsed("cluster: { node_id: a, mode: standalone }").unwrap();
    let exposed = "cluster: { node_id: a, mode: standalone, client_addr: '192.0.2.1:9092' }";
    assert!(complaint(exposed).contains("cluster.security is missing"));
    let no_file = "cluster: { node_id: a, seeds: ['b:1'], security: { mode: shared_secret } }";
    assert!(complaint(no_file).contains("cluster.security.secret_file is missing"));
}

#[test]
fn a_secret_is_read_from_its_file_without_the_line_end_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.yaml");
    let text = "cluster: { node_id: a, seeds: ['b:1'], \
                security: { mode: shared_secret, secret_file: secret } }";
    let error = parse(text, &path).unwrap_err().to_string();
    assert!(
        error.contains("cannot read") && error.contains(":1:"),
        "{error}"
    );
    std::fs::write(dir.path().join("secret"), "short\n").unwrap();
    assert!(
        parse(text, &path)
            .unwrap_err()
            .to_string()
            .contains("secret_file")
    );
    std::fs::write(dir.path().join("secret"), "correct horse battery staple\n").unwrap();
    let options = parse(text, &path).unwrap();
    assert!(!format!("{options:?}").contains("horse"));
}

#[test]
fn every_complaint_names_line_and_key() {
    let text = complaint("cluster:\n  node_id: a\n  nodeid: 3\n");
    assert!(text.contains("line 3") && text.contains("nodeid"), "{text}");
    let text = complaint("cluster:\n  node_id: a\n  swim:\n    ping_interval_ms: soon\n");
    assert!(
        text.contains("line 4") && text.contains("ping_interval_ms"),
        "{text}"
    );
    let text = complaint(&format!("{SEED}{REST}").replace("min_isr: 2", "min_isr: 0"));
    assert!(
        text.contains(":27:") && text.contains("cluster.replication.min_isr"),
        "{text}"
    );
    let text = complaint(&format!("{SEED}{REST}").replace("max_ms: 300", "max_ms: 150"));
    assert!(
        text.contains(":23:") && text.contains("election_timeout"),
        "{text}"
    );
    let text = complaint("cluster: { node_id: 'a b' }");
    assert!(
        text.contains("cluster.node_id") && text.contains("' '"),
        "{text}"
    );
    let text = complaint("cluster: { node_id: [a");
    assert!(text.contains("node.yaml"), "{text}");
}

#[test]
fn initial_members_must_name_this_node_and_nobody_twice() {
    let base = "cluster: { node_id: a, security: { mode: insecure_dev }, initial_members: [";
    let member = |name: &str, port: u16| {
        format!("{{ node_id: {name}, cluster_addr: '127.0.0.1:{port}' }}, ")
    };
    let ok = format!("{base}{}{}] }}", member("a", 1), member("b", 2));
    assert_eq!(parsed(&ok).unwrap().coordinator.members.len(), 1);
    let without = format!("{base}{}{}] }}", member("b", 1), member("c", 2));
    assert!(complaint(&without).contains("not this one"));
    let twice = format!(
        "{base}{}{}{}] }}",
        member("a", 1),
        member("b", 2),
        member("b", 3)
    );
    assert!(complaint(&twice).contains("listed twice"));
}

#[test]
fn placement_is_as_configured_and_complaints_name_line_and_key() {
    let with = |placement: &str| format!("{SEED}{REST}  placement:\n    {placement}\n");
    let placement = |text: &str| parsed(text).unwrap().coordinator.placement;
    assert_eq!(
        placement(&format!("{SEED}{REST}")),
        PlacementConfig::default()
    );
    let all = "{ strategy: 'copyset:10', rack_aware: false, virtual_nodes: 9, \
               max_partitions_per_node: 500 }";
    let expected = PlacementConfig {
        strategy: PlacementStrategy::Copyset { scatter_width: 10 },
        rack_aware: false,
        virtual_nodes: 9,
        max_partitions_per_node: 500,
    };
    assert_eq!(placement(&with(all)), expected);
    let limits = |text: &str| parsed(text).unwrap().coordinator.move_limits;
    assert_eq!(limits(&with(all)), Limits::default());
    let paced = "{ max_moves: 7, max_moves_per_node: 2, max_bytes_in_flight: 300, \
                 max_bytes_in_per_node: 200, max_bytes_out_per_node: 100 }";
    let expected = Limits {
        max_concurrent: 7,
        max_moves_per_node: 2,
        max_bytes_in_flight: 300,
        max_bytes_in_per_node: 200,
        max_bytes_out_per_node: 100,
        ..Limits::default()
    };
    assert_eq!(limits(&with(paced)), expected);
    for (wrong, key) in [
        ("max_moves: 0", "cluster.placement.max_moves"),
        (
            "max_moves_per_node: 10001",
            "cluster.placement.max_moves_per_node",
        ),
        ("max_bytes_in_flight: -1", "max_bytes_in_flight"),
        ("strategy: fastest", "cluster.placement.strategy"),
        ("strategy: copyset:0", "cluster.placement.strategy"),
        ("virtual_nodes: 0", "cluster.placement.virtual_nodes"),
        ("max_partitions_per_node: -1", "max_partitions_per_node"),
        ("racks: true", "racks"),
    ] {
        let text = complaint(&with(wrong));
        let line = with(wrong).lines().count();
        let named = text.contains(&format!(":{line}:")) || text.contains(&format!("line {line}"));
        assert!(named && text.contains(key), "{text}");
    }
}

fn certificates_for(node: &str, out: &Path) {
    let options = crate::certs::CertsOptions {
        out: out.to_owned(),
        cluster: "tests".to_owned(),
        nodes: vec![node.to_owned()],
        days: 1,
    };
    crate::certs::make(&options).unwrap();
}

#[test]
fn quic_needs_certificates_and_a_port_of_its_own() {
    let base = "cluster: { node_id: a, seeds: ['b:1'], ";
    let plain = format!("{base} security: {{ mode: insecure_dev }}, transport: quic }}");
    let text = complaint(&plain);
    assert!(
        text.contains("cluster.transport") && text.contains("mutual_tls"),
        "{text}"
    );
    let unused =
        format!("{base} security: {{ mode: insecure_dev }}, quic_addr: '127.0.0.1:9094' }}");
    let text = complaint(&unused);
    assert!(
        text.contains("cluster.quic_addr") && text.contains("transport: quic"),
        "{text}"
    );

    let unused = format!("{base} security: {{ mode: insecure_dev }}, quic_early_data: true }}");
    let text = complaint(&unused);
    assert!(text.contains("cluster.quic_early_data"), "{text}");

    let dir = tempfile::tempdir().unwrap();
    let options = |extra: &str| {
        let text = format!(
            "{base} {extra}, transport: quic, compression: zstd, security: {{ mode: mutual_tls, ca_file: ca.pem, \
             certificate_file: a.pem, key_file: a.key, gossip_secret_file: gossip.secret }} }}"
        );
        parse(&text, &dir.path().join("node.yaml"))
    };
    certificates_for("a", dir.path());
    let quic = options("cluster_addr: '127.0.0.1:7000'")
        .unwrap()
        .quic
        .unwrap();
    assert_eq!(quic.listen.to_string(), "127.0.0.1:7001");
    assert_eq!(quic.advertised.to_string(), "127.0.0.1:7001");
    assert!(!quic.early_data);
    let early = options("cluster_addr: '127.0.0.1:7000', quic_early_data: true");
    assert!(early.unwrap().quic.unwrap().early_data);
    let wide = "cluster_addr: '0.0.0.0:7000', advertised_cluster_addr: 'a:7100'";
    let quic = options(wide).unwrap().quic.unwrap();
    assert_eq!(quic.listen.to_string(), "0.0.0.0:7001");
    assert_eq!(quic.advertised.to_string(), "a:7101");
    let text = options(&format!("{wide}, quic_addr: '0.0.0.0:7001'"))
        .unwrap_err()
        .to_string();
    assert!(text.contains("cluster.advertised_quic_addr"), "{text}");
    // Only a default needs a port above.
    let last = "cluster_addr: '127.0.0.1:65535'";
    let text = options(last).unwrap_err().to_string();
    assert!(text.contains("cluster.quic_addr"), "{text}");
    let quic = options(&format!("{last}, quic_addr: '127.0.0.1:7001'"));
    let quic = quic.unwrap().quic.unwrap();
    assert_eq!(quic.advertised.to_string(), "127.0.0.1:7001");
    let told = "cluster_addr: '127.0.0.1:7000', advertised_cluster_addr: 'a:65535'";
    let text = options(told).unwrap_err().to_string();
    assert!(text.contains("cluster.advertised_quic_addr"), "{text}");
    let quic = options(&format!("{told}, advertised_quic_addr: 'a:7101'"));
    let quic = quic.unwrap().quic.unwrap();
    assert_eq!(quic.listen.to_string(), "127.0.0.1:7001");
    assert_eq!(quic.advertised.to_string(), "a:7101");
    let same = "cluster_addr: '127.0.0.1:7000', quic_addr: '127.0.0.1:7000'";
    let text = options(same).unwrap_err().to_string();
    assert!(
        text.contains("cluster.quic_addr") && text.contains("failure detector"),
        "{text}"
    );
}

#[test]
fn the_secret_before_may_be_an_empty_file_until_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    let base = "cluster: { node_id: a, seeds: ['b:1'], cluster_addr: '127.0.0.1:7000', security:";
    let shared = format!(
        "{base} {{ mode: shared_secret, secret_file: secret, previous_secret_file: previous }} }}"
    );
    let tls = format!(
        "{base} {{ mode: mutual_tls, ca_file: ca.pem, certificate_file: a.pem, key_file: a.key, \
         gossip_secret_file: secret, previous_gossip_secret_file: previous }} }}"
    );
    certificates_for("a", dir.path());
    write("secret", "correct horse battery staple\n");
    for (text, key) in [
        (shared, "previous_secret_file"),
        (tls, "previous_gossip_secret_file"),
    ] {
        let options = || parse(&text, &dir.path().join("node.yaml"));
        let complaint = || options().unwrap_err().to_string();
        write("previous", "\n");
        let files = options().unwrap().secrets.unwrap();
        assert!(files.held.previous.is_none());
        assert_eq!(files.read(), Ok(files.held.clone()));
        // A change is seen, and what it is is not shown.
        write("previous", "the secret that was there before\n");
        let found = files.read().unwrap();
        assert_ne!(found, files.held);
        assert_eq!(options().unwrap().secrets.unwrap().held, found);
        assert!(!format!("{:?}", options().unwrap()).contains("there before"));
        write("previous", "short");
        assert!(complaint().contains(key), "{}", complaint());
        std::fs::remove_file(dir.path().join("previous")).unwrap();
        assert!(complaint().contains(key), "{}", complaint());
        assert!(files.read().unwrap_err().contains("cannot read"));
    }
}

#[test]
fn replication_has_no_rate_unless_one_is_given() {
    let plain = parsed(&format!("{SEED}{REST}")).unwrap().coordinator;
    assert_eq!(plain.replication.leader_throttled_bytes_per_second, None);
    let rated = |leader: u64| {
        let keys = format!(
            "fetch_interval_ms: 50\n    leader_throttled_bytes_per_second: {leader}\n    \
             follower_throttled_bytes_per_second: 2048"
        );
        parsed(&format!("{SEED}{REST}").replace("fetch_interval_ms: 50", &keys))
    };
    let config = rated(10_000_000).unwrap().coordinator.replication;
    assert_eq!(config.leader_throttled_bytes_per_second, Some(10_000_000));
    assert_eq!(config.follower_throttled_bytes_per_second, Some(2048));
    let text = rated(10).unwrap_err().to_string();
    assert!(text.contains("leader_throttled_bytes_per_second"), "{text}");
}
