//! Assignors on the grid that Kafka's own benchmark has, and the state machine with its coordinator under
//! many groups and in one large one. Prints one JSON object for each figure; `cargo xtask bench groups`
//! collects them. Nothing here waits for a disk or a network; times are processor time of the thread.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a bench prints, and stops at the first thing that is wrong"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rivven_consumer_groups::{
    AssignorKind, Batch, ClientInfo, Committer, Epoch, GroupConfig, GroupCoordinator, GroupId,
    GroupPhase, GroupSpec, GroupsState, GroupsStateMachine, GroupsWatch, Heartbeat, MAX_OPS,
    MemberId, MemberSpec, OffsetToCommit, Op, Partitions, Request, Response, Ticket, TopicCatalog,
    TopicShape, TopicSpec, View, decode_results,
};
use rivven_core_types::test_util::{Figure, Target};
use rivven_core_types::{
    CommittedEntry, LogIndex, MonoTime, PartitionId, RackId, StateMachine as _, Term, TopicId,
    TopicName, UnixMillis,
};

/// Least runs that a time is the mean of.
const MIN_RUNS: u32 = 5;
/// How long runs are repeated.
const MEASURED: Duration = Duration::from_millis(500);
/// Bytes of a batch of operations, as the driver takes them.
const BATCH_BYTES: usize = 1 << 20;

fn print(case: &str, metric: &str, value: f64, unit: &str, target: Option<f64>) {
    Figure {
        case,
        metric,
        value,
        unit,
        target: target.map(Target::AtMost),
        baseline: None,
    }
    .print();
}

/// The processor time that this thread has had: the machine's other work does not count. Elapsed time
/// where the system does not tell.
#[derive(Clone, Copy)]
struct Watch {
    origin: Instant,
    start: Duration,
}

impl Watch {
    fn start() -> Self {
        let origin = Instant::now();
        let start = computed(origin);
        Self { origin, start }
    }

    fn elapsed(self) -> Duration {
        computed(self.origin).saturating_sub(self.start)
    }
}

fn computed(since: Instant) -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|n| n.parse().ok());
    nanos.map_or_else(|| since.elapsed(), Duration::from_nanos)
}

/// Milliseconds of one run: the mean over so many that the clock's coarse steps (a scheduler tick, on some
/// systems) do not count.
fn mean(mut run: impl FnMut()) -> f64 {
    let started = Watch::start();
    let mut runs = 0u32;
    while runs < MIN_RUNS || started.elapsed() < MEASURED {
        run();
        runs += 1;
    }
    started.elapsed().as_secs_f64() * 1e3 / f64::from(runs)
}

fn topic_id(n: u32) -> TopicId {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&n.to_be_bytes());
    TopicId::from_bytes(bytes)
}

/// `members` members of `topics` topics with `partitions` partitions in all. Each member wants `wants`
/// topics, every one if there are no more, and has what `owned` gives it.
fn spec(
    members: u32,
    partitions: u32,
    topics: u32,
    wants: u32,
    owned: &[Vec<PartitionId>],
) -> GroupSpec {
    let specs = (0..topics).map(|n| TopicSpec {
        id: topic_id(n),
        partitions: partitions / topics,
        racks: Vec::new(),
    });
    // Members with the same subscription share it, as the coordinator's do.
    let subscriptions: Vec<Arc<[u32]>> = (0..topics)
        .map(|n| {
            let mut wanted: Vec<u32> = (0..wants.min(topics)).map(|k| (n + k) % topics).collect();
            wanted.sort_unstable();
            wanted.into()
        })
        .collect();
    let subscription = |n: u32| {
        let n = if wants >= topics { 0 } else { n % topics };
        Arc::clone(&subscriptions[n as usize])
    };
    let member = |n: u32| MemberSpec {
        id: MemberId::new(format!("member-{n:06}")).unwrap(),
        instance: None,
        rack: None,
        topics: subscription(n),
        owned: Partitions::new(owned.get(n as usize).cloned().unwrap_or_default()),
        generation: 0,
    };
    GroupSpec::new((0..members).map(member).collect(), specs.collect()).unwrap()
}

