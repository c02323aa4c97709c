//! Placement and plans against a plain hash ring and plain rendezvous hashing, on the same grid in the
//! same run. Prints one JSON object for each figure; `cargo xtask bench placement` collects them.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::unwrap_used,
    reason = "a bench prints, and stops at the first thing that is wrong"
)]

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::hint::black_box;
use std::time::{Duration, Instant};

use hashring::HashRing;
use rivven_core_types::test_util::{Figure, Target};
use rivven_core_types::{Address, BrokerId, NodeInfo, NodeName, PartitionId, RackId, TopicId};
use rivven_placement::{
    Assignment, ClusterView, Goals, NodeState, PartitionPlacer, PlacedPartition, PlacementConfig,
    PlacementStrategy, Plan, ViewNode, plan,
};

const RACKS: usize = 3;
const FACTOR: usize = 3;
const VIRTUAL_NODES: usize = 150;
/// Partitions of each topic.
const TOPIC: u32 = 100;
/// Each time is the median of as many runs.
const RUNS: usize = 5;
/// Baselines that look at every node are timed on no more partitions than this.
const SLOW_SAMPLE: usize = 2_000;

/// What this thread has computed so far: on a busy machine the clock on the wall measures the
/// neighbours. Without `/proc` it is the clock all the same.
fn computed(since: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok());
    nanos.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

/// Times `run` by [`computed`].
fn timed<T>(run: impl FnOnce() -> T) -> (Duration, T) {
    let origin = Instant::now();
    let start = computed(origin);
    let result = run();
    (computed(origin).saturating_sub(start), result)
}

fn median(mut run: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS).map(|_| run()).collect();
    times.sort();
    times[RUNS / 2]
}

fn nodes(count: usize) -> Vec<NodeInfo> {
    (0..count)
        .map(|i| {
            let address = Address::new("localhost", 9092).unwrap();
            let name = NodeName::new(format!("node-{i:04}")).unwrap();
            let rack = RackId::new(format!("rack-{}", i % RACKS)).unwrap();
            NodeInfo::new(name, address.clone(), address).with_rack(rack)
        })
        .collect()
}

/// Most replicas and most leaders of a node, as multiples of the means.
fn over_mean(placer: &PartitionPlacer, nodes: &[NodeInfo], partitions: usize) -> (f64, f64) {
    let loads = nodes.iter().map(|n| placer.node_load(&n.name).unwrap());
    let (mut replicas, mut leaders) = (0, 0);
    for load in loads {
        replicas = replicas.max(load.replicas);
        leaders = leaders.max(load.leaders);
    }
    let mean = partitions as f64 / nodes.len() as f64;
    (
        replicas as f64 / (mean * FACTOR as f64),
        leaders as f64 / mean,
    )
}

/// The least that the fullest node must hold, as a multiple of the mean: one replica in each rack.
fn lower_bound(nodes: usize, partitions: usize) -> f64 {
    let smallest_rack = nodes / RACKS;
    let fullest = partitions.div_ceil(smallest_rack);
    fullest as f64 / (partitions * FACTOR) as f64 * nodes as f64
}

/// Nanoseconds per partition, and the last placer.
fn assign(
    strategy: PlacementStrategy,
    nodes: &[NodeInfo],
    partitions: usize,
) -> (f64, PartitionPlacer) {
    let config = PlacementConfig {
        strategy,
        ..PlacementConfig::default()
    };
    let mut empty = PartitionPlacer::new(config);
    nodes.iter().for_each(|node| empty.add_node(node));
    // The ring and the racks are made once per change of the membership, not per partition.
    empty.assign_partition("warm-up", 0, FACTOR).unwrap();
    empty.forget_topic("warm-up");
    let topics: Vec<String> = (0..partitions / TOPIC as usize)
        .map(|t| format!("topic-{t}"))
        .collect();
    let mut last = empty.clone();
    let time = median(|| {
        let mut placer = empty.clone();
        let (time, ()) = timed(|| {
            for topic in &topics {
                let placed = placer.place_topic(topic, TOPIC, FACTOR).unwrap();
                placed.iter().for_each(|replicas| {
                    black_box(replicas.map(NodeName::as_str).map(str::len).sum::<usize>());
                });
            }
        });
        last = placer;
        time
    });
    (time.as_nanos() as f64 / partitions as f64, last)
}

