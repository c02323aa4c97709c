//! How a shard opens logs and applies metadata.

use std::sync::{Arc, PoisonError};

use rivven_core_types::{BrokerId, LeaderEpoch, LogError, Offset, PartitionId};

use super::{Entry, OpenFailure, Shard};
use crate::core::{Output, PartitionReplica};
use crate::driver::api::LocalLog;
use crate::driver::command::{ShardUpdate, ShardUpdated};
use crate::driver::manager::shard_of;
use crate::error::ReplicationError;

impl Shard {
    /// Opens the partition's log unless it is open; a log that cannot be opened is offline.
    fn open(&mut self, partition: PartitionId) -> Option<&mut Entry> {
        if !self.partitions.contains_key(&partition) {
            if self.failed.contains_key(&partition) {
                return None;
            }
            match self.open_entry(partition) {
                Ok(entry) => {
                    let _previous = self.partitions.insert(partition, entry);
                }
                Err(error) => {
                    tracing::error!(%partition, %error, "a partition log is offline");
                    let failure = OpenFailure {
                        reason: error.to_string(),
                        corrupt: matches!(error, LogError::Corrupt { .. }),
                    };
                    let _previous = self.failed.insert(partition, failure);
                }
            }
            let _new = self.touched.insert(partition);
        }
        self.partitions.get_mut(&partition)
    }

    fn open_entry(&mut self, partition: PartitionId) -> Result<Entry, LogError> {
        let hint = self.hint(partition);
        let opened = self.parts.logs.open(partition)?;
        let log = opened.log;
        let core = PartitionReplica::open(self.parts.me, self.settings, partition, hint, &*log)?;
        self.next_instance += 1;
        Ok(Entry {
            core,
            log,
            instance: self.next_instance,
            flushing: false,
            cut_bytes: opened.cut_bytes,
            reported: false,
            told: None,
            session_told: None,
            watchers: Vec::new(),
            consumers: Vec::new(),
        })
    }

    /// The checkpointed high watermark of a partition: where to start from, nothing more.
    fn hint(&mut self, partition: PartitionId) -> Offset {
        let logs = &self.parts.logs;
        let hints = self.hints.get_or_insert_with(|| {
            let loaded = logs.load_checkpoint().unwrap_or_else(|error| {
                tracing::warn!(%error, "the high-watermark checkpoint cannot be read");
                Vec::new()
            });
            loaded.into_iter().collect()
        });
        hints.remove(&partition).unwrap_or(Offset::ZERO)
    }

    /// Opens every log of this shard on disk.
    pub(super) fn open_logs(&mut self) -> Result<Vec<LocalLog>, ReplicationError> {
        let (index, count) = (self.parts.index, self.parts.count);
        let on_disk = self
            .parts
            .logs
            .list()
            .map_err(|error| ReplicationError::from_log(&error))?;
        let mine = on_disk.into_iter().filter(|p| shard_of(*p, count) == index);
        let mut opened = Vec::new();
        for partition in mine {
            opened.push(match self.open(partition) {
                Some(entry) => {
                    entry.reported = true;
                    LocalLog {
                        partition,
                        cut_bytes: entry.cut_bytes,
                        last_epoch: entry.log.last_epoch(),
                        log_end: entry.log.log_end(),
                        failed: None,
                    }
                }
                None => LocalLog {
                    partition,
                    cut_bytes: 0,
                    last_epoch: None,
                    log_end: Offset::ZERO,
                    failed: self.failed.get(&partition).map(|f| f.reason.clone()),
                },
            });
        }
        Ok(opened)
    }

