//! The figures, with their targets and the peer's figures on a machine of this size (etcd 3.4.23, three
//! processes on loopback, 256-byte values, gRPC clients on the same two cores).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rivven_core_types::test_util::{Figure, Target as Goal};
use rivven_core_types::{NodeName, PeerRpc, RpcKind};
use rivven_tests::{Failure, wait};

use crate::Options;
use crate::cluster::{Cluster, request};
use crate::load::{Load, Operation, Seen, Target, command};
use crate::node::runtime;
use crate::peer;

/// Entries in the log for the figures of restarts and newcomers.
const ENTRIES: u64 = 100_000;
const FOREVER: Duration = Duration::from_secs(600);
/// Between two attempts at the first write.
const RETRY: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    runtime("load", 2)?.block_on(async {
        let wanted = |case: &str| options.only.as_deref().is_none_or(|only| only == case);
        if wanted("single") {
            single(options).await?;
        }
        if wanted("three") {
            three(options).await?;
        }
        if options.only.as_deref() == Some("one-phase") {
            phases(options).await?;
        }
        if wanted("reads") {
            reads(options).await?;
        }
        if wanted("failover") {
            failover(options, "default", 650.0).await?;
            failover(options, "fast", 374.0).await?;
        }
        if wanted("restart") {
            restart().await?;
        }
        if wanted("catchup") {
            catchup(options).await?;
        }
        Ok(())
    })
}

fn load(
    cluster: &Cluster,
    targets: &[usize],
    operation: Operation,
    clients: usize,
    time: Duration,
) -> Load {
    let target = |at: &usize| {
        let name = cluster.nodes[*at].name.clone();
        Target::Node(cluster.transport.clone(), name)
    };
    Load {
        targets: targets.iter().map(target).collect(),
        operation,
        clients,
        time,
        requests: u64::MAX,
        pace: None,
        stop: Arc::default(),
    }
}

pub(crate) fn check(seen: &Seen) -> Result<(), Failure> {
    if seen.errors > 0 {
        return Err(Failure::new(format!("{} requests failed", seen.errors)));
    }
    Ok(())
}

async fn single(options: &Options) -> Result<(), Failure> {
    eprintln!("one node, 64 clients");
    let cluster = Cluster::start(1, "default").await?;
    let seen = load(&cluster, &[0], Operation::Write, 64, options.seconds)
        .run()
        .await?;
    check(&seen)?;
    Figure {
        case: "one node, 64 clients",
        metric: "durable proposals",
        value: seen.per_second(),
        unit: "1/s",
        target: Some(Goal::AtLeast(20_000.0)),
        baseline: Some(2_222.0),
    }
    .print();
    Ok(())
}

/// One load of writes and what it is held against.
struct Row {
    clients: usize,
    /// Least throughput as a multiple of etcd's.
    times: f64,
    /// Which quantile of the latency, and its greatest value in milliseconds.
    latency: (usize, f64),
    /// etcd's throughput and latency as recorded; `--compare` measures them.
    recorded: (f64, f64),
}

const ROWS: [Row; 4] = [
    Row {
        clients: 1,
        times: 1.0,
        latency: (50, 0.8),
        recorded: (849.0, 1.07),
    },
    Row {
        clients: 16,
        times: 1.0,
        latency: (99, 11.4),
        recorded: (3_334.0, 11.4),
    },
    Row {
        clients: 64,
        times: 3.0,
        latency: (99, 12.0),
        recorded: (6_640.0, 22.7),
    },
    Row {
        clients: 256,
        times: 3.0,
        latency: (99, 30.0),
        recorded: (8_792.0, 63.5),
    },
];

