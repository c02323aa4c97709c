//! The quotas of the node for replicas that catch up (KIP-73), one for what it sends as a leader and
//! one for what it fetches as a follower, each shared by all shards.

use std::sync::{Mutex, MutexGuard, PoisonError};

use rivven_core_types::MonoTime;

use super::token_bucket::TokenBucket;
use crate::config::ReplicationConfig;

/// A quota; without a rate it grants everything.
#[derive(Debug)]
pub(super) struct Throttle {
    side: &'static str,
    bucket: Option<Mutex<TokenBucket>>,
}

/// Both quotas of a node.
#[derive(Debug)]
pub(super) struct Throttles {
    pub(super) leader: Throttle,
    pub(super) follower: Throttle,
}

impl Throttles {
    pub(super) fn new(config: &ReplicationConfig) -> Self {
        let of = |side, rate: Option<u64>| Throttle {
            side,
            bucket: rate.map(|rate| Mutex::new(TokenBucket::new(rate))),
        };
        Self {
            leader: of("leader", config.leader_throttled_bytes_per_second),
            follower: of("follower", config.follower_throttled_bytes_per_second),
        }
    }
}

impl Throttle {
    fn bucket(&self) -> Option<MutexGuard<'_, TokenBucket>> {
        let bucket = self.bucket.as_ref()?;
        Some(bucket.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether there is a rate to keep.
    pub(super) const fn is_set(&self) -> bool {
        self.bucket.is_some()
    }

    /// How many bytes may be asked for now.
    pub(super) fn available(&self, now: MonoTime) -> usize {
        self.bucket().map_or(usize::MAX, |mut b| b.available(now))
    }

    /// When something is granted again, if not now.
    pub(super) fn not_before(&self, now: MonoTime) -> Option<MonoTime> {
        self.bucket()?.not_before(now)
    }

    /// Notes that a replica has to wait.
    pub(super) fn count_wait(&self) {
        metrics::counter!("rivven_isr_throttle_waits_total", "side" => self.side).increment(1);
    }

    /// Takes what was transferred.
    pub(super) fn spend(&self, now: MonoTime, bytes: usize) {
        if bytes > 0
            && let Some(mut bucket) = self.bucket()
        {
            bucket.spend(now, bytes);
            drop(bucket);
            let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
            metrics::counter!("rivven_isr_throttled_bytes_total", "side" => self.side)
                .increment(bytes);
        }
    }
}
