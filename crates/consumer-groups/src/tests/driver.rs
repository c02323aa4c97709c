//! The driver on a log that commits at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BoxFuture, CommittedEntry, LogIndex, PartitionId, ProposeError, Proposed, Proposer,
    RaftGroupId, StateMachine, SystemClock, Term, TopicId,
};
use tokio::sync::Semaphore;

use super::rules::beat;
use super::world::{Topics, group, member};
use crate::{
    Committer, ConsumerCoordinator, Epoch, GroupConfig, GroupPorts, GroupsStateMachine,
    GroupsWatch, OffsetToCommit, Op, Request, Response,
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
    /// Proposals under way, and most of them at a time.
    under_way: Arc<(AtomicU64, AtomicU64)>,
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
        let under_way = Arc::clone(&self.under_way);
        let now = under_way.0.fetch_add(1, Ordering::SeqCst) + 1;
        under_way.1.fetch_max(now, Ordering::SeqCst);
        Box::pin(async move {
            permits.acquire().await.unwrap().forget();
            under_way.0.fetch_sub(1, Ordering::SeqCst);
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
    under_way: Arc<(AtomicU64, AtomicU64)>,
}

/// A coordinator that leads, on a log that may commit so often.
fn driven(permits: usize) -> Driven {
    let state = GroupsWatch::default();
    let topics = Topics::default();
    topics.put("t", 2);
    let machine = GroupsStateMachine::new(state.publisher());
    let permits = Arc::new(Semaphore::new(permits));
    let asked = Arc::new(AtomicU64::new(0));
    let under_way: Arc<(AtomicU64, AtomicU64)> = Arc::default();
    let ports = GroupPorts {
        proposer: Arc::new(Log {
            inner: Arc::new(Mutex::new((0, machine))),
            permits: Arc::clone(&permits),
            asked: Arc::clone(&asked),
            under_way: Arc::clone(&under_way),
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
        under_way,
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
        ..
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

/// A slow log does not make what comes later wait for the outcome of what came before: a few proposals are
/// under way, and they are committed and answered in their order.
#[tokio::test]
async fn proposals_are_under_way_beside_each_other_in_their_order_and_bounded() {
    let Driven {
        coordinator,
        state,
        permits,
        asked,
        under_way,
    } = driven(0);
    let driver = coordinator.clone();
    let running = tokio::spawn(async move { driver.run().await });
    let partition = PartitionId::new(TopicId::from_bytes([1; 16]), 0);
    let commit = |offset| {
        let by = Committer {
            member: None,
            instance: None,
            epoch: Epoch::new(-1),
        };
        let offsets = vec![OffsetToCommit {
            partition,
            offset,
            leader_epoch: 1,
            metadata: "".into(),
        }];
        let group = group("g");
        coordinator.call(Request::Propose(Op::Commit { group, by, offsets }))
    };
    let mut answers = Vec::new();
    for offset in 0..10 {
        answers.push(commit(offset));
        let proposals = (offset.cast_unsigned() + 1).min(4);
        let proposed = async {
            while asked.load(Ordering::SeqCst) < proposals {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, proposed).await.unwrap();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 4, "the rest waits together");
    permits.add_permits(1_000);
    for answer in answers {
        let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap();
        assert!(matches!(answer, Response::Done(Ok(()))), "{answer:?}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 5);
    assert_eq!(under_way.1.load(Ordering::SeqCst), 4);
    let now = state.current();
    let stored = now.group(&group("g")).and_then(|g| g.offset(&partition));
    assert_eq!(stored.map(|o| o.offset), Some(9));
    running.abort();
}