async fn three(options: &Options) -> Result<(), Failure> {
    let peers = peer::writes(options, &ROWS.map(|row| row.clients)).await?;
    let cluster = Cluster::start(3, "default").await?;
    let leader = cluster.leader().await?;
    for (at, row) in ROWS.iter().enumerate() {
        let (clients, (percent, most)) = (row.clients, row.latency);
        let (peer, peer_millis) = peers.get(at).map_or(row.recorded, |seen| {
            (seen.per_second(), seen.millis(percent))
        });
        eprintln!("three nodes, {clients} clients");
        let run = load(
            &cluster,
            &[leader],
            Operation::Write,
            clients,
            options.seconds,
        );
        let seen = run.run().await?;
        check(&seen)?;
        let case = format!("three nodes, {clients} clients");
        Figure {
            case: &case,
            metric: "durable proposals",
            value: seen.per_second(),
            unit: "1/s",
            target: Some(Goal::AtLeast(row.times * peer)),
            baseline: Some(peer),
        }
        .print();
        Figure {
            case: &case,
            metric: &format!("latency p{percent}"),
            value: seen.millis(percent),
            unit: "ms",
            target: Some(Goal::AtMost(most)),
            baseline: Some(peer_millis),
        }
        .print();
    }
    Ok(())
}

/// One fsync per commit against two, in turns.
async fn phases(options: &Options) -> Result<(), Failure> {
    for (nodes, clients) in [(1, 1), (1, 64), (3, 1), (3, 64)] {
        let mut rates = [Vec::new(), Vec::new()];
        for _ in 0..3 {
            for (preset, rates) in ["default", "one-phase"].into_iter().zip(&mut rates) {
                let cluster = Cluster::start(nodes, preset).await?;
                let leader = cluster.leader().await?;
                let run = load(
                    &cluster,
                    &[leader],
                    Operation::Write,
                    clients,
                    options.seconds,
                );
                let seen = run.run().await?;
                check(&seen)?;
                rates.push(seen.per_second());
            }
        }
        let [two, one] = rates.map(|mut rates| {
            rates.sort_by(f64::total_cmp);
            rates.get(rates.len() / 2).copied().unwrap_or_default()
        });
        Figure {
            case: &format!("{nodes} nodes, {clients} clients, one fsync per commit against two"),
            metric: "durable proposals",
            value: one,
            unit: "1/s",
            target: Some(Goal::AtLeast(two)),
            baseline: Some(two),
        }
        .print();
    }
    Ok(())
}

async fn reads(options: &Options) -> Result<(), Failure> {
    let peer = peer::reads(options, 64).await?;
    let recorded = (9_742.0, 9_742.0);
    let (leaders, followers_read) = peer.map_or(recorded, |seen| {
        (seen[0].per_second(), seen[1].per_second())
    });
    let cluster = Cluster::start(3, "default").await?;
    let leader = cluster.leader().await?;
    fill(&cluster, leader, 10_000).await?;
    let followers: Vec<usize> = (0..3).filter(|at| *at != leader).collect();
    for (case, targets, least, peer) in [
        (
            "linearizable reads at the leader, 64 clients",
            vec![leader],
            3.0 * leaders,
            leaders,
        ),
        (
            "linearizable reads at the followers, 64 clients",
            followers,
            followers_read,
            followers_read,
        ),
    ] {
        eprintln!("{case}");
        let seen = load(&cluster, &targets, Operation::Read, 64, options.seconds)
            .run()
            .await?;
        check(&seen)?;
        Figure {
            case,
            metric: "reads",
            value: seen.per_second(),
            unit: "1/s",
            target: Some(Goal::AtLeast(least)),
            baseline: Some(peer),
        }
        .print();
    }
    Ok(())
}

async fn fill(cluster: &Cluster, leader: usize, entries: u64) -> Result<(), Failure> {
    let mut fill = load(cluster, &[leader], Operation::Write, 256, FOREVER);
    fill.requests = entries;
    check(&fill.run().await?)
}

/// Writes once to whoever takes it; each attempt is short, since nothing is known of who leads.
async fn first_write(cluster: &Cluster) -> Result<Duration, Failure> {
    let started = Instant::now();
    let (nodes, transport) = (cluster.running(), &cluster.transport);
    let limit = started + LIMIT;
    while Instant::now() < limit {
        let mut attempts = tokio::task::JoinSet::new();
        for at in &nodes {
            let (name, transport): (NodeName, _) =
                (cluster.nodes[*at].name.clone(), transport.clone());
            let write = request(RpcKind::PROPOSE, command(1)?, Duration::from_secs(2));
            attempts.spawn(async move { transport.call(&name, write).await });
        }
        while let Some(done) = attempts.join_next().await {
            if matches!(done, Ok(Ok(_))) {
                return Ok(started.elapsed());
            }
        }
        wait::pause(RETRY).await;
    }
    Err(Failure::new("nobody takes a write"))
}

