//! Measures replication through the Kafka port: three node processes, replication factor 3, min ISR 2,
//! acks=all, one partition. The client shares the machine with the nodes.
#![allow(clippy::print_stderr, reason = "a program says how far it is")]

mod many;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rivven_core_types::test_util::{Figure, Target};
use rivven_tests::Failure;
use rivven_tests::bench::{
    JetStream, Load, create_topic, loopback_bytes_per_second, percentile, processor_ticks,
    run_load, synced_appends_per_second,
};
use rivven_tests::kafka::{KafkaClient, TopicInfo};
use rivven_tests::process::{ClusterOptions, ProcessCluster};

const HELP: &str = "\
bench-isr - replication through the Kafka port

Usage: bench-isr [--secs N] [--failovers N] [--only PART] [--compare]

  --secs N       Seconds of each load (default 30)
  --failovers N  How many leaders are killed for the failover gap (default 3)
  --only PART    One part: replicated, fsync, failover, hot (1,000 partitions written at once) or
                 idle (10,000 partitions)
  --compare      Also runs NATS JetStream with three replicas, if nats-server is installed
";
const LIMIT: Duration = Duration::from_secs(90);
/// JetStream R3 on the machine that the targets were set on, in the same units.
const JETSTREAM_SEQUENTIAL_US: f64 = 542.0;

struct Options {
    secs: u64,
    failovers: usize,
    compare: bool,
    only: Option<String>,
}

/// The parts of a run.
const PARTS: [&str; 5] = ["replicated", "fsync", "failover", "hot", "idle"];

