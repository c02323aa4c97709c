//! What the real binary does with bad input: each is a clear error and an exit status, none a panic.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

#[path = "processes/membership.rs"]
mod membership;
#[path = "processes/rotation.rs"]
mod rotation;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::time::Duration;

use rivven_tests::kafka::KafkaClient;
use rivven_tests::process::{ClusterOptions, NodeProcess, Ports, ProcessCluster, node_binary};
use rivven_tests::{Failure, wait};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

const LIMIT: Duration = Duration::from_secs(60);

/// A node alone, in a directory of its own.
async fn standalone(dir: &Path, ports: Ports) -> (NodeProcess, String) {
    let yaml = format!(
        "cluster:\n  node_id: node-1\n  mode: standalone\n  data_dir: data\n  client_addr: {}\n  \
         cluster_addr: {}\n  admin_addr: {}\n",
        ports.client, ports.cluster, ports.admin
    );
    let node = NodeProcess::new("node-1", dir, ports);
    node.configure(&yaml).unwrap();
    (node, yaml)
}

/// Starts a node that must refuse to run: exit status 1, and each of `words` in its last line. Returns
/// that line.
async fn refuses(node: &mut NodeProcess, words: &[&str]) -> String {
    node.spawn(&node_binary().await.unwrap(), false).unwrap();
    let status = node
        .wait_exit(LIMIT)
        .await
        .unwrap_or_else(|failure| panic!("{failure}"));
    let log = node.log();
    let last = log.lines().rfind(|line| line.starts_with("rivven-node: "));
    let last = last.unwrap_or_else(|| panic!("no reason is given:\n{log}"));
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(!log.contains("panicked at"), "{log}");
    let reason = log.split(last).last().unwrap_or_default();
    for word in words {
        assert!(
            last.contains(word) || reason.contains(word),
            "{word:?} is not in:\n{last}{reason}"
        );
    }
    last.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_yaml_is_refused_with_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, yaml) = standalone(dir.path(), Ports::free().unwrap()).await;
    let broken = yaml.replace("mode: standalone", "mode: [standalone");
    node.configure(&broken).unwrap();
    refuses(&mut node, &["node.yaml", "line"]).await;

    node.configure(&format!("{yaml}  data_dri: data\n"))
        .unwrap();
    refuses(&mut node, &["node.yaml", "data_dri", "line 8"]).await;

    let wrong = yaml.replace(
        &format!("client_addr: {}", node.ports.client),
        "client_addr: nowhere",
    );
    node.configure(&wrong).unwrap();
    let line = refuses(&mut node, &["cluster.client_addr"]).await;
    assert!(line.contains("node.yaml:5:"), "{line}");

    std::fs::remove_file(node.config_path()).unwrap();
    refuses(&mut node, &["cannot read the configuration", "node.yaml"]).await;
    assert!(
        !node.data_dir().exists(),
        "a refused configuration touches nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_occupied_port_is_refused_and_named() {
    let ports = Ports::free().unwrap();
    let occupied: [(SocketAddr, bool); 4] = [
        (ports.client, true),
        (ports.cluster, true),
        (ports.cluster, false),
        (ports.admin, true),
    ];
    for (address, is_tcp) in occupied {
        let dir = tempfile::tempdir().unwrap();
        let (mut node, _) = standalone(dir.path(), ports).await;
        let tcp = is_tcp.then(|| TcpListener::bind(address).unwrap());
        let udp = (!is_tcp).then(|| UdpSocket::bind(address).unwrap());
        let line = refuses(&mut node, &["in use", &address.to_string()]).await;
        println!("{address} {}: {line}", if is_tcp { "TCP" } else { "UDP" });
        drop((tcp, udp));
    }
}

