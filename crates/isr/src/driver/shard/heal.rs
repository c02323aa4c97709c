//! A replica whose stored bytes are wrong is made anew from its leader.

use rivven_core_types::PartitionState;

use super::{OpenFailure, Shard};
use crate::core::Output;

/// Most replicas that one shard makes anew in the life of its process. A disk that damages more is
/// not to be trusted: the rest stays offline, and the broker is fenced.
const MAX_HEALED: u32 = 64;

impl Shard {
    /// Removes a damaged local replica that nobody counts on, so that it is opened empty and fetches
    /// everything again. Nobody does while another broker leads and this one is neither in sync nor
    /// eligible: then every committed record is elsewhere, and this copy can never be elected. A
    /// damaged copy that is the last one is left alone for an operator.
    pub(super) fn heal(&mut self, record: &PartitionState) {
        let (partition, me) = (record.id, self.parts.me);
        let damaged = match (self.partitions.get(&partition), self.failed.get(&partition)) {
            (Some(entry), _) => entry.core.is_corrupt(),
            (None, failed) => failed.is_some_and(|f| f.corrupt),
        };
        let spare = record.leader.is_some_and(|leader| leader != me)
            && record.is_replica(me)
            && !record.isr.contains(&me)
            && !record.elr.contains(&me);
        if !damaged || !spare || self.healed >= MAX_HEALED {
            return;
        }
        self.healed += 1;
        if self.partitions.contains_key(&partition) {
            let retired = |core: &mut crate::core::PartitionReplica, out: &mut Vec<Output>| {
                core.retire(out);
            };
            let _open = self.drive(partition, |core, _log, _view, _now, out| retired(core, out));
        }
        let _closed = self.partitions.remove(&partition);
        let _hot = self.hot.remove(&partition);
        let _new = self.touched.insert(partition);
        match self.parts.logs.remove(partition) {
            Ok(()) => {
                let _failure = self.failed.remove(&partition);
                metrics::counter!("rivven_isr_healed_replicas_total").increment(1);
                tracing::warn!(%partition, "a damaged replica was removed; it is fetched again from the leader");
            }
            Err(error) => {
                tracing::error!(%partition, %error, "a damaged replica cannot be removed");
                let failure = OpenFailure {
                    reason: error.to_string(),
                    corrupt: false,
                };
                let _previous = self.failed.insert(partition, failure);
            }
        }
    }
}
