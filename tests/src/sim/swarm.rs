//! One run of the swarm: a seed, a workload, faults, then peace, recovery and the checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rivven_coordinator::consumer_groups::GroupId;
use rivven_coordinator::{NewTopic, RaftState};
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{
    BrokerId, Durability, LogError, Offset, PartitionId, Rng, RpcKind, TopicId, TopicName, Vfs,
};
use rivven_isr::{Acks, ReplicaRole};
use rivven_segment_log::dump_bytes_from;
use tokio::task::JoinSet;

use super::administrator::Administrator;
use super::classic_members::ClassicConsumer;
use super::clients::{Consumer, Producer, records};
use super::copies::look_at_copies;
use super::group_seat::{look_at_groups, settled};
use super::history::{LOOSE, check_log};
use super::lives;
use super::marks::Mark;
use super::members::Member;
use super::nemesis::Nemesis;
use super::network::Weather;
use super::panics::Collector;
use super::plan::Plan;
use super::readers::Reader;
use super::staff::{Staff, staffed};
use super::stage::{Node, Stage, Violation};
use super::trace::Event;
use super::views::{diagnose, level, replicated, whole};
use super::world::SimCluster;

/// Nodes of a simulated cluster.
const NODES: u16 = 3;
/// How long a cluster may take to form, and to recover when the faults have ended.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// Most topics that are made before anything else happens.
const MOST_TOPICS: u64 = 3;
/// Members of each group.
const MEMBERS: u64 = 3;
/// How often the nodes are looked at.
const OBSERVE: Duration = Duration::from_millis(20);

/// How a run is played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwarmOptions {
    /// Simulated seconds with faults; a run in which too little has happened by then goes on, with no other
    /// faults than the crashes that it lacks.
    pub seconds: u64,
    /// Whether faults occur at all.
    pub faults: bool,
    /// Whether the story is kept.
    pub story: bool,
    /// The steps of the nemesis that are played; all of them if there is no list.
    pub only: Option<Vec<u64>>,
    /// Instead of the faults of the seed: the power goes after so many syncs of one node's disk, be it
    /// while the cluster forms; for the node alone if the number is odd, else for all.
    pub power_lost_after_syncs: Option<u64>,
    /// Whether nodes join and leave for good in a third of the seeds.
    pub members: bool,
}

/// What must have happened in a run that counts as one.
const ENOUGH_ACKED: usize = 500;
const ENOUGH_COMMANDS: u64 = 100;
pub(super) const ENOUGH_CRASHES: u64 = 3;
/// So many times as long as planned a run may take until so much has happened.
const MOST_OVERTIME: u64 = 3;

