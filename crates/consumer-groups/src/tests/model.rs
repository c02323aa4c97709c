//! Consumers that join, leave, crash, dawdle and lose answers, and coordinators that fail: after every
//! step the invariants hold, and once the disturbances end everybody gets its target.
//!
//! `RIVVEN_GROUPS_MODEL_STEPS` sets how many steps are taken (docs/verification.md).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rivven_core_types::{PartitionId, Rng, TopicName};

use super::world::{World, group, member};
use crate::{
    Committer, ConsumerGroup, Epoch, GroupConfig, GroupError, GroupPhase, Heartbeat,
    HeartbeatAnswer, InstanceId, OffsetToCommit, Op, Partitions, Proposal, Request, Response,
    Ticket,
};

const STEPS: u64 = 1_000_000;
const CLIENTS: u64 = 7;
/// Most proposals under way.
const MAX_IN_FLIGHT: usize = 4;
const TOPICS: [&str; 3] = ["a", "b", "c"];

/// A consumer as librdkafka is one.
struct Client {
    id: String,
    instance: Option<&'static str>,
    topics: Vec<&'static str>,
    epoch: Epoch,
    owned: BTreeSet<PartitionId>,
    /// What it has been told to own, while it is slow to follow.
    told: Option<BTreeSet<PartitionId>>,
    waits: Option<(Ticket, Epoch)>,
    /// The heartbeat under way says what it owns.
    acknowledges: bool,
    full: bool,
    /// It has changed what it owns since it last said so.
    changed: bool,
    alive: bool,
}

impl Client {
    fn new(number: u64) -> Self {
        Self {
            id: format!("client-{number}"),
            instance: [Some("static-0"), Some("static-1")]
                .get(usize::try_from(number).unwrap())
                .copied()
                .flatten(),
            topics: vec!["a", "b"],
            epoch: Epoch::JOIN,
            owned: BTreeSet::new(),
            told: None,
            waits: None,
            acknowledges: false,
            full: true,
            changed: false,
            alive: false,
        }
    }

    fn beat(&self, epoch: Epoch) -> Heartbeat {
        let full = self.full || epoch == Epoch::JOIN;
        let topics = self.topics.iter().map(|t| TopicName::new(t).unwrap());
        Heartbeat {
            group: group("g"),
            member: member(&self.id),
            instance: self.instance.map(|i| InstanceId::new(i).unwrap()),
            epoch,
            rack: None,
            client: crate::ClientInfo::default(),
            rebalance_timeout_ms: full.then_some(5_000),
            topics: full.then(|| topics.collect()),
            pattern: full.then(String::new),
            assignor: None,
            // As real clients do: when all is said anew, and when it has changed.
            owned: (full || self.changed)
                .then(|| self.owned.iter().copied().collect::<Partitions>()),
        }
    }

    fn answered(&mut self, asked: Epoch, answer: Result<HeartbeatAnswer, GroupError>) {
        self.waits = None;
        match answer {
            Ok(answer) if asked.get() >= 0 => {
                self.epoch = answer.epoch;
                self.full = false;
                if let Some(assignment) = answer.assignment {
                    let told: BTreeSet<_> = assignment.iter().copied().collect();
                    self.told = (told != self.owned).then_some(told);
                }
            }
            Ok(_) => {
                self.alive = false;
                self.owned.clear();
            }
            Err(GroupError::FencedMemberEpoch(_) | GroupError::UnknownMember) => {
                self.epoch = Epoch::JOIN;
                self.owned.clear();
                self.told = None;
                self.full = true;
            }
            Err(_) => self.full = true,
        }
    }
}

