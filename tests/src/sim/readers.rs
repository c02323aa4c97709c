//! A consumer group that remembers how far it has read: what it was told is committed stays.

use std::sync::Arc;
use std::time::Duration;

use rivven_coordinator::consumer_groups::{
    Committer, Epoch, GroupId, OffsetToCommit, Op, Request, Response,
};
use rivven_core_types::{PartitionId, Rng};
use tokio::time::timeout;

use super::marks::Mark;
use super::stage::{Node, Stage};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// Commits growing offsets of one partition for a group of its own, one at a time, and reads them back.
pub(super) struct Reader {
    stage: Arc<Stage>,
    partition: PartitionId,
    group: GroupId,
    rng: Rng,
    /// The greatest offset whose commit was acknowledged, and the greatest that was ever sent.
    acked: i64,
    sent: i64,
}

impl Reader {
    pub(super) fn new(stage: Arc<Stage>, partition: PartitionId, n: usize) -> Option<Self> {
        Some(Self {
            rng: stage.fork_rng(),
            stage,
            partition,
            group: GroupId::new(format!("readers-{n}")).ok()?,
            acked: -1,
            sent: -1,
        })
    }

    /// Works until it is aborted.
    pub(super) async fn run(mut self) {
        while self.stage.violation().is_none() {
            let pause = 50 + self.rng.below(400);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let coordinator = self.stage.living().into_iter();
            let coordinator = coordinator
                .filter(|node| node.coordinator.groups().is_coordinator())
                .nth(0);
            let Some(node) = coordinator else {
                continue;
            };
            // What it asked before the node stood still, the node answers when it goes on.
            node.reached().await;
            if self.rng.below(3) == 0 {
                self.read(&node).await;
            } else {
                self.commit(&node).await;
            }
        }
    }

    async fn commit(&mut self, node: &Node) {
        self.sent += 1;
        let offset = OffsetToCommit {
            partition: self.partition,
            offset: self.sent,
            leader_epoch: -1,
            metadata: "".into(),
        };
        let commit = Op::Commit {
            group: self.group.clone(),
            by: Committer {
                member: None,
                instance: None,
                epoch: Epoch::new(-1),
            },
            offsets: vec![offset],
        };
        let answer = node.coordinator.groups().call(Request::Propose(commit));
        let answer = timeout(PATIENCE, answer).await;
        if let Ok(Response::Done(Ok(()))) = answer
            && self.stage.is_alive(node)
        {
            self.stage.mark(Mark::OffsetCommitted);
            self.acked = self.sent;
        } else {
            self.stage.count("offset commits refused");
        }
    }

    async fn read(&self, node: &Node) {
        let read = timeout(PATIENCE, node.coordinator.groups().read()).await;
        let Ok(Ok(state)) = read else {
            return;
        };
        if !self.stage.is_alive(node) {
            return;
        }
        let group = state.group(&self.group);
        let found = group.and_then(|group| group.offset(&self.partition));
        let found = found.map_or(-1, |committed| committed.offset);
        if found < self.acked || found > self.sent {
            let detail = format!(
                "{:?}: {} was acknowledged and {} sent, node {} says {found}",
                self.group,
                self.acked,
                self.sent,
                node.number + 1
            );
            self.stage.violate("a committed offset stays", detail);
        }
    }
}
