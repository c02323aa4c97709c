//! Verification of what nobody reads: closed segments, piece by piece, for ever.

use std::sync::Arc;

use rivven_core_types::{LogError, Offset, ScrubOutcome, ScrubTicket, ScrubbedTo, VfsFile};

use crate::batch_reader::{BODY_WINDOW_BYTES, BatchReader};
use crate::log::SegmentLog;
use crate::recovery::corrupt;

/// A piece of one segment.
struct Piece {
    segment: Offset,
    file: Arc<dyn VfsFile>,
    /// Bytes of the segment.
    length: u64,
    position: u64,
    max_bytes: u64,
}

impl Piece {
    fn verify(&self) -> ScrubOutcome {
        let mut reader = BatchReader::new(self.file.as_ref(), self.length, BODY_WINDOW_BYTES);
        let mut position = self.position;
        let mut expected: Option<Offset> = None;
        while position < self.length && position - self.position < self.max_bytes {
            let at = expected.unwrap_or(self.segment);
            let found = reader.batch(position, true)?;
            let Some(header) = found.map_err(|what| corrupt(at, &what))? else {
                break;
            };
            if expected.is_some_and(|expected| header.base() != Some(expected)) {
                return Err(corrupt(at, "a batch does not continue the log"));
            }
            expected = header.end_offset();
            position += header.total_bytes as u64;
        }
        Ok(ScrubbedTo {
            segment: self.segment,
            position,
        })
    }
}

impl SegmentLog {
    /// See [`rivven_core_types::ReplicaLog::begin_scrub`].
    pub(crate) fn next_piece(&mut self, max_bytes: usize) -> Option<ScrubTicket> {
        if self.poisoned().is_some() {
            return None;
        }
        let durable = self.durable_end;
        let closed = self.segments.len().saturating_sub(1);
        let mut scrubbable =
            (self.segments.iter().take(closed)).filter(|s| s.end <= durable && s.length > 0);
        let from = self.scrubbed;
        let unfinished = |s: &&crate::segment::Segment| match from {
            Some(to) => s.base > to.segment || s.base == to.segment && s.length > to.position,
            None => true,
        };
        let next = scrubbable
            .clone()
            .find(unfinished)
            .or_else(|| scrubbable.next())?;
        let position = match from {
            Some(to) if to.segment == next.base && to.position < next.length => to.position,
            _ => 0,
        };
        let file = match next.file.opened() {
            Ok(file) => file,
            Err(error) => {
                // No piece now; whoever reads the segment meets the same.
                tracing::warn!(partition = %self.meta.partition, %error, "a segment cannot be opened");
                return None;
            }
        };
        let piece = Piece {
            segment: next.base,
            // Kept open: retention may remove it before it is read.
            file,
            length: next.length,
            position,
            max_bytes: max_bytes as u64,
        };
        Some(ScrubTicket {
            generation: self.generation,
            bytes: (next.length - position).min(max_bytes as u64),
            job: Box::new(move || piece.verify()),
        })
    }

    /// See [`rivven_core_types::ReplicaLog::finish_scrub`].
    pub(crate) fn piece_verified(
        &mut self,
        generation: u64,
        outcome: ScrubOutcome,
    ) -> Result<(), LogError> {
        if generation != self.generation {
            return Ok(());
        }
        match outcome {
            Ok(to) => {
                self.scrubbed = Some(to);
                Ok(())
            }
            // What retention has removed meanwhile need not be sound.
            Err(LogError::Corrupt { at, .. }) if at < self.meta.log_start => Ok(()),
            Err(error) => Err(error),
        }
    }
}