/// A standalone node that stops by itself within the limit after SIGTERM, with status 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_node_serves_and_stops_in_order_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, _) = standalone(dir.path(), Ports::free().unwrap()).await;
    node.spawn(&node_binary().await.unwrap(), false).unwrap();
    becomes_ready(&node).await;
    let client = KafkaClient::new(vec![node.ports.client]);
    let topic = client.create_topic("alone", 2, 1, 1, LIMIT).await;
    let topic = topic.map_err(|failure| node.explain(failure)).unwrap();
    assert_eq!(topic.partitions.len(), 2);
    let metrics = rivven_tests::http::get(node.ports.admin, "/metrics")
        .await
        .unwrap();
    let is_sample = |line: &&str| !line.is_empty() && !line.starts_with('#');
    let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
    let series: BTreeSet<String> = metrics.body.lines().filter(is_sample).map(name).collect();
    assert!(series.len() >= 10, "{series:?}");
    ends_well(&mut node).await;
}

async fn becomes_ready(node: &NodeProcess) {
    let ready = wait::until("the node is ready", LIMIT, async || node.ready().await);
    ready
        .await
        .map_err(|failure| node.explain(failure))
        .unwrap();
}

async fn ends_well(node: &mut NodeProcess) {
    node.terminate().unwrap();
    let status = node.wait_exit(Duration::from_secs(20)).await;
    let status = status.map_err(|failure| node.explain(failure)).unwrap();
    assert_eq!(status.code(), Some(0), "{}", node.log());
    assert!(!node.log().contains("panicked at"), "{}", node.log());
}

/// A node that has run out of descriptors accepts nobody, says so, does not spin, and goes on when some are
/// free again.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_out_of_descriptors_waits_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut node, _) = standalone(dir.path(), Ports::free().unwrap()).await;
    node.spawn(&node_binary().await.unwrap(), false).unwrap();
    becomes_ready(&node).await;
    let pid = node.pid().unwrap();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: BTreeSet<u64> = open
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let first_free = (0..).find(|number| !open.contains(number));
    // The node has inherited ours.
    let before = getrlimit(Resource::Nofile);
    let allow = |current: Option<u64>| {
        let limit = Rlimit { current, ..before };
        prlimit(
            Pid::from_raw(i32::try_from(pid).unwrap()),
            Resource::Nofile,
            limit,
        )
        .unwrap();
    };
    allow(first_free);
    let crowd: Vec<std::net::TcpStream> = (0..12)
        .map(|_| std::net::TcpStream::connect(node.ports.cluster).unwrap())
        .collect();
    let says = wait::until("it says so", LIMIT, async || {
        let said = node.log().contains("cannot accept a connection");
        said.then_some(())
            .ok_or_else(|| Failure::new("it does not"))
    });
    says.await.map_err(|failure| node.explain(failure)).unwrap();
    assert!(
        node.log().matches("cannot accept a connection").count() < 50,
        "{}",
        node.log()
    );
    drop(crowd);
    allow(before.current);
    becomes_ready(&node).await;
    ends_well(&mut node).await;
}

/// Three processes whose peers prove themselves by certificates: they form a cluster, lose a node, take
/// new certificates while they run, and acknowledge all along.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_work_over_mutual_tls_and_change_their_certificates() {
    let options = ClusterOptions {
        mutual_tls: true,
        ..ClusterOptions::default()
    };
    let cluster = ProcessCluster::start(options, LIMIT).await;
    let mut cluster = cluster.unwrap_or_else(|failure| panic!("{failure}"));
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = client.create_topic("secured", 3, 3, 2, LIMIT).await;
    assert_eq!(pass(&cluster, topic).partitions.len(), 3);
    let from: Vec<usize> = (0..3).map(|n| cluster.node(n).log().len()).collect();
    let certs = cluster.certificates();
    for n in 1..=3 {
        for kind in ["pem", "key"] {
            std::fs::remove_file(certs.join(format!("node-{n}.{kind}"))).unwrap();
        }
    }
    pass(&cluster, cluster.make_certificates());
    for (node, from) in from.into_iter().enumerate() {
        says(&cluster, node, from, &["read the new certificates"]).await;
    }
    cluster.kill(0).unwrap();
    let topic = client.create_topic("after", 1, 2, 1, LIMIT).await;
    assert_eq!(pass(&cluster, topic).partitions.len(), 1);
    for node in 0..3 {
        let log = cluster.node(node).log();
        assert!(!log.contains("panicked at"), "{log}");
    }
}