impl Default for SwarmOptions {
    fn default() -> Self {
        Self {
            seconds: 30,
            faults: true,
            story: false,
            only: None,
            power_lost_after_syncs: None,
            members: false,
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
    /// Crashes of nodes.
    pub crashes: u64,
    /// The faults that were played: the number of the step and its kind.
    pub steps: Vec<(u64, String)>,
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

    /// Whether enough has happened for the run to prove something.
    pub fn is_dense(&self) -> bool {
        self.acked >= ENOUGH_ACKED
            && self.metadata_commands >= ENOUGH_COMMANDS
            && self.crashes >= ENOUGH_CRASHES
    }
}

/// Runs `seed` on a paused clock in this thread.
///
/// # Errors
/// If the runtime cannot be built.
pub fn run_swarm(seed: u64, options: &SwarmOptions) -> std::io::Result<SwarmReport> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let panics = Collector::start();
    let mut report = runtime.block_on(play(seed, options));
    let (unexpected, count) = panics.read();
    if count > 0 {
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        report.counters.insert("panics".to_owned(), count);
    }
    if let Some(place) = unexpected.into_iter().next() {
        let at_millis = report.simulated_millis;
        report.violation.get_or_insert(Violation {
            invariant: "no task panics",
            detail: place,
            at_millis,
        });
    }
    Ok(report)
}

async fn play(seed: u64, options: &SwarmOptions) -> SwarmReport {
    let mut plan = Plan::draw(seed, usize::from(NODES + 1));
    if options.power_lost_after_syncs.is_some() {
        plan.durability = Durability::Fsync;
    }
    plan.members_change &= options.members && options.power_lost_after_syncs.is_none();
    let spare = u16::from(plan.members_change);
    let mut cluster = SimCluster::configured(NODES, spare, seed, plan.settings);
    cluster.only_synced_counts = plan.durability == Durability::Fsync;
    for (node, ppm) in cluster.nodes.iter().zip(&plan.drift_ppm) {
        node.scope.set_clock_rate_ppm(*ppm);
    }
    let stage = Stage::new(cluster, seed, options.story, plan.durability);
    let mut actors = JoinSet::new();
    actors.spawn(observe(Arc::clone(&stage)));
    actors.spawn(watch_in_sync_sets(Arc::clone(&stage)));
    let boundary = options.power_lost_after_syncs;
    actors.spawn(lives::lose_power_after_syncs(Arc::clone(&stage), boundary));
    actors.spawn(lives::supervise(Arc::clone(&stage)));
    for n in 0..usize::from(NODES) {
        lives::start(&stage, n).await;
    }
    let mut recovery_millis = 0;
    if let Some(partitions) = form(&stage, &plan).await {
        let mut producers = JoinSet::new();
        start_clients(&stage, &partitions, &mut producers, &mut actors);
        if plan.members_change {
            actors.spawn(Staff::new(Arc::clone(&stage)).run());
        }
        actors.spawn(Administrator::new(Arc::clone(&stage), plan.clone()).run());
        let trouble = (options.faults && boundary.is_none()).then(|| {
            let nemesis = Nemesis::new(Arc::clone(&stage), plan, options.only.as_deref());
            tokio::spawn(nemesis.run())
        });
        let over = |stage: &Stage| boundary.is_some() && has_lost_power(stage);
        stage.wait(Duration::from_secs(options.seconds), over).await;
        let enough = |stage: &Stage| trouble.is_none() || has_enough(stage);
        if !enough(&stage) {
            stage.overtime.store(true, Ordering::Relaxed);
            undo_faults(&stage);
            goes_on(&stage, &partitions).await;
        }
        let most = Duration::from_secs(options.seconds * MOST_OVERTIME);
        stage.wait(most, enough).await;
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
    let report = report(&stage, seed, recovery_millis);
    // Nodes and network hold each other: without this no world would ever be freed.
    let mut cluster = stage.cluster();
    (0..cluster.nodes.len()).for_each(|n| cluster.kill(n));
    drop(cluster);
    report
}

/// Without faults every partition is written again: the time beyond the end must not hide one that is not.
async fn goes_on(stage: &Stage, partitions: &[PartitionId]) {
    let acked = |stage: &Stage| -> Vec<usize> {
        let mut history = stage.history();
        let each = partitions.iter();
        each.map(|partition| history.seen(*partition).acked.len())
            .collect()
    };
    let before = acked(stage);
    let has_moved = |stage: &Stage| acked(stage).iter().zip(&before).all(|(now, was)| now > was);
    if !stage.wait(RECOVERY_LIMIT, has_moved).await {
        stage.violate("everything recovers by itself", diagnose(stage));
    }
}

fn has_enough(stage: &Stage) -> bool {
    let history = stage.history();
    history.acked() >= ENOUGH_ACKED
        && history.applied >= ENOUGH_COMMANDS
        && stage.counter("crashes") >= ENOUGH_CRASHES
}

fn has_lost_power(stage: &Stage) -> bool {
    let cluster = stage.cluster();
    cluster.nodes.iter().any(|node| node.lost_power_in_change)
}

/// Waits for the cluster and creates the topics.
async fn form(stage: &Arc<Stage>, plan: &Plan) -> Option<Vec<PartitionId>> {
    if !stage.wait(RECOVERY_LIMIT, whole).await {
        stage.violate("a cluster forms", diagnose(stage));
        return None;
    }
    let mut rng = stage.fork_rng();
    let mut partitions = Vec::new();
    for n in 0..MOST_TOPICS - rng.below(2) {
        let count = 1 + u32::try_from(rng.below(2)).unwrap_or(0);
        let mut topic = SimCluster::topic(&format!("topic-{n}"), count).ok()?;
        topic.durability = plan.durability;
        let id = create(stage, &topic).await?;
        partitions.extend((0..count).map(|index| PartitionId::new(id, index)));
    }
    stage.tell(format!("{} partitions", partitions.len()));
    Some(partitions)
}

/// Creates a topic as a patient administrator does: whom he has asked may die, before or after it is done.
async fn create(stage: &Stage, topic: &NewTopic) -> Option<TopicId> {
    let until = stage.millis() + u64::try_from(RECOVERY_LIMIT.as_millis()).unwrap_or(0);
    let mut last = "no node lives".to_owned();
    while stage.millis() < until && stage.violation().is_none() {
        if let Some(node) = stage.living().into_iter().next() {
            let state = node.coordinator.cluster_state();
            if let Some(found) = state.topic(&topic.name) {
                return Some(found.id);
            }
            let patience = Duration::from_secs(10);
            match node.coordinator.create_topic(topic, patience).await {
                Ok(id) if stage.is_alive(&node) => return Some(id),
                Ok(_) => last = "the node that was asked has died".to_owned(),
                Err(error) => last = error.to_string(),
            }
        }
        tokio::time::sleep(OBSERVE).await;
    }
    stage.violate("a topic can be created", last);
    None
}

fn start_clients(
    stage: &Arc<Stage>,
    partitions: &[PartitionId],
    producers: &mut JoinSet<()>,
    actors: &mut JoinSet<()>,
) {
    let mut rng = stage.fork_rng();
    let think_millis = 150 << rng.below(4);
    let mut id = 1_000_000;
    let mut start = |partition: PartitionId, acks: Acks, rng: &mut Rng| {
        id += 1;
        let producer = Producer {
            id: if acks == Acks::All { id } else { id + LOOSE },
            partition,
            acks,
            in_flight: 1 + usize::try_from(rng.below(5)).unwrap_or(0),
            think_millis,
        };
        producers.spawn(producer.run(Arc::clone(stage)));
    };
    for partition in partitions {
        start(*partition, Acks::All, &mut rng);
        start(*partition, Acks::All, &mut rng);
        if rng.below(2) == 0 {
            let acks = [Acks::None, Acks::Leader][usize::try_from(rng.below(2)).unwrap_or(0)];
            start(*partition, acks, &mut rng);
        }
        let partition = *partition;
        actors.spawn(Consumer { partition }.run(Arc::clone(stage)));
    }
    for (n, partition) in partitions.iter().enumerate() {
        if let Some(reader) = Reader::new(Arc::clone(stage), *partition, n) {
            actors.spawn(reader.run());
        }
    }
    start_members(stage, actors);
    // They end by themselves.
    producers.detach_all();
}

/// Two groups that read everything, one of each protocol.
fn start_members(stage: &Arc<Stage>, actors: &mut JoinSet<()>) {
    let topics: Vec<_> = (0..MOST_TOPICS)
        .filter_map(|n| TopicName::new(format!("topic-{n}")).ok())
        .collect();
    let (Ok(new), Ok(classic)) = (GroupId::new("members"), GroupId::new("classic")) else {
        return;
    };
    for number in 0..MEMBERS {
        let (stage, topics) = (Arc::clone(stage), topics.clone());
        let joins =
            ClassicConsumer::new(Arc::clone(&stage), classic.clone(), number, topics.clone());
        actors.spawn(joins.run());
        if let Some(member) = Member::new(stage, new.clone(), number, topics) {
            actors.spawn(member.run());
        }
    }
}

/// Follows what the nodes say about themselves and checks it against what all others have said.
async fn observe(stage: Arc<Stage>) {
    let mut last = BTreeMap::new();
    let mut ends = BTreeMap::new();
    let mut controller = None;
    loop {
        for node in stage.living() {
            look_at_metadata(&stage, &node, &mut last);
            look_at_raft(&stage, &node);
            look_at_groups(&stage, &node);
            look_at_replicas(&stage, &node, &mut ends);
        }
        look_at_copies(&stage);
        {
            let cluster = stage.cluster();
            let disks = cluster.nodes.iter().map(|node| node.disk.digest());
            stage.trace().note(Event::Disk, &disks.collect::<Vec<_>>());
        }
        stage.trace().mark();
        let now = stage.cluster().controller();
        if now != controller && now.is_some() {
            let name = now.map_or(0, |n| n + 1);
            stage.tell(format!("node {name} is the controller"));
            if controller.is_some() {
                stage.mark(Mark::ControllerReplaced);
            }
            controller = now;
        }
        tokio::time::sleep(OBSERVE).await;
    }
}

/// Looks at the copies in the moment in which a node learns that an in-sync set has grown: a member that
/// lacks something may have caught up a moment later.
async fn watch_in_sync_sets(stage: Arc<Stage>) {
    let mut watched = BTreeMap::new();
    let mut watchers = JoinSet::new();
    loop {
        for node in stage.living() {
            if watched.insert(node.number, node.life) != Some(node.life) {
                watchers.spawn(watch_one(Arc::clone(&stage), node));
            }
        }
        while watchers.try_join_next().is_some() {}
        tokio::time::sleep(OBSERVE).await;
    }
}

async fn watch_one(stage: Arc<Stage>, node: Node) {
    let mut states = node.coordinator.watch_cluster_state();
    let mut before = node.coordinator.cluster_state();
    drop(node.coordinator);
    while states.changed().await.is_ok() {
        let now = Arc::clone(&states.borrow_and_update());
        let grows = |id| {
            let (old, new) = (before.partition(&id), now.partition(&id));
            old.zip(new)
                .is_some_and(|(old, new)| new.isr.len() > old.isr.len())
        };
        if now.changed_since(&before).into_iter().any(grows) {
            look_at_copies(&stage);
        }
        before = now;
    }
}

/// What the observer has seen last of each node: its life and what it has applied.
type LastApplied = BTreeMap<usize, (u64, u64)>;

fn look_at_metadata(stage: &Stage, node: &Node, last: &mut LastApplied) {
    let state = node.coordinator.cluster_state();
    let applied = state.applied().get();
    let before = last.insert(node.number, (node.life, applied));
    if before == Some((node.life, applied)) {
        return;
    }
    if before.is_some_and(|(life, before)| life == node.life && applied < before) {
        let detail = format!("node {} at {applied}, after {before:?}", node.number + 1);
        stage.violate("what is applied stays applied", detail);
    }
    let words = [node.life, applied, state.hash()];
    stage.trace().note(Event::State, &words);
    let checked = stage.history().on_hash(applied, state.hash());
    if let Err(detail) = checked {
        stage.violate("equal index, equal metadata", detail);
    }
    for record in state.partitions() {
        let checked = stage.history().on_record(record);
        match checked {
            Ok(Some(marks)) => {
                marks.into_iter().for_each(|mark| stage.mark(mark));
                stage.tell(format!(
                    "{} epoch {}.{} leader {:?} isr {:?} elr {:?}",
                    stage.label(record.id),
                    record.leader_epoch,
                    record.partition_epoch,
                    record.leader.map(BrokerId::get),
                    numbers(&record.isr),
                    numbers(&record.elr),
                ));
            }
            Ok(None) => {}
            Err(detail) => stage.violate("one record per partition epoch", detail),
        }
    }
}

fn look_at_raft(stage: &Stage, node: &Node) {
    let status = node.coordinator.raft_status();
    if status.state == RaftState::Leader {
        let checked = stage
            .history()
            .on_raft_leader(status.term.get(), node.number);
        if let Err(detail) = checked {
            stage.violate("one Raft leader per term", detail);
        }
    }
}

/// What the observer has seen last of each replica: the node's life, its epoch and its log end.
type LastEnds = BTreeMap<(usize, PartitionId), (u64, Offset)>;

fn look_at_replicas(stage: &Stage, node: &Node, ends: &mut LastEnds) {
    let (Some(replication), Some(local)) = (
        node.coordinator.replication(),
        node.coordinator.session().local,
    ) else {
        return;
    };
    for status in replication.statuses() {
        match status.role {
            ReplicaRole::Leader => {
                let checked =
                    stage
                        .history()
                        .on_acting(status.partition, status.leader_epoch, local.id);
                if let Err(detail) = checked {
                    stage.violate("one leader per epoch", detail);
                }
            }
            ReplicaRole::Offline => stage.mark(Mark::LogOffline),
            _ => {}
        }
        let key = (node.number, status.partition);
        let before = ends.insert(key, (node.life, status.log_end));
        if before.is_some_and(|(life, end)| life == node.life && status.log_end < end) {
            stage.mark(Mark::LogCut);
        }
    }
}

fn numbers(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|broker| broker.get()).collect()
}

fn undo_faults(stage: &Stage) {
    let cluster = stage.cluster();
    cluster.network.restore_links();
    cluster.network.set_weather(Weather::default());
    for (n, node) in cluster.nodes.iter().enumerate() {
        node.slow_disk(0);
        node.disk.heal();
        cluster.resume(n);
    }
}

/// Ends all faults and waits until everything is well again, by itself.
async fn recover(stage: &Arc<Stage>, partitions: &[PartitionId]) {
    stage.tell("the faults end");
    stage.healing.store(true, Ordering::Relaxed);
    undo_faults(stage);
    // Undoings of faults that are still under way must not count as faults in peace.
    tokio::time::sleep(Duration::from_millis(20)).await;
    if !stage
        .wait(RECOVERY_LIMIT, |s| whole(s) && replicated(s))
        .await
    {
        stage.violate("everything recovers by itself", diagnose(stage));
        return;
    }
    stage.tell("all partitions are fully replicated");
    if !stage.wait(RECOVERY_LIMIT, staffed).await {
        stage.violate(
            "who has left is removed, and another votes",
            diagnose(stage),
        );
        return;
    }
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
    if !stage.wait(RECOVERY_LIMIT, |s| settled(s, partitions)).await {
        let groups = format!("{:?}", stage.history().groups);
        stage.violate("groups come to rest", groups);
    }
    if !stage
        .wait(RECOVERY_LIMIT, |s| whole(s) && replicated(s) && level(s))
        .await
    {
        stage.violate("replicas become equal", diagnose(stage));
    }
}

/// The checks at the end, straight from the disks.
fn check(stage: &Stage, partitions: &[PartitionId]) {
    for partition in partitions {
        if let Err((invariant, detail)) = check_partition(stage, *partition) {
            stage.violate(invariant, detail);
        }
    }
}

/// The disks of the nodes that hold a partition.
fn disks_of(stage: &Stage, partition: PartitionId) -> Vec<(usize, MemVfs)> {
    let living = stage.living();
    let state = living.first().map(|node| node.coordinator.cluster_state());
    let record = state.as_ref().and_then(|state| state.partition(&partition));
    let replicas = record.map(|r| r.replicas.clone()).unwrap_or_default();
    let cluster = stage.cluster();
    let numbers = replicas.iter().filter_map(|id| cluster.node_of(*id));
    numbers
        .map(|n| (n, cluster.nodes[n].disk.clone()))
        .collect()
}

fn check_partition(stage: &Stage, partition: PartitionId) -> Result<(), (&'static str, String)> {
    let statuses = stage.living().into_iter().filter_map(|node| {
        let status = node.coordinator.replication()?.status(partition)?;
        Some(status.high_watermark)
    });
    let high_watermark = statuses.max().unwrap_or_default();
    let mut first: Option<Vec<u8>> = None;
    for (n, disk) in disks_of(stage, partition) {
        let vfs: &dyn Vfs = &disk;
        let dumped = match dump_bytes_from(vfs, lives::LOGS.as_ref(), partition, high_watermark) {
            // Damage that nobody has met yet, and that whoever reads it would meet.
            Err(LogError::Corrupt { .. }) if disk.is_damaged(lives::LOGS.as_ref()) => continue,
            dumped => dumped,
        };
        let dumped = dumped.map_err(|e| ("a log can be read", format!("node {}: {e}", n + 1)))?;
        match &first {
            None => first = Some(dumped),
            Some(first) if *first == dumped => {}
            Some(first) => {
                let detail = format!(
                    "{partition} below {high_watermark}: {} bytes elsewhere, {} on node {}",
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
    let delivered = [
        (RpcKind::RAFT_SNAPSHOT, Mark::SnapshotSent),
        (RpcKind::LOG_CLAIMS, Mark::LogsClaimed),
    ];
    for (kind, mark) in delivered {
        if stage.cluster().network.delivered(kind) > 0 {
            stage.mark(mark);
        }
    }
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
        crashes: stage.counter("crashes"),
        steps: stage.steps(),
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
