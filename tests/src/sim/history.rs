//! What clients have tried and seen, and what the nodes have said: the material of the checks.

use std::collections::{BTreeMap, BTreeSet};

use rivven_coordinator::consumer_groups::GroupId;
use rivven_core_types::{BrokerId, LeaderEpoch, Offset, PartitionId, PartitionState};

use super::group_history::GroupSeen;
use super::marks::Mark;

/// Producers with numbers from here on write with acks=0 or acks=1: what they write may be lost, or
/// stand in the log though nobody heard of it.
pub(super) const LOOSE: i64 = 1_000_000_000;

/// A record as a client knows it: which producer wrote it, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Value {
    pub(super) producer: i64,
    pub(super) sequence: i32,
}

impl Value {
    pub(super) fn encode(self, padding: usize) -> String {
        let fill = "x".repeat(padding);
        format!("{}:{}:{fill}", self.producer, self.sequence)
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut parts = text.split(':');
        Some(Self {
            producer: parts.next()?.parse().ok()?,
            sequence: parts.next()?.parse().ok()?,
        })
    }
}

/// One partition as the clients know it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Acknowledged records and where they were said to be.
    pub(super) acked: BTreeMap<Value, Offset>,
    /// Everything that was ever sent.
    pub(super) sent: BTreeSet<Value>,
    /// What consumers have read.
    pub(super) read: BTreeMap<Offset, Value>,
    /// The greatest high watermark that any node has had.
    pub(super) committed: Offset,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) partitions: BTreeMap<PartitionId, Seen>,
    pub(super) groups: BTreeMap<GroupId, GroupSeen>,
    /// The hash of all groups at each index, and where each node was last: its life, the index, the hash.
    pub(super) group_states: BTreeMap<u64, u64>,
    pub(super) group_hashes: BTreeMap<usize, (u64, (u64, u64))>,
    leaders: BTreeMap<(PartitionId, LeaderEpoch), BrokerId>,
    acting: BTreeMap<(PartitionId, LeaderEpoch), BrokerId>,
    records: BTreeMap<(PartitionId, i32), PartitionState>,
    hashes: BTreeMap<u64, u64>,
    producer_ids: BTreeSet<i64>,
    raft_leaders: BTreeMap<u64, usize>,
    highest_term: u64,
    /// Greatest index that any node has applied.
    pub(super) applied: u64,
    /// Changes of leadership.
    pub(super) leader_changes: u64,
    /// Changes of an in-sync set without a change of leader.
    pub(super) isr_changes: u64,
    /// Whether some partition had no more than one in-sync replica.
    pub(super) shrunk_to_one: u64,
    /// Whether some partition had no leader.
    pub(super) leaderless: u64,
}

impl History {
    pub(super) fn seen(&mut self, partition: PartitionId) -> &mut Seen {
        self.partitions.entry(partition).or_default()
    }

    pub(super) fn acked(&self) -> usize {
        self.partitions.values().map(|seen| seen.acked.len()).sum()
    }

    pub(super) fn read(&self) -> usize {
        self.partitions.values().map(|seen| seen.read.len()).sum()
    }

    /// A consumer read `value` at `offset`.
    pub(super) fn on_read(
        &mut self,
        partition: PartitionId,
        offset: Offset,
        value: Value,
    ) -> Result<(), String> {
        let seen = self.seen(partition);
        if !seen.sent.contains(&value) {
            return Err(format!("{partition} has {value:?} at {offset}: never sent"));
        }
        match seen.read.insert(offset, value) {
            Some(before) if before != value => Err(format!(
                "{partition} at {offset}: consumers have read {before:?} and {value:?}"
            )),
            _ => Ok(()),
        }
    }

    /// A node has applied metadata up to `index`, and its state has this hash.
    pub(super) fn on_hash(&mut self, index: u64, hash: u64) -> Result<(), String> {
        self.applied = self.applied.max(index);
        let known = *self.hashes.entry(index).or_insert(hash);
        if known == hash {
            Ok(())
        } else {
            Err(format!("at index {index}: {known:016x} and {hash:016x}"))
        }
    }

    /// Somebody knows this term; the highest that anybody ever knew.
    pub(super) fn highest_term(&mut self, term: u64) -> u64 {
        self.highest_term = self.highest_term.max(term);
        self.highest_term
    }

    /// A node leads the metadata group in this term.
    pub(super) fn on_raft_leader(&mut self, term: u64, node: usize) -> Result<(), String> {
        let known = *self.raft_leaders.entry(term).or_insert(node);
        if known == node {
            Ok(())
        } else {
            Err(format!("term {term}: nodes {} and {}", known + 1, node + 1))
        }
    }

