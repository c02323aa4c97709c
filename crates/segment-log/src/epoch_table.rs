//! The leader epoch table: which epoch starts where (KIP-101). Both columns strictly increase.

use std::io;
use std::path::Path;

use rivven_core_types::{BatchHeader, EpochEnd, LeaderEpoch, LogError, Offset, Vfs};

use crate::files::{self, Fields, FileKind};

const EPOCHS: &str = "epochs";
const ENTRY_BYTES: usize = 12;
/// Most entries: what the file's limit holds.
const MAX_EPOCHS: usize = (files::MAX_EPOCHS_FILE_BYTES - 64) / ENTRY_BYTES;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct EpochTable {
    entries: Vec<(LeaderEpoch, Offset)>,
}

impl EpochTable {
    /// Epochs and their starts.
    pub(crate) fn entries(&self) -> &[(LeaderEpoch, Offset)] {
        &self.entries
    }

    pub(crate) fn last(&self) -> Option<(LeaderEpoch, Offset)> {
        self.entries.last().copied()
    }

    /// Whether an epoch above `epoch` has records below `end`.
    pub(crate) fn has_records_above(&self, epoch: LeaderEpoch, end: Offset) -> Option<LeaderEpoch> {
        let mut above = self.entries.iter().rev();
        above
            .find(|(e, start)| *e > epoch && *start < end)
            .map(|(e, _)| *e)
    }

    pub(crate) fn contains(&self, epoch: LeaderEpoch, start: Offset) -> bool {
        self.entries.contains(&(epoch, start))
    }

    /// Drops every entry with an equal or greater epoch or start, then adds (Kafka's
    /// `LeaderEpochFileCache.assign`).
    pub(crate) fn assign(&mut self, epoch: LeaderEpoch, start: Offset) {
        self.entries.retain(|(e, s)| *e < epoch && *s < start);
        self.entries.push((epoch, start));
    }

    /// See [`rivven_core_types::ReplicaLog::epoch_end`].
    pub(crate) fn end_of(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<EpochEnd> {
        if self.last().is_none_or(|(last, _)| epoch > last) {
            return None;
        }
        let after = self.entries.partition_point(|(e, _)| *e <= epoch);
        let (epoch, _) = *self.entries.get(after.checked_sub(1)?)?;
        let end = self.entries.get(after).map_or(log_end, |(_, start)| *start);
        Some(EpochEnd { epoch, end })
    }

    /// Whether the batch's epoch is the one that the table has for all of its offsets from
    /// `log_start` on.
    pub(crate) fn agrees_with(&self, header: &BatchHeader, log_start: Offset) -> bool {
        let (Some(base), Some(end)) = (header.base(), header.end_offset()) else {
            return false;
        };
        if end <= log_start {
            return true;
        }
        let base = base.max(log_start);
        let after = self.entries.partition_point(|(_, start)| *start <= base);
        let entry = after.checked_sub(1).and_then(|i| self.entries.get(i));
        let next = self.entries.get(after);
        entry.is_some_and(|(epoch, _)| header.epoch() == Some(*epoch))
            && next.is_none_or(|(_, start)| end <= *start)
    }

    /// Drops the entries that start at or beyond `end`. Returns whether there were any.
    pub(crate) fn cut(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(_, start)| *start < end);
        self.entries.len() != before
    }

    /// Whether an epoch starts beyond `end`.
    pub(crate) fn reaches_beyond(&self, end: Offset) -> bool {
        self.last().is_some_and(|(_, start)| start > end)
    }

    /// Drops the entries that start beyond `end`: an epoch without records may start at it
    /// (KAFKA-7415). Returns whether there were any.
    pub(crate) fn drop_beyond(&mut self, end: Offset) -> bool {
        let before = self.entries.len();
        self.entries.retain(|(_, start)| *start <= end);
        self.entries.len() != before
    }

    /// Forgets what lies wholly below `log_start`. Returns whether anything changed.
    pub(crate) fn trim(&mut self, log_start: Offset) -> bool {
        let after = self
            .entries
            .partition_point(|(_, start)| *start <= log_start);
        let Some(first) = after.checked_sub(1) else {
            return false;
        };
        self.entries.drain(..first);
        match self.entries.first_mut() {
            Some((_, start)) if *start != log_start => {
                *start = log_start;
                true
            }
            _ => first > 0,
        }
    }

    /// Takes note of a stored batch while the table is rebuilt. `false` if its epoch is lower than
    /// the one before.
    pub(crate) fn learn(&mut self, epoch: LeaderEpoch, base: Offset) -> bool {
        match self.last() {
            Some((last, _)) if epoch < last => false,
            Some((last, _)) if epoch == last => true,
            _ => {
                self.entries.push((epoch, base));
                true
            }
        }
    }

    /// Reads the file; `None` if there is none.
    pub(crate) fn load(vfs: &dyn Vfs, dir: &Path) -> Result<Option<Self>, LogError> {
        let bytes = match vfs.read_file(&dir.join(EPOCHS), files::MAX_EPOCHS_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(corrupt(&e.to_string()));
            }
            Err(e) => return Err(e.into()),
        };
        let body = files::unseal(FileKind::Epochs, &bytes).map_err(|what| corrupt(&what))?;
        let mut fields = Fields(body);
        let mut entries: Vec<(LeaderEpoch, Offset)> = Vec::with_capacity(body.len() / ENTRY_BYTES);
        while !fields.0.is_empty() {
            let (Some(epoch), Some(start)) = (fields.array(), fields.offset()) else {
                return Err(corrupt("malformed"));
            };
            let epoch = LeaderEpoch::new(i32::from_be_bytes(epoch));
            if entries
                .last()
                .is_some_and(|(e, s)| *e >= epoch || *s >= start)
            {
                return Err(corrupt("the entries do not increase"));
            }
            entries.push((epoch, start));
        }
        Ok(Some(Self { entries }))
    }

    /// Replaces the file, durably.
    pub(crate) fn save(&self, vfs: &dyn Vfs, dir: &Path) -> io::Result<()> {
        if self.entries.len() > MAX_EPOCHS {
            let text = format!("the epoch table is full: {MAX_EPOCHS} entries");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        let mut body = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for (epoch, start) in &self.entries {
            body.extend_from_slice(&epoch.get().to_be_bytes());
            body.extend_from_slice(&start.get().to_be_bytes());
        }
        vfs.write_file_atomically(&dir.join(EPOCHS), &files::seal(FileKind::Epochs, &body))
    }
}

fn corrupt(what: &str) -> LogError {
    LogError::Corrupt {
        at: Offset::ZERO,
        what: format!("partition file `{EPOCHS}`: {what}"),
    }
}
