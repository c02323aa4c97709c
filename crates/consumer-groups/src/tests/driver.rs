//! The driver on a log that commits at once.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BoxFuture, CommittedEntry, LogIndex, ProposeError, Proposed, Proposer, RaftGroupId,
    StateMachine, SystemClock, Term,
};

use super::rules::beat;
use super::world::{Topics, group, member};
use crate::{
    ConsumerCoordinator, Epoch, GroupConfig, GroupPorts, GroupsStateMachine, GroupsWatch, Request,
    Response,
};

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(10);

/// Commits at once, on this thread.
struct Log(Mutex<(u64, GroupsStateMachine)>);

impl Proposer for Log {
    fn propose(
        &self,
        _: RaftGroupId,
        command: Bytes,
        _: Duration,
    ) -> BoxFuture<'static, Result<Proposed, ProposeError>> {
        let mut inner = self.0.lock().unwrap();
        inner.0 += 1;
        let index = LogIndex::new(inner.0);
        let entry = CommittedEntry {
            index,
            term: Term::new(1),
            command,
        };
        let result = inner.1.apply(&[entry]).unwrap().remove(0);
        Box::pin(async move { Ok(Proposed { index, result }) })
    }
}

#[tokio::test]
async fn who_closes_before_it_hears_that_it_has_joined_is_no_member() {
    let state = GroupsWatch::default();
    let topics = Topics::default();
    topics.put("t", 2);
    let machine = GroupsStateMachine::new(state.publisher());
    let ports = GroupPorts {
        proposer: Arc::new(Log(Mutex::new((0, machine)))),
        state: state.clone(),
        topics: Arc::new(topics),
        clock: Arc::new(SystemClock::default()),
    };
    let coordinator = ConsumerCoordinator::new(GroupConfig::default(), ports);
    coordinator.lead();
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
