//! Configuration of replication.

use std::time::Duration;

use rivven_core_types::limits::{
    MAX_BULK_FRAME_BYTES, MAX_PARTITIONS_PER_REQUEST, MAX_RECORD_BATCH_BYTES,
};

use crate::error::ReplicationError;

/// How replication behaves. `Default` is what the documentation promises; see
/// [`ReplicationConfig::validate`] for the ranges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicationConfig {
    /// `min.insync.replicas` of partitions that this manager makes by itself
    /// ([`crate::ReplicationManager::get_or_create`]); a partition of the cluster metadata brings its
    /// own.
    pub min_isr: u32,
    /// How many records a replica may be behind before the lag metric counts it as lagging. Only a
    /// metric: a count makes the in-sync set flap under bursts (KIP-16).
    pub replica_lag_max_messages: u64,
    /// How long a replica may stay behind the leader's log end before it leaves the in-sync set.
    pub replica_lag_max_time: Duration,
    /// Pause of a follower after a failed fetch. Fetches long-poll, so this is no polling interval.
    pub fetch_interval: Duration,
    /// How long a leader holds a follower's fetch that finds nothing new.
    pub fetch_max_wait: Duration,
    /// Most record bytes that a follower asks for in one fetch.
    pub fetch_max_bytes: usize,
    /// Most record bytes of one partition in one fetch.
    pub fetch_partition_max_bytes: usize,
    /// Most partitions in one follower fetch; with more, fetches take turns.
    pub fetch_max_partitions: usize,
    /// Number of shards; each is one loop that owns its partitions.
    pub shards: usize,
    /// Most commands that wait for a shard.
    pub shard_queue: usize,
    /// Most record bytes that wait for a shard.
    pub shard_queue_bytes: usize,
    /// Most writes of one partition that wait for their acknowledgement.
    pub max_pending_acks: usize,
    /// Most long polls that wait on one partition.
    pub max_waiting_fetches: usize,
    /// Most idempotent producers remembered per partition; beyond it the one that wrote longest ago
    /// is forgotten.
    pub max_producers: usize,
    /// How often the high-watermark checkpoint is saved.
    pub checkpoint_interval: Duration,
    /// How often leaders look for records that need not be kept any longer.
    pub retention_interval: Duration,
    /// How often what a topic with `durability=replicated` has written is flushed in the background.
    pub lazy_flush_interval: Duration,
    /// From how many logs on, whose writers wait at the same time, the disk is synced as a whole instead
    /// of log by log. It writes out whatever else the file system has not written yet.
    pub group_sync_from: usize,
    /// How many bytes of closed segments are verified per second in the background.
    pub scrub_bytes_per_second: u64,
    /// Pause before an in-sync-set proposal is sent again.
    pub alter_retry: Duration,
    /// `leader.replication.throttled.rate` (KIP-73): most record bytes per second that this node sends
    /// to followers that catch up. `None`: as many as there are. Followers in the in-sync set, and
    /// those that the high watermark waits for, are never held back. Below what is written to those
    /// partitions a follower never gets there.
    pub leader_throttled_bytes_per_second: Option<u64>,
    /// `follower.replication.throttled.rate`: most record bytes per second that this node fetches for
    /// replicas outside the in-sync set. `None`: as many as there are.
    pub follower_throttled_bytes_per_second: Option<u64>,
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            min_isr: 2,
            replica_lag_max_messages: 1000,
            replica_lag_max_time: Duration::from_secs(10),
            fetch_interval: Duration::from_millis(50),
            fetch_max_wait: Duration::from_millis(500),
            fetch_max_bytes: 8 * 1024 * 1024,
            fetch_partition_max_bytes: 1024 * 1024,
            fetch_max_partitions: MAX_PARTITIONS_PER_REQUEST,
            shards: 2,
            shard_queue: 4096,
            shard_queue_bytes: 64 * 1024 * 1024,
            max_pending_acks: 16_384,
            max_waiting_fetches: 1024,
            max_producers: 10_000,
            checkpoint_interval: Duration::from_secs(5),
            retention_interval: Duration::from_secs(30),
            lazy_flush_interval: Duration::from_secs(1),
            group_sync_from: 16,
            scrub_bytes_per_second: 8 * 1024 * 1024,
            alter_retry: Duration::from_millis(100),
            leader_throttled_bytes_per_second: None,
            follower_throttled_bytes_per_second: None,
        }
    }
}

