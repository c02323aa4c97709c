//! Measures durable offset commits through the Kafka port: three node processes, members of many groups,
//! ten offsets in a request. The client shares the machine with the nodes.
#![allow(clippy::print_stderr, reason = "a program says how far it is")]

use std::process::ExitCode;
use std::time::Duration;

use rivven_core_types::test_util::{Figure, Target};
use rivven_tests::bench::{
    CommitLoad, Committed, percentile, processor_ticks, run_commits, synced_appends_per_second,
};
use rivven_tests::kafka::KafkaClient;
use rivven_tests::process::{ClusterOptions, ProcessCluster};
use rivven_tests::{Failure, http};

const HELP: &str = "\
bench-commits - durable offset commits through the Kafka port

Usage: bench-commits [--secs N]

  --secs N  Seconds of each load (default 10)
";
const LIMIT: Duration = Duration::from_secs(90);
const TOPIC: &str = "commits";
const PARTITIONS: usize = 10;
/// Groups, connections, and requests under way on each.
const GROUPS: (usize, usize, usize) = (1_000, 16, 60);
/// Requests a second of ten offsets each: a little more than the target of 100,000 offsets.
const PACE: u32 = 10_200;
/// The coordinator proposes no earlier than this after its last proposal.
const LINGER_MS: f64 = 4.0;

#[tokio::main]
async fn main() -> ExitCode {
    let mut secs = 10;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--secs", Some(text)) if text.parse::<u64>().is_ok_and(|n| n > 0) => {
                secs = text.parse().unwrap_or(secs);
            }
            ("--help", _) => {
                eprint!("{HELP}");
                return ExitCode::SUCCESS;
            }
            (other, _) => {
                eprintln!("unknown argument {other:?}\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    match run(Duration::from_secs(secs)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(time: Duration) -> Result<(), Failure> {
    let mut cluster = ProcessCluster::start(ClusterOptions::default(), LIMIT).await?;
    let appends = synced_appends_per_second(cluster.dir(), time.min(Duration::from_secs(3)))?;
    Figure::new("append and fdatasync 4 KiB", "rate", appends, "1/s", None).print();
    let client = KafkaClient::new(cluster.bootstrap());
    client.create_topic(TOPIC, 10, 3, 2, LIMIT).await?;
    client.led_topic(TOPIC, LIMIT).await?;
    // One member that waits for each answer: its next commit waits until the next proposal may be made.
    let single = load(&mut cluster, "one by one", (1, 1, 1), None, time).await?;
    let case = "offset commits one by one";
    Figure::new(case, "p50", millis(&single.committed, 50), "ms", None).print();
    Figure::new(case, "p99", millis(&single.committed, 99), "ms", None).print();
    // As many as the target asks for, at even times.
    let paced = load(&mut cluster, "paced", GROUPS, Some(PACE), time).await?;
    let case = "offset commits of 1000 groups, 10 in a request, paced";
    let commit = show(case, &paced);
    let limit = Target::AtMost(2.0 * (commit + LINGER_MS));
    Figure::new(case, "p99", millis(&paced.committed, 99), "ms", Some(limit)).print();
    // As many as are answered.
    let full = load(&mut cluster, "all at once", GROUPS, None, time).await?;
    let case = "offset commits of 1000 groups, 10 in a request, as fast as answered";
    show(case, &full);
    Figure::new(case, "p99", millis(&full.committed, 99), "ms", None).print();
    cluster.check_no_panic()
}

/// Rate, proposals and median; returns the mean time of a Raft commit in milliseconds.
fn show(case: &str, measured: &Measured) -> f64 {
    let committed = &measured.committed;
    let rate = Target::AtLeast(100_000.0);
    Figure::new(case, "rate", committed.rate(), "offsets/s", Some(rate)).print();
    let proposals = measured.proposals / committed.elapsed.as_secs_f64();
    let most = Target::AtMost(250.0);
    Figure::new(case, "proposals", proposals, "1/s", Some(most)).print();
    let commit = measured.proposal_ms;
    Figure::new(case, "Raft commit, mean", commit, "ms", None).print();
    Figure::new(case, "p50", millis(committed, 50), "ms", None).print();
    commit
}

fn millis(committed: &Committed, percent: usize) -> f64 {
    percentile(&committed.latencies, percent).as_secs_f64() * 1e3
}

struct Measured {
    committed: Committed,
    proposals: f64,
    proposal_ms: f64,
}

async fn load(
    cluster: &mut ProcessCluster,
    what: &str,
    (groups, connections, in_flight): (usize, usize, usize),
    pace: Option<u32>,
    time: Duration,
) -> Result<Measured, Failure> {
    let client = KafkaClient::new(cluster.bootstrap());
    let (broker, address) = client.group_coordinator(LIMIT).await?;
    let node = cluster.node_of_broker(broker).await?;
    let admin = cluster.node(node).ports.admin;
    let load = CommitLoad {
        topic: TOPIC.to_owned(),
        groups,
        partitions: PARTITIONS,
        connections,
        in_flight,
        pace,
        time,
    };
    eprintln!("{what}, {} s", time.as_secs());
    let before = (proposals(admin).await?, processor_ticks()?);
    let committed = tokio::task::spawn_blocking(move || run_commits(address, &load)).await;
    let committed = committed
        .map_err(|e| Failure::new(e.to_string()))?
        .map_err(|e| Failure::new(format!("{what}: {e}")))?;
    let after = (proposals(admin).await?, processor_ticks()?);
    let busy = (after.1.1 - before.1.1) * 100 / (after.1.0 - before.1.0).max(1);
    eprintln!("  the machine's processors were busy for {busy} % of the time");
    let count = after.0.0 - before.0.0;
    Ok(Measured {
        committed,
        proposals: count,
        proposal_ms: (after.0.1 - before.0.1) / count.max(1.0) * 1e3,
    })
}

/// How many proposals the coordinator has made, and how many seconds they have taken in all.
async fn proposals(admin: std::net::SocketAddr) -> Result<(f64, f64), Failure> {
    let answer = http::get(admin, "/metrics").await?;
    let value = |name: &str| {
        let line = answer.body.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with([' ', '{']))
        });
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        // It appears with the first proposal.
        value.unwrap_or(0.0)
    };
    let name = "rivven_groups_proposal_seconds";
    Ok((
        value(&format!("{name}_count")),
        value(&format!("{name}_sum")),
    ))
}