struct Model {
    world: World,
    rng: Rng,
    clients: Vec<Client>,
    /// Proposals under way, in their order.
    in_flight: VecDeque<Vec<Proposal>>,
    epochs: BTreeMap<String, Epoch>,
    group_epoch: Epoch,
    committed: BTreeMap<PartitionId, i64>,
    lives: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let world = World::new();
        for topic in TOPICS {
            world.topics.put(topic, 4);
        }
        Self {
            world,
            rng: Rng::new(seed),
            clients: (0..CLIENTS).map(Client::new).collect(),
            in_flight: VecDeque::new(),
            epochs: BTreeMap::new(),
            group_epoch: Epoch::default(),
            committed: BTreeMap::new(),
            lives: 0,
        }
    }

    fn step(&mut self) {
        let chosen = usize::try_from(self.rng.below(CLIENTS)).unwrap();
        match self.rng.below(100) {
            0..45 => self.heartbeat(chosen),
            45..55 => self.follow(chosen),
            55..75 => self.carry(),
            75..80 => self.commit(chosen),
            80..84 => self.leave(chosen),
            84..86 => self.crash(chosen),
            86..88 => self.lose_answer(chosen),
            88..90 => self.resubscribe(chosen),
            90..91 => self.grow_topic(),
            91..93 => self.fail_over(),
            _ => {
                let ms = 1 + self.rng.below(800);
                self.world.now = self.world.now + Duration::from_millis(ms);
                self.world.step(|c, view| c.tick(view));
            }
        }
        self.deliver();
        self.check();
    }

    fn heartbeat(&mut self, chosen: usize) {
        let client = &mut self.clients[chosen];
        if client.waits.is_some() {
            return;
        }
        client.alive = true;
        if client.full
            && let Some(told) = client.told.take()
        {
            client.owned = told;
        }
        let beat = client.beat(client.epoch);
        let epoch = beat.epoch;
        self.clients[chosen].acknowledges = beat.owned.is_some();
        let ticket = self.world.ask(Request::Heartbeat(Box::new(beat)));
        self.clients[chosen].waits = Some((ticket, epoch));
        self.clients[chosen].changed = false;
    }

    fn follow(&mut self, chosen: usize) {
        let client = &mut self.clients[chosen];
        // As in librdkafka nothing is taken up while the client's word that it does not have it is on
        // its way: the coordinator may give it to somebody else on that word.
        if client.waits.is_some() && client.acknowledges {
            return;
        }
        if let Some(told) = client.told.take() {
            client.owned = told;
            client.changed = true;
        }
    }

    /// Moves what is to be proposed into the log, or loses it on the way.
    fn carry(&mut self) {
        if self.in_flight.len() < MAX_IN_FLIGHT && self.rng.below(2) == 0 {
            let batch = self.world.take_batch();
            self.in_flight.extend((!batch.is_empty()).then_some(batch));
            return;
        }
        match self.in_flight.pop_front() {
            None => {}
            Some(batch) if self.rng.below(20) == 0 => self.world.lose(batch),
            Some(batch) if self.rng.below(20) == 0 => {
                // It is committed, but the coordinator is told that nobody knows.
                self.world.apply(&batch);
                self.world.lose(batch);
            }
            Some(batch) => self.world.commit(batch),
        }
    }

    fn commit(&mut self, chosen: usize) {
        let client = &self.clients[chosen];
        let Some(partition) = client.owned.first().copied() else {
            return;
        };
        let offset = i64::try_from(self.rng.below(1_000)).unwrap();
        let op = Op::Commit {
            group: group("g"),
            by: Committer {
                member: Some(member(&client.id)),
                instance: None,
                epoch: client.epoch,
            },
            offsets: vec![OffsetToCommit {
                partition,
                offset,
                leader_epoch: 1,
                metadata: "".into(),
            }],
        };
        for batch in self.in_flight.drain(..) {
            self.world.commit(batch);
        }
        self.world.settle();
        let known = self.world.state();
        let entitled = known
            .group(&group("g"))
            .and_then(|g| g.consumer()?.member(&member(&client.id)).cloned())
            .is_some_and(|m| m.epoch == client.epoch);
        let answer = self.world.call(Request::Propose(op));
        assert_eq!(
            matches!(answer, Some(Response::Done(Ok(())))),
            entitled,
            "{answer:?}"
        );
        if entitled {
            self.committed.insert(partition, offset);
        }
    }

    fn leave(&mut self, chosen: usize) {
        let client = &mut self.clients[chosen];
        if client.waits.is_some() || client.epoch == Epoch::JOIN || !client.alive {
            return;
        }
        let away = client.instance.is_some() && self.rng.below(2) == 0;
        let epoch = if away {
            Epoch::LEAVE_STATIC
        } else {
            Epoch::LEAVE
        };
        let beat = client.beat(epoch);
        let ticket = self.world.ask(Request::Heartbeat(Box::new(beat)));
        let client = &mut self.clients[chosen];
        client.waits = Some((ticket, epoch));
        client.owned.clear();
        client.told = None;
    }

    /// The process ends; it comes back as another member.
    fn crash(&mut self, chosen: usize) {
        self.lives += 1;
        let client = &mut self.clients[chosen];
        let number = client.id.split('.').next().unwrap().to_owned();
        *client = Client {
            id: format!("{number}.{}", self.lives),
            instance: client.instance,
            topics: client.topics.clone(),
            ..Client::new(CLIENTS)
        };
    }

    fn lose_answer(&mut self, chosen: usize) {
        let client = &mut self.clients[chosen];
        if client.waits.take().is_some() {
            client.full = true;
        }
    }

    fn resubscribe(&mut self, chosen: usize) {
        let count = 1 + usize::try_from(self.rng.below(3)).unwrap();
        self.clients[chosen].topics = TOPICS[..count].to_vec();
        self.clients[chosen].full = true;
    }

    fn grow_topic(&mut self) {
        let topic = TOPICS[usize::try_from(self.rng.below(3)).unwrap()];
        let partitions = 1 + u32::try_from(self.rng.below(12)).unwrap();
        self.world.topics.put(topic, partitions);
    }

    fn fail_over(&mut self) {
        let before = self.members();
        if !self.in_flight.is_empty() {
            // The new coordinator sees so many of them.
            let seen = self.rng.below(self.in_flight.len() as u64 + 1);
            for batch in self
                .in_flight
                .drain(..)
                .take(usize::try_from(seen).unwrap())
            {
                self.world.apply(&batch);
            }
            self.world.fail_over();
        } else {
            if self.rng.below(4) == 0 {
                self.world.fail_over_to_snapshot();
            } else {
                self.world.fail_over();
            }
            assert_eq!(
                before,
                self.members(),
                "a change of coordinator changed members"
            );
        }
        // Clients whose request was with the old one try again.
        let replies = &self.world.replies;
        for client in &mut self.clients {
            if client
                .waits
                .is_some_and(|(ticket, _)| !replies.contains_key(&ticket))
            {
                client.waits = None;
                client.full = true;
            }
        }
    }

    fn members(&self) -> Vec<(String, Epoch)> {
        let state = self.world.state();
        let consumer = state.group(&group("g")).and_then(|g| g.consumer());
        let members = consumer.into_iter().flat_map(ConsumerGroup::members);
        members.map(|m| (m.id.to_string(), m.epoch)).collect()
    }

    fn deliver(&mut self) {
        for client in &mut self.clients {
            let Some((ticket, asked)) = client.waits else {
                continue;
            };
            if let Some(Response::Heartbeat(answer)) = self.world.replies.remove(&ticket) {
                client.answered(asked, answer);
            }
        }
    }

    fn check(&mut self) {
        let state = self.world.state();
        let Some(found) = state.group(&group("g")) else {
            return;
        };
        assert!(found.epoch() >= self.group_epoch, "the group epoch fell");
        self.group_epoch = found.epoch();
        let Some(consumer) = found.consumer() else {
            return;
        };
        assert!(consumer.target_epoch() <= found.epoch());
        let mut owners: BTreeMap<PartitionId, &str> = BTreeMap::new();
        for m in consumer.members() {
            assert!(
                m.epoch <= consumer.target_epoch(),
                "beyond the target epoch"
            );
            for partition in m.assigned.iter().chain(m.revoking.iter()) {
                let other = owners.insert(*partition, m.id.as_str());
                assert_eq!(other, None, "{partition} has two owners");
                assert_eq!(consumer.owner(partition), m.slot);
            }
            if m.epoch.get() > 0 {
                let before = self.epochs.insert(m.id.to_string(), m.epoch);
                assert!(before.is_none_or(|b| b <= m.epoch), "a member epoch fell");
            }
        }
        for client in self.clients.iter().filter(|c| c.alive) {
            let Some(m) = consumer.member(&member(&client.id)) else {
                continue;
            };
            if m.epoch == client.epoch && client.waits.is_none() {
                let theirs = |p: &PartitionId| m.assigned.contains(p) || m.revoking.contains(p);
                assert!(
                    client.owned.iter().all(theirs),
                    "{} has more than it may",
                    client.id
                );
            }
        }
        for (partition, offset) in &self.committed {
            let stored = found.offset(partition).map(|o| o.offset);
            assert_eq!(stored, Some(*offset), "a committed offset changed");
        }
    }

    /// Without disturbances everybody gets its target after a few heartbeats.
    fn end(&mut self) {
        for batch in self.in_flight.drain(..) {
            self.world.commit(batch);
        }
        // Whoever is gone runs out of its session; the plan that follows waits if somebody came and went
        // again and again; then a few heartbeats hand everything over.
        let config = GroupConfig::default();
        let longest = config.consumer_session_timeout + config.max_flap_delay;
        for _ in 0..longest.as_secs() + 20 {
            self.world.pass(Duration::from_secs(1));
            for chosen in 0..self.clients.len() {
                self.follow(chosen);
                if self.clients[chosen].alive {
                    self.lose_answer(chosen);
                    self.heartbeat(chosen);
                    self.world.settle();
                    self.deliver();
                }
            }
            self.check();
        }
        let state = self.world.state();
        let Some(found) = state.group(&group("g")) else {
            return;
        };
        let Some(consumer) = found.consumer().filter(|c| c.member_count() > 0) else {
            return;
        };
        assert_eq!(found.phase(), GroupPhase::Stable, "{consumer:#?}");
        let mut assigned: Vec<PartitionId> = Vec::new();
        for m in consumer.members() {
            assert_eq!(m.assigned, m.target);
            assigned.extend(m.assigned.iter());
        }
        let wanted: BTreeSet<&str> = consumer
            .members()
            .flat_map(|m| m.topics.iter().map(TopicName::as_str))
            .collect();
        let all: usize = crate::TopicCatalog::all(&self.world.topics)
            .iter()
            .filter(|t| wanted.contains(t.name.as_str()))
            .map(|t| usize::try_from(t.partitions).unwrap())
            .sum();
        assert_eq!(assigned.len(), all, "not every partition is read");
    }
}

#[test]
fn no_disturbance_breaks_an_invariant_and_all_ends_settled() {
    let steps = std::env::var("RIVVEN_GROUPS_MODEL_STEPS").map_or(STEPS, |s| s.parse().unwrap());
    let per_run = 2_000;
    for seed in 0..steps.div_ceil(per_run) {
        let mut model = Model::new(seed);
        for _ in 0..per_run {
            model.step();
        }
        model.end();
    }
}
