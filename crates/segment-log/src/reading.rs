//! Reading: locating batches, slices, times, scans and the verification of everything.

use std::ops::ControlFlow;

use bytes::Bytes;
use rivven_core_types::{
    BatchHeader, Compression, LogError, LogSlice, Offset, RecordBatch, ReplicaLog,
    TimestampedOffset, VfsFile,
};

use crate::batch_reader::{self, BODY_WINDOW_BYTES, BatchReader, HEADER_WINDOW_BYTES};
use crate::log::SegmentLog;
use crate::recovery::corrupt;
use crate::segment::{Boundary, Segment};

/// Most that one read returns, in bytes, whatever the caller asks for.
const MAX_READ_BYTES: usize = 16 << 20;
/// Attribute bit of a batch whose records all carry the time of its append (KIP-32).
const LOG_APPEND_TIME: u16 = 0x08;

/// Walks the batches of one segment and checks each against its neighbours and the epoch table.
struct Batches<'a> {
    log: &'a SegmentLog,
    reader: BatchReader<'a>,
    position: u64,
    expected: Offset,
    crc: bool,
}

impl<'a> Batches<'a> {
    fn new(log: &'a SegmentLog, segment: &'a Segment, from: Boundary, crc: bool) -> Self {
        let window = if crc {
            BODY_WINDOW_BYTES
        } else {
            HEADER_WINDOW_BYTES
        };
        Self {
            log,
            reader: BatchReader::new(segment.file.as_ref(), segment.length, window),
            position: from.position,
            expected: from.offset,
            crc,
        }
    }

    /// The next batch and its position.
    fn next(&mut self) -> Result<Option<(u64, BatchHeader)>, LogError> {
        let position = self.position;
        let found = self.reader.batch(position, self.crc)?;
        let Some(header) = found.map_err(|what| corrupt(self.expected, &what))? else {
            return Ok(None);
        };
        self.expected = check(self.log, &header, self.expected)?;
        self.position += header.total_bytes as u64;
        Ok(Some((position, header)))
    }
}

/// Checks offset and epoch of a stored batch; returns the offset after it.
fn check(log: &SegmentLog, header: &BatchHeader, expected: Offset) -> Result<Offset, LogError> {
    if header.base() != Some(expected) {
        let found = header.base_offset;
        let what = format!("a batch with base offset {found} where {expected} belongs");
        return Err(corrupt(expected, &what));
    }
    if !log.epochs.agrees_with(header, log.log_start()) {
        let epoch = header.leader_epoch;
        let what = format!("leader epoch {epoch} contradicts the epoch table");
        return Err(corrupt(expected, &what));
    }
    let end = header.end_offset();
    end.ok_or_else(|| corrupt(expected, "the batch has no end"))
}

impl SegmentLog {
    /// Reads everything that is stored and checks it: CRC, contiguity, epochs. Reads the whole log.
    pub fn verify(&self) -> Result<(), LogError> {
        for segment in &self.segments {
            let Some(from) = segment.before_offset(Offset::ZERO) else {
                continue;
            };
            let mut batches = Batches::new(self, segment, from, true);
            while batches.next()?.is_some() {}
            if batches.expected != segment.end {
                return Err(corrupt(batches.expected, "the segment is too short"));
            }
        }
        Ok(())
    }

    /// The segment that holds `offset`, which is below the log end, and its number.
    fn segment_of(&self, offset: Offset) -> Option<(usize, &Segment)> {
        let i = self.segments.partition_point(|s| s.end <= offset);
        self.segments.get(i).map(|segment| (i, segment))
    }

    /// The batch that contains `offset`, which is below the segment's end; `from` lies before it.
    fn locate(
        &self,
        segment: &Segment,
        from: Option<Boundary>,
        offset: Offset,
    ) -> Result<(Boundary, BatchHeader), LogError> {
        let missing = || corrupt(offset, "the batch is missing");
        let from = from.ok_or_else(missing)?;
        let mut max_before = from.max_before;
        let mut batches = Batches::new(self, segment, from, false);
        while let Some((position, header)) = batches.next()? {
            if batches.expected > offset {
                let boundary = Boundary {
                    offset: header.base().ok_or_else(missing)?,
                    position,
                    max_before,
                };
                return Ok((boundary, header));
            }
            max_before = max_before.max(header.max_timestamp);
        }
        Err(missing())
    }

    /// Where to cut so that nothing reaches to or beyond `end`, which lies below the log end: the
    /// segment's number and the boundary.
    pub(crate) fn cut_point(&self, end: Offset) -> Result<(usize, Boundary), LogError> {
        let (i, segment) = self
            .segment_of(end)
            .ok_or_else(|| corrupt(end, "the segment is missing"))?;
        let (boundary, _) = self.locate(segment, segment.before_offset(end), end)?;
        Ok((i, boundary))
    }

    /// Checks that reading may start at `from`; returns the end of what may be read.
    fn readable_from(&self, from: Offset) -> Result<Offset, LogError> {
        if from < self.log_start() || from > self.log_end() {
            return Err(self.out_of_range(from));
        }
        let end = self.readable_end();
        match self.poisoned() {
            Some(error) if from >= end && from < self.log_end() => Err(error),
            _ => Ok(end),
        }
    }