/// Three processes that talk over QUIC: they find each other over TCP, then every lane goes over QUIC, also
/// to a node that was killed and is back.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_work_over_quic_and_find_a_restarted_one_again() {
    let options = ClusterOptions {
        mutual_tls: true,
        quic: true,
        ..ClusterOptions::default()
    };
    let cluster = ProcessCluster::start(options, LIMIT).await;
    let mut cluster = cluster.unwrap_or_else(|failure| panic!("{failure}"));
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = client.create_topic("over-quic", 3, 3, 2, LIMIT).await;
    assert_eq!(pass(&cluster, topic).partitions.len(), 3);
    for node in 0..3 {
        outgoing_over_quic(&cluster, node, 2).await;
    }
    cluster.kill(0).unwrap();
    let topic = client.create_topic("after", 1, 2, 1, LIMIT).await;
    assert_eq!(pass(&cluster, topic).partitions.len(), 1);
    cluster.spawn(0).unwrap();
    let ready = cluster.wait_ready(LIMIT).await;
    pass(&cluster, ready);
    // Its peers are told at once that their old connections are gone, and stay with QUIC.
    for node in 0..3 {
        outgoing_over_quic(&cluster, node, 2).await;
        let log = cluster.node(node).log();
        assert!(!log.contains("panicked at"), "{log}");
    }
}

/// Waits until a node has at least so many connections of its own over QUIC, and none over TLS.
async fn outgoing_over_quic(cluster: &ProcessCluster, node: usize, least: u32) {
    let what = format!("{} calls over QUIC", cluster.node(node).name);
    let admin = cluster.node(node).ports.admin;
    let seen = wait::until(&what, LIMIT, async || {
        let metrics = rivven_tests::http::get(admin, "/metrics").await?.body;
        let count = |carrier: &str| -> f64 {
            let lines = metrics.lines().filter(|line| {
                line.starts_with("rivven_transport_connections{")
                    && line.contains("direction=\"out\"")
                    && line.contains(&format!("carrier=\"{carrier}\""))
            });
            let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
            values.sum()
        };
        if count("quic") >= f64::from(least) && count("tls") == 0.0 {
            return Ok(());
        }
        let (quic, tls) = (count("quic"), count("tls"));
        Err(Failure::new(format!("{quic} over QUIC, {tls} over TLS")))
    });
    pass(cluster, seen.await);
}

fn pass<T>(cluster: &ProcessCluster, result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)))
}

/// Waits until a node's log holds all of `words` in one line behind its first `from` bytes, whether the
/// node still runs or not.
async fn says(cluster: &ProcessCluster, node: usize, from: usize, words: &[&str]) -> String {
    let what = format!("{} says {words:?}", cluster.node(node).name);
    let said = wait::until(&what, LIMIT, async || {
        let log = cluster.node(node).log();
        let new = log.get(from..).unwrap_or_default();
        let found = new
            .lines()
            .find(|line| words.iter().all(|word| line.contains(word)));
        found
            .map(str::to_owned)
            .ok_or_else(|| Failure::new("it does not"))
    });
    pass(cluster, said.await)
}

