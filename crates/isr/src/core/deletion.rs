//! What goes at the front of the log: by retention, and by an operator's wish (KIP-107).
//!
//! The leader decides, below its high watermark; followers take over its log start with their
//! fetches. So a log start is never ahead of a leader-to-be whose high watermark is behind.

use rivven_core_types::{LogError, MonoTime, Offset, ReplicaLog, ScrubOutcome, UnixMillis};

use super::partition::{PartitionReplica, Role};
use super::purgatory::{AckId, Waiting};
use super::types::Output;
use crate::error::ReplicationError;

/// An operator's wish to delete the first records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeleteIn {
    /// The caller's handle.
    pub id: AckId,
    /// The first offset that stays; `None` for the high watermark.
    pub before: Option<Offset>,
    /// How long the in-sync replicas may take to do likewise.
    pub deadline: MonoTime,
}

impl PartitionReplica {
    /// Deletes records, which must be committed. The answer comes as [`Output::Ack`], with the log
    /// start, once every in-sync replica has deleted them too: no leader of today's set brings them
    /// back.
    pub fn delete_records(
        &mut self,
        now: MonoTime,
        input: DeleteIn,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        if let Err(error) = self.try_delete(now, input, log, out) {
            out.push(Output::Ack {
                id: input.id,
                result: Err(error),
            });
        }
    }

    fn try_delete(
        &mut self,
        now: MonoTime,
        input: DeleteIn,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) -> Result<(), ReplicationError> {
        let leader = self.check_leader(None)?;
        let before = input.before.unwrap_or(self.high_watermark);
        if before > self.high_watermark {
            return Err(ReplicationError::OffsetOutOfRange {
                requested: before,
                log_start: log.log_start(),
                log_end: self.high_watermark,
            });
        }
        if leader.waiting.trimmed.len() >= self.settings.max_pending_acks {
            return Err(ReplicationError::Overloaded {
                queue: "pending deletions",
            });
        }
        log.trim_start(before)
            .map_err(|error| self.on_log_error(&error, out))?;
        let waiting = Waiting {
            id: input.id,
            required: log.log_start().min(before),
            base: before,
            since: now,
            deadline: input.deadline,
        };
        if let Role::Leader(leader) = &mut self.role {
            leader.waiting.trimmed.insert(waiting);
        }
        out.push(Output::Appended);
        self.complete_trimmed(log, out);
        Ok(())
    }

    /// Answers deletions that every in-sync replica has made.
    pub(crate) fn complete_trimmed(&mut self, log: &dyn ReplicaLog, out: &mut Vec<Output>) {
        let (me, isr) = (self.me, &self.state.isr);
        let Role::Leader(leader) = &mut self.role else {
            return;
        };
        if leader.waiting.trimmed.is_empty() {
            return;
        }
        let others = isr.iter().filter(|b| **b != me);
        let starts = others.map(|b| {
            let progress = leader.remotes.get(b).and_then(|remote| remote.progress);
            progress.map_or(Offset::ZERO, |p| p.log_start)
        });
        let reached = starts.fold(log.log_start(), Offset::min);
        while let Some(w) = leader.waiting.trimmed.pop_reached(reached) {
            out.push(super::leader::ack(&w, log));
        }
    }

    /// Lets the log drop what its settings do not keep. Only a leader does: its followers follow.
    pub fn apply_retention(
        &mut self,
        now: UnixMillis,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) -> bool {
        if !matches!(self.role, Role::Leader(_)) {
            return false;
        }
        let before = log.log_start();
        match log.apply_retention(now, self.high_watermark) {
            Ok(start) if start > before => {
                out.push(Output::Appended);
                true
            }
            Ok(_) => false,
            Err(error) => {
                let _mapped = self.on_log_error(&error, out);
                false
            }
        }
    }

    /// Takes note of a verified piece of the log; damage takes it offline.
    pub fn scrubbed(
        &mut self,
        generation: u64,
        outcome: ScrubOutcome,
        log: &mut dyn ReplicaLog,
        out: &mut Vec<Output>,
    ) {
        let found: Result<(), LogError> = log.finish_scrub(generation, outcome);
        if let Err(error) = found {
            let _mapped = self.on_log_error(&error, out);
        }
    }
}