/// A ring of the crate `hashring`, walked until three racks are found. Nanoseconds, most replicas and
/// most leaders over the mean.
fn hash_ring(nodes: usize, partitions: usize) -> (f64, f64, f64) {
    let mut ring = HashRing::new();
    let points = (0..nodes).flat_map(|n| (0..VIRTUAL_NODES).map(move |v| (n as u32, v as u32)));
    ring.batch_add(points.collect());
    let mut loads = vec![(0u64, 0u64); nodes];
    let origin = Instant::now();
    let start = computed(origin);
    for partition in 0..partitions {
        let key = (partition / TOPIC as usize, partition % TOPIC as usize);
        let mut width = 8;
        let chosen = loop {
            let walk = ring.get_with_replicas(&key, width).unwrap();
            let mut chosen: Vec<usize> = Vec::with_capacity(FACTOR);
            for (node, _) in walk {
                let node = node as usize;
                if chosen.iter().all(|other| other % RACKS != node % RACKS) {
                    chosen.push(node);
                }
            }
            if chosen.len() >= FACTOR {
                break chosen;
            }
            width *= 2;
        };
        for (place, node) in chosen.iter().enumerate() {
            loads[*node].0 += 1;
            loads[*node].1 += u64::from(place == 0);
        }
    }
    let nanos = (computed(origin) - start).as_nanos() as f64 / partitions as f64;
    let mean = partitions as f64 / nodes as f64;
    let most = |pick: fn(&(u64, u64)) -> u64| loads.iter().map(pick).max().unwrap() as f64;
    (
        nanos,
        most(|l| l.0) / (mean * FACTOR as f64),
        most(|l| l.1) / mean,
    )
}

/// The best node of each rack by a hash of node and partition.
fn plain_rendezvous(nodes: usize, partitions: usize) -> f64 {
    let origin = Instant::now();
    let start = computed(origin);
    for partition in 0..partitions {
        let mut best = [(0u64, 0usize); RACKS];
        for node in 0..nodes {
            let mut hasher = DefaultHasher::new();
            (partition, node).hash(&mut hasher);
            let place = &mut best[node % RACKS];
            *place = (*place).max((hasher.finish(), node));
        }
        black_box(best);
    }
    (computed(origin) - start).as_nanos() as f64 / partitions as f64
}

fn view(count: usize) -> ClusterView {
    let node = |i: usize| ViewNode {
        id: BrokerId::new(i as i32),
        rack: Some(RackId::new(format!("rack-{}", i % RACKS)).unwrap()),
        weight: 100,
        state: NodeState::Active,
    };
    ClusterView {
        nodes: (0..count).map(node).collect(),
    }
}

fn applied(current: &Assignment, plan: &Plan) -> Assignment {
    let mut after = current.clone();
    let at: BTreeMap<PartitionId, usize> = after.partitions.iter().map(|p| p.id).zip(0..).collect();
    for step in &plan.moves {
        let partition = &mut after.partitions[at[&step.partition]];
        partition.replicas = step.apply(&partition.replicas);
    }
    for step in &plan.leader_moves {
        let partition = &mut after.partitions[at[&step.partition]];
        partition.replicas = step.apply(&partition.replicas);
    }
    after
}

fn held(current: &Assignment, node: i32) -> usize {
    let holds = |p: &&PlacedPartition| p.replicas.contains(&BrokerId::new(node));
    current.partitions.iter().filter(holds).count()
}

/// The plans for one node less and one more, from the state that a first plan made.
fn plans(case: &str, nodes: usize, partitions: usize) {
    let blank = |p: usize| PlacedPartition {
        id: PartitionId::new(
            TopicId::from_bytes(((p / TOPIC as usize) as u128).to_be_bytes()),
            (p % TOPIC as usize) as u32,
        ),
        replicas: Vec::new(),
        replication_factor: FACTOR,
        bytes: 1,
    };
    let current = Assignment {
        partitions: (0..partitions).map(blank).collect(),
        version: 0,
    };
    let goals = Goals::default();
    let whole = view(nodes);
    let current = applied(&current, &plan(&current, &whole, &goals));

    let mut fewer = whole;
    let gone = nodes / 2;
    fewer.nodes[gone].state = NodeState::Gone;
    let mut shorter = None;
    let time = median(|| {
        let (time, plan) = timed(|| plan(&current, &fewer, &goals));
        shorter = Some(plan);
        time
    });
    let shorter = shorter.unwrap();
    report_plan(
        case,
        "-1 node",
        &shorter,
        held(&current, gone as i32),
        (nodes - 1, partitions),
    );
    let large = nodes == 1_000 && partitions == 100_000;
    Figure {
        case,
        metric: "plan -1 node",
        value: time.as_secs_f64() * 1_000.0,
        unit: "ms",
        target: large.then_some(100.0).map(Target::AtMost),
        baseline: None,
    }
    .print();

    let longer = plan(&current, &view(nodes + 1), &goals);
    // The new node comes into a rack that has one replica of each partition.
    let share = partitions / (nodes + 1).div_ceil(RACKS).min(nodes / RACKS + 1);
    report_plan(case, "+1 node", &longer, share, (nodes + 1, partitions));
}