impl ReplicationConfig {
    /// Checks every range.
    ///
    /// # Errors
    /// [`ReplicationError::InvalidConfig`] names the first field that is out of range.
    pub fn validate(&self) -> Result<(), ReplicationError> {
        let rate_is_sound = |rate: Option<u64>| rate.is_none_or(|rate| rate >= 1024);
        let checks: [(&'static str, bool, &'static str); 21] = [
            ("min_isr", self.min_isr >= 1, "must be at least 1"),
            (
                "replica_lag_max_time",
                self.replica_lag_max_time >= Duration::from_millis(100),
                "must be at least 100 ms",
            ),
            (
                "fetch_interval",
                !self.fetch_interval.is_zero(),
                "must not be zero",
            ),
            (
                "fetch_max_wait",
                !self.fetch_max_wait.is_zero() && self.fetch_max_wait < self.replica_lag_max_time,
                "must not be zero and must be shorter than replica_lag_max_time",
            ),
            (
                // The answer holds one batch more than the limit at worst, and its header.
                "fetch_max_bytes",
                (1..=MAX_BULK_FRAME_BYTES - 4 * MAX_RECORD_BATCH_BYTES)
                    .contains(&self.fetch_max_bytes),
                "must be between 1 byte and 4 batches less than a bulk frame",
            ),
            (
                "fetch_partition_max_bytes",
                self.fetch_partition_max_bytes >= 1,
                "must not be zero",
            ),
            (
                "fetch_max_partitions",
                (1..=MAX_PARTITIONS_PER_REQUEST).contains(&self.fetch_max_partitions),
                "must be between 1 and 10000",
            ),
            (
                "shards",
                (1..=256).contains(&self.shards),
                "must be between 1 and 256",
            ),
            (
                "shard_queue",
                (1..=1_000_000).contains(&self.shard_queue),
                "must be between 1 and 1000000",
            ),
            (
                "shard_queue_bytes",
                self.shard_queue_bytes >= MAX_RECORD_BATCH_BYTES,
                "must hold at least one record batch",
            ),
            (
                "max_pending_acks",
                self.max_pending_acks >= 1,
                "must not be zero",
            ),
            (
                "max_waiting_fetches",
                self.max_waiting_fetches >= 1,
                "must not be zero",
            ),
            ("max_producers", self.max_producers >= 1, "must not be zero"),
            (
                "checkpoint_interval",
                !self.checkpoint_interval.is_zero(),
                "must not be zero",
            ),
            (
                "retention_interval",
                !self.retention_interval.is_zero(),
                "must not be zero",
            ),
            (
                "lazy_flush_interval",
                !self.lazy_flush_interval.is_zero(),
                "must not be zero",
            ),
            (
                "group_sync_from",
                self.group_sync_from >= 2,
                "must be at least 2",
            ),
            (
                "scrub_bytes_per_second",
                self.scrub_bytes_per_second >= 1024,
                "must be at least 1024",
            ),
            (
                "alter_retry",
                !self.alter_retry.is_zero(),
                "must not be zero",
            ),
            (
                "leader_throttled_bytes_per_second",
                rate_is_sound(self.leader_throttled_bytes_per_second),
                "must be at least 1024",
            ),
            (
                "follower_throttled_bytes_per_second",
                rate_is_sound(self.follower_throttled_bytes_per_second),
                "must be at least 1024",
            ),
        ];
        match checks.iter().find(|(_, holds, _)| !holds) {
            Some((field, _, problem)) => Err(ReplicationError::InvalidConfig { field, problem }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_documented_ones_and_valid() {
        let config = ReplicationConfig::default();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.min_isr, 2);
        assert_eq!(config.replica_lag_max_messages, 1000);
        assert_eq!(config.replica_lag_max_time, Duration::from_secs(10));
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let config = ReplicationConfig {
            min_isr: 0,
            ..ReplicationConfig::default()
        };
        assert!(matches!(
            config.validate(),
            Err(ReplicationError::InvalidConfig {
                field: "min_isr",
                ..
            })
        ));
    }
}