    /// See [`ReplicaLog::read`].
    pub(crate) fn read_slice(
        &self,
        from: Offset,
        limit: Offset,
        max_bytes: usize,
    ) -> Result<LogSlice, LogError> {
        let limit = limit.min(self.readable_from(from)?);
        let nothing = LogSlice {
            bytes: Bytes::new(),
            next: from,
        };
        if from >= limit {
            return Ok(nothing);
        }
        let Some((_, segment)) = self.segment_of(from) else {
            return Ok(nothing);
        };
        let walk = self.start_of_walk(segment, from);
        let (start, first) = self.locate(segment, walk, from)?;
        if first.end_offset().is_none_or(|end| end > limit) {
            return Ok(nothing);
        }
        let rest = segment.length - start.position;
        let rest = usize::try_from(rest).unwrap_or(usize::MAX);
        let want = max_bytes.min(MAX_READ_BYTES).max(first.total_bytes);
        let mut bytes = vec![0; want.min(rest)];
        segment.file.read_exact_at(&mut bytes, start.position)?;
        let (length, next) = self.whole_batches(segment, &bytes, start.offset, limit)?;
        bytes.truncate(length);
        self.remember(segment, next, start.position + length as u64);
        Ok(LogSlice {
            bytes: Bytes::from(bytes),
            next,
        })
    }

    /// How many of `bytes` are whole, sound batches below `limit`, and the offset after them.
    fn whole_batches(
        &self,
        segment: &Segment,
        bytes: &[u8],
        mut next: Offset,
        limit: Offset,
    ) -> Result<(usize, Offset), LogError> {
        let mut length = 0;
        while let Some(rest) = bytes.get(length..).filter(|rest| !rest.is_empty()) {
            let sound = self.sound_batch(segment, rest, next);
            let (total, end) = match sound {
                Ok(Some(found)) => found,
                Ok(None) => break,
                // What lies before the damage is good; the next read meets it.
                Err(_) if length > 0 => break,
                Err(error) => return Err(error),
            };
            if end > limit {
                break;
            }
            length += total;
            next = end;
        }
        Ok((length, next))
    }

    /// Checks the batch at the start of `bytes`; `None` if it is cut short there.
    fn sound_batch(
        &self,
        segment: &Segment,
        bytes: &[u8],
        expected: Offset,
    ) -> Result<Option<(usize, Offset)>, LogError> {
        if bytes.len() < rivven_core_types::HEADER_BYTES {
            return Ok(None);
        }
        let header = batch_reader::parse(bytes).map_err(|what| corrupt(expected, &what))?;
        if header.total_bytes > bytes.len() {
            return Ok(None);
        }
        let end = check(self, &header, expected)?;
        if !segment.crc_known && !batch_reader::crc_matches(bytes, &header) {
            return Err(corrupt(expected, "CRC-32C mismatch"));
        }
        Ok(Some((header.total_bytes, end)))
    }

    /// See [`ReplicaLog::scan`].
    pub(crate) fn scan_headers(
        &self,
        from: Offset,
        visit: &mut dyn FnMut(&BatchHeader) -> ControlFlow<()>,
    ) -> Result<(), LogError> {
        let end = self.readable_from(from)?;
        if from >= end {
            return Ok(());
        }
        let first = self.segment_of(from).map_or(0, |(i, _)| i);
        for segment in self.segments.get(first..).unwrap_or_default() {
            let Some(start) = self.start_of_walk(segment, from.max(segment.base)) else {
                continue;
            };
            let mut batches = Batches::new(self, segment, start, !segment.crc_known);
            while let Some((_, header)) = batches.next()? {
                if batches.expected > end {
                    return Ok(());
                }
                if batches.expected > from && visit(&header).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// See [`ReplicaLog::offset_for_timestamp`].
    pub(crate) fn find_timestamp(
        &self,
        timestamp: i64,
        limit: Offset,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let limit = limit.min(self.readable_end());
        for segment in &self.segments {
            if segment.max_timestamp < timestamp || segment.end <= self.log_start() {
                continue;
            }
            let Some(from) = segment.before_timestamp(timestamp) else {
                continue;
            };
            let mut batches = Batches::new(self, segment, from, false);
            while let Some((position, header)) = batches.next()? {
                if header.base().is_none_or(|base| base >= limit) {
                    return Ok(None);
                }
                if header.max_timestamp < timestamp || batches.expected <= self.log_start() {
                    continue;
                }
                let found = self.find_in_batch(segment, position, &header, timestamp)?;
                if let Some(found) = found {
                    return Ok(Some(found).filter(|found| found.offset < limit));
                }
            }
        }
        Ok(None)
    }

    /// The first record of a batch that reaches `timestamp`. The records of a compressed batch are
    /// not looked into: its first offset is the answer, which is at most one batch too early.
    fn find_in_batch(
        &self,
        segment: &Segment,
        position: u64,
        header: &BatchHeader,
        timestamp: i64,
    ) -> Result<Option<TimestampedOffset>, LogError> {
        let (Some(base), Some(epoch)) = (header.base(), header.epoch()) else {
            return Ok(None);
        };
        let at = |offset, timestamp| TimestampedOffset {
            offset,
            timestamp,
            epoch,
        };
        let start = base.max(self.log_start());
        if header.attributes & LOG_APPEND_TIME != 0 {
            return Ok(Some(at(start, header.max_timestamp)));
        }
        if header.compression() != Compression::None {
            let known = if base == start && header.base_timestamp >= timestamp {
                header.base_timestamp
            } else {
                header.max_timestamp
            };
            return Ok(Some(at(start, known)));
        }
        let mut bytes = vec![0; header.total_bytes];
        segment.file.read_exact_at(&mut bytes, position)?;
        let batch = RecordBatch::split_from(&mut Bytes::from(bytes))
            .map_err(|e| corrupt(base, &e.to_string()))?;
        for record in batch.records() {
            let record = record.map_err(|e| corrupt(base, &e.to_string()))?;
            if record.timestamp >= timestamp && record.offset >= start.get() {
                let offset = Offset::new(record.offset);
                return Ok(offset.ok().map(|offset| at(offset, record.timestamp)));
            }
        }
        Ok(None)
    }
}