    /// Takes up the partitions that were named without a record.
    pub(super) fn adopt(&mut self) {
        let named = {
            let mut adopt = self
                .parts
                .mailbox
                .adopt
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *adopt)
        };
        let min_isr = self.parts.config.min_isr;
        for (partition, leads) in named {
            if self.open(partition).is_some() && leads {
                let _opened = self.drive(partition, |core, log, view, now, out| {
                    core.apply_standalone(now, min_isr, view, log, out);
                });
            }
        }
    }

    pub(super) fn apply(&mut self, update: &ShardUpdate) -> ShardUpdated {
        let mut updated = ShardUpdated::default();
        let view_changed = *update.view != *self.view;
        self.view = Arc::clone(&update.view);
        for partition in &update.removed {
            if let Some(leader) = self.followed(*partition) {
                let _new = updated.touched.insert(leader);
            }
            self.remove(*partition);
        }
        for record in &update.changed {
            let partition = record.id;
            let here = self.partitions.contains_key(&partition);
            if !here && !record.is_replica(self.parts.me) {
                continue;
            }
            self.heal(record);
            if self.open(partition).is_none() {
                // Damage that shows only as the log is opened, after the record has settled: nothing that
                // would ask again need ever come.
                self.heal(record);
                if self.open(partition).is_none() {
                    continue;
                }
            }
            let config = update.log_configs.get(&partition.topic);
            self.configure(record, config.copied().unwrap_or_default());
            let before = self.following(partition);
            self.settle_cut(partition);
            let applied = self.drive(partition, |core, log, view, now, out| {
                core.apply(now, record, view, log, out);
                *core.record() == *record
            });
            let after = self.following(partition);
            if before != after {
                let leaders = before.into_iter().chain(after).map(|(leader, ..)| leader);
                updated.touched.extend(leaders);
            }
            if applied == Ok(true) && !record.is_replica(self.parts.me) {
                // Reassigned away by a committed record: the local copy is nobody's any more.
                self.remove(partition);
            }
        }
        if view_changed {
            self.on_view_changed();
        }
        let followed = self.partitions.values().filter_map(|e| e.core.follows());
        updated.followed = followed.collect();
        self.moved
            .retain(|leader, _| updated.followed.contains(leader));
        updated
    }

    fn followed(&self, partition: PartitionId) -> Option<BrokerId> {
        self.partitions.get(&partition)?.core.follows()
    }

    /// The leader and epoch that a partition follows, and whether the quota may hold it back: a replica
    /// that joins the in-sync set is waited for, and fetches at once.
    fn following(&self, partition: PartitionId) -> Option<(BrokerId, LeaderEpoch, bool)> {
        let entry = self.partitions.get(&partition)?;
        let core = &entry.core;
        let held = self.parts.throttles.follower.is_set() && core.catches_up(&*entry.log);
        Some((core.follows()?, core.record().leader_epoch, held))
    }

    /// A log that was cut is only safe once its broker has registered as lossy. If the cut was
    /// reported before the registration, the store may forget it; if not, the replica must not take
    /// part.
    fn settle_cut(&mut self, partition: PartitionId) {
        let Some(entry) = self.partitions.get_mut(&partition) else {
            return;
        };
        if entry.cut_bytes == 0 {
            return;
        }
        if !entry.reported {
            let reason = "its log was cut, and the broker has registered without saying so";
            let _opened = self.drive(partition, |core, _log, _view, _now, out| {
                core.go_offline(reason.to_owned(), out);
            });
            return;
        }
        match self.parts.logs.acknowledge_cut(partition) {
            Ok(()) => entry.cut_bytes = 0,
            // It stays recorded, so that the next start registers as lossy again: safe.
            Err(error) => tracing::warn!(%partition, %error, "a cut could not be acknowledged"),
        }
    }

    /// Node epochs and eligibility bear on every partition that this node leads.
    fn on_view_changed(&mut self) {
        let all: Vec<PartitionId> = self.partitions.keys().copied().collect();
        for partition in all {
            let _opened = self.drive(partition, |core, log, view, now, out: &mut Vec<Output>| {
                core.on_isr_committed(now, view, log, out);
            });
        }
    }

    fn remove(&mut self, partition: PartitionId) {
        if self.partitions.contains_key(&partition) {
            let _opened = self.drive(partition, |core, _log, _view, _now, out| core.retire(out));
        }
        let opened = self.partitions.remove(&partition).is_some();
        let failed = self.failed.remove(&partition).is_some();
        let _hot = self.hot.remove(&partition);
        let _new = self.touched.insert(partition);
        if (opened || failed)
            && let Err(error) = self.parts.logs.remove(partition)
        {
            tracing::error!(%partition, %error, "a deleted partition's log was not removed");
        }
    }
}
