//! Reads batches out of a segment file through a window, so that a walk neither loads the file nor
//! makes a system call per batch.

use std::io;

use rivven_core_types::{BatchHeader, HEADER_BYTES, VfsFile};

/// Where the part of a batch begins that its CRC-32C covers.
pub(crate) const CRC_COVERS_FROM: usize = 21;
/// Window of a walk over headers, in bytes.
pub(crate) const HEADER_WINDOW_BYTES: usize = 16 << 10;
/// Window of a walk over whole batches, in bytes.
pub(crate) const BODY_WINDOW_BYTES: usize = 1 << 20;

pub(crate) struct BatchReader<'a> {
    file: &'a dyn VfsFile,
    length: u64,
    window: usize,
    start: u64,
    buffer: Vec<u8>,
}

impl<'a> BatchReader<'a> {
    /// Reads the first `length` bytes of `file`.
    pub(crate) fn new(file: &'a dyn VfsFile, length: u64, window: usize) -> Self {
        Self {
            file,
            length,
            window,
            start: 0,
            buffer: Vec::new(),
        }
    }

    pub(crate) const fn length(&self) -> u64 {
        self.length
    }

    /// Up to `want` bytes at `position`; fewer at the end of the file.
    pub(crate) fn bytes(&mut self, position: u64, want: usize) -> io::Result<&[u8]> {
        let rest = usize::try_from(self.length.saturating_sub(position)).unwrap_or(usize::MAX);
        let want = want.min(rest);
        let skip = position.checked_sub(self.start);
        let skip = skip.and_then(|s| usize::try_from(s).ok());
        let inside = skip.is_some_and(|s| s + want <= self.buffer.len());
        if !inside {
            self.buffer.resize(want.max(self.window).min(rest), 0);
            self.start = position;
            self.file.read_exact_at(&mut self.buffer, position)?;
        }
        let skip = if inside { skip.unwrap_or(0) } else { 0 };
        Ok(self.buffer.get(skip..skip + want).unwrap_or_default())
    }

    /// The batch at `position`: `Ok(None)` at the end of the file, an inner error if there is no
    /// sound batch. The CRC is checked if `crc` is set.
    pub(crate) fn batch(
        &mut self,
        position: u64,
        crc: bool,
    ) -> io::Result<Result<Option<BatchHeader>, String>> {
        let head = self.bytes(position, HEADER_BYTES)?;
        if head.is_empty() {
            return Ok(Ok(None));
        }
        let header = match parse(head) {
            Ok(header) => header,
            Err(what) => return Ok(Err(what)),
        };
        let available = self.length - position;
        if header.total_bytes as u64 > available {
            let needed = header.total_bytes;
            return Ok(Err(format!(
                "the batch needs {needed} bytes, the file has {available}"
            )));
        }
        if crc && !crc_matches(self.bytes(position, header.total_bytes)?, &header) {
            return Ok(Err("CRC-32C mismatch".to_owned()));
        }
        Ok(Ok(Some(header)))
    }
}

/// Parses a stored header: besides what the format asks, offsets and epoch have been stamped and
/// count and delta agree.
pub(crate) fn parse(bytes: &[u8]) -> Result<BatchHeader, String> {
    let header = BatchHeader::parse(bytes).map_err(|e| e.to_string())?;
    let counted = i64::from(header.last_offset_delta) + 1 == i64::from(header.record_count);
    if header.end_offset().is_none() || header.epoch().is_none() {
        return Err("the offset or the epoch is negative".to_owned());
    }
    if !counted || header.record_count < 1 {
        return Err("record count and last offset delta disagree".to_owned());
    }
    Ok(header)
}

/// Whether the bytes of the whole batch are those that the CRC was computed from.
pub(crate) fn crc_matches(batch: &[u8], header: &BatchHeader) -> bool {
    batch
        .get(CRC_COVERS_FROM..header.total_bytes)
        .is_some_and(|covered| crc32c::crc32c(covered) == header.crc)
}
