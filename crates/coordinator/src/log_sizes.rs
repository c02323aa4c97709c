//! How long the partitions' logs are: what their leaders tell the controller beside their heartbeats, so
//! that it can bound the bytes that are copied at a time.
//!
//! Sizes change with every record and decide nothing but the pace of moves, so that they are no part of
//! the replicated metadata. A controller that has just been elected learns them within one interval.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{BrokerId, MonoTime, PartitionId, RpcError};
use rivven_metadata::ClusterState;
use rivven_placement::Limits;
use serde::{Deserialize, Serialize};

use crate::messages;

/// How often a leader tells the sizes of its logs.
const INTERVAL: Duration = Duration::from_secs(5);
/// Most sizes beside one heartbeat: they must not hold it up. The next one has the next of them.
const MAX_PER_REPORT: usize = 1_000;

/// The body of a `BROKER_HEARTBEAT`; most have none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct SizeReport {
    /// Partitions that the sender leads, and the bytes of their logs.
    pub(crate) sizes: Vec<(PartitionId, u64)>,
}

impl SizeReport {
    /// Nothing at all if there is nothing to tell.
    pub(crate) fn encode(&self) -> Result<Bytes, RpcError> {
        if self.sizes.is_empty() {
            return Ok(Bytes::new());
        }
        messages::encode(self)
    }

    pub(crate) fn decode(body: &[u8]) -> Result<Self, RpcError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        messages::decode(body)
    }
}

/// The leader's side: what to tell next.
#[derive(Debug, Default)]
pub(crate) struct Reporter {
    /// When all sizes were taken last.
    taken: Option<MonoTime>,
    left: Vec<(PartitionId, u64)>,
}

impl Reporter {
    /// What goes beside the heartbeat of `now`; `sizes` takes them all.
    pub(crate) fn due(
        &mut self,
        now: MonoTime,
        sizes: impl FnOnce() -> Vec<(PartitionId, u64)>,
    ) -> SizeReport {
        if self.left.is_empty() && self.taken.is_none_or(|at| now.since(at) >= INTERVAL) {
            self.taken = Some(now);
            self.left = sizes();
        }
        let keep = self.left.len().saturating_sub(MAX_PER_REPORT);
        SizeReport {
            sizes: self.left.split_off(keep),
        }
    }
}

/// The controller's side: the size that each partition's leader told last.
#[derive(Debug, Default)]
pub(crate) struct LogSizes(Mutex<BTreeMap<PartitionId, u64>>);

impl LogSizes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PartitionId, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of what `broker` tells of the partitions that it leads.
    pub(crate) fn record(&self, broker: BrokerId, report: &SizeReport, state: &ClusterState) {
        let mut known = self.lock();
        for (id, bytes) in &report.sizes {
            let partition = state.partition(id);
            if partition.is_some_and(|p| p.leader == Some(broker)) {
                known.insert(*id, *bytes);
            }
        }
        if known.len() > state.partition_count() {
            known.retain(|id, _| state.partition(id).is_some());
        }
    }

    /// Forgets everything: another node is the controller.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// A copy to plan with.
    pub(crate) fn snapshot(&self) -> BTreeMap<PartitionId, u64> {
        self.lock().clone()
    }
}

/// What counts as the size of a log of which nobody has told: as much as may be copied at a time, so that
/// it is copied alone where bytes are limited.
pub(crate) fn unknown_size(limits: &Limits) -> u64 {
    let bounds = [
        limits.max_bytes_in_flight,
        limits.max_bytes_in_per_node,
        limits.max_bytes_out_per_node,
    ];
    bounds.into_iter().max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_core_types::TopicId;

    fn at(seconds: u64) -> MonoTime {
        MonoTime::from_origin(Duration::from_secs(seconds))
    }

    fn sizes(count: u32) -> Vec<(PartitionId, u64)> {
        let id = |index| PartitionId::new(TopicId::from_bytes([1; 16]), index);
        (0..count).map(|n| (id(n), u64::from(n))).collect()
    }

    #[test]
    fn all_sizes_are_told_in_parts_and_again_after_the_interval() {
        let mut reporter = Reporter::default();
        let mut told = Vec::new();
        for beat in 0..4 {
            let report = reporter.due(at(0), || sizes(2_500));
            assert!(report.sizes.len() <= MAX_PER_REPORT, "{beat}");
            assert!(report.encode().unwrap().len() < 32 * 1024);
            told.extend(report.sizes);
            if told.len() == 2_500 {
                break;
            }
        }
        told.sort_unstable();
        assert_eq!(told, sizes(2_500));
        assert!(reporter.due(at(4), || sizes(1)).sizes.is_empty());
        assert_eq!(reporter.due(at(5), || sizes(1)).sizes, sizes(1));
    }

    #[test]
    fn a_report_survives_the_wire_and_no_report_has_no_bytes() {
        let report = SizeReport { sizes: sizes(3) };
        let body = report.encode().unwrap();
        assert_eq!(SizeReport::decode(&body).unwrap(), report);
        let none = SizeReport::default();
        assert!(none.encode().unwrap().is_empty());
        assert_eq!(SizeReport::decode(&[]).unwrap(), none);
        assert!(SizeReport::decode(&body[..body.len() - 1]).is_err());
    }

    #[test]
    fn an_unknown_size_fills_any_limit() {
        assert_eq!(unknown_size(&Limits::default()), 0);
        let limits = Limits {
            max_bytes_in_flight: 50,
            max_bytes_out_per_node: 70,
            ..Limits::default()
        };
        assert_eq!(unknown_size(&limits), 70);
    }
}
