//! Reading the files of a stopped node, for tests and tools.

use std::io;
use std::path::Path;

use rivven_core_types::{LogError, Offset, OpenMode, OsVfs, PartitionId, Vfs};

use crate::batch_reader::{BODY_WINDOW_BYTES, BatchReader};
use crate::meta::{Meta, Pending};
use crate::recovery::corrupt;
use crate::segment::Segment;
use crate::store::partition_dir;

/// Most that a dump returns, in bytes.
const MAX_DUMP_BYTES: usize = 1 << 30;

/// The stored batches of a partition from the log start up to `up_to`, one after the other, straight
/// from the files below the store directory `dir`: what replicas must agree on byte by byte. Changes
/// nothing, not even a torn tail beyond `up_to`. A log that ends earlier gives what it has.
///
/// Errors: [`LogError::Corrupt`] for a batch that is bad or not contiguous, [`LogError::Io`] if there
/// is no such log (`NotFound`) or it is longer than 1 GiB (`FileTooLarge`).
pub fn dump_bytes(dir: &Path, partition: PartitionId, up_to: Offset) -> Result<Vec<u8>, LogError> {
    dump_bytes_from(&OsVfs, dir, partition, up_to)
}

/// [`dump_bytes`] from another file system.
pub fn dump_bytes_from(
    vfs: &dyn Vfs,
    dir: &Path,
    partition: PartitionId,
    up_to: Offset,
) -> Result<Vec<u8>, LogError> {
    let dir = partition_dir(dir, partition);
    let meta = Meta::load(vfs, &dir, partition)?;
    let meta = meta.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mut out = Vec::new();
    if meta.pending != Pending::Nothing {
        return Ok(out);
    }
    let mut files = Segment::list(vfs, &dir)?;
    let below = files.partition_point(|(base, _)| *base <= meta.log_start);
    files.drain(..below.saturating_sub(1));
    let mut expected = files.first().map_or(meta.log_start, |(base, _)| *base);
    let mut first = true;
    for (base, path) in files {
        if expected >= up_to {
            break;
        }
        if base != expected {
            return Err(corrupt(expected, "a segment is missing"));
        }
        let file = vfs.open(&path, OpenMode::Read)?;
        let mut reader = BatchReader::new(file.as_ref(), file.len()?, BODY_WINDOW_BYTES);
        let mut position = 0;
        while expected < up_to {
            let found = reader.batch(position, true)?;
            let Some(header) = found.map_err(|what| corrupt(expected, &what))? else {
                break;
            };
            let (Some(base), Some(end)) = (header.base(), header.end_offset()) else {
                return Err(corrupt(expected, "a batch without offsets"));
            };
            if base != expected && !(first && base < expected && expected < end) {
                return Err(corrupt(expected, "a batch does not continue the log"));
            }
            if end > up_to {
                return Ok(out);
            }
            if end > meta.log_start {
                if out.len() + header.total_bytes > MAX_DUMP_BYTES {
                    return Err(io::Error::from(io::ErrorKind::FileTooLarge).into());
                }
                out.extend_from_slice(reader.bytes(position, header.total_bytes)?);
            }
            position += header.total_bytes as u64;
            expected = end;
            first = false;
        }
    }
    Ok(out)
}