async fn failover(options: &Options, preset: &'static str, target: f64) -> Result<(), Failure> {
    let mut cluster = Cluster::start(3, preset).await?;
    let mut millis = Vec::new();
    for kill in 1..=options.kills {
        let leader = cluster.leader().await?;
        fill(&cluster, leader, 200).await?;
        let (_, applied) = cluster.status(leader).await?;
        for node in cluster.running() {
            cluster.applied(node, applied).await?;
        }
        cluster.nodes[leader].kill();
        let took = first_write(&cluster).await?;
        eprintln!("{preset} settings, kill {kill}: {took:?}");
        millis.push(took.as_secs_f64() * 1000.0);
        cluster.spawn(leader)?;
        cluster.applied(leader, applied).await?;
    }
    millis.sort_by(f64::total_cmp);
    let median = millis.get(millis.len() / 2).copied().unwrap_or_default();
    let case = format!("failover after kill -9, {preset} settings");
    for (metric, value, target) in [
        ("median of the time to the next write", median, target),
        (
            "longest",
            millis.last().copied().unwrap_or_default(),
            target * 2.0,
        ),
    ] {
        Figure {
            case: &case,
            metric,
            value,
            unit: "ms",
            target: Some(Goal::AtMost(target)),
            baseline: Some(374.0),
        }
        .print();
    }
    Ok(())
}

async fn restart() -> Result<(), Failure> {
    eprintln!("restart of all three with {ENTRIES} entries");
    let mut cluster = Cluster::start(3, "default").await?;
    let leader = cluster.leader().await?;
    fill(&cluster, leader, ENTRIES).await?;
    for node in 0..3 {
        cluster.nodes[node].kill();
    }
    let started = Instant::now();
    for node in 0..3 {
        cluster.spawn(node)?;
    }
    first_write(&cluster).await?;
    Figure {
        case: "restart of three nodes with 100,000 entries",
        metric: "time to the first write",
        value: started.elapsed().as_secs_f64() * 1000.0,
        unit: "ms",
        target: Some(Goal::AtMost(1_000.0)),
        baseline: Some(2_431.0),
    }
    .print();
    Ok(())
}

async fn catchup(options: &Options) -> Result<(), Failure> {
    eprintln!("an empty node joins under load");
    let mut cluster = Cluster::start(3, "default").await?;
    let leader = cluster.leader().await?;
    fill(&cluster, leader, ENTRIES).await?;
    let mut paced = load(&cluster, &[leader], Operation::Write, 10, options.seconds);
    paced.pace = Some(Duration::from_millis(10));
    let calm = paced.run().await?;
    check(&calm)?;
    let node = cluster.add()?;
    // Until the newcomer is there: what comes after is calm again.
    paced.time = FOREVER;
    let stop = Arc::clone(&paced.stop);
    let running = tokio::spawn(async move { paced.run().await });
    let (_, index) = cluster.status(leader).await?;
    let started = Instant::now();
    cluster.admit(leader, node).await?;
    cluster.applied(node, index).await?;
    let took = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    let busy = running.await.map_err(|e| Failure::new(e.to_string()))??;
    check(&busy)?;
    for (metric, value, unit, target) in [
        (
            "time until it has 100,000 entries",
            took.as_secs_f64(),
            "s",
            3.0,
        ),
        (
            "p99 of the leader, against calm",
            busy.millis(99) / calm.millis(99).max(0.001),
            "x",
            2.0,
        ),
    ] {
        Figure {
            case: "an empty node joins at 1,000 writes/s",
            metric,
            value,
            unit,
            target: Some(Goal::AtMost(target)),
            baseline: None,
        }
        .print();
    }
    Ok(())
}
