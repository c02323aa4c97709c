//! What a shard does for clients and followers.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use rivven_core_types::{
    BrokerId, EpochEnd, LeaderEpoch, MonoTime, NodeEpoch, Offset, PartitionId, RecordBatch,
    TimestampedOffset,
};
use tokio::sync::Notify;

use super::Shard;
use crate::core::{
    Acks, DeleteIn, FetchPosition, FetchReply, OffsetSpec, ProduceIn, ReplicaFetch, ReplicaFetched,
};
use crate::driver::api::{Fetched, FetchedPartition, Produced};
use crate::driver::command::{Answer, ConsumerFetch, Positions, ReplicaRead, Wanted, earlier};
use crate::driver::protocol::FetchEntry;
use crate::driver::session;
use crate::error::ReplicationError;

impl Shard {
    pub(super) fn produce(
        &mut self,
        partition: PartitionId,
        batch: &RecordBatch,
        acks: Acks,
        deadline: MonoTime,
        reply: Answer<Produced>,
    ) {
        let _before = self
            .parts
            .mailbox
            .queued_bytes
            .fetch_sub(batch.bytes().len(), Ordering::Relaxed);
        let id = self.next_ack;
        self.next_ack += 1;
        let _previous = self.acks.insert(id, reply);
        let contact = self.contact();
        // What the followers' parked fetches say: they stand where they stood, and had everything.
        let polls = self.polls(partition);
        let done = self.drive(partition, |core, log, view, now, out| {
            for (broker, node_epoch, at) in polls {
                core.polled(broker, node_epoch, at, log);
            }
            let input = ProduceIn {
                id,
                batch,
                acks,
                deadline,
                contact,
            };
            core.produce(now, &input, view, log, out);
        });
        if let Err(error) = done
            && let Some(reply) = self.acks.remove(&id)
        {
            let _gone = reply.send(Err(error));
        }
    }

    /// When each follower of a partition last fetched.
    fn polls(&self, partition: PartitionId) -> Vec<(BrokerId, NodeEpoch, MonoTime)> {
        let watchers = self.partitions.get(&partition).map(|e| &e.watchers);
        let sessions = watchers.into_iter().flatten().filter_map(Weak::upgrade);
        sessions
            .map(|s| (s.broker, s.node_epoch, s.polled_at()))
            .collect()
    }

    pub(super) fn consumer_fetch(&mut self, fetch: ConsumerFetch) {
        let mut answers = Vec::with_capacity(fetch.partitions.len());
        let mut left = fetch.max_bytes;
        for (index, wanted) in fetch.partitions {
            let max_bytes = wanted.max_bytes.min(left);
            let read = self.drive(wanted.partition, |core, log, _view, _now, out| {
                core.consumer_read(
                    wanted.offset,
                    wanted.current_leader_epoch,
                    max_bytes,
                    log,
                    out,
                )
            });
            let result = read.and_then(|read| read).map(|read| Fetched {
                high_watermark: read.high_watermark,
                log_start: read.log_start,
                bytes: read.bytes,
            });
            if let Ok(fetched) = &result {
                left = left.saturating_sub(fetched.bytes.len());
            }
            let max_waiting = self.parts.config.max_waiting_fetches;
            if let Some(entry) = self.partitions.get_mut(&wanted.partition) {
                park(&mut entry.consumers, &fetch.wake, max_waiting);
            }
            let partition = wanted.partition;
            answers.push((index, FetchedPartition { partition, result }));
        }
        let _gone = fetch.reply.send(answers);
    }

    pub(super) fn list_offset(
        &mut self,
        partition: PartitionId,
        spec: OffsetSpec,
        epoch: Option<LeaderEpoch>,
        reply: Answer<Option<TimestampedOffset>>,
    ) {
        let contact = self.contact();
        let found = self.drive(partition, |core, log, _view, _now, out| {
            core.list_offset(spec, epoch, contact, log, out)
        });
        let _gone = reply.send(found.and_then(|found| found));
    }

    pub(super) fn epoch_end(
        &mut self,
        partition: PartitionId,
        asked: LeaderEpoch,
        epoch: Option<LeaderEpoch>,
        reply: Answer<Option<EpochEnd>>,
    ) {
        let found = self.drive(partition, |core, log, _view, _now, _out| {
            core.epoch_end(asked, epoch, log)
        });
        let _gone = reply.send(found.and_then(|found| found));
    }

