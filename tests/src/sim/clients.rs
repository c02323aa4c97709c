//! Producers and consumers: as librdkafka behaves, straight on the replication managers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rivven_core_types::{
    BatchBuilder, LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId, RecordBatch, Rng,
    split_batches,
};
use rivven_isr::{
    Acks, Fetch, FetchPartition, OffsetSpec, Produce, ReplicationError, ReplicationManager,
};
use tokio::time::timeout;

use super::history::Value;
use super::marks::Mark;
use super::stage::{Node, Stage};

/// Longest pause of a client after an error, in milliseconds.
const MAX_BACKOFF_MILLIS: u64 = 200;

struct Pending {
    batch: RecordBatch,
    first: i32,
    records: i32,
}

/// The leader as a client knows it: never one of an older epoch than it has heard of (KIP-320).
struct Route {
    partition: PartitionId,
    epoch: LeaderEpoch,
    leader: Option<Node>,
}

impl Route {
    const fn new(partition: PartitionId) -> Self {
        Self {
            partition,
            epoch: LeaderEpoch::new(-1),
            leader: None,
        }
    }

    /// Asks a random living node for the leader.
    fn refresh(&mut self, stage: &Stage, rng: &mut Rng) {
        let living = stage.living();
        let Some(asked) = pick(rng, &living) else {
            self.leader = None;
            return;
        };
        let state = asked.coordinator.cluster_state();
        let Some(record) = state.partition(&self.partition) else {
            return;
        };
        if record.leader_epoch < self.epoch {
            return;
        }
        self.epoch = record.leader_epoch;
        let name = record
            .leader
            .and_then(|id| Some(state.broker(id)?.info.name.clone()));
        self.leader = living
            .iter()
            .find(|node| Some(&node.coordinator.config().node.name) == name.as_ref())
            .cloned();
    }

    fn target(&self) -> Option<(Node, ReplicationManager)> {
        let leader = self.leader.clone()?;
        let replication = leader.coordinator.replication()?;
        Some((leader, replication))
    }
}

fn pick<'a, T>(rng: &mut Rng, items: &'a [T]) -> Option<&'a T> {
    let n = usize::try_from(rng.below(u64::try_from(items.len()).unwrap_or(0))).unwrap_or(0);
    items.get(n)
}

async fn pause(rng: &mut Rng, up_to_millis: u64) {
    tokio::time::sleep(Duration::from_millis(1 + rng.below(up_to_millis))).await;
}

/// An idempotent producer of one partition: several batches in flight, repeated in order under their
/// first sequence numbers until each is acknowledged.
pub(super) struct Producer {
    pub(super) id: i64,
    pub(super) partition: PartitionId,
    /// Below [`Acks::All`] it is not idempotent and tries nothing twice.
    pub(super) acks: Acks,
    pub(super) in_flight: usize,
    pub(super) think_millis: u64,
}

impl Producer {
    pub(super) async fn run(self, stage: Arc<Stage>) {
        let mut rng = stage.fork_rng();
        let mut route = Route::new(self.partition);
        let mut window: VecDeque<Pending> = VecDeque::new();
        let mut next = 0;
        while stage.violation().is_none() {
            // Nothing new overtakes what has to be sent again: a broker remembers the last five batches.
            let fresh = window.is_empty();
            while fresh && window.len() < self.in_flight && !stage.is_draining() {
                let records = 1 + i32::try_from(rng.below(3)).unwrap_or(0);
                if let Some(batch) = self.batch(&stage, &mut rng, next, records) {
                    window.push_back(Pending {
                        batch,
                        first: next,
                        records,
                    });
                    stage.unacked.fetch_add(1, Ordering::Relaxed);
                }
                next += records;
            }
            if window.is_empty() {
                return;
            }
            pause(&mut rng, self.think_millis).await;
            if route.leader.is_none() {
                route.refresh(&stage, &mut rng);
            }
            if !self.send(&stage, &mut rng, &mut route, &mut window).await {
                route.leader = None;
                pause(&mut rng, MAX_BACKOFF_MILLIS).await;
            }
        }
    }

