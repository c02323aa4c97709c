//! Nodes come and go in a cluster that works all the time: it grows from three voters to five, shrinks
//! again, and replaces a node whose disk is lost.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use rivven_tests::Failure;
use rivven_tests::check::judge;
use rivven_tests::flights::{InputRecord, flights};
use rivven_tests::kafka::{KafkaClient, Producer, ProducerOptions, TopicInfo, read_all};
use rivven_tests::process::{ClusterOptions, ProcessCluster, node_binary};

use super::{LIMIT, pass, refuses};

/// Records that are written in each phase.
const RECORDS: usize = 300;

/// `rivven-node cluster ...` against the admin port of a node.
async fn ask(cluster: &ProcessCluster, node: usize, words: &[&str]) -> Output {
    let mut command = Command::new(node_binary().await.unwrap());
    let admin = cluster.node(node).ports.admin.to_string();
    command.arg("cluster").args(words).args(["--admin", &admin]);
    command.output().unwrap()
}

async fn done(cluster: &ProcessCluster, node: usize, words: &[&str]) -> String {
    let output = ask(cluster, node, words).await;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let failure = Failure::new(format!("{words:?}: {error}"));
    pass(
        cluster,
        output.status.success().then_some(()).ok_or(failure),
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a node's `cluster status` shows these nodes in a part, and nobody else.
async fn until_role(cluster: &mut ProcessCluster, at: usize, roles: &[&str], names: &[&str]) {
    let wanted: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let what = format!("{names:?} are {roles:?}");
    let shown = cluster.until(&what, LIMIT, async |cluster| {
        let table = done(cluster, at, &["status"]).await;
        let rows = table
            .lines()
            .skip(1)
            .map(|l| l.split_whitespace().collect::<Vec<_>>());
        let found: BTreeSet<String> = rows
            .filter(|row| row.get(2).is_some_and(|role| roles.contains(role)))
            .map(|row| row[0].to_owned())
            .collect();
        if found == wanted {
            return Ok(());
        }
        Err(Failure::new(table))
    });
    shown.await.unwrap();
}

struct Load {
    client: KafkaClient,
    topic: TopicInfo,
    records: Vec<InputRecord>,
    written: usize,
}

impl Load {
    /// Writes some records with acks=all and waits for all of them.
    async fn write(&mut self, cluster: &ProcessCluster) {
        let options = ProducerOptions::default();
        let producer = Producer::start(&self.client, &self.topic, &options).await;
        let mut producer = pass(cluster, producer);
        for number in self.written..self.written + RECORDS {
            pass(cluster, producer.send(number, &self.records[number]).await);
        }
        pass(cluster, producer.finish().await);
        self.written += RECORDS;
    }

    /// Every record is there once, in order.
    async fn check(&self, cluster: &ProcessCluster) {
        let written = &self.records[..self.written];
        let read = async || {
            let none = std::collections::BTreeMap::new();
            let read = read_all(&self.client, &self.topic.name, &none, LIMIT).await?;
            let verdict = judge(written, &read);
            let failure = Failure::new(format!("{verdict:?}"));
            verdict.is_clean().then_some(()).ok_or(failure)
        };
        pass(
            cluster,
            rivven_tests::wait::until("all records are read", LIMIT, read).await,
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_to_five_voters_shrinks_and_replaces_a_lost_disk_without_loss() {
    let options = ClusterOptions {
        extra: "  raft:\n    voters: 5\n".to_owned(),
        ..ClusterOptions::default()
    };
    let mut cluster = ProcessCluster::start(options, LIMIT).await.unwrap();
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = client.create_topic("kept", 3, 3, 2, LIMIT).await;
    let mut load = Load {
        topic: pass(&cluster, topic),
        client,
        records: flights().unwrap().into_iter().take(RECORDS * 4).collect(),
        written: 0,
    };
    load.write(&cluster).await;

    grow(&mut cluster).await;
    load.write(&cluster).await;
    shrink(&mut cluster).await;
    load.write(&cluster).await;
    replace(&mut cluster).await;
    load.write(&cluster).await;
    load.check(&cluster).await;

    // The new disk holds everything that the lost one held.
    let gone = cluster.controller(LIMIT).await.unwrap();
    cluster.kill(gone).unwrap();
    load.check(&cluster).await;
    cluster.check_no_panic().unwrap();
}

/// Three voters become five at once, when the second newcomer has caught up; two of five may fail.
async fn grow(cluster: &mut ProcessCluster) {
    for _ in 0..2 {
        let node = cluster.add_node().unwrap();
        cluster.spawn(node).unwrap();
    }
    let five = ["node-1", "node-2", "node-3", "node-4", "node-5"];
    until_role(cluster, 0, &["leader", "voter"], &five).await;
    cluster.wait_in_sync(LIMIT).await.unwrap();
    for node in [3, 4] {
        cluster.kill(node).unwrap();
    }
    cluster.wait_ready(LIMIT).await.unwrap();
}

/// The two that failed are removed; one that comes back with its old disk is told so.
async fn shrink(cluster: &mut ProcessCluster) {
    for name in ["node-4", "node-5"] {
        let said = done(cluster, 1, &["remove-node", name]).await;
        assert!(said.contains(name), "{said}");
    }
    let three = ["node-1", "node-2", "node-3"];
    until_role(cluster, 0, &["leader", "voter"], &three).await;
    until_role(cluster, 0, &["none"], &["node-4", "node-5"]).await;
    let again = ask(cluster, 2, &["remove-node", "node-4"]).await;
    assert!(again.status.success(), "removing again changes nothing");
    let unknown = ask(cluster, 2, &["remove-node", "node-9"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("node-9"));
    let serving = ask(cluster, 0, &["remove-node", "node-2"]).await;
    assert_eq!(serving.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&serving.stderr).contains("active"));
    let words = ["node-4", "was removed", "data directory"];
    refuses(cluster.node_mut(3), &words).await;
}

/// Number 3 loses its disk. It is refused until the old one is removed, then joins anew, takes its
/// replicas over and votes.
async fn replace(cluster: &mut ProcessCluster) {
    cluster.kill(2).unwrap();
    cluster.wipe(2).unwrap();
    let words = ["node-3", "remove-node"];
    refuses(cluster.node_mut(2), &words).await;
    cluster.wait_ready(LIMIT).await.unwrap();
    done(cluster, 0, &["remove-node", "node-3"]).await;
    cluster.spawn(2).unwrap();
    let three = ["node-1", "node-2", "node-3"];
    until_role(cluster, 0, &["leader", "voter"], &three).await;
    cluster.wait_in_sync(LIMIT).await.unwrap();
    // Its vote counts: the leadership can move to it.
    let at = cluster.controller(LIMIT).await.unwrap();
    if at != 2 {
        done(cluster, at, &["transfer", "node-3"]).await;
    }
    until_role(cluster, 0, &["leader"], &["node-3"]).await;
}
