//! The follower's side: where to fetch from, and what to do with what came.

use rivven_core_types::{
    BrokerId, EpochEnd, LeaderEpoch, LogError, MonoTime, Offset, ReplicaLog, planted, split_batches,
};

use super::partition::{PartitionReplica, Role};
use super::producers::ProducerTable;
use super::types::{FetchPosition, FetchReply, Output, ReplicaFetched};

impl PartitionReplica {
    /// The leader that this replica follows, if it follows one.
    pub fn follows(&self) -> Option<BrokerId> {
        match &self.role {
            Role::Follower(follower) => Some(follower.leader),
            Role::Idle | Role::Leader(_) | Role::Offline(_) => None,
        }
    }

    /// Whether this replica is known to follow from so far behind that nobody waits for it. One that
    /// has reached the high watermark of the last answer may be proposed for the in-sync set by now
    /// without knowing it, and the high watermark then waits for it.
    pub fn catches_up(&self, log: &dyn ReplicaLog) -> bool {
        match &self.role {
            Role::Follower(f) => f
                .leader_high_watermark
                .is_some_and(|reached| self.lacks_committed(reached, log)),
            Role::Idle | Role::Leader(_) | Role::Offline(_) => false,
        }
    }

    /// Whether this replica is outside the committed in-sync set and its log ends below the leader's
    /// high watermark.
    pub fn lacks_committed(&self, leader_high_watermark: Offset, log: &dyn ReplicaLog) -> bool {
        self.follows().is_some()
            && !self.state.isr.contains(&self.me)
            && log.log_end() < leader_high_watermark
    }

    /// When a refused fetch may be tried again, if that is still to come.
    pub fn fetch_not_before(&self, now: MonoTime) -> Option<MonoTime> {
        match &self.role {
            Role::Follower(f) if f.retry_at > now => Some(f.retry_at),
            Role::Follower(_) | Role::Idle | Role::Leader(_) | Role::Offline(_) => None,
        }
    }

    /// What the next fetch says and asks.
    pub fn fetch_position(&self, log: &dyn ReplicaLog) -> FetchPosition {
        FetchPosition {
            leader_epoch: self.state.leader_epoch,
            fetch_offset: log.log_end(),
            durable_end: log.durable_end(),
            last_fetched_epoch: log.last_epoch(),
            log_start: log.log_start(),
        }
    }

    /// Takes the answer to the fetch that said `asked`. An answer to another leader epoch, or to
    /// another log end than the present one, is old and changes nothing.
    pub fn fetched(
        &mut self,
        now: MonoTime,
        asked: &FetchPosition,
        reply: FetchReply,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        if self.follows().is_none()
            || asked.leader_epoch != self.state.leader_epoch
            || asked.fetch_offset != log.log_end()
            || asked.last_fetched_epoch != log.last_epoch()
        {
            return;
        }
        let result = match reply {
            FetchReply::Fetched(ReplicaFetched::Data {
                high_watermark,
                log_start,
                bytes,
            }) => self.append_fetched(now, high_watermark, log_start, bytes, log, out),
            FetchReply::Fetched(ReplicaFetched::Diverging { epoch, end }) => {
                self.truncate(epoch, end, log)
            }
            FetchReply::OutOfRange { log_start, log_end } => {
                self.on_out_of_range(now, log_start, log_end, log)
            }
            FetchReply::Refused => {
                self.back_off(now);
                Ok(())
            }
        };
        if let Err(error) = result {
            // A batch that does not continue the log was refused without effect and is fetched again;
            // a broken log has gone offline, where backing off does nothing.
            let _mapped = self.on_log_error(&error, out);
            self.back_off(now);
        }
    }

    fn back_off(&mut self, now: MonoTime) {
        let retry_at = now + self.settings.fetch_retry;
        if let Role::Follower(follower) = &mut self.role {
            follower.retry_at = retry_at;
        }
    }

    fn append_fetched(
        &mut self,
        now: MonoTime,
        leader_high_watermark: Offset,
        leader_log_start: Offset,
        bytes: bytes::Bytes,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) -> Result<(), LogError> {
        if let Role::Follower(follower) = &mut self.role {
            follower.leader_high_watermark = Some(leader_high_watermark);
        }
        // Damaged on the way: nothing of it is used, and it is fetched again.
        let Ok(batches) = split_batches(bytes) else {
            self.back_off(now);
            return Ok(());
        };
        let appended = !batches.is_empty();
        for batch in &batches {
            let epoch = batch.header().epoch();
            if epoch.is_none_or(|e| e > self.state.leader_epoch) {
                self.back_off(now);
                return Ok(());
            }
            // On disk (or in the page cache) before the next fetch offset says so.
            let at = log.append_replicated_batch(batch)?;
            self.producers.record(batch.header(), at.base, at.end);
        }
        if leader_log_start > log.log_start() {
            log.trim_start(leader_log_start.min(log.log_end()))?;
        }
        self.high_watermark = leader_high_watermark
            .min(log.log_end())
            .max(log.log_start());
        if appended {
            out.push(self.flush_wish());
        }
        Ok(())
    }

    /// Cuts the log where it parts from the leader's (KIP-279): at the end of the greatest epoch that
    /// both have. It may take one round per epoch that only this log has.
    fn truncate(
        &mut self,
        leader_epoch: LeaderEpoch,
        leader_end: Offset,
        log: &mut dyn ReplicaLog,
    ) -> Result<(), LogError> {
        let log_end = log.log_end();
        let target = match log.epoch_end(leader_epoch) {
            Some(EpochEnd { epoch, end }) if epoch == leader_epoch => {
                end.min(leader_end).min(log_end)
            }
            Some(EpochEnd { end, .. }) => end.min(log_end),
            // Every epoch here is above it, and the leader has none of them: nothing is shared. A cut
            // at the leader's end alone might cut nothing, for ever.
            None if leader_epoch.get() >= 0 => log.log_start(),
            None => leader_end.min(log_end),
        };
        let target = if planted("isr.truncate-to-high-watermark") {
            self.high_watermark.min(log_end)
        } else {
            target
        };
        // KAFKA-10706: also when nothing is above it, so that epochs without records go.
        let _end = log.truncate_to(target)?;
        self.after_cut(log)
    }

    fn on_out_of_range(
        &mut self,
        now: MonoTime,
        leader_start: Offset,
        leader_end: Offset,
        log: &mut dyn ReplicaLog,
    ) -> Result<(), LogError> {
        let empty = log.log_start() == log.log_end();
        if leader_start > log.log_end() || (empty && log.log_end() > leader_end) {
            // KAFKA-9491: the high watermark goes with the log start.
            log.reset_to(leader_start)?;
            return self.after_cut(log);
        }
        // Anything else would be a cut by offset alone, which loses data; the epochs will tell.
        self.back_off(now);
        Ok(())
    }

    fn after_cut(&mut self, log: &dyn ReplicaLog) -> Result<(), LogError> {
        if planted("isr.remembers-producers-of-a-cut-log") {
            self.high_watermark = self.high_watermark.min(log.log_end());
            return Ok(());
        }
        self.producers = ProducerTable::rebuild(self.settings.max_producers, log)?;
        self.high_watermark = self.high_watermark.min(log.log_end()).max(log.log_start());
        Ok(())
    }
}