    fn batch(&self, stage: &Stage, rng: &mut Rng, first: i32, records: i32) -> Option<RecordBatch> {
        let mut batch = BatchBuilder::new(0);
        if self.acks == Acks::All {
            batch = batch.producer(ProducerId::new(self.id), ProducerEpoch::new(0), first);
        }
        for sequence in first..first + records {
            let value = Value {
                producer: self.id,
                sequence,
            };
            stage.history().seen(self.partition).sent.insert(value);
            let padding = usize::try_from(rng.below(200)).unwrap_or(0);
            batch = batch.record(0, None, Some(value.encode(padding).as_bytes()));
        }
        batch.build().ok()
    }

    /// Sends the window in order; true if all of it was acknowledged.
    async fn send(
        &self,
        stage: &Stage,
        rng: &mut Rng,
        route: &mut Route,
        window: &mut VecDeque<Pending>,
    ) -> bool {
        let Some((node, replication)) = route.target() else {
            return false;
        };
        let patience = Duration::from_millis(500 + rng.below(2_500));
        if timeout(patience, node.reached()).await.is_err() {
            stage.count("produce: nobody is there");
            return false;
        }
        let answers: Vec<_> = window
            .iter()
            .map(|pending| {
                replication.produce(Produce {
                    partition: self.partition,
                    batch: pending.batch.clone(),
                    acks: self.acks,
                    timeout: patience,
                })
            })
            .collect();
        // Some clients give up before the broker does.
        let give_up = patience.mul_f64(if rng.below(4) == 0 { 0.5 } else { 1.5 });
        let mut all = true;
        let mut left = VecDeque::new();
        for answer in answers {
            let Some(pending) = window.pop_front() else {
                break;
            };
            match timeout(give_up, answer).await {
                Ok(Ok(produced)) if stage.is_alive(&node) => {
                    self.on_ack(stage, &pending, produced.base_offset);
                    continue;
                }
                Ok(Ok(_)) => stage.count("answers of dead nodes"),
                Ok(Err(error)) => {
                    stage.count(&format!("produce: {}", name_of(&error)));
                    mark_error(stage, &error);
                    if let ReplicationError::OutOfOrderSequence { expected, found } = error
                        && all
                        && stage.is_alive(&node)
                    {
                        stage.count("out of order at the head of the window");
                        stage.tell(format!(
                            "producer {} at {} epoch {} ({}): sent {found}, expected {expected}",
                            self.id,
                            stage.label(self.partition),
                            route.epoch,
                            node.number + 1,
                        ));
                    }
                }
                Err(_elapsed) => stage.count("produce: client gave up"),
            }
            all = false;
            if self.acks == Acks::All {
                left.push_back(pending);
            } else {
                stage.unacked.fetch_sub(1, Ordering::Relaxed);
            }
        }
        *window = left;
        all
    }

    fn on_ack(&self, stage: &Stage, pending: &Pending, base: Offset) {
        stage.unacked.fetch_sub(1, Ordering::Relaxed);
        if self.acks != Acks::All {
            stage.mark(Mark::LooseAck);
            return;
        }
        let mut history = stage.history();
        let seen = history.seen(self.partition);
        for n in 0..pending.records {
            let value = Value {
                producer: self.id,
                sequence: pending.first + n,
            };
            if let Some(offset) = base.checked_add(u64::from(n.unsigned_abs())) {
                seen.acked.insert(value, offset);
                seen.committed = seen.committed.max(offset.checked_add(1).unwrap_or(offset));
            }
        }
    }
}

/// A consumer of one partition: reads below the high watermark and follows the leader.
pub(super) struct Consumer {
    pub(super) partition: PartitionId,
}

impl Consumer {
    pub(super) async fn run(self, stage: Arc<Stage>) {
        let mut rng = stage.fork_rng();
        let mut route = Route::new(self.partition);
        let (mut position, mut end) = (Offset::ZERO, Offset::ZERO);
        while stage.violation().is_none() {
            pause(&mut rng, 50).await;
            if rng.below(50) == 0 {
                // A new member of the group begins anew: it must read the same records.
                position = Offset::ZERO;
            }
            if route.leader.is_none() {
                route.refresh(&stage, &mut rng);
            }
            let Some((node, replication)) = route.target() else {
                route.leader = None;
                pause(&mut rng, MAX_BACKOFF_MILLIS).await;
                continue;
            };
            let done = if rng.below(4) == 0 {
                self.look_at_end(&stage, &node, &replication, route.epoch, &mut end)
                    .await
            } else {
                self.read(&stage, &node, &replication, route.epoch, &mut position)
                    .await
            };
            if done.is_none() {
                route.leader = None;
            }
        }
    }

