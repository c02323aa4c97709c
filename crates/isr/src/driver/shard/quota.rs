//! Whom the quotas of KIP-73 hold back: replicas that catch up, until writes wait for them.

use rivven_core_types::{BrokerId, MonoTime, PartitionId};

use super::{Shard, signal};
use crate::core::{FetchReply, ReplicaFetched};

impl Shard {
    /// Has a replica wait for the quota no longer if what it has just told makes the high watermark
    /// wait for it: it is proposed for the in-sync set, or keeps up.
    pub(super) fn release(&mut self, partition: PartitionId, broker: BrokerId, now: MonoTime) {
        if self.put_off.has(partition, broker) && !self.is_throttled(partition, broker, now) {
            self.put_off.release(partition, broker);
        }
    }

    /// Whether what a follower is sent counts against the leader's quota.
    pub(super) fn is_throttled(
        &self,
        partition: PartitionId,
        broker: BrokerId,
        now: MonoTime,
    ) -> bool {
        self.parts.throttles.leader.is_set()
            && self
                .partitions
                .get(&partition)
                .is_some_and(|entry| entry.core.is_catching_up(broker, now, &*entry.log))
    }

    /// Says anew where a replica stands that the quota may hold back: the leader may have asked for it,
    /// and a report costs no records.
    pub(super) fn report_if_held(&mut self, leader: BrokerId, partition: PartitionId) {
        if self.parts.throttles.follower.is_set()
            && let Some(entry) = self.partitions.get_mut(&partition)
            && entry.core.catches_up(&*entry.log)
        {
            entry.told = None;
            signal(&self.parts.signals, leader, |s| s.progress.notify_one());
        }
    }

    /// Counts what came for a replica outside the in-sync set against the follower's quota.
    pub(super) fn count_fetched(&self, partition: PartitionId, answer: &FetchReply) {
        if let FetchReply::Fetched(ReplicaFetched::Data {
            high_watermark,
            bytes,
            ..
        }) = answer
            && let Some(entry) = self.partitions.get(&partition)
            && entry.core.lacks_committed(*high_watermark, &*entry.log)
        {
            let now = self.now();
            self.parts.throttles.follower.spend(now, bytes.len());
        }
    }
}
