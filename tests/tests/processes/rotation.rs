//! The secret of a cluster is replaced while it works: no process restarts, nobody is taken for dead, and
//! in the end the old secret opens nothing.

use std::time::Duration;

use rivven_tests::process::{ClusterOptions, ProcessCluster};
use rivven_tests::{Failure, http};

use super::{LIMIT, pass, says};

const NEW: &str = "the secret that comes after it";

/// What a node's `/metrics` says.
async fn metric(cluster: &ProcessCluster, node: usize, name: &str) -> Result<f64, Failure> {
    let answer = http::get(cluster.node(node).ports.admin, "/metrics").await?;
    let mut lines = answer.body.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.ok_or_else(|| Failure::new(format!("no {name}")))
}

/// Gives every running node these files and waits until each uses them and knows that all do.
async fn give_all(cluster: &mut ProcessCluster, secret: &str, previous: &str, times: u32) {
    for node in 0..3 {
        cluster.node(node).set_secrets(secret, previous).unwrap();
    }
    let what = format!("all nodes use their files for the {times}. time");
    let used = cluster.until(&what, LIMIT, async |cluster| {
        for node in 0..3 {
            let reloads = metric(cluster, node, "rivven_secret_reloads_total{outcome=\"ok\"}");
            let lacking = metric(cluster, node, "rivven_swim_members_without_primary_key");
            let (reloads, lacking) = (reloads.await?, lacking.await?);
            if reloads < f64::from(times) || lacking > 0.0 {
                let text = format!("node {node}: {reloads} reloads, {lacking} without the key");
                return Err(Failure::new(text));
            }
        }
        Ok(())
    });
    used.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_rotated_on_running_nodes_without_a_flap() {
    let options = ClusterOptions::default();
    let cluster = ProcessCluster::start(options.clone(), LIMIT).await;
    let mut cluster = cluster.unwrap_or_else(|failure| panic!("{failure}"));
    let processes: Vec<_> = (0..3).map(|node| cluster.node(node).pid()).collect();

    // What cannot be a secret is refused, and nothing happens.
    let from = cluster.node(0).log().len();
    cluster.node(0).set_secrets("short", "").unwrap();
    says(&cluster, 0, from, &["not used", "has 5"]).await;

    give_all(&mut cluster, NEW, &options.secret, 1).await;
    give_all(&mut cluster, NEW, "", 2).await;

    // A connection that begins now, and a life that begins now, have the new secret alone.
    cluster.stop(2, Duration::from_secs(20)).await.unwrap();
    let from = cluster.node(0).log().len();
    cluster.spawn(2).unwrap();
    cluster.wait_ready(LIMIT).await.unwrap();
    assert!(!cluster.node(0).log()[from..].contains("refused"));
    for (node, process) in processes.iter().enumerate().take(2) {
        assert_eq!(cluster.node(node).pid(), *process, "nobody was restarted");
        let log = cluster.node(node).log();
        let deaths = log.lines().filter(|line| line.contains("state=dead"));
        assert_eq!(deaths.count(), 0, "{log}");
    }

    // Who still has the old one alone is a stranger.
    cluster.stop(2, Duration::from_secs(20)).await.unwrap();
    let from = cluster.node(2).log().len();
    cluster.node(2).set_secret(&options.secret).unwrap();
    cluster.spawn(2).unwrap();
    says(&cluster, 2, from, &["secret"]).await;
    assert!(cluster.node(2).ready().await.is_err());
    cluster.stop(2, Duration::from_secs(20)).await.unwrap();
    for node in 0..2 {
        let stopped = cluster.stop(node, Duration::from_secs(20)).await;
        pass(&cluster, stopped);
    }
    cluster.check_no_panic().unwrap();
}
