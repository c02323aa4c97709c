//! What is not kept for ever: whole segments go by age and by size, and only from the front.

use rivven_core_types::{Durability, LogConfig, LogError, Offset, UnixMillis};

use crate::log::SegmentLog;
use crate::segment::Segment;

impl SegmentLog {
    /// See [`rivven_core_types::ReplicaLog::configure`].
    pub(crate) fn take_config(
        &mut self,
        config: &LogConfig,
        durability: Durability,
    ) -> Result<(), LogError> {
        self.alive()?;
        self.config.segment_bytes = config.segment_bytes;
        self.keeping = *config;
        let lazy = match durability {
            Durability::Replicated => true,
            // Until nothing is left that an unclean stop could lose.
            Durability::Fsync => self.meta.lazy && self.durable_end < self.end(),
        };
        if lazy == self.meta.lazy {
            return Ok(());
        }
        let meta = crate::meta::Meta { lazy, ..self.meta };
        let saved = meta.save(self.vfs.as_ref(), &self.dir);
        let readable = self.end();
        self.guard(saved, readable)?;
        self.meta = meta;
        Ok(())
    }

    /// See [`rivven_core_types::ReplicaLog::apply_retention`].
    pub(crate) fn retain(&mut self, now: UnixMillis, limit: Offset) -> Result<(), LogError> {
        self.alive()?;
        let limit = limit.min(self.durable_end);
        if self
            .segments
            .last()
            .is_some_and(|active| self.is_due(active, now, limit))
        {
            self.roll()?;
        }
        let start = self.first_kept(now, limit);
        if start > self.meta.log_start {
            self.drop_below(start)?;
        }
        Ok(())
    }

    /// Whether the active segment should be closed: its first record is old, or all of it may go.
    fn is_due(&self, active: &Segment, now: UnixMillis, limit: Offset) -> bool {
        active.length > 0
            && (is_older(active.first_timestamp, self.keeping.segment_ms, now)
                || active.end <= limit && self.has_expired(active, now))
    }

    fn has_expired(&self, segment: &Segment, now: UnixMillis) -> bool {
        let keep = self.keeping.retention_ms;
        keep.is_some_and(|keep| is_older(segment.max_timestamp, keep, now))
    }

    /// The start of the first segment that stays.
    fn first_kept(&self, now: UnixMillis, limit: Offset) -> Offset {
        let mut start = self.meta.log_start;
        let mut bytes = self.size();
        let closed = self.segments.len().saturating_sub(1);
        for segment in self.segments.iter().take(closed) {
            let rest = bytes.saturating_sub(segment.length);
            let too_long = self
                .keeping
                .retention_bytes
                .is_some_and(|most| rest >= most);
            if segment.end > limit || !(too_long || self.has_expired(segment, now)) {
                break;
            }
            bytes = rest;
            start = start.max(segment.end);
        }
        start
    }

    /// Closes the active segment and begins the next one. Its name is durable with the next flush.
    pub(crate) fn roll(&mut self) -> Result<(), LogError> {
        let created = Segment::create(&self.open_files, &self.dir, self.end());
        let readable = self.end();
        let next = self.guard(created, readable)?;
        self.begin_segment(next);
        Ok(())
    }
}

/// Whether a record of that time is older than `age_ms`. One without a timestamp has no age.
fn is_older(timestamp: i64, age_ms: u64, now: UnixMillis) -> bool {
    let age = now.0.saturating_sub(timestamp);
    timestamp >= 0 && u64::try_from(age).is_ok_and(|age| age > age_ms)
}
