//! One run of the swarm: a seed, a workload, faults, then peace, recovery and the checks.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rivven_core_types::{BrokerId, Offset, PartitionId, Vfs};
use rivven_isr::ReplicaRole;
use rivven_segment_log::dump_bytes_from;
use tokio::task::JoinSet;

use super::clients::{Consumer, Producer, records};
use super::history::check_log;
use super::nemesis::{self, Nemesis};
use super::network::Weather;
use super::stage::{Stage, Violation};
use super::trace::Event;
use super::world::SimCluster;

/// Nodes of a simulated cluster.
const NODES: u16 = 3;
/// How long a cluster may take to form, and to recover when the faults have ended.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// How often the nodes are looked at.
const OBSERVE: Duration = Duration::from_millis(20);

/// How a run is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwarmOptions {
    /// Simulated seconds with faults.
    pub seconds: u64,
    /// Whether faults occur at all.
    pub faults: bool,
    /// Whether the story is kept.
    pub story: bool,
}

impl Default for SwarmOptions {
    fn default() -> Self {
        Self {
            seconds: 30,
            faults: true,
            story: false,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct SwarmReport {
    /// The seed.
    pub seed: u64,
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// Simulated time in all, in milliseconds.
    pub simulated_millis: u64,
    /// Acknowledged records.
    pub acked: usize,
    /// Records that consumers have read.
    pub read: usize,
    /// Metadata commands applied.
    pub metadata_commands: u64,
    /// Changes of partition leaders.
    pub leader_changes: u64,
    /// Changes of in-sync sets.
    pub isr_changes: u64,
    /// Records of partitions with one in-sync replica at most.
    pub shrunk_to_one: u64,
    /// Records of partitions without a leader.
    pub leaderless: u64,
    /// Calls, datagrams.
    pub messages: u64,
    /// Messages that were lost, stalled or doubled.
    pub disturbed: u64,
    /// Milliseconds from the end of the faults until everything was well again.
    pub recovery_millis: u64,
    /// Hash of every message, disk operation, state and line of the story: equal in equal runs.
    pub trace: u64,
    /// How many events the trace has.
    pub events: u64,
    /// The hash as of each 20 milliseconds.
    pub marks: Vec<u64>,
    /// How often what happened: faults, errors that clients got.
    pub counters: BTreeMap<String, u64>,
    /// What happened, if it was asked for.
    pub story: Vec<String>,
}

impl SwarmReport {
    /// How many faults were played, messages not counted.
    pub fn faults(&self) -> u64 {
        let faults = self
            .counters
            .iter()
            .filter(|(k, _)| k.starts_with("fault: "));
        faults.map(|(_, n)| n).sum()
    }
}

/// Runs `seed` on a paused clock in this thread.
///
/// # Errors
/// If the runtime cannot be built.
pub fn run_swarm(seed: u64, options: SwarmOptions) -> std::io::Result<SwarmReport> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    Ok(runtime.block_on(play(seed, options)))
}

async fn play(seed: u64, options: SwarmOptions) -> SwarmReport {
    let stage = Stage::new(SimCluster::stopped(NODES, seed), seed, options.story);
    let mut actors = JoinSet::new();
    actors.spawn(observe(Arc::clone(&stage)));
    for n in 0..usize::from(NODES) {
        nemesis::start(&stage, n).await;
    }
    let mut recovery_millis = 0;
    if let Some(partitions) = form(&stage).await {
        let mut supervisor = JoinSet::new();
        supervisor.spawn(nemesis::supervise(Arc::clone(&stage)));
        let mut producers = JoinSet::new();
        start_clients(&stage, &partitions, &mut producers, &mut actors);
        actors.spawn(administrate(Arc::clone(&stage)));
        let trouble = options
            .faults
            .then(|| tokio::spawn(Nemesis::new(Arc::clone(&stage)).run()));
        let over = |_: &Stage| false;
        stage.wait(Duration::from_secs(options.seconds), over).await;
        if let Some(trouble) = trouble {
            trouble.abort();
        }
        if stage.violation().is_none() {
            let ended = stage.millis();
            recover(&stage, &partitions).await;
            recovery_millis = stage.millis() - ended;
        }
        if stage.violation().is_none() {
            check(&stage, &partitions);
        }
    }
    report(&stage, seed, recovery_millis)
}

/// Waits for the cluster and creates the topics.
async fn form(stage: &Arc<Stage>) -> Option<Vec<PartitionId>> {
    if !stage.wait(RECOVERY_LIMIT, whole).await {
        stage.violate("a cluster forms", diagnose(stage));
        return None;
    }
    let mut rng = stage.fork_rng();
    let mut partitions = Vec::new();
    for n in 0..2 + rng.below(2) {
        let count = 1 + u32::try_from(rng.below(2)).unwrap_or(0);
        let topic = SimCluster::topic(&format!("topic-{n}"), count).ok()?;
        let node = stage.living().into_iter().next()?;
        let created = node
            .coordinator
            .create_topic(&topic, Duration::from_secs(10))
            .await;
        match created {
            Ok(id) => partitions.extend((0..count).map(|index| PartitionId::new(id, index))),
            Err(error) => {
                stage.violate("a topic can be created", error.to_string());
                return None;
            }
        }
    }
    stage.tell(format!("{} partitions", partitions.len()));
    Some(partitions)
}

fn start_clients(
    stage: &Arc<Stage>,
    partitions: &[PartitionId],
    producers: &mut JoinSet<()>,
    actors: &mut JoinSet<()>,
) {
    let mut rng = stage.fork_rng();
    let think_millis = 20 << rng.below(4);
    let mut id = 1_000_000;
    for partition in partitions {
        for _ in 0..2 {
            id += 1;
            let producer = Producer {
                id,
                partition: *partition,
                in_flight: 1 + usize::try_from(rng.below(5)).unwrap_or(0),
                think_millis,
            };
            producers.spawn(producer.run(Arc::clone(stage)));
        }
        let partition = *partition;
        actors.spawn(Consumer { partition }.run(Arc::clone(stage)));
    }
    // They end by themselves.
    producers.detach_all();
}

/// An administrator: creates topics and asks for producer ids.
async fn administrate(stage: Arc<Stage>) {
    let mut rng = stage.fork_rng();
    for n in 0.. {
        tokio::time::sleep(Duration::from_millis(200 + rng.below(1_500))).await;
        let living = stage.living();
        let at = usize::try_from(rng.below(u64::try_from(living.len()).unwrap_or(0))).unwrap_or(0);
        let Some(node) = living.get(at) else {
            continue;
        };
        let deadline = Duration::from_secs(2);
        if rng.below(8) == 0 && n < 40 {
            if let Ok(topic) = SimCluster::topic(&format!("more-{n}"), 1) {
                let created = node.coordinator.create_topic(&topic, deadline).await;
                stage.count(if created.is_ok() {
                    "topics created"
                } else {
                    "topics refused"
                });
            }
        } else if let Ok(id) = node.coordinator.next_producer_id(deadline).await
            && stage.is_alive(node)
            && let Err(detail) = stage.history().on_producer_id(id.get())
        {
            stage.violate("producer ids are unique", detail);
        }
    }
}

/// Follows what the nodes say about themselves and checks it against what all others have said.
async fn observe(stage: Arc<Stage>) {
    let mut last = BTreeMap::new();
    let mut controller = None;
    loop {
        for node in stage.living() {
            let state = node.coordinator.cluster_state();
            let applied = state.applied().get();
            if last.insert(node.number, (node.life, applied)) != Some((node.life, applied)) {
                let words = [node.life, applied, state.hash()];
                stage.trace().note(Event::State, &words);
                let checked = stage.history().on_hash(applied, state.hash());
                if let Err(detail) = checked {
                    stage.violate("equal index, equal metadata", detail);
                }
                for record in state.partitions() {
                    let checked = stage.history().on_record(record);
                    match checked {
                        Ok(true) => stage.tell(format!(
                            "{} epoch {}.{} leader {:?} isr {:?} elr {:?}",
                            stage.label(record.id),
                            record.leader_epoch,
                            record.partition_epoch,
                            record.leader.map(BrokerId::get),
                            numbers(&record.isr),
                            numbers(&record.elr),
                        )),
                        Ok(false) => {}
                        Err(detail) => stage.violate("one record per partition epoch", detail),
                    }
                }
            }
            acting(&stage, &node.coordinator);
        }
        {
            let cluster = stage.cluster();
            let disks = cluster.nodes.iter().map(|node| node.disk.digest());
            stage.trace().note(Event::Disk, &disks.collect::<Vec<_>>());
        }
        stage.trace().mark();
        let now = stage.cluster().controller();
        if now != controller && now.is_some() {
            stage.tell(format!(
                "node {} is the controller",
                now.map_or(0, |n| n + 1)
            ));
            stage.count("controllers");
            controller = now;
        }
        tokio::time::sleep(OBSERVE).await;
    }
}

fn acting(stage: &Stage, node: &rivven_coordinator::ClusterCoordinator) {
    let (Some(replication), Some(local)) = (node.replication(), node.session().local) else {
        return;
    };
    for status in replication.statuses() {
        if status.role == ReplicaRole::Leader {
            let checked =
                stage
                    .history()
                    .on_acting(status.partition, status.leader_epoch, local.id);
            if let Err(detail) = checked {
                stage.violate("one leader per epoch", detail);
            }
        }
    }
}

fn numbers(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.get()).collect()
}

/// Ends all faults and waits until everything is well again, by itself.
async fn recover(stage: &Arc<Stage>, partitions: &[PartitionId]) {
    stage.tell("the faults end");
    stage.healing.store(true, Ordering::Relaxed);
    {
        let cluster = stage.cluster();
        cluster.network.restore_links();
        cluster.network.set_weather(Weather::default());
        for node in &cluster.nodes {
            node.slow_disk(0);
            node.disk.heal();
        }
    }
    // Undoings of faults that are still under way must not count as faults in peace.
    tokio::time::sleep(Duration::from_millis(20)).await;
    restart_offline(stage);
    if !stage
        .wait(RECOVERY_LIMIT, |s| whole(s) && replicated(s))
        .await
    {
        stage.violate("everything recovers by itself", diagnose(stage));
        return;
    }
    stage.tell("all partitions are fully replicated");
    stage.draining.store(true, Ordering::Relaxed);
    let drained = |s: &Stage| s.unacked.load(Ordering::Relaxed) == 0;
    if !stage.wait(RECOVERY_LIMIT, drained).await {
        stage.violate("every partition is writable again", diagnose(stage));
        return;
    }
    stage.tell("all writes are acknowledged");
    let read = |s: &Stage| {
        partitions.iter().all(|partition| {
            let mut history = s.history();
            let seen = history.seen(*partition);
            let last = seen.acked.values().max();
            last.is_none_or(|last| seen.read.contains_key(last))
        })
    };
    if !stage.wait(RECOVERY_LIMIT, read).await {
        stage.violate("consumers reach the end", diagnose(stage));
    }
    if !stage
        .wait(RECOVERY_LIMIT, |s| whole(s) && replicated(s) && level(s))
        .await
    {
        stage.violate("replicas become equal", diagnose(stage));
    }
}

/// A log that has failed stays offline until its process is restarted: a person's work, done here.
fn restart_offline(stage: &Arc<Stage>) {
    for node in stage.living() {
        let statuses = node.coordinator.replication().map(|r| r.statuses());
        let offline = statuses
            .iter()
            .flatten()
            .any(|status| status.role == ReplicaRole::Offline);
        if offline {
            nemesis::crash(stage, node.number, false);
        }
    }
}

/// All nodes are active in one cluster, and agree on its metadata.
fn whole(stage: &Stage) -> bool {
    let living = stage.living();
    let all = living.len() == usize::from(NODES);
    let active = living.iter().all(|node| {
        let health = node.coordinator.health();
        health.is_active && health.healthy_nodes == usize::from(NODES)
    });
    let mut states = living.iter().map(|node| {
        let state = node.coordinator.cluster_state();
        (state.applied(), state.hash())
    });
    let first = states.next();
    all && active && states.all(|state| Some(state) == first)
}

/// Every partition has a leader and all of its replicas in sync.
fn replicated(stage: &Stage) -> bool {
    stage.living().first().is_some_and(|node| {
        let state = node.coordinator.cluster_state();
        state
            .partitions()
            .all(|p| p.leader.is_some() && p.isr.len() == p.replicas.len())
    })
}

/// All replicas have the same end, everything is durable and committed.
fn level(stage: &Stage) -> bool {
    let mut ends: BTreeMap<PartitionId, Offset> = BTreeMap::new();
    stage.living().iter().all(|node| {
        let statuses = node.coordinator.replication().map(|r| r.statuses());
        statuses.iter().flatten().all(|status| {
            let end = *ends.entry(status.partition).or_insert(status.log_end);
            status.log_end == end && status.durable_end == end && status.high_watermark == end
        })
    })
}

/// What is not well, in words.
fn diagnose(stage: &Stage) -> String {
    let mut text = format!("{} unacknowledged; ", stage.unacked.load(Ordering::Relaxed));
    for node in stage.living() {
        let health = node.coordinator.health();
        let raft = node.coordinator.raft_status();
        let session = node.coordinator.session();
        // Writing to a string does not fail.
        let _ok = write!(
            text,
            "node {}: raft {:?} term {} leader {:?} applied {:?}, active {}, fenced {}, {} of {} healthy; ",
            node.number + 1,
            raft.state,
            raft.term,
            raft.leader.as_ref().map(ToString::to_string),
            raft.applied,
            health.is_active,
            session.fenced,
            health.healthy_nodes,
            health.node_count,
        );
        let state = node.coordinator.cluster_state();
        let lacking = state
            .partitions()
            .filter(|p| p.leader.is_none() || p.isr.len() < p.replicas.len());
        for p in lacking.take(4) {
            let _ok = write!(text, "{p:?}; ");
        }
        let statuses = node.coordinator.replication().map(|r| r.statuses());
        for s in statuses.into_iter().flatten() {
            let behind = s.log_end != s.high_watermark || s.durable_end != s.log_end;
            if behind || matches!(s.role, ReplicaRole::Idle | ReplicaRole::Offline) {
                let _ok = write!(
                    text,
                    "{} {:?} epoch {}.{} hw {} end {} durable {} followers {:?} {:?}; ",
                    stage.label(s.partition),
                    s.role,
                    s.leader_epoch,
                    s.partition_epoch,
                    s.high_watermark,
                    s.log_end,
                    s.durable_end,
                    s.followers,
                    s.offline_reason,
                );
            }
        }
    }
    text
}

/// The checks at the end, straight from the disks.
fn check(stage: &Stage, partitions: &[PartitionId]) {
    for partition in partitions {
        if let Err((invariant, detail)) = check_partition(stage, *partition) {
            stage.violate(invariant, detail);
        }
    }
}

fn check_partition(stage: &Stage, partition: PartitionId) -> Result<(), (&'static str, String)> {
    let statuses = stage.living().into_iter().filter_map(|node| {
        let status = node.coordinator.replication()?.status(partition)?;
        Some(status.high_watermark)
    });
    let high_watermark = statuses.max().unwrap_or_default();
    let disks: Vec<_> = {
        let cluster = stage.cluster();
        cluster.nodes.iter().map(|node| node.disk.clone()).collect()
    };
    let mut first: Option<Vec<u8>> = None;
    for (n, disk) in disks.iter().enumerate() {
        let vfs: &dyn Vfs = disk;
        let dumped = dump_bytes_from(vfs, "/data/logs".as_ref(), partition, high_watermark)
            .map_err(|e| ("a log can be read", format!("node {}: {e}", n + 1)))?;
        match &first {
            None => first = Some(dumped),
            Some(first) if *first == dumped => {}
            Some(first) => {
                let detail = format!(
                    "{partition} below {high_watermark}: {} bytes on node 1, {} on node {}",
                    first.len(),
                    dumped.len(),
                    n + 1
                );
                return Err(("replicas are equal byte by byte", detail));
            }
        }
    }
    let bytes = bytes::Bytes::from(first.unwrap_or_default());
    let log = records(bytes).map_err(|e| ("a log holds whole batches", e))?;
    check_log(partition, stage.history().seen(partition), &log)
}

fn report(stage: &Stage, seed: u64, recovery_millis: u64) -> SwarmReport {
    let (trace, events, marks) = stage.trace().read();
    let traffic = stage.cluster().network.traffic();
    let history = stage.history();
    SwarmReport {
        seed,
        violation: stage.violation(),
        simulated_millis: stage.millis(),
        acked: history.acked(),
        read: history.read(),
        metadata_commands: history.applied,
        leader_changes: history.leader_changes,
        isr_changes: history.isr_changes,
        shrunk_to_one: history.shrunk_to_one,
        leaderless: history.leaderless,
        messages: traffic.calls + traffic.datagrams,
        disturbed: traffic.disturbed,
        recovery_millis,
        trace,
        events,
        marks,
        counters: stage.counters(),
        story: stage.story(),
    }
}
