//! Members of a consumer group that speak the consumer protocol (KIP-848): as librdkafka behaves, straight on
//! the coordinator.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rivven_coordinator::consumer_groups::{
    ClientInfo, Epoch, GroupError, GroupId, Heartbeat, HeartbeatAnswer, MemberId, Partitions,
    Request, Response,
};
use rivven_core_types::{PartitionId, TopicName};

use super::group_seat::Seat;
use super::marks::Mark;
use super::stage::{Node, Stage};

/// How long an answer to a heartbeat may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// A member.
pub(super) struct Member {
    seat: Seat,
    topics: Vec<TopicName>,
    id: MemberId,
    epoch: Epoch,
    owned: BTreeSet<PartitionId>,
    /// The next heartbeat says everything.
    full: bool,
    /// It has changed what it owns since it last said so.
    changed: bool,
}

impl Member {
    pub(super) fn new(
        stage: Arc<Stage>,
        group: GroupId,
        number: u64,
        topics: Vec<TopicName>,
    ) -> Option<Self> {
        let mut seat = Seat::new(stage, group, number);
        Some(Self {
            id: seat.fresh_id()?,
            seat,
            topics,
            epoch: Epoch::JOIN,
            owned: BTreeSet::new(),
            full: true,
            changed: false,
        })
    }

    /// Works until it is aborted.
    pub(super) async fn run(mut self) {
        while self.seat.stage.violation().is_none() {
            self.seat.pause(100, 600).await;
            if self.seat.rng.below(40) == 0 && !self.seat.stage.is_draining() {
                self.go().await;
            }
            let Some(node) = self.seat.coordinator().await else {
                continue;
            };
            self.beat(&node).await;
            let owned: Vec<_> = self.owned.iter().copied().collect();
            let count = u64::try_from(owned.len()).unwrap_or(0);
            let at = usize::try_from(self.seat.rng.below(count)).unwrap_or(0);
            if let Some(partition) = owned.get(at) {
                if self.seat.rng.below(3) == 0 {
                    self.seat.read(&node, *partition).await;
                } else {
                    let (id, epoch) = (&self.id, self.epoch);
                    self.seat.commit(&node, id, epoch, *partition).await;
                }
            }
        }
    }

    /// It leaves, or its process ends without a word; another comes in its place.
    async fn go(&mut self) {
        self.owned.clear();
        self.seat.is_gone(&self.id);
        if self.seat.rng.below(2) == 0
            && let Some(node) = self.seat.coordinator().await
        {
            let beat = Request::Heartbeat(Box::new(self.heartbeat(Epoch::LEAVE)));
            drop(self.seat.ask(&node, beat, PATIENCE).await);
        }
        self.seat.pause(1, 8_000).await;
        if let Some(id) = self.seat.fresh_id() {
            self.id = id;
        }
        self.join_anew();
    }

    fn join_anew(&mut self) {
        self.epoch = Epoch::JOIN;
        self.owned.clear();
        self.full = true;
    }

    fn heartbeat(&self, epoch: Epoch) -> Heartbeat {
        let full = self.full || epoch == Epoch::JOIN;
        Heartbeat {
            group: self.seat.group.clone(),
            member: self.id.clone(),
            instance: None,
            epoch,
            rack: None,
            client: ClientInfo::default(),
            rebalance_timeout_ms: full.then_some(5_000),
            topics: full.then(|| self.topics.clone()),
            pattern: full.then(String::new),
            assignor: None,
            owned: (full || self.changed).then(|| self.owned.iter().copied().collect()),
        }
    }

    async fn beat(&mut self, node: &Node) {
        let beat = Request::Heartbeat(Box::new(self.heartbeat(self.epoch)));
        self.changed = false;
        match self.seat.ask(node, beat, PATIENCE).await {
            Some(Response::Heartbeat(Ok(answer))) => self.told(answer),
            Some(Response::Heartbeat(Err(
                GroupError::FencedMemberEpoch(_) | GroupError::UnknownMember,
            ))) => {
                self.seat.stage.mark(Mark::MemberFenced);
                self.join_anew();
                self.seat.owns(&self.id, self.epoch, &self.owned);
            }
            _ => self.full = true,
        }
    }

    fn told(&mut self, answer: HeartbeatAnswer) {
        self.epoch = answer.epoch;
        self.full = false;
        if let Some(assignment) = answer.assignment {
            let told = assigned(&assignment);
            if told != self.owned {
                self.seat.stage.mark(Mark::GroupRebalanced);
                self.changed = true;
                self.owned = told;
            }
        }
        self.seat.owns(&self.id, self.epoch, &self.owned);
    }
}

fn assigned(partitions: &Partitions) -> BTreeSet<PartitionId> {
    partitions.iter().copied().collect()
}
