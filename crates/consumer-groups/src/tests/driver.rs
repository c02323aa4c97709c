//! The driver on a log that commits at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BoxFuture, CommittedEntry, LogIndex, ProposeError, Proposed, Proposer, RaftGroupId,
    StateMachine, SystemClock, Term,
};
use tokio::sync::Semaphore;

use super::rules::beat;
use super::world::{Topics, group, member};
use crate::{
    ConsumerCoordinator, Epoch, GroupConfig, GroupPorts, GroupsStateMachine, GroupsWatch, Request,
    Response,
};

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(10);

/// Commits on this thread: at once, or when it may.
struct Log {
    inner: Arc<Mutex<(u64, GroupsStateMachine)>>,
    /// How often it may.
    permits: Arc<Semaphore>,
    /// Proposals so far.
    asked: Arc<AtomicU64>,
}

impl Proposer for Log {
    fn propose(
        &self,
        _: RaftGroupId,
        command: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Proposed, ProposeError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let (inner, permits) = (Arc::clone(&self.inner), Arc::clone(&self.permits));
        Box::pin(async move {
            permits.acquire().await.unwrap().forget();
            let mut inner = inner.lock().unwrap();
            inner.0 += 1;
            let index = LogIndex::new(inner.0);
            let entry = CommittedEntry {
                index,
                term: Term::new(1),
                command,
            };
            let result = inner.1.apply(&[entry]).unwrap().remove(0);
            Ok(Proposed { index, result })
        })
    }
}

struct Driven {
    coordinator: ConsumerCoordinator,
    state: GroupsWatch,
    permits: Arc<Semaphore>,
    asked: Arc<AtomicU64>,
}

/// A coordinator that leads, on a log that may commit so often.
fn driven(permits: usize) -> Driven {
    let state = GroupsWatch::default();
    let topics = Topics::default();
    topics.put("t", 2);
    let machine = GroupsStateMachine::new(state.publisher());
    let permits = Arc::new(Semaphore::new(permits));
    let asked = Arc::new(AtomicU64::new(0));
    let ports = GroupPorts {
        proposer: Arc::new(Log {
            inner: Arc::new(Mutex::new((0, machine))),
            permits: Arc::clone(&permits),
            asked: Arc::clone(&asked),
        }),
        state: state.clone(),
        topics: Arc::new(topics),
        clock: Arc::new(SystemClock::default()),
    };
    let coordinator = ConsumerCoordinator::new(GroupConfig::default(), ports);
    coordinator.lead();
    Driven {
        coordinator,
        state,
        permits,
        asked,
    }
}

#[tokio::test]
async fn who_closes_before_it_hears_that_it_has_joined_is_no_member() {
    let Driven {
        coordinator, state, ..
    } = driven(Semaphore::MAX_PERMITS);
    let driver = coordinator.clone();
    let running = tokio::spawn(async move { driver.run().await });
    let join = |id| coordinator.call(Request::Heartbeat(Box::new(beat(id, Epoch::JOIN, &[]))));
    // The connection is closed while the join is on its way.
    drop(join("gone"));
    let stays = tokio::time::timeout(DEADLINE, join("stays")).await.unwrap();
    assert!(matches!(stays, Response::Heartbeat(Ok(_))), "{stays:?}");
    let gone = async {
        loop {
            let now = state.current();
            let consumer = now.group(&group("g")).and_then(|g| g.consumer());
            if consumer.is_some_and(|c| {
                c.member(&member("gone")).is_none() && c.member(&member("stays")).is_some()
            }) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.unwrap();
    running.abort();
}

#[tokio::test]
async fn who_joins_again_while_its_first_join_is_answered_stays_a_member() {
    let Driven {
        coordinator,
        state,
        permits,
        asked,
    } = driven(2);
    let driver = coordinator.clone();
    let running = tokio::spawn(async move { driver.run().await });
    let join = |id| coordinator.call(Request::Heartbeat(Box::new(beat(id, Epoch::JOIN, &[]))));
    drop(join("a"));
    // Its join and the plan are committed, and what brings its share is on its way.
    let proposed = async {
        while asked.load(Ordering::SeqCst) < 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, proposed).await.unwrap();
    let again = join("a");
    permits.add_permits(1_000);
    for answer in [again, join("b")] {
        let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap();
        assert!(matches!(answer, Response::Heartbeat(Ok(_))), "{answer:?}");
    }
    let now = state.current();
    let consumer = now.group(&group("g")).and_then(|g| g.consumer()).unwrap();
    assert!(consumer.member(&member("a")).is_some());
    running.abort();
}
