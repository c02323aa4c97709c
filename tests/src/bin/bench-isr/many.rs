//! Many partitions: a thousand that are written at once, ten thousand that rest.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rivven_core_types::test_util::{Figure, Target};
use rivven_tests::Failure;
use rivven_tests::bench::{Footprint, Load, footprint, percentile, run_spread_load};
use rivven_tests::kafka::TopicInfo;
use rivven_tests::process::ProcessCluster;

use crate::make_topic;

const HOT: u16 = 1_000;
const IDLE: u16 = 10_000;
/// How long the first writes, or a restart with so many, may take.
const MANY_LIMIT: Duration = Duration::from_secs(300);

fn float(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}

/// The partitions that each broker leads.
type Led = BTreeMap<SocketAddr, Vec<i32>>;

fn led(topic: &TopicInfo) -> Result<Led, Failure> {
    let mut led = Led::new();
    for partition in &topic.partitions {
        let (_, leader) = partition
            .leader
            .ok_or_else(|| Failure::new("no leader".to_owned()))?;
        let index = i32::try_from(partition.id.index.get()).unwrap_or(i32::MAX);
        led.entry(leader).or_default().push(index);
    }
    Ok(led)
}

/// Writes to all partitions of a topic at once; `most` requests are under way at a time at a leader.
async fn write_all(
    topic: &str,
    led: &Led,
    most: usize,
    time: Duration,
) -> Result<(Vec<Duration>, f64), Failure> {
    let mut loads = Vec::new();
    for (leader, partitions) in led.clone() {
        let load = Load {
            topic: topic.to_owned(),
            value_bytes: 128,
            batch_records: 1,
            in_flight: partitions.len().min(most),
            time,
        };
        loads.push(tokio::task::spawn_blocking(move || {
            run_spread_load(leader, &load, &partitions)
        }));
    }
    let (mut latencies, mut rate) = (Vec::new(), 0.0);
    for load in loads {
        let loaded = load.await.map_err(|e| Failure::new(e.to_string()))?;
        let loaded = loaded.map_err(|e| Failure::new(format!("{topic}: {e}")))?;
        rate += loaded.rate(1);
        latencies.extend(loaded.latencies);
    }
    latencies.sort_unstable();
    Ok((latencies, rate))
}

/// Writes one record to each partition, as soon as all brokers know that they lead.
async fn write_first(topic: &str, led: &Led) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        match write_all(topic, led, 64, Duration::ZERO).await {
            Ok(_) => return Ok(()),
            Err(failure) if started.elapsed() > MANY_LIMIT => return Err(failure),
            Err(_) => rest(Duration::from_millis(100)).await,
        }
    }
}

/// One record to each of a thousand partitions under way at a time, every one of them synced.
pub(crate) async fn hot(cluster: &mut ProcessCluster, time: Duration) -> Result<(), Failure> {
    let topic = make_topic(cluster, "hot", HOT, "fsync").await?;
    let led = led(&topic)?;
    write_first("hot", &led).await?;
    let (latencies, rate) = write_all("hot", &led, usize::from(HOT), time).await?;
    let case = format!("{HOT} partitions written at once, fsync");
    for (percent, metric, target) in [(50, "p50", Some(Target::AtMost(10.0))), (99, "p99", None)] {
        let value = percentile(&latencies, percent).as_secs_f64() * 1e3;
        Figure::new(&case, metric, value, "ms", target).print();
    }
    Figure::new(&case, "rate", rate, "records/s", None).print();
    Ok(())
}

fn footprints(cluster: &ProcessCluster) -> Result<Vec<Footprint>, Failure> {
    let pids = cluster.nodes().iter().filter_map(|node| node.pid());
    pids.map(|pid| footprint(pid).map_err(|e| Failure::new(format!("/proc/{pid}: {e}"))))
        .collect()
}

/// The mean growth of something that each node has.
fn growth(before: &[Footprint], after: &[Footprint], of: impl Fn(&Footprint) -> u64) -> f64 {
    let sum = |all: &[Footprint]| all.iter().map(&of).map(float).sum::<f64>();
    (sum(after) - sum(before)) / float(before.len().max(1) as u64)
}

/// What ten thousand partitions cost while nobody uses them, before and after each was written once,
/// and how long a node with a replica of each takes to stop in order and be in sync again.
pub(crate) async fn idle(cluster: &mut ProcessCluster, time: Duration) -> Result<(), Failure> {
    let before = footprints(cluster)?;
    let topic = make_topic(cluster, "idle", IDLE, "fsync").await?;
    rest(time).await;
    let case = format!("{IDLE} partitions that nobody has written, 3 replicas");
    at_rest(cluster, &case, &before, time).await?;
    let started = Instant::now();
    write_first("idle", &led(&topic)?).await?;
    let case = format!("{IDLE} partitions of one record, 3 replicas");
    let took = started.elapsed().as_secs_f64();
    Figure::new(&case, "first writes", took, "s", None).print();
    rest(time).await;
    at_rest(cluster, &case, &before, time).await?;
    let started = Instant::now();
    cluster.stop(2, MANY_LIMIT).await?;
    let took = started.elapsed().as_secs_f64();
    Figure::new(&case, "orderly stop", took, "s", None).print();
    cluster.spawn(2)?;
    cluster.wait_in_sync(MANY_LIMIT).await?;
    let restart = started.elapsed().as_secs_f64();
    Figure::new(&case, "stop, start and in sync again", restart, "s", None).print();
    Ok(())
}

/// What the nodes hold more than before, and what they do in the meantime.
async fn at_rest(
    cluster: &ProcessCluster,
    case: &str,
    before: &[Footprint],
    time: Duration,
) -> Result<(), Failure> {
    let now = footprints(cluster)?;
    rest(time).await;
    let later = footprints(cluster)?;
    let bytes = growth(before, &now, |f| f.memory_bytes) / f64::from(IDLE);
    let most = Some(Target::AtMost(1024.0));
    Figure::new(case, "memory per partition and node", bytes, "B", most).print();
    let descriptors = growth(before, &now, |f| f.descriptors as u64);
    // The limit of the logs' open files, which hold none once others want theirs.
    let most = Some(Target::AtMost(512.0));
    Figure::new(case, "descriptors of a node", descriptors, "1", most).print();
    let threads = growth(before, &now, |f| f.threads as u64);
    Figure::new(case, "threads of a node", threads, "1", None).print();
    let percent = growth(&now, &later, |f| f.ticks) / time.as_secs_f64();
    Figure::new(case, "processor time of a node", percent, "%", None).print();
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "what rests is measured over time"
)]
async fn rest(time: Duration) {
    // sleep-ok: what rests is measured over time.
    tokio::time::sleep(time).await;
}