    /// The end that consumers see never goes back (KIP-207).
    async fn look_at_end(
        &self,
        stage: &Stage,
        node: &Node,
        replication: &ReplicationManager,
        epoch: LeaderEpoch,
        end: &mut Offset,
    ) -> Option<()> {
        let asked = replication.list_offset(self.partition, OffsetSpec::Latest, Some(epoch));
        let asked = node.scope.hold(asked);
        let latest = match timeout(Duration::from_secs(2), asked).await.ok()? {
            Ok(latest) if stage.is_alive(node) => latest?.offset,
            Ok(_) => return None,
            Err(error) => {
                stage.count(&format!("list offset: {}", name_of(&error)));
                return None;
            }
        };
        if latest < *end {
            let node = node.number + 1;
            let detail = format!(
                "{}: {end} was followed by {latest} of node {node}",
                self.partition
            );
            stage.violate("the visible end never goes back", detail);
        }
        *end = latest;
        Some(())
    }

    async fn read(
        &self,
        stage: &Stage,
        node: &Node,
        replication: &ReplicationManager,
        epoch: LeaderEpoch,
        position: &mut Offset,
    ) -> Option<()> {
        let fetch = Fetch {
            partitions: vec![FetchPartition {
                partition: self.partition,
                offset: *position,
                current_leader_epoch: Some(epoch),
                max_bytes: 1 << 20,
            }],
            max_wait: Duration::from_millis(100),
            min_bytes: 1,
            max_bytes: 1 << 20,
        };
        let fetched = node.scope.hold(replication.fetch(fetch));
        let fetched = timeout(Duration::from_secs(2), fetched).await;
        let fetched = match fetched.ok()?.pop()?.result {
            Ok(fetched) if stage.is_alive(node) => fetched,
            Ok(_) => return None,
            Err(error) => {
                stage.count(&format!("fetch: {}", name_of(&error)));
                mark_error(stage, &error);
                if let ReplicationError::OffsetOutOfRange { .. } = error
                    && stage.is_alive(node)
                {
                    let detail = format!("{} at {position}: {error}", self.partition);
                    stage.violate("what was read stays", detail);
                }
                return None;
            }
        };
        match records(fetched.bytes) {
            Ok(records) => {
                for (offset, value) in records {
                    let read = stage.history().on_read(self.partition, offset, value);
                    if let Err(detail) = read {
                        stage.violate("what was read stays", detail);
                    }
                    *position = (*position).max(offset.checked_add(1)?);
                }
            }
            Err(detail) => stage.violate("a fetch returns whole batches", detail),
        }
        if *position > fetched.high_watermark {
            let detail = format!(
                "{}: read up to {position}, {}",
                self.partition, fetched.high_watermark
            );
            stage.violate("nobody reads above the high watermark", detail);
        }
        Some(())
    }
}

/// The records of whole batches with their offsets.
pub(super) fn records(bytes: bytes::Bytes) -> Result<Vec<(Offset, Value)>, String> {
    let mut found = Vec::new();
    for batch in split_batches(bytes).map_err(|e| e.to_string())? {
        let base = batch.header().base().ok_or("a batch without base offset")?;
        for (n, record) in (0u64..).zip(batch.records()) {
            let record = record.map_err(|e| e.to_string())?;
            let value = record.value.and_then(Value::decode);
            let offset = base.checked_add(n).ok_or("offset beyond the range")?;
            found.push((offset, value.ok_or("a record that no client wrote")?));
        }
    }
    Ok(found)
}

fn name_of(error: &ReplicationError) -> String {
    let text = format!("{error:?}");
    let end = text.find([' ', '(', '{']).unwrap_or(text.len());
    text.get(..end).unwrap_or_default().to_owned()
}

fn mark_error(stage: &Stage, error: &ReplicationError) {
    match error {
        ReplicationError::NotEnoughReplicas { .. } => stage.mark(Mark::TooFewInSync),
        ReplicationError::RequestTimedOut { .. } => stage.mark(Mark::WriteTimedOut),
        ReplicationError::OffsetNotAvailable => stage.mark(Mark::EndNotKnown),
        ReplicationError::FencedLeaderEpoch { .. } => stage.mark(Mark::ClientFenced),
        ReplicationError::LogUnavailable { .. } => stage.mark(Mark::LogOffline),
        _ => {}
    }
}