fn report_plan(
    case: &str,
    what: &str,
    plan: &Plan,
    least: usize,
    (nodes, partitions): (usize, usize),
) {
    let ratio = plan.moves.len() as f64 / least.max(1) as f64;
    for (metric, value, unit, target) in [
        ("moves over lower bound", ratio, "ratio", 1.0),
        (
            "max leaders over ceil(mean)",
            plan.after.leaders.1 as f64 / partitions.div_ceil(nodes) as f64,
            "ratio",
            1.0,
        ),
        (
            "rack violations",
            plan.after.rack_violations as f64,
            "count",
            0.0,
        ),
    ] {
        Figure {
            case,
            metric: &format!("{what}: {metric}"),
            value,
            unit,
            target: Some(Target::AtMost(target)),
            baseline: None,
        }
        .print();
    }
}

/// The times alone, without the baselines, which take most of a run.
fn times(case: &str, count: usize, partitions: usize) {
    let nodes = nodes(count);
    for (name, strategy) in [
        ("balanced", PlacementStrategy::Balanced),
        ("consistent hash", PlacementStrategy::ConsistentHash),
    ] {
        let (nanos, _) = assign(strategy, &nodes, partitions);
        Figure {
            case,
            metric: &format!("{name}: per partition"),
            value: nanos,
            unit: "ns",
            target: None,
            baseline: None,
        }
        .print();
    }
}

/// What an assignment takes and how even it is, by strategy.
fn assignments(case: &str, count: usize, partitions: usize) {
    let nodes = nodes(count);
    let large = count == 1_000 && partitions == 100_000;
    let (ring_ns, ring_replicas, ring_leaders) = hash_ring(count, partitions);
    let rendezvous_ns = plain_rendezvous(count, partitions.min(SLOW_SAMPLE));
    let bound = lower_bound(count, partitions);
    let strategies = [
        (
            "balanced",
            PlacementStrategy::Balanced,
            Some(200.0),
            (bound, 1.0),
        ),
        (
            "consistent hash",
            PlacementStrategy::ConsistentHash,
            Some(400.0),
            (1.10, 1.10),
        ),
    ];
    for (name, strategy, nanos_target, (replicas_target, leaders_target)) in strategies {
        let (nanos, placer) = assign(strategy, &nodes, partitions);
        let (replicas, leaders) = over_mean(&placer, &nodes, partitions);
        Figure {
            case,
            metric: &format!("{name}: per partition"),
            value: nanos,
            unit: "ns",
            target: nanos_target.filter(|_| large).map(Target::AtMost),
            baseline: Some(ring_ns),
        }
        .print();
        Figure {
            case,
            metric: &format!("{name}: max/mean replicas"),
            value: replicas,
            unit: "ratio",
            target: large
                .then_some(replicas_target + 0.0005)
                .map(Target::AtMost),
            baseline: Some(ring_replicas),
        }
        .print();
        Figure {
            case,
            metric: &format!("{name}: max/mean leaders"),
            value: leaders,
            unit: "ratio",
            target: large.then_some(leaders_target + 0.0005).map(Target::AtMost),
            baseline: Some(ring_leaders),
        }
        .print();
    }
    let (nanos, _) = assign(
        PlacementStrategy::Rendezvous,
        &nodes,
        partitions.min(SLOW_SAMPLE),
    );
    Figure {
        case,
        metric: "rendezvous: per partition",
        value: nanos,
        unit: "ns",
        target: None,
        baseline: Some(rendezvous_ns),
    }
    .print();
}

fn main() {
    // Cargo passes `--bench`; a word stands for a part of the figures: `assign`, `plan` or `time`.
    let part = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    for count in [10, 100, 1_000] {
        for partitions in [1_000, 100_000] {
            let case = format!("{count} nodes x {partitions}");
            eprintln!("{case}");
            let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
            if wanted("assign") {
                assignments(&case, count, partitions);
            }
            if part.as_deref() == Some("time") {
                times(&case, count, partitions);
            }
            if wanted("plan") {
                plans(&case, count, partitions);
            }
        }
    }
}
