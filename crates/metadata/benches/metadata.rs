//! The metadata of a great cluster: how long its snapshot takes to build and to restore, how much memory it
//! needs, and whether applying waits for a snapshot that is being built. Prints one JSON object for each
//! figure; `cargo xtask bench metadata` collects them.

#![allow(
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a bench prints, and stops at the first thing that is wrong"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rivven_core_types::test_util::{Figure, Target};
use rivven_core_types::{
    BrokerId, ClusterId, CommittedEntry, Durability, Incarnation, LogConfig, LogDirId, LogIndex,
    NodeInfo, NodeName, RaftNodeId, StateMachine, Term, TopicId, TopicName,
};
use rivven_metadata::{Command, CommandResult, MetadataStateMachine};

const BROKERS: i32 = 100;
const TOPICS: u32 = 3_000;
const PARTITIONS_PER_TOPIC: i32 = 100;

fn print(metric: &str, value: f64, unit: &str, most: f64) {
    Figure {
        case: "300,000 partitions",
        metric,
        value,
        unit,
        target: Some(Target::AtMost(most)),
        baseline: None,
    }
    .print();
}

/// Resident memory of this process, in bytes, as Linux tells it; the peak if asked for.
fn memory(line: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix(line))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0
}

struct Run {
    machine: MetadataStateMachine,
    index: u64,
    longest: Duration,
}

impl Run {
    fn apply(&mut self, command: &Command) -> CommandResult {
        self.index += 1;
        let entry = CommittedEntry {
            index: LogIndex::new(self.index),
            term: Term::new(1),
            command: command.encode().unwrap(),
        };
        let started = Instant::now();
        let results = self.machine.apply(&[entry]).unwrap();
        self.longest = self.longest.max(started.elapsed());
        CommandResult::decode(&results[0]).unwrap()
    }

    fn register(&mut self, number: i32) {
        let name = NodeName::new(format!("node-{number:03}")).unwrap();
        let incarnation = Incarnation::from_bytes([1; 16]);
        let registered = self.apply(&Command::RegisterBroker {
            raft_id: RaftNodeId::derive(&name, &incarnation),
            info: NodeInfo::new(
                name,
                "127.0.0.1:9092".parse().unwrap(),
                "127.0.0.1:9093".parse().unwrap(),
            ),
            incarnation,
            log_dir: LogDirId::from_bytes([1; 16]),
            lossy: Vec::new(),
        });
        let CommandResult::Registered { broker, node_epoch } = registered else {
            panic!("{registered:?}");
        };
        self.apply(&Command::UnfenceBroker { broker, node_epoch });
    }

    fn topic(&mut self, number: u32) {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&(number + 1).to_be_bytes());
        let broker = |n: i32| BrokerId::new(n.rem_euclid(BROKERS) + 1);
        let first = i32::try_from(number).unwrap();
        let replicas = (0..PARTITIONS_PER_TOPIC)
            .map(|n| (0..3).map(|k| broker(first + n + k)).collect())
            .collect();
        self.apply(&Command::CreateTopic {
            name: TopicName::new(format!("topic-{number}")).unwrap(),
            id: TopicId::from_bytes(id),
            replicas,
            min_isr: 2,
            durability: Durability::Fsync,
            log: LogConfig::default(),
            placement: None,
        });
    }
}

fn main() {
    // As in a node: whoever reads holds the newest state, and the one before it is dropped elsewhere.
    let newest = Arc::new(std::sync::Mutex::new(None));
    let publish = Arc::clone(&newest);
    let machine = MetadataStateMachine::new(Arc::new(move |state| {
        drop(publish.lock().unwrap().replace(state));
    }));
    let mut run = Run {
        machine,
        index: 0,
        longest: Duration::ZERO,
    };
    run.apply(&Command::FormCluster {
        cluster_id: ClusterId::from_bytes([1; 16]),
    });
    for broker in 1..=BROKERS {
        run.register(broker);
    }
    eprintln!("creating {TOPICS} topics of {PARTITIONS_PER_TOPIC} partitions");
    let started = Instant::now();
    for topic in 0..TOPICS {
        run.topic(topic);
    }
    let partitions = run.machine.state().partition_count();
    eprintln!("{partitions} partitions in {:?}", started.elapsed());
    print(
        "resident memory of the state",
        memory("VmRSS:") / 1e6,
        "MB",
        1_500.0,
    );

    let started = Instant::now();
    let frozen = run.machine.freeze();
    print("freeze", started.elapsed().as_secs_f64() * 1e3, "ms", 50.0);
    let builder = std::thread::spawn(move || {
        let started = Instant::now();
        let mut image = Vec::new();
        frozen.write_to(&mut image).unwrap();
        (image, started.elapsed())
    });
    run.longest = Duration::ZERO;
    let mut applied = 0u32;
    while !builder.is_finished() {
        run.topic(TOPICS + applied);
        applied += 1;
    }
    let (image, took) = builder.join().unwrap();
    eprintln!(
        "{} bytes; {applied} topics of 100 partitions were created meanwhile",
        image.len()
    );
    print("snapshot build", took.as_secs_f64(), "s", 10.0);
    let longest = run.longest.as_secs_f64() * 1e3;
    print("longest apply during the build", longest, "ms", 50.0);

    let started = Instant::now();
    let restored = run.machine.restore(&mut image.as_slice()).unwrap();
    print("restore", started.elapsed().as_secs_f64(), "s", 10.0);
    print(
        "peak memory with both states and the image",
        memory("VmHWM:") / 1e6,
        "MB",
        1_500.0,
    );
    assert_ne!(restored.hash(), 0);

    run.longest = Duration::ZERO;
    let fenced = run
        .machine
        .state()
        .broker(BrokerId::new(1))
        .unwrap()
        .node_epoch;
    run.apply(&Command::FenceBroker {
        broker: BrokerId::new(1),
        node_epoch: fenced,
    });
    let longest = run.longest.as_secs_f64() * 1e3;
    print("fencing a broker with 9,000 replicas", longest, "ms", 50.0);
}