fn assignors() {
    let uniform = AssignorKind::Uniform;
    for (members, partitions, topics, wants, full, incremental) in [
        (1_000, 50_000, 1_000, 1_000, None, None),
        (10_000, 100_000, 1_000, 1_000, Some(2.0), Some(1.0)),
        (5_000, 250_000, 1_000, 1_000, Some(4.0), None),
        (2_000, 1_000_000, 1_000, 1_000, Some(25.0), None),
        (10_000, 100_000, 10, 5, Some(5.0), None),
        (10_000, 50_000, 1_000, 500, None, None),
    ] {
        let kind = if wants < topics {
            "heterogeneous"
        } else {
            "uniform"
        };
        let case = format!("{kind} {members} members, {partitions} partitions of {topics} topics");
        let fresh = spec(members, partitions, topics, wants, &[]);
        // What the coordinator needs: the new lists of the members whose lists change.
        let time = mean(|| drop(black_box(uniform.assign(black_box(&fresh)).changes())));
        print(&case, "full", time, "ms", full);
        // One member more than the partitions were shared among.
        let before = spec(members - 1, partitions, topics, wants, &[]);
        let grown = spec(
            members,
            partitions,
            topics,
            wants,
            &uniform.assign(&before).lists(),
        );
        let time = mean(|| drop(black_box(uniform.assign(black_box(&grown)).changes())));
        print(&case, "incremental", time, "ms", incremental);
    }
}

/// The topics `t0`, `t1` and so on, with ten partitions each.
struct Topics {
    count: u32,
    partitions: u32,
}

impl Topics {
    fn shape(&self, n: u32) -> TopicShape {
        TopicShape {
            id: topic_id(n),
            name: TopicName::new(format!("t{n}")).unwrap(),
            partitions: self.partitions,
        }
    }
}

impl TopicCatalog for Topics {
    fn version(&self) -> u64 {
        1
    }
    fn by_name(&self, name: &TopicName) -> Option<TopicShape> {
        let n = name.as_str().strip_prefix('t')?.parse().ok()?;
        (n < self.count).then(|| self.shape(n))
    }
    fn by_id(&self, id: TopicId) -> Option<TopicShape> {
        (0..self.count).map(|n| self.shape(n)).find(|t| t.id == id)
    }
    fn all(&self) -> Vec<TopicShape> {
        (0..self.count).map(|n| self.shape(n)).collect()
    }
    fn racks(&self, _: TopicId) -> Vec<Vec<RackId>> {
        Vec::new()
    }
}

/// A coordinator with its state machine; what it proposes is committed at once.
struct World {
    started: Watch,
    /// Time that passed without anything to do.
    skipped: Duration,
    topics: Topics,
    coordinator: GroupCoordinator,
    machine: GroupsStateMachine,
    watch: GroupsWatch,
    index: u64,
    replies: BTreeMap<Ticket, Response>,
}

impl World {
    fn new(topics: Topics) -> Self {
        let watch = GroupsWatch::default();
        let mut world = Self {
            started: Watch::start(),
            skipped: Duration::ZERO,
            topics,
            coordinator: GroupCoordinator::new(GroupConfig::default()),
            machine: GroupsStateMachine::new(watch.publisher()),
            watch,
            index: 0,
            replies: BTreeMap::new(),
        };
        world.step(|c, view| c.lead(view));
        world
    }

    fn state(&self) -> Arc<GroupsState> {
        self.watch.current()
    }

