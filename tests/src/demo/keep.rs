//! Leaving the cluster to the person who started it.

use super::run::{LIMIT, TOPIC};
use super::teller::Teller;
use crate::failure::Failure;
use crate::process::ProcessCluster;

/// Leaves the cluster running and says how to use it.
pub(super) async fn keep(mut cluster: ProcessCluster, teller: &Teller) {
    let stopped: Vec<usize> = {
        let running = cluster.running();
        (0..cluster.nodes().len())
            .filter(|node| !running.contains(node))
            .collect()
    };
    let started: Result<(), Failure> = stopped.iter().try_for_each(|node| cluster.spawn(*node));
    let ready = match started {
        Ok(()) => cluster.wait_ready(LIMIT).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = ready {
        teller.line(&format!("\nThe cluster does not come up again: {failure}"));
        return;
    }
    let brokers: Vec<String> = cluster
        .bootstrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    let brokers = brokers.join(",");
    let admin: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| node.ports.admin)
        .collect();
    let pids: Vec<String> = cluster
        .nodes()
        .iter()
        .filter_map(|node| node.pid())
        .map(|pid| pid.to_string())
        .collect();
    let dir = cluster.detach();
    let mut lines = vec![
        "\nThe cluster goes on running. With kcat (Debian: apt install kcat):".to_owned(),
        format!("  kcat -b {brokers} -L"),
        format!("  kcat -b {brokers} -C -t {TOPIC} -o beginning -e -f '%p/%o %k %s\\n' | head"),
        format!(
            "  echo UA,hello | kcat -b {brokers} -P -t {TOPIC} -K, -X partitioner=murmur2_random -X acks=all"
        ),
        "The nodes speak HTTP:".to_owned(),
    ];
    lines.extend(
        admin
            .iter()
            .map(|address| format!("  curl http://{address}/status")),
    );
    lines.push("To stop it and to remove its files:".to_owned());
    lines.push(format!(
        "  kill {}; sleep 5; rm -r {}",
        pids.join(" "),
        dir.display()
    ));
    for line in lines {
        teller.line(&line);
    }
}
