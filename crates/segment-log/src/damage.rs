//! What a bad batch means: a write that never reached the disk, or bytes that changed there.

use std::io;

use rivven_core_types::limits::{MAX_RECORD_BATCH_BYTES, MAX_RECORDS_PER_BATCH};
use rivven_core_types::{BatchHeader, HEADER_BYTES, Offset};

use crate::batch_reader::{self, BatchReader, CRC_COVERS_FROM};

/// What a disk writes as one unit.
const SECTOR_BYTES: usize = 512;
/// How much is searched at a time, in bytes.
const SCAN_CHUNK_BYTES: usize = 1 << 20;
/// Where the magic byte lies in a batch.
const MAGIC_AT: usize = 16;

/// Whether any sound batch begins at or after `position`: magic, length, counts, an offset that could
/// follow `expected`, and a correct CRC.
pub(crate) fn sound_batch_from(
    reader: &mut BatchReader<'_>,
    mut position: u64,
    expected: Offset,
) -> io::Result<bool> {
    loop {
        let chunk = reader.bytes(position, SCAN_CHUNK_BYTES)?;
        if chunk.len() < HEADER_BYTES {
            return Ok(false);
        }
        let starts = chunk.len() - HEADER_BYTES + 1;
        let candidates: Vec<u64> = (0..starts)
            .filter(|at| chunk.get(at + MAGIC_AT) == Some(&2))
            .filter(|at| plausible(chunk.get(*at..).unwrap_or_default(), expected))
            .map(|at| position + at as u64)
            .collect();
        for candidate in candidates {
            if matches!(reader.batch(candidate, true)?, Ok(Some(_))) {
                return Ok(true);
            }
        }
        position += starts as u64;
    }
}

fn plausible(bytes: &[u8], expected: Offset) -> bool {
    let Ok(header) = batch_reader::parse(bytes) else {
        return false;
    };
    // A batch of the log lies beyond the bad one; a limit keeps bytes that only look like a batch
    // (a record that carries one) from counting.
    let gap = header.base().map_or(0, |base| base.since(expected));
    let most = MAX_RECORDS_PER_BATCH as u64 * SCAN_CHUNK_BYTES as u64;
    header.base().is_some_and(|base| base >= expected) && gap <= most
}

/// Whether the bad batch at `position` looks like a write that was lost or torn, not like bytes that
/// changed: a lost write reads as zeros (or as the end of the file), and it begins at the start of a
/// write or of a sector.
/// `expected` is the offset that belongs there, `followed` says whether sound batches follow in the
/// same file.
pub(crate) fn looks_unwritten(
    reader: &mut BatchReader<'_>,
    position: u64,
    expected: Offset,
    followed: bool,
) -> io::Result<bool> {
    let rest = reader.length() - position;
    let bytes = reader.bytes(position, MAX_RECORD_BATCH_BYTES)?;
    let Some(head) = bytes.get(..CRC_COVERS_FROM) else {
        return Ok(true);
    };
    if head.iter().all(|b| *b == 0) {
        return Ok(true);
    }
    let Ok(header) = BatchHeader::parse(bytes) else {
        return Ok(bytes.len() < HEADER_BYTES || straddles_lost_sector(bytes, position));
    };
    if header.total_bytes as u64 > rest {
        // The file ends inside the batch, unless it is the length that is wrong.
        let whole = bytes.get(CRC_COVERS_FROM..);
        let only_length_wrong = whole.is_some_and(|covered| crc32c::crc32c(covered) == header.crc);
        return Ok(!followed && !only_length_wrong);
    }
    let batch = bytes.get(..header.total_bytes).unwrap_or_default();
    let lost_start = header
        .base()
        .is_some_and(|base| lost_start(position, base, expected));
    Ok(lost_start || zero_tail(batch) || zero_sector(batch, position))
}

/// Whether a batch at `position` with the base offset `base` may be the one of `expected` without the
/// sector that its first bytes were in. What is left of such a batch is sound: the offset and the
/// epoch lie outside the CRC, and the first bytes of a length are zeros.
pub(crate) fn lost_start(position: u64, base: Offset, expected: Offset) -> bool {
    let lost = to_next_sector(position);
    let mut bytes = expected.get().to_be_bytes();
    for byte in bytes.iter_mut().take(lost) {
        *byte = 0;
    }
    (1..=MAGIC_AT).contains(&lost) && base != expected && i64::from_be_bytes(bytes) == base.get()
}

/// Whether the batch is zeros from where a write or a sector of one begins.
fn zero_tail(batch: &[u8]) -> bool {
    let zeros_from = batch.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1);
    let torn_from = |write: usize| {
        let sectors = zeros_from.saturating_sub(write).div_ceil(SECTOR_BYTES);
        write + sectors * SECTOR_BYTES < batch.len()
    };
    torn_from(0) || torn_from(CRC_COVERS_FROM)
}

/// How far `position` is from the next sector of the file.
fn to_next_sector(position: u64) -> usize {
    let inside = usize::try_from(position % SECTOR_BYTES as u64).unwrap_or(0);
    (SECTOR_BYTES - inside) % SECTOR_BYTES
}

/// Whether the header reaches over a sector boundary and one side of it is zeros.
fn straddles_lost_sector(bytes: &[u8], position: u64) -> bool {
    let boundary = to_next_sector(position);
    if boundary >= HEADER_BYTES {
        return false;
    }
    // Where a short batch ends in the second sector the next one begins: its bytes may be there.
    let header = bytes.get(..HEADER_BYTES).unwrap_or(bytes);
    let (left, right) = header.split_at_checked(boundary).unwrap_or_default();
    let lost = |side: &[u8]| !side.is_empty() && side.iter().all(|b| *b == 0);
    lost(left) || lost(right)
}

/// Whether a sector of the file is zeros, as far as the batch reaches into it. The first one holds the
/// header, which would not have been understood.
fn zero_sector(batch: &[u8], position: u64) -> bool {
    let aligned = batch.get(to_next_sector(position)..).unwrap_or_default();
    aligned
        .chunks(SECTOR_BYTES)
        .any(|sector| sector.iter().all(|b| *b == 0))
}