    fn step<T>(&mut self, step: impl FnOnce(&mut GroupCoordinator, View<'_>) -> T) -> T {
        let state = self.state();
        let view = View {
            now: MonoTime::from_origin(self.started.elapsed() + self.skipped),
            state: &state,
            topics: &self.topics,
        };
        let outcome = step(&mut self.coordinator, view);
        self.replies.extend(self.coordinator.take_replies());
        outcome
    }

    /// Commits what waits to be proposed; says whether anything did.
    fn commit(&mut self) -> bool {
        let batch = self.coordinator.take_batch(MAX_OPS, BATCH_BYTES);
        if batch.is_empty() {
            return false;
        }
        self.index += 1;
        let ops = batch.iter().map(|p| p.op.clone()).collect();
        let at = UnixMillis(1);
        let entry = CommittedEntry {
            index: LogIndex::new(self.index),
            term: Term::new(1),
            command: Batch { at, ops }.encode().unwrap(),
        };
        let results = self.machine.apply(&[entry]);
        let results = decode_results(&results.unwrap()[0]).unwrap();
        self.step(|c, view| c.applied(view, batch, results));
        true
    }

    fn settle(&mut self) {
        while self.commit() {}
    }

    /// As [`World::settle`], with the plans that wait for further changes.
    fn settle_plans(&mut self) {
        self.settle();
        self.skipped += GroupConfig::default().plan_window;
        self.step(|c, view| c.tick(view));
        self.settle();
    }
}

fn beat(group: &GroupId, member: &MemberId, epoch: Epoch, topics: Vec<TopicName>) -> Heartbeat {
    let joins = epoch == Epoch::JOIN;
    Heartbeat {
        group: group.clone(),
        member: member.clone(),
        instance: None,
        epoch,
        rack: None,
        client: ClientInfo {
            id: "bench".to_owned(),
            host: String::new(),
        },
        rebalance_timeout_ms: joins.then_some(300_000),
        topics: joins.then_some(topics),
        pattern: None,
        assignor: None,
        owned: joins.then(Partitions::default),
    }
}

/// Memory that the process holds, in MiB.
fn resident_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) / 1024.0
}

/// Many small groups: memory, heartbeats, a new coordinator, an image.
fn many_groups(groups: u32) {
    let case = format!("{groups} groups of 3 members and 10 partitions");
    let before = resident_mib();
    let mut world = World::new(Topics {
        count: 100,
        partitions: 10,
    });
    let mut ticket = 0;
    let mut members = Vec::new();
    for n in 0..groups {
        let group = GroupId::new(format!("group-{n:06}")).unwrap();
        let topic = TopicName::new(format!("t{}", n % 100)).unwrap();
        for m in 0..3 {
            let member = MemberId::new(format!("consumer-{n:06}-{m}-0123456789")).unwrap();
            let join = beat(&group, &member, Epoch::JOIN, vec![topic.clone()]);
            ticket += 1;
            world.step(|c, v| c.request(v, Ticket(ticket), Request::Heartbeat(Box::new(join))));
            members.push((group.clone(), member));
        }
        let offsets = (0..10).map(|index| OffsetToCommit {
            partition: PartitionId::new(topic_id(n % 100), index),
            offset: i64::from(n),
            leader_epoch: 1,
            metadata: "".into(),
        });
        let by = Committer {
            member: None,
            instance: None,
            epoch: Epoch::new(-1),
        };
        let (group, offsets) = (group.clone(), offsets.collect());
        ticket += 1;
        let commit = Request::Propose(Op::Commit { group, by, offsets });
        // Before the members are there: a consumer that is none may commit.
        world.step(|c, v| c.request(v, Ticket(ticket), commit));
        if n % 1_000 == 0 {
            world.settle_plans();
            world.replies.clear();
        }
    }
    world.settle_plans();
    world.replies.clear();
    let held = resident_mib() - before;
    print(&case, "memory", held, "MiB", Some(600.0));

    let started = Watch::start();
    let mut answered = 0u32;
    while started.elapsed() < Duration::from_secs(2) {
        for (group, member) in members.iter().step_by(7) {
            let state = world.state();
            let known = state
                .group(group)
                .and_then(|g| g.consumer()?.member(member));
            let again = beat(group, member, known.unwrap().epoch, Vec::new());
            ticket += 1;
            world.step(|c, v| c.request(v, Ticket(ticket), Request::Heartbeat(Box::new(again))));
            answered += 1;
        }
        world.settle();
        world.replies.clear();
    }
    let rate = f64::from(answered) / started.elapsed().as_secs_f64();
    print(&case, "heartbeats", rate, "1/s", None);

    let hash = world.state().hash();
    let started = Watch::start();
    world.step(|c, _| c.resign());
    world.coordinator = GroupCoordinator::new(GroupConfig::default());
    world.step(|c, view| c.lead(view));
    let time = started.elapsed().as_secs_f64() * 1e3;
    print(
        &case,
        "a new coordinator takes over",
        time,
        "ms",
        Some(500.0),
    );
    world.settle();
    let moved = f64::from(u8::from(world.state().hash() != hash));
    print(&case, "changes by a new coordinator", moved, "", Some(0.0));

    let mut image = Vec::new();
    let started = Watch::start();
    world.machine.freeze().write_to(&mut image).unwrap();
    let time = started.elapsed().as_secs_f64() * 1e3;
    print(&case, "image written", time, "ms", None);
    let started = Watch::start();
    drop(world.machine.restore(&mut image.as_slice()).unwrap());
    let time = started.elapsed().as_secs_f64() * 1e3;
    print(&case, "image read", time, "ms", None);
}