/// One cluster for everything that can go wrong with a member, since starting clusters takes the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_wrong_secret_or_disk_is_refused_and_the_others_go_on() {
    let options = ClusterOptions::default();
    let cluster = ProcessCluster::start(options.clone(), LIMIT).await;
    let mut cluster = cluster.unwrap_or_else(|failure| panic!("{failure}"));
    let client = KafkaClient::new(cluster.bootstrap());
    pass(
        &cluster,
        client.create_topic("before", 3, 3, 2, LIMIT).await,
    );

    wrong_secret(&mut cluster, &options).await;
    foreign_cluster(&mut cluster).await;
    lost_disk(&mut cluster).await;

    // With its own disk and secret the node is a member again; the others never stopped.
    cluster.spawn(2).unwrap();
    cluster.wait_in_sync(LIMIT).await.unwrap();
    pass(&cluster, client.create_topic("after", 3, 3, 2, LIMIT).await);
    for node in 0..3 {
        cluster.stop(node, Duration::from_secs(20)).await.unwrap();
    }
    cluster.check_no_panic().unwrap();
}

/// Node 3 comes back with another secret: it is no member, and the log says why.
async fn wrong_secret(cluster: &mut ProcessCluster, options: &ClusterOptions) {
    cluster.stop(2, Duration::from_secs(20)).await.unwrap();
    let from = cluster.node(2).log().len();
    cluster
        .node(2)
        .set_secret("quite another secret of the same length")
        .unwrap();
    cluster.spawn(2).unwrap();
    let line = says(&*cluster, 2, from, &["secret"]).await;
    println!("wrong secret: {line}");
    let status = cluster.node(2).status().await.unwrap();
    assert!(cluster.node(2).ready().await.is_err(), "{status:?}");
    let others = cluster.until("the others go on without it", LIMIT, async |cluster| {
        let others = cluster.node(0).status().await?;
        if others.active_brokers == 2 && others.controller.is_some() {
            return Ok(());
        }
        Err(Failure::new(format!("{others:?}")))
    });
    others.await.unwrap();
    cluster.stop(2, Duration::from_secs(20)).await.unwrap();
    cluster.node(2).set_secret(&options.secret).unwrap();
}

/// Node 3 comes back with the data directory of another cluster.
async fn foreign_cluster(cluster: &mut ProcessCluster) {
    let elsewhere = ClusterOptions {
        nodes: 3,
        ..ClusterOptions::default()
    };
    let other = ProcessCluster::start(elsewhere, LIMIT).await;
    let mut other = other.unwrap_or_else(|failure| panic!("{failure}"));
    other.stop(2, Duration::from_secs(20)).await.unwrap();
    let (own, theirs) = (cluster.node(2).data_dir(), other.node(2).data_dir());
    let aside = cluster.node(2).dir().join("own");
    std::fs::rename(&own, &aside).unwrap();
    std::fs::rename(&theirs, &own).unwrap();
    let other_id = other.node(0).status().await.unwrap().cluster.unwrap();
    drop(other);

    let from = cluster.node(2).log().len();
    cluster.spawn(2).unwrap();
    let line = says(&*cluster, 2, from, &["cluster", &other_id]).await;
    println!("foreign cluster: {line}");
    // It may have ended by itself.
    if cluster.running().contains(&2) {
        assert!(cluster.node(2).ready().await.is_err());
        cluster.kill(2).unwrap();
    }
    std::fs::remove_dir_all(&own).unwrap();
    std::fs::rename(&aside, &own).unwrap();
}

/// Node 3 comes back with a blank disk, and with one that lost only its Raft store.
async fn lost_disk(cluster: &mut ProcessCluster) {
    let node = cluster.node_mut(2);
    let (own, aside) = (node.data_dir(), node.dir().join("own"));
    std::fs::rename(&own, &aside).unwrap();
    let words = ["node-3", "member of the cluster already", "remove-node"];
    let line = refuses(node, &words).await;
    println!("blank disk: {line}");
    std::fs::remove_dir_all(&own).unwrap();
    std::fs::rename(&aside, &own).unwrap();

    let (raft, aside) = (own.join("raft"), node.dir().join("raft"));
    std::fs::rename(&raft, &aside).unwrap();
    let line = refuses(node, &["lost", "restore"]).await;
    println!("lost Raft store: {line}");
    std::fs::remove_dir_all(&raft).unwrap_or_default();
    std::fs::rename(&aside, &raft).unwrap();
}
