//! The metrics, by name.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::Counter;
use rivven_core_types::{ProposeError, RaftGroupId};

use crate::status::{RaftState, RaftStatus};

fn label(group: RaftGroupId) -> String {
    group.to_string()
}

/// Counts in metrics are floats; above 2^53 they lose the last digits, which no dashboard shows.
fn gauge_value(value: u64) -> f64 {
    let high = u32::try_from(value >> 32).unwrap_or(u32::MAX);
    let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    f64::from(high) * 4_294_967_296.0 + f64::from(low)
}

pub(crate) fn fsync(group: RaftGroupId, took: Duration) {
    metrics::histogram!("rivven_raft_log_fsync_seconds", "group" => label(group))
        .record(took.as_secs_f64());
}

/// How long the oldest write has waited for the disk, and whether that is a stall.
pub(crate) fn disk(group: RaftGroupId, waited: Duration, is_stalled: bool) {
    let stalled = f64::from(u8::from(is_stalled));
    metrics::gauge!("rivven_raft_log_oldest_write_seconds", "group" => label(group))
        .set(waited.as_secs_f64());
    metrics::gauge!("rivven_raft_disk_stalled", "group" => label(group)).set(stalled);
}

pub(crate) fn snapshot_fallback(group: RaftGroupId) {
    metrics::counter!("rivven_raft_snapshot_fallbacks_total", "group" => label(group)).increment(1);
}

pub(crate) fn restart(group: RaftGroupId) {
    metrics::counter!("rivven_raft_restarts_total", "group" => label(group)).increment(1);
}

pub(crate) fn status(before: &RaftStatus, now: &RaftStatus) {
    let group = label(now.group);
    let index = |i: Option<rivven_core_types::LogIndex>| gauge_value(i.map_or(0, |i| i.get()));
    let leads = f64::from(u8::from(now.state == RaftState::Leader));
    metrics::gauge!("rivven_raft_term", "group" => group.clone()).set(gauge_value(now.term.get()));
    metrics::gauge!("rivven_raft_is_leader", "group" => group.clone()).set(leads);
    metrics::gauge!("rivven_raft_applied_index", "group" => group.clone()).set(index(now.applied));
    metrics::gauge!("rivven_raft_commit_index", "group" => group.clone()).set(index(now.committed));
    metrics::gauge!("rivven_raft_last_log_index", "group" => group.clone())
        .set(index(now.last_log));
    if now.leader.is_some() && (before.leader != now.leader || before.term != now.term) {
        metrics::counter!("rivven_raft_leader_changes_total", "group" => group).increment(1);
    }
}

/// The counters of proposals by their outcome. Each is looked up once: a look-up costs more than the count.
#[derive(Debug)]
pub(crate) struct Outcomes {
    group: RaftGroupId,
    counters: [OnceLock<Counter>; NAMES.len()],
}

const NAMES: [&str; 8] = [
    "ok",
    "not_leader",
    "not_initialized",
    "too_large",
    "not_understood",
    "overloaded",
    "unknown",
    "unavailable",
];

impl Outcomes {
    pub(crate) fn new(group: RaftGroupId) -> Self {
        Self {
            group,
            counters: Default::default(),
        }
    }

    pub(crate) fn count<T>(&self, outcome: &Result<T, ProposeError>) {
        let name = match outcome {
            Ok(_) => "ok",
            Err(ProposeError::NotLeader { .. }) => "not_leader",
            Err(ProposeError::NotInitialized) => "not_initialized",
            Err(ProposeError::TooLarge { .. }) => "too_large",
            Err(ProposeError::NotUnderstood { .. }) => "not_understood",
            Err(ProposeError::Overloaded) => "overloaded",
            Err(ProposeError::Unknown { .. }) => "unknown",
            Err(_) => "unavailable",
        };
        let mut counters = NAMES.iter().zip(&self.counters);
        if let Some((_, counter)) = counters.find(|(known, _)| **known == name) {
            let group = || label(self.group);
            let look_up = || metrics::counter!("rivven_raft_proposals_total", "group" => group(), "outcome" => name);
            counter.get_or_init(look_up).increment(1);
        }
    }
}