/// One consumer of the large group.
struct Member {
    id: MemberId,
    epoch: Epoch,
    owned: Partitions,
    /// It has yet to say what it owns.
    changed: bool,
    next: Duration,
    waits: Option<Ticket>,
}

/// All members of a group join within `spread`, and behave as consumers do until everybody has its share.
fn join_storm(count: u32, spread: Duration) {
    let case = format!(
        "{count} members join one group of {} partitions within {} s",
        count * 10,
        spread.as_secs(),
    );
    let mut world = World::new(Topics {
        count: 10,
        partitions: count,
    });
    let group = GroupId::new("storm").unwrap();
    let topics: Vec<TopicName> = world.topics.all().into_iter().map(|t| t.name).collect();
    let member = |n: u32| Member {
        id: MemberId::new(format!("member-{n:06}")).unwrap(),
        epoch: Epoch::JOIN,
        owned: Partitions::default(),
        changed: false,
        next: spread * n / count,
        waits: None,
    };
    let mut members: Vec<Member> = (0..count).map(member).collect();
    let mut ticket = 0;
    let mut last_join = Duration::ZERO;
    let deadline = Duration::from_secs(60);
    loop {
        let now = world.started.elapsed();
        assert!(now < deadline, "the group never settles");
        for member in &mut members {
            if let Some(waits) = member.waits {
                let Some(Response::Heartbeat(answer)) = world.replies.remove(&waits) else {
                    continue;
                };
                let answer = answer.unwrap();
                member.waits = None;
                member.epoch = answer.epoch;
                member.next = now + Duration::from_millis(answer.interval_ms.into());
                if let Some(told) = answer.assignment.filter(|told| *told != member.owned) {
                    // At once, as real consumers do.
                    (member.owned, member.changed, member.next) = (told, true, now);
                }
            }
            if member.next > now {
                continue;
            }
            let mut beat = beat(&group, &member.id, member.epoch, topics.clone());
            if member.epoch == Epoch::JOIN {
                last_join = now;
            } else if std::mem::take(&mut member.changed) {
                beat.owned = Some(member.owned.clone());
            }
            ticket += 1;
            member.waits = Some(Ticket(ticket));
            let request = Request::Heartbeat(Box::new(beat));
            world.step(|c, v| c.request(v, Ticket(ticket), request));
        }
        world.step(|c, v| c.tick(v));
        world.commit();
        let state = world.state();
        let stable = state
            .group(&group)
            .is_some_and(|g| g.phase() == GroupPhase::Stable);
        let all = members.iter().all(|m| m.epoch != Epoch::JOIN);
        if stable && all {
            break;
        }
    }
    let time = (world.started.elapsed() - last_join).as_secs_f64() * 1e3;
    print(
        &case,
        "stable after the last join",
        time,
        "ms",
        Some(2_000.0),
    );
}

fn main() {
    assignors();
    join_storm(10_000, Duration::ZERO);
    join_storm(10_000, Duration::from_secs(1));
    many_groups(100_000);
}