    pub(super) fn delete_records(
        &mut self,
        partition: PartitionId,
        before: Option<Offset>,
        deadline: MonoTime,
        reply: Answer<Produced>,
    ) {
        let id = self.next_ack;
        self.next_ack += 1;
        let _previous = self.acks.insert(id, reply);
        let done = self.drive(partition, |core, log, _view, now, out| {
            let input = DeleteIn {
                id,
                before,
                deadline,
            };
            core.delete_records(now, input, log, out);
        });
        if let Err(error) = done
            && let Some(reply) = self.acks.remove(&id)
        {
            let _gone = reply.send(Err(error));
        }
    }

    pub(super) fn replica_read(&mut self, read: ReplicaRead) {
        let mut answers = Vec::with_capacity(read.entries.len());
        let mut left = read.max_bytes;
        let now = self.now();
        for stand in read.entries {
            let entry = stand.entry;
            let mut fetch = ReplicaFetch {
                broker: read.broker,
                node_epoch: read.node_epoch,
                session_epoch: stand.session_epoch,
                position: entry.position,
                max_bytes: read.partition_max_bytes.min(left),
            };
            let throttled =
                fetch.max_bytes > 0 && self.is_throttled(entry.partition, read.broker, now);
            let throttle = &self.parts.throttles.leader;
            if throttled {
                fetch.max_bytes = fetch.max_bytes.min(throttle.available(now));
            }
            let answer = self
                .drive(entry.partition, |core, log, view, now, out| {
                    core.replica_fetch(now, &fetch, view, log, out)
                })
                .and_then(|answer| answer);
            let mut more = false;
            if let Ok(ReplicaFetched::Data { bytes, .. }) = &answer {
                left = left.saturating_sub(bytes.len());
                more = bytes.is_empty();
                if throttled {
                    self.parts.throttles.leader.spend(now, bytes.len());
                }
            }
            if let Some(session) = &read.session
                && let Some(partition) = self.partitions.get_mut(&entry.partition)
            {
                session::watch(&mut partition.watchers, session);
                if more && entry.position.fetch_offset < partition.log.log_end() {
                    if throttled {
                        if self.put_off.push(entry.partition, session) {
                            self.parts.throttles.leader.count_wait();
                        }
                    } else {
                        // The answer is full; it is the next one's turn.
                        session.queue(entry.partition);
                    }
                }
            }
            self.release(entry.partition, read.broker, now);
            answers.push((entry, answer));
        }
        let _gone = read.reply.send(answers);
    }

    pub(super) fn local_fetch(
        &mut self,
        partition: PartitionId,
        broker: BrokerId,
        offset: Offset,
        reply: Answer<Fetched>,
    ) {
        let max_bytes = self.parts.config.fetch_partition_max_bytes;
        let answer = self.drive(partition, |core, log, view, now, out| {
            // The caller vouches for the replica's log: it stands for the same epochs as ours.
            let position = FetchPosition {
                fetch_offset: offset,
                durable_end: offset,
                ..core.fetch_position(log)
            };
            let node_epoch = core.node_epoch_of(broker, view)?;
            let fetch = ReplicaFetch {
                broker,
                node_epoch,
                session_epoch: core.next_session_epoch(broker),
                position,
                max_bytes,
            };
            match core.replica_fetch(now, &fetch, view, log, out)? {
                ReplicaFetched::Data {
                    high_watermark,
                    log_start,
                    bytes,
                } => Ok(Fetched {
                    high_watermark,
                    log_start,
                    bytes,
                }),
                ReplicaFetched::Diverging { .. } => Err(ReplicationError::OffsetOutOfRange {
                    requested: offset,
                    log_start: log.log_start(),
                    log_end: log.log_end(),
                }),
            }
        });
        let now = self.now();
        self.release(partition, broker, now);
        let _gone = reply.send(answer.and_then(|answer| answer));
    }

