//! What members of consumer groups do in either protocol: they find the coordinator, commit and read offsets.

use std::sync::Arc;
use std::time::Duration;

use rivven_coordinator::consumer_groups::{
    Committer, Epoch, Group, GroupId, MemberId, OffsetToCommit, Op, Request, Response,
};
use rivven_core_types::{PartitionId, Rng, TopicName};
use tokio::time::timeout;

use super::group_history::GroupSeen;
use super::marks::Mark;
use super::stage::{Node, Stage};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// A member's place in its group.
pub(super) struct Seat {
    pub(super) stage: Arc<Stage>,
    pub(super) group: GroupId,
    pub(super) rng: Rng,
    number: u64,
    lives: u64,
}

impl Seat {
    pub(super) fn new(stage: Arc<Stage>, group: GroupId, number: u64) -> Self {
        Self {
            rng: stage.fork_rng(),
            stage,
            group,
            number,
            lives: 0,
        }
    }

    /// An id that nobody has had before.
    pub(super) fn fresh_id(&mut self) -> Option<MemberId> {
        self.lives += 1;
        MemberId::new(format!(
            "{}-{}.{}",
            self.group.as_str(),
            self.number,
            self.lives
        ))
        .ok()
    }

    pub(super) fn seen<T>(&self, change: impl FnOnce(&mut GroupSeen) -> T) -> T {
        let mut history = self.stage.history();
        change(history.groups.entry(self.group.clone()).or_default())
    }

    pub(super) async fn pause(&mut self, least: u64, spread: u64) {
        let millis = least + self.rng.below(spread);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// A node that believes it is the coordinator; several may.
    pub(super) async fn coordinator(&mut self) -> Option<Node> {
        let living = self.stage.living().into_iter();
        let mut believe: Vec<Node> = living
            .filter(|node| node.coordinator.groups().is_coordinator())
            .collect();
        let count = u64::try_from(believe.len()).unwrap_or(0);
        if count == 0 {
            return None;
        }
        let at = usize::try_from(self.rng.below(count)).unwrap_or(0);
        let node = believe.swap_remove(at);
        timeout(PATIENCE, node.reached()).await.ok()?;
        Some(node)
    }

    /// Asks a node; nothing if no answer comes, or the node has died.
    pub(super) async fn ask(
        &self,
        node: &Node,
        request: Request,
        patience: Duration,
    ) -> Option<Response> {
        let answer = timeout(patience, node.coordinator.groups().call(request)).await;
        answer.ok().filter(|_| self.stage.is_alive(node))
    }

    /// Commits the next offset of a partition, as member `id` of epoch or generation `epoch`.
    pub(super) async fn commit(
        &self,
        node: &Node,
        id: &MemberId,
        epoch: Epoch,
        partition: PartitionId,
    ) {
        let offset = self.seen(|seen| seen.next_offset(partition));
        let commit = Op::Commit {
            group: self.group.clone(),
            by: Committer {
                member: Some(id.clone()),
                instance: None,
                epoch,
            },
            offsets: vec![OffsetToCommit {
                partition,
                offset,
                leader_epoch: -1,
                metadata: "".into(),
            }],
        };
        match self.ask(node, Request::Propose(commit), PATIENCE).await {
            Some(Response::Done(Ok(()))) => {
                self.stage.mark(Mark::MemberCommitted);
                self.seen(|seen| seen.on_commit(partition, offset));
            }
            Some(_) => self.stage.mark(Mark::CommitFenced),
            None => {}
        }
    }

    /// Reads the offset of a partition, and looks at the group.
    pub(super) async fn read(&self, node: &Node, partition: PartitionId) {
        let acked = self.seen(|seen| seen.acked(&partition));
        let state = timeout(PATIENCE, node.coordinator.groups().read()).await;
        let Ok(Ok(state)) = state else { return };
        if !self.stage.is_alive(node) {
            return;
        }
        let found = state.group(&self.group).and_then(|g| g.offset(&partition));
        let found = found.map_or(-1, |committed| committed.offset);
        if let Err(detail) = self.seen(|seen| seen.on_offset(partition, acked, found)) {
            let detail = format!("{:?} on node {}: {detail}", self.group, node.number + 1);
            self.stage.violate("a committed offset stays", detail);
        }
    }

    /// Takes note of what the member owns now.
    pub(super) fn owns(
        &self,
        id: &MemberId,
        epoch: Epoch,
        owned: &std::collections::BTreeSet<PartitionId>,
    ) {
        if let Err(detail) = self.seen(|seen| seen.on_owned(id, epoch, owned)) {
            let detail = format!("{:?}: {detail}", self.group);
            self.stage
                .violate("one owner per partition and epoch", detail);
        }
    }

    /// The member is gone, be it that the coordinator does not know yet.
    pub(super) fn is_gone(&self, id: &MemberId) {
        self.seen(|seen| seen.members.remove(id));
    }
}

/// The topics that all groups read, with their partitions as any node knows them.
pub(super) fn subscribed(stage: &Stage, topics: &[TopicName]) -> Vec<PartitionId> {
    let living = stage.living();
    let Some(node) = living.first() else {
        return Vec::new();
    };
    let state = node.coordinator.cluster_state();
    let ids = topics.iter().filter_map(|name| Some(state.topic(name)?.id));
    ids.flat_map(|id| state.partitions_of_topic(id).map(|p| p.id))
        .collect()
}

/// Looks at what a node has applied of the groups.
pub(super) fn look_at_groups(stage: &Stage, node: &Node) {
    let groups = node.coordinator.groups();
    let state = groups.applied_state();
    let mut history = stage.history();
    let at = (state.applied().get(), state.hash());
    if history.group_hashes.get(&node.number) == Some(&(node.life, at)) {
        return;
    }
    history.group_hashes.insert(node.number, (node.life, at));
    let known = *history.group_states.entry(at.0).or_insert(at.1);
    drop(history);
    if known != at.1 {
        let detail = format!("at index {}: {known:016x} and {:016x}", at.0, at.1);
        stage.violate("equal index, equal groups", detail);
    }
    if groups.is_coordinator() {
        state.groups().for_each(|group| look_at_group(stage, group));
    }
}

fn look_at_group(stage: &Stage, group: &Group) {
    let mut history = stage.history();
    let Some(seen) = history.groups.get_mut(group.id()) else {
        return;
    };
    let checked = seen.on_state(group);
    drop(history);
    if let Err(detail) = checked {
        stage.violate(
            "a partition has one owner",
            format!("{:?}: {detail}", group.id()),
        );
    }
}

/// Whether every group with members has come to rest.
pub(super) fn settled(stage: &Stage, partitions: &[PartitionId]) -> bool {
    let coordinator = stage.living().into_iter();
    let mut coordinator = coordinator.filter(|node| node.coordinator.groups().is_coordinator());
    let Some(node) = coordinator.next() else {
        return false;
    };
    let state = node.coordinator.groups().applied_state();
    let history = stage.history();
    history.groups.iter().all(|(id, seen)| {
        let group = state.group(id);
        group.is_some_and(|group| seen.is_settled(group, partitions))
    })
}