fn options() -> Result<Option<Options>, String> {
    let mut options = Options {
        secs: 30,
        failovers: 3,
        compare: false,
        only: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<u64, String> {
            let text = arguments.next().unwrap_or_default();
            text.parse()
                .map_err(|_| format!("{argument} needs a number, not {text:?}"))
        };
        match argument.as_str() {
            "--secs" => options.secs = number()?.max(1),
            "--failovers" => {
                options.failovers = usize::try_from(number()?).unwrap_or(usize::MAX);
            }
            "--only" => {
                let part = arguments.next().unwrap_or_default();
                if !PARTS.contains(&part.as_str()) {
                    return Err(format!("there is no part {part:?}"));
                }
                options.only = Some(part);
            }
            "--help" => return Ok(None),
            "--compare" => options.compare = true,
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    Ok(Some(options))
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options() {
        Ok(Some(options)) => options,
        Ok(None) => {
            eprint!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("{wrong}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<(), Failure> {
    let time = Duration::from_secs(options.secs);
    let jetstream = if options.compare {
        let compared = tokio::task::spawn_blocking(move || compare(time)).await;
        compared.map_err(|e| Failure::new(e.to_string()))??
    } else {
        None
    };
    let mut cluster = ProcessCluster::start(ClusterOptions::default(), LIMIT).await?;
    let short = time.min(Duration::from_secs(3));
    let appends = synced_appends_per_second(cluster.dir(), short)?;
    let loopback = loopback_bytes_per_second(short)? / 1e6;
    for (case, metric, value, unit) in [
        ("append and fdatasync 4 KiB", "rate", appends, "1/s"),
        ("loopback copy", "throughput", loopback, "MB/s"),
    ] {
        Figure::new(case, metric, value, unit, None).print();
    }
    let wanted = |part: &str| options.only.as_deref().is_none_or(|only| only == part);
    for durability in ["replicated", "fsync"] {
        if !wanted(durability) {
            continue;
        }
        let sequential = jetstream.unwrap_or(JETSTREAM_SEQUENTIAL_US);
        let baselines = [appends, loopback, sequential];
        measure(&mut cluster, durability, time, baselines).await?;
    }
    if wanted("failover") && options.failovers > 0 {
        failover(&mut cluster, options.failovers).await?;
    }
    if wanted("hot") {
        many::hot(&mut cluster, time).await?;
    }
    if wanted("idle") {
        many::idle(&mut cluster, time).await?;
    }
    cluster.check_no_panic()
}

/// The same loads on JetStream. Returns its sequential p50 in microseconds, `None` if it is not here.
fn compare(time: Duration) -> Result<Option<f64>, Failure> {
    let failed = |e| Failure::new(format!("JetStream: {e}"));
    let Some(peer) = JetStream::start().map_err(failed)? else {
        eprintln!("SKIPPED: there is no nats-server");
        return Ok(None);
    };
    let mut sequential = None;
    for (what, bytes, in_flight) in [
        ("one by one 128 B", 128, 1),
        ("pipelined 128 B", 128, 4096),
        ("batched 1 KiB", 1024, 4096),
        ("batched 64 KiB", 64 << 10, 64),
    ] {
        eprintln!("{what}, JetStream, {} s", time.as_secs());
        let loaded = peer.run_load(bytes, in_flight, time).map_err(failed)?;
        let figure = |metric, value, unit| {
            let case = format!("{what}, JetStream R3");
            Figure::new(&case, metric, value, unit, None).print();
        };
        if in_flight == 1 {
            let micros = |percent| percentile(&loaded.latencies, percent).as_secs_f64() * 1e6;
            sequential = Some(micros(50));
            figure("p50", micros(50), "us");
            figure("p99", micros(99), "us");
        } else if bytes == 128 {
            figure("rate", loaded.rate(1), "records/s");
        } else {
            let bytes = f64::from(u32::try_from(bytes).unwrap_or(u32::MAX));
            figure("throughput", loaded.rate(1) * bytes / 1e6, "MB/s");
        }
    }
    Ok(sequential)
}

/// Makes a topic and returns it once all its replicas are in sync.
async fn make_topic(
    cluster: &mut ProcessCluster,
    topic: &str,
    partitions: u16,
    durability: &str,
) -> Result<TopicInfo, Failure> {
    let broker = cluster.bootstrap().into_iter().next();
    let broker = broker.ok_or_else(|| Failure::new("no node".to_owned()))?;
    let (name, kind) = (topic.to_owned(), durability.to_owned());
    let made =
        tokio::task::spawn_blocking(move || create_topic(broker, &name, partitions, &kind)).await;
    made.map_err(|e| Failure::new(e.to_string()))?
        .map_err(|e| Failure::new(format!("cannot create {topic}: {e}")))?;
    cluster.wait_in_sync(LIMIT).await?;
    let client = KafkaClient::new(cluster.bootstrap());
    client.led_topic(topic, LIMIT).await
}

/// Makes a topic and returns where its leader listens.
async fn leader_of(
    cluster: &mut ProcessCluster,
    topic: &str,
    durability: &str,
) -> Result<SocketAddr, Failure> {
    let info = make_topic(cluster, topic, 1, durability).await?;
    let leader = info.partitions.first().and_then(|p| p.leader);
    let (_, address) = leader.ok_or_else(|| Failure::new("no leader".to_owned()))?;
    Ok(address)
}

/// The name, records of a batch, bytes of a record, requests under way; the target, and whether it
/// is in MB/s.
type LoadCase = (&'static str, usize, usize, usize, Option<f64>, bool);

async fn measure(
    cluster: &mut ProcessCluster,
    durability: &str,
    time: Duration,
    [appends, loopback, sequential]: [f64; 3],
) -> Result<(), Failure> {
    let lazy = durability == "replicated";
    let loads: [LoadCase; 5] = [
        ("one by one 128 B", 1, 128, 1, None, false),
        (
            "pipelined 128 B",
            1,
            128,
            4096,
            lazy.then_some(100_000.0),
            false,
        ),
        (
            "batched 128 B",
            400,
            128,
            64,
            lazy.then_some(1_000_000.0),
            false,
        ),
        ("batched 1 KiB", 60, 1024, 64, None, true),
        (
            "batched 64 KiB",
            1,
            64 << 10,
            64,
            lazy.then_some(300.0),
            true,
        ),
    ];
    for (index, (what, records, bytes, in_flight, target, in_megabytes)) in
        loads.into_iter().enumerate()
    {
        let topic = format!("{durability}-{index}");
        let leader = leader_of(cluster, &topic, durability).await?;
        let load = Load {
            topic,
            value_bytes: bytes,
            batch_records: records,
            in_flight,
            time,
        };
        eprintln!("{what}, {durability}, {} s", time.as_secs());
        let before = processor_ticks()?;
        let loaded = tokio::task::spawn_blocking(move || run_load(leader, &load)).await;
        let loaded = loaded
            .map_err(|e| Failure::new(e.to_string()))?
            .map_err(|e| Failure::new(format!("{what}: {e}")))?;
        let after = processor_ticks()?;
        let busy = (after.1 - before.1) * 100 / (after.0 - before.0).max(1);
        eprintln!("  the machine's processors were busy for {busy} % of the time");
        let case = format!("{what}, {durability}");
        if in_flight == 1 {
            let limit = if lazy { 0.7 * sequential } else { 1200.0 };
            for (metric, percent, target) in
                [("p50", 50, Some(Target::AtMost(limit))), ("p99", 99, None)]
            {
                let value = percentile(&loaded.latencies, percent).as_secs_f64() * 1e6;
                Figure::new(&case, metric, value, "us", target).print();
            }
            continue;
        }
        let rate = loaded.rate(records);
        let figure = if in_megabytes {
            let value = rate * f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / 1e6;
            let target = target.map(Target::AtLeast);
            let baseline = Some(loopback);
            Figure {
                case: &case,
                metric: "throughput",
                value,
                unit: "MB/s",
                target,
                baseline,
            }
        } else {
            // Three replicas sync what the machine syncs once.
            let baseline = (!lazy).then_some(appends / 3.0);
            let target = target.map(Target::AtLeast);
            Figure {
                case: &case,
                metric: "rate",
                value: rate,
                unit: "records/s",
                target,
                baseline,
            }
        };
        figure.print();
    }
    Ok(())
}

/// From `kill -9` of the leader to the first acknowledged write elsewhere.
async fn failover(cluster: &mut ProcessCluster, rounds: usize) -> Result<(), Failure> {
    let topic = "failover";
    leader_of(cluster, topic, "fsync").await?;
    let mut gaps = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        cluster.wait_in_sync(LIMIT).await?;
        let client = KafkaClient::new(cluster.bootstrap());
        let info = client.led_topic(topic, LIMIT).await?;
        let leader = info.partitions.first().and_then(|p| p.leader);
        let (broker, _) = leader.ok_or_else(|| Failure::new("no leader".to_owned()))?;
        let node = cluster.node_of_broker(broker).await?;
        let survivors: Vec<SocketAddr> = cluster
            .bootstrap()
            .into_iter()
            .enumerate()
            .filter(|(n, _)| *n != node)
            .map(|(_, address)| address)
            .collect();
        cluster.kill(node)?;
        let gap = tokio::task::spawn_blocking(move || first_write(&survivors, topic)).await;
        gaps.push(gap.map_err(|e| Failure::new(e.to_string()))??);
        cluster.spawn(node)?;
    }
    gaps.sort_unstable();
    let value = percentile(&gaps, 50).as_secs_f64() * 1e3;
    let case = format!("kill -9 of the leader, {rounds} times");
    let limit = Some(Target::AtMost(1000.0));
    Figure::new(&case, "median gap", value, "ms", limit).print();
    Ok(())
}

/// Asks the survivors in turn until one of them has acknowledged a write.
fn first_write(survivors: &[SocketAddr], topic: &str) -> Result<Duration, Failure> {
    let started = Instant::now();
    let probe = Load {
        topic: topic.to_owned(),
        value_bytes: 128,
        batch_records: 1,
        in_flight: 1,
        // One request: the time is over when it is answered.
        time: Duration::from_nanos(1),
    };
    while started.elapsed() < LIMIT {
        for address in survivors {
            match run_load(*address, &probe) {
                Ok(loaded) if loaded.requests > 0 => return Ok(started.elapsed()),
                // Not the leader yet.
                Ok(_) | Err(_) => std::thread::yield_now(),
            }
        }
    }
    Err(Failure::new("no survivor acknowledges writes".to_owned()))
}