    /// Where the followers of `leader` stand, but for those whose fetch was just refused.
    pub(super) fn positions(
        &mut self,
        leader: BrokerId,
        wanted: &Wanted,
        limit: usize,
    ) -> Positions {
        let now = self.now();
        let mut positions = Positions::default();
        let mut moved = self.moved.remove(&leader).unwrap_or_default();
        match wanted {
            Wanted::All => {
                let followers = self.partitions.iter_mut();
                for (partition, entry) in
                    followers.filter(|(_, e)| e.core.follows() == Some(leader))
                {
                    entry.session_told = None;
                    let _new = moved.for_session.insert(*partition);
                }
            }
            Wanted::Session(again) => {
                for partition in again {
                    // What another leader was told since is not this one's to forget.
                    let entry = self.partitions.get_mut(partition);
                    if let Some(entry) = entry.filter(|e| e.core.follows() == Some(leader)) {
                        entry.session_told = None;
                        let _new = moved.for_session.insert(*partition);
                    }
                }
            }
            Wanted::Moved => {}
        }
        let report = matches!(wanted, Wanted::Moved);
        let throttle = &self.parts.throttles.follower;
        // A report asks for no records.
        let held_until = if report {
            None
        } else {
            throttle.not_before(now)
        };
        let later = if report {
            &mut moved.for_report
        } else {
            if held_until.is_none() {
                moved.for_session.append(&mut moved.held);
            }
            &mut moved.for_session
        };
        for partition in std::mem::take(later) {
            let Some(entry) = self.partitions.get_mut(&partition) else {
                continue;
            };
            if entry.core.follows() != Some(leader) {
                continue;
            }
            if held_until.is_some() && entry.core.catches_up(&*entry.log) {
                if moved.held.insert(partition) {
                    throttle.count_wait();
                }
                continue;
            }
            if !report {
                let _was = moved.held.remove(&partition);
            }
            if let Some(at) = entry.core.fetch_not_before(now) {
                positions.retry_at = earlier(positions.retry_at, Some(at));
                let _new = later.insert(partition);
                continue;
            }
            let position = entry.core.fetch_position(&*entry.log);
            let told = if report {
                entry.told
            } else {
                entry.session_told
            };
            if told == Some(position) {
                continue;
            }
            if positions.entries.len() >= limit {
                positions.is_cut_short = true;
                let _new = later.insert(partition);
                continue;
            }
            entry.told = Some(position);
            if !report {
                entry.session_told = Some(position);
            }
            positions.entries.push(FetchEntry {
                partition,
                position,
                high_watermark: entry.core.high_watermark(),
            });
        }
        positions.held_until = held_until.filter(|_| !moved.held.is_empty());
        let _none = self.moved.insert(leader, moved);
        positions
    }

    /// Takes `leader`'s answers to a follower's fetch.
    pub(super) fn fetched(
        &mut self,
        leader: BrokerId,
        replies: Vec<(PartitionId, Option<FetchPosition>, FetchReply)>,
    ) {
        for (partition, asked, answer) in replies {
            let is_session = asked.is_none();
            let told = self
                .partitions
                .get_mut(&partition)
                // An answer without a position is matched with what the present leader was told: a
                // deposed one's, late, must not be taken for it (KIP-320).
                .filter(|entry| entry.core.follows() == Some(leader))
                .and_then(|entry| match asked {
                    Some(asked) => Some(asked),
                    // Whatever the answer was, the leader now waits until it hears of the partition.
                    None => entry.session_told.take(),
                });
            // A partition that has gone meanwhile, or follows another leader, needs no answer.
            let Some(asked) = told else {
                continue;
            };
            self.count_fetched(partition, &answer);
            let may_ask = is_session && is_without_records(&answer);
            let _unknown = self.drive(partition, |core, log, _view, now, out| {
                core.fetched(now, &asked, answer, log, out);
            });
            if may_ask {
                self.report_if_held(leader, partition);
            }
        }
    }
}

/// Whether all that an answer may want is to hear where the follower stands.
fn is_without_records(answer: &FetchReply) -> bool {
    matches!(answer, FetchReply::Fetched(ReplicaFetched::Data { bytes, .. }) if bytes.is_empty())
}

/// Registers a long poll. At the bound the poll is not woken, and answers when its wait is over.
fn park(waiters: &mut Vec<Weak<Notify>>, wake: &Arc<Notify>, max: usize) {
    if waiters.len() >= max {
        waiters.retain(|w| w.strong_count() > 0);
    }
    let this = Arc::downgrade(wake);
    if waiters.len() < max && !waiters.iter().any(|w| w.ptr_eq(&this)) {
        waiters.push(this);
    }
}