    /// A node holds this record of a partition; what it marks, if it is new to everybody.
    pub(super) fn on_record(
        &mut self,
        record: &PartitionState,
    ) -> Result<Option<Vec<Mark>>, String> {
        if let Some(leader) = record.leader {
            let key = (record.id, record.leader_epoch);
            let known = *self.leaders.entry(key).or_insert(leader);
            if known != leader {
                return Err(format!("{key:?}: the metadata names {known} and {leader}"));
            }
            if !record.isr.contains(&leader) {
                return Err(format!("the leader is not in sync: {record:?}"));
            }
        }
        let key = (record.id, record.partition_epoch.get());
        if let Some(known) = self.records.get(&key) {
            return if known == record {
                Ok(None)
            } else {
                Err(format!(
                    "one partition epoch, two records: {known:?} and {record:?}"
                ))
            };
        }
        if record.elr.iter().any(|broker| record.isr.contains(broker)) {
            return Err(format!("in sync and eligible at once: {record:?}"));
        }
        let mut marks = Vec::new();
        let earlier = self.records.range(..key).next_back();
        if let Some((_, earlier)) = earlier.filter(|((id, _), _)| *id == record.id) {
            if earlier.leader_epoch > record.leader_epoch {
                return Err(format!(
                    "the leader epoch falls: {earlier:?} and {record:?}"
                ));
            }
            if earlier.leader.is_none() && earlier.isr.is_empty() && record.leader.is_some() {
                marks.push(Mark::Recovered);
            }
            if earlier.isr.len() < record.isr.len() {
                marks.push(Mark::Joined);
            }
            if earlier.leader != record.leader {
                self.leader_changes += 1;
            } else if earlier.isr != record.isr {
                self.isr_changes += 1;
            }
        }
        self.leaderless += u64::from(record.leader.is_none());
        self.shrunk_to_one += u64::from(record.isr.len() <= 1);
        for (is_so, mark) in [
            (record.leader.is_none(), Mark::Leaderless),
            (record.isr.len() == 1, Mark::AloneInSync),
            (!record.elr.is_empty(), Mark::Eligible),
        ] {
            marks.extend(is_so.then_some(mark));
        }
        self.records.insert(key, record.clone());
        Ok(Some(marks))
    }

    /// A node acts as leader.
    pub(super) fn on_acting(
        &mut self,
        partition: PartitionId,
        epoch: LeaderEpoch,
        broker: BrokerId,
    ) -> Result<(), String> {
        let known = *self.acting.entry((partition, epoch)).or_insert(broker);
        if known == broker {
            Ok(())
        } else {
            Err(format!(
                "{partition} epoch {epoch}: {known} and {broker} both act as leader"
            ))
        }
    }

    /// A producer id was handed out.
    pub(super) fn on_producer_id(&mut self, id: i64) -> Result<(), String> {
        if self.producer_ids.insert(id) {
            Ok(())
        } else {
            Err(format!("producer id {id} was handed out twice"))
        }
    }
}

/// Checks the final log of one partition against what the clients know.
pub(super) fn check_log(
    partition: PartitionId,
    seen: &Seen,
    log: &[(Offset, Value)],
) -> Result<(), (&'static str, String)> {
    let mut positions: BTreeMap<Value, Offset> = BTreeMap::new();
    let mut last: BTreeMap<i64, i32> = BTreeMap::new();
    for (n, (offset, value)) in log.iter().enumerate() {
        if i64::try_from(n) != Ok(offset.get()) {
            return Err(("offsets are dense", format!("{partition}: {offset} at {n}")));
        }
        if !seen.sent.contains(value) {
            return Err((
                "no phantom record",
                format!("{partition} {offset}: {value:?}"),
            ));
        }
        if let Some(first) = positions.insert(*value, *offset) {
            let detail = format!("{partition}: {value:?} at {first} and {offset}");
            return Err(("no record twice", detail));
        }
        let expected = last.get(&value.producer).map_or(0, |last| last + 1);
        let in_order = if value.producer >= LOOSE {
            value.sequence >= expected
        } else {
            value.sequence == expected
        };
        if !in_order {
            let detail = format!("{partition} {offset}: {value:?} where {expected} was due");
            return Err(("order per producer", detail));
        }
        last.insert(value.producer, value.sequence);
    }
    for (value, said) in &seen.acked {
        match positions.get(value) {
            None => {
                let detail = format!(
                    "{partition}: {value:?} was acknowledged at {said}; the log ends at {}",
                    log.len()
                );
                return Err(("no acknowledged record lost", detail));
            }
            Some(at) if at != said => {
                let detail = format!("{partition}: {value:?} acknowledged at {said}, is at {at}");
                return Err(("an acknowledgement names the offset", detail));
            }
            Some(_) => {}
        }
    }
    let now: BTreeMap<Offset, Value> = log.iter().copied().collect();
    for (offset, value) in &seen.read {
        if now.get(offset) != Some(value) {
            let found = now.get(offset);
            let detail = format!("{partition} {offset}: read {value:?}, is {found:?}");
            return Err(("what was read stays", detail));
        }
    }
    Ok(())
}
