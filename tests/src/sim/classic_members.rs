//! Members of a consumer group that speak the classic protocol: all give everything up, join, and one of them
//! assigns.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_coordinator::consumer_groups::{
    ClassicHeartbeat, ClientInfo, Epoch, GroupError, GroupId, JoinRequest, Joined, LeaveRequest,
    Leaving, MemberId, Request, Response, SyncRequest,
};
use rivven_core_types::{PartitionId, TopicId, TopicName};

use super::group_seat::{Seat, subscribed};
use super::marks::Mark;
use super::stage::{Node, Stage};

/// How long an answer may take: of a join and of a sync as long as the slowest member takes.
const PATIENCE: Duration = Duration::from_secs(4);
const JOIN_PATIENCE: Duration = Duration::from_secs(15);
const SESSION_MILLIS: u32 = 6_000;
const REBALANCE_MILLIS: u32 = 8_000;
/// A partition in an assignment: its topic, its index.
const PARTITION_BYTES: usize = 20;

/// A member.
pub(super) struct ClassicConsumer {
    seat: Seat,
    topics: Vec<TopicName>,
    id: Option<MemberId>,
    /// The generation that it is in with its share; none while it has to join.
    generation: Option<Epoch>,
    owned: BTreeSet<PartitionId>,
}

impl ClassicConsumer {
    pub(super) fn new(
        stage: Arc<Stage>,
        group: GroupId,
        number: u64,
        topics: Vec<TopicName>,
    ) -> Self {
        Self {
            seat: Seat::new(stage, group, number),
            topics,
            id: None,
            generation: None,
            owned: BTreeSet::new(),
        }
    }

    /// Works until it is aborted.
    pub(super) async fn run(mut self) {
        while self.seat.stage.violation().is_none() {
            self.seat.pause(100, 700).await;
            if self.seat.rng.below(50) == 0 && !self.seat.stage.is_draining() {
                self.go().await;
            }
            let Some(node) = self.seat.coordinator().await else {
                continue;
            };
            match (self.id.clone(), self.generation) {
                (Some(id), Some(generation)) => self.stay(&node, id, generation).await,
                _ => self.join(&node).await,
            }
        }
    }

    /// It leaves, or its process ends without a word; another comes in its place.
    async fn go(&mut self) {
        let Some(id) = self.id.take() else { return };
        self.give_up(&id);
        self.seat.is_gone(&id);
        if self.seat.rng.below(2) == 0
            && let Some(node) = self.seat.coordinator().await
        {
            let leaving = Leaving {
                member: Some(id),
                instance: None,
            };
            let leave = Request::Leave(LeaveRequest {
                group: self.seat.group.clone(),
                members: vec![leaving],
            });
            drop(self.seat.ask(&node, leave, PATIENCE).await);
        }
        self.seat.pause(1, 8_000).await;
    }

    /// It has to join again, and owns nothing until then.
    fn give_up(&mut self, id: &MemberId) {
        if let Some(generation) = self.generation.take() {
            self.owned.clear();
            self.seat.owns(id, generation, &self.owned);
        }
    }

    async fn stay(&mut self, node: &Node, id: MemberId, generation: Epoch) {
        let beat = Request::ClassicHeartbeat(ClassicHeartbeat {
            group: self.seat.group.clone(),
            member: id.clone(),
            instance: None,
            generation,
        });
        match self.seat.ask(node, beat, PATIENCE).await {
            Some(Response::Done(Ok(()))) => {}
            Some(Response::Done(Err(error))) => return self.refused(&error),
            _ => return,
        }
        let owned: Vec<_> = self.owned.iter().copied().collect();
        let count = u64::try_from(owned.len()).unwrap_or(0);
        let at = usize::try_from(self.seat.rng.below(count)).unwrap_or(0);
        if let Some(partition) = owned.get(at) {
            if self.seat.rng.below(3) == 0 {
                self.seat.read(node, *partition).await;
            } else {
                self.seat.commit(node, &id, generation, *partition).await;
            }
        }
    }

    fn refused(&mut self, error: &GroupError) {
        let Some(id) = self.id.clone() else { return };
        match error {
            GroupError::RebalanceInProgress | GroupError::IllegalGeneration => self.give_up(&id),
            GroupError::UnknownMember => {
                self.seat.stage.mark(Mark::MemberFenced);
                self.give_up(&id);
                self.seat.is_gone(&id);
                self.id = None;
            }
            _ => {}
        }
    }

    async fn join(&mut self, node: &Node) {
        let Some(fresh_id) = self.seat.fresh_id() else {
            return;
        };
        let join = Request::Join(JoinRequest {
            group: self.seat.group.clone(),
            member: self.id.clone(),
            fresh_id,
            instance: None,
            client: ClientInfo::default(),
            session_timeout_ms: SESSION_MILLIS,
            rebalance_timeout_ms: REBALANCE_MILLIS,
            protocol_type: "consumer".to_owned(),
            protocols: vec![("all".to_owned(), Bytes::from_static(b"all"))],
            knows_member_id_required: false,
            knows_skip_assignment: false,
        });
        match self.seat.ask(node, join, JOIN_PATIENCE).await {
            Some(Response::Joined(Ok(joined))) => {
                self.id = Some(joined.member.clone());
                self.sync(node, &joined).await;
            }
            Some(Response::Joined(Err(error))) => self.refused(&error),
            _ => {}
        }
    }

    async fn sync(&mut self, node: &Node, joined: &Joined) {
        let assignments = if joined.leader == joined.member.as_str() {
            assign(joined, &subscribed(&self.seat.stage, &self.topics))
        } else {
            Vec::new()
        };
        let sync = Request::Sync(SyncRequest {
            group: self.seat.group.clone(),
            member: joined.member.clone(),
            instance: None,
            generation: joined.generation,
            protocol_type: None,
            protocol: None,
            assignments,
        });
        match self.seat.ask(node, sync, JOIN_PATIENCE).await {
            Some(Response::Synced(Ok(synced))) => {
                self.seat.stage.mark(Mark::ClassicRound);
                self.generation = Some(joined.generation);
                self.owned = decode(&synced.assignment);
                let (generation, owned) = (joined.generation, &self.owned);
                self.seat.owns(&joined.member, generation, owned);
            }
            Some(Response::Synced(Err(error))) => self.refused(&error),
            _ => {}
        }
    }
}

/// Deals the partitions out.
fn assign(joined: &Joined, partitions: &[PartitionId]) -> Vec<(MemberId, Bytes)> {
    let members = joined.members.len();
    let share = |n: usize| {
        let own = partitions.iter().skip(n).step_by(members.max(1));
        own.flat_map(|p| {
            let mut bytes = p.topic.as_bytes().to_vec();
            bytes.extend(p.index.get().to_be_bytes());
            bytes
        })
        .collect::<Bytes>()
    };
    let members = joined.members.iter().enumerate();
    members
        .map(|(n, (id, ..))| (id.clone(), share(n)))
        .collect()
}

fn decode(assignment: &[u8]) -> BTreeSet<PartitionId> {
    let partition = |bytes: &[u8]| {
        let (topic, index) = bytes.split_at_checked(16)?;
        let topic = TopicId::from_bytes(topic.try_into().ok()?);
        let index = u32::from_be_bytes(index.try_into().ok()?);
        Some(PartitionId::new(topic, index))
    };
    let parts = assignment.chunks_exact(PARTITION_BYTES);
    parts.filter_map(partition).collect()
}
