//! A coordinator with its replicated state, a second replica, and a log between them, in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::{
    CommittedEntry, LogIndex, MonoTime, RackId, StateMachine, Term, TopicId, TopicName, UnixMillis,
};

use crate::{
    Batch, GroupConfig, GroupCoordinator, GroupError, GroupId, GroupsState, GroupsStateMachine,
    GroupsWatch, MAX_OPS, MemberId, Proposal, Request, Response, Ticket, TopicCatalog, TopicShape,
    View, decode_results,
};

/// Topics that tests change at will.
#[derive(Debug, Default)]
pub(super) struct Topics(Mutex<(u64, BTreeMap<TopicName, TopicShape>)>);

impl Topics {
    pub(super) fn put(&self, name: &str, partitions: u32) -> TopicId {
        let name = TopicName::new(name).unwrap();
        let mut inner = self.0.lock().unwrap();
        inner.0 += 1;
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(name.as_str().bytes()) {
            *to = from;
        }
        let id = TopicId::from_bytes(bytes);
        let shape = TopicShape {
            id,
            name: name.clone(),
            partitions,
        };
        inner.1.insert(name, shape);
        id
    }
}

impl TopicCatalog for Topics {
    fn version(&self) -> u64 {
        self.0.lock().unwrap().0
    }
    fn by_name(&self, name: &TopicName) -> Option<TopicShape> {
        self.0.lock().unwrap().1.get(name).cloned()
    }
    fn by_id(&self, id: TopicId) -> Option<TopicShape> {
        let inner = self.0.lock().unwrap();
        inner.1.values().find(|topic| topic.id == id).cloned()
    }
    fn all(&self) -> Vec<TopicShape> {
        self.0.lock().unwrap().1.values().cloned().collect()
    }
    fn racks(&self, _: TopicId) -> Vec<Vec<RackId>> {
        Vec::new()
    }
}

pub(super) struct World {
    pub(super) now: MonoTime,
    pub(super) topics: Topics,
    pub(super) coordinator: GroupCoordinator,
    machine: GroupsStateMachine,
    replica: GroupsStateMachine,
    watch: GroupsWatch,
    index: u64,
    issued: u64,
    pub(super) replies: BTreeMap<Ticket, Response>,
    pub(super) proposals: usize,
}

impl World {
    pub(super) fn new() -> Self {
        let watch = GroupsWatch::default();
        let mut world = Self {
            now: MonoTime::from_origin(Duration::from_secs(1)),
            topics: Topics::default(),
            coordinator: GroupCoordinator::new(GroupConfig::default()),
            machine: GroupsStateMachine::new(watch.publisher()),
            replica: GroupsStateMachine::new(Arc::new(|_| {})),
            watch,
            index: 0,
            issued: 0,
            replies: BTreeMap::new(),
            proposals: 0,
        };
        world.lead();
        world
    }

    pub(super) fn state(&self) -> Arc<GroupsState> {
        self.watch.current()
    }

    pub(super) fn step<T>(&mut self, step: impl FnOnce(&mut GroupCoordinator, View<'_>) -> T) -> T {
        let state = self.state();
        let view = View {
            now: self.now,
            state: &state,
            topics: &self.topics,
        };
        let outcome = step(&mut self.coordinator, view);
        self.replies.extend(self.coordinator.take_replies());
        outcome
    }

    pub(super) fn lead(&mut self) {
        self.step(|c, view| c.lead(view));
    }

    /// Another node takes over, which knows the replicated state alone.
    pub(super) fn fail_over(&mut self) {
        self.step(|c, _| c.resign());
        self.coordinator = GroupCoordinator::new(GroupConfig::default());
        self.lead();
    }

    /// As [`World::fail_over`] onto a node that was restored from a snapshot.
    pub(super) fn fail_over_to_snapshot(&mut self) {
        let mut image = Vec::new();
        self.machine.freeze().write_to(&mut image).unwrap();
        let mut restored = self.machine.restore(&mut image.as_slice()).unwrap();
        assert_eq!(restored.hash(), self.machine.hash());
        restored.installed();
        let mut again = Vec::new();
        restored.freeze().write_to(&mut again).unwrap();
        assert_eq!(image, again, "an image of an image is the same");
        self.fail_over();
    }

    pub(super) fn ask(&mut self, request: Request) -> Ticket {
        self.issued += 1;
        let ticket = Ticket(self.issued);
        self.step(|c, view| c.request(view, ticket, request));
        ticket
    }

    /// Asks and commits whatever follows; the answer, if there is one yet.
    pub(super) fn call(&mut self, request: Request) -> Option<Response> {
        let ticket = self.ask(request);
        self.settle();
        self.replies.remove(&ticket)
    }

    pub(super) fn take_batch(&mut self) -> Vec<Proposal> {
        self.coordinator.take_batch(MAX_OPS, 1 << 20)
    }

    /// Commits a batch on both replicas.
    pub(super) fn commit(&mut self, batch: Vec<Proposal>) {
        let results = self.apply(&batch);
        self.step(|c, view| c.applied(view, batch, results));
    }

    /// Applies a batch without telling the coordinator.
    pub(super) fn apply(&mut self, batch: &[Proposal]) -> Vec<crate::OpResult> {
        self.index += 1;
        self.proposals += 1;
        let ms = i64::try_from(self.now.since_origin().as_millis()).unwrap();
        let command = Batch {
            at: UnixMillis(ms),
            ops: batch.iter().map(|p| p.op.clone()).collect(),
        };
        let command = command.encode().unwrap();
        assert_eq!(Batch::decode(&command).unwrap().ops.len(), batch.len());
        let estimated: usize = batch.iter().map(|p| p.op.estimated_bytes()).sum();
        assert!(estimated + 16 >= command.len(), "the estimate is too low");
        let entry = CommittedEntry {
            index: LogIndex::new(self.index),
            term: Term::new(1),
            command,
        };
        let results = self.machine.apply(std::slice::from_ref(&entry)).unwrap();
        assert_eq!(results, self.replica.apply(&[entry]).unwrap());
        assert_eq!(self.machine.hash(), self.replica.hash());
        decode_results(&results[0]).unwrap()
    }

    pub(super) fn lose(&mut self, batch: Vec<Proposal>) {
        self.step(|c, view| c.failed(view, batch, &GroupError::LoadInProgress));
    }

    /// Commits until nothing is left to propose.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            let batch = self.take_batch();
            if batch.is_empty() {
                return;
            }
            self.commit(batch);
        }
        panic!("it never settles");
    }

    /// Lets time pass, in steps.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            let next = self.coordinator.next_tick().unwrap_or(until);
            self.now = next.max(self.now + Duration::from_millis(1)).min(until);
            self.step(|c, view| c.tick(view));
            self.settle();
        }
    }
}

pub(super) fn group(name: &str) -> GroupId {
    GroupId::new(name).unwrap()
}

pub(super) fn member(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}
