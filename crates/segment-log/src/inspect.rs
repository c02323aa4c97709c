//! Looking at the logs of a stopped node without changing anything.

use std::path::Path;

use rivven_core_types::{LeaderEpoch, LogError, Offset, OpenMode, PartitionId, Vfs};

use crate::batch_reader::{BODY_WINDOW_BYTES, BatchReader, HEADER_WINDOW_BYTES};
use crate::cut_record;
use crate::durable_mark::DurableMark;
use crate::epoch_table::EpochTable;
use crate::meta::{Meta, Pending};
use crate::segment::Segment;
use crate::store::{parse_dir, partition_dir};

/// What a segment file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// The offset in its name.
    pub base: Offset,
    /// The offset after its last sound batch.
    pub end: Offset,
    /// Bytes of sound batches.
    pub bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Sound batches.
    pub batches: u64,
}

/// What a partition directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReport {
    /// Whose it is.
    pub partition: PartitionId,
    /// The first offset kept.
    pub log_start: Offset,
    /// The offset after the last sound batch that continues the log.
    pub end: Offset,
    /// Everything below was on stable storage, if that is known.
    pub durable_mark: Option<Offset>,
    /// Records may have counted before they were durable (`durability=replicated`).
    pub lazy: bool,
    /// Bytes cut off by recovery and not registered yet.
    pub cut_bytes: u64,
    /// Leader epochs and their starts.
    pub epochs: Vec<(LeaderEpoch, Offset)>,
    /// The segments, lowest first.
    pub segments: Vec<SegmentReport>,
    /// What a start would have to deal with: a torn tail, an interrupted operation. Not damage.
    pub remark: Option<String>,
    /// Why a start would refuse this log, or cut it.
    pub problem: Option<String>,
}

/// Looks at every partition of the store in `dir`. With `verify` every CRC is checked, which reads all
/// records; otherwise headers alone.
///
/// # Errors
/// [`LogError::Io`] if the directory or a file cannot be read. Damage is no error: each report says.
pub fn inspect(vfs: &dyn Vfs, dir: &Path, verify: bool) -> Result<Vec<PartitionReport>, LogError> {
    let mut partitions: Vec<_> = vfs
        .read_dir(dir)?
        .iter()
        .filter_map(|path| parse_dir(path))
        .collect();
    partitions.sort_unstable();
    partitions
        .into_iter()
        .map(|partition| inspect_partition(vfs, dir, partition, verify))
        .collect()
}

fn inspect_partition(
    vfs: &dyn Vfs,
    dir: &Path,
    partition: PartitionId,
    verify: bool,
) -> Result<PartitionReport, LogError> {
    let dir = partition_dir(dir, partition);
    let mut report = PartitionReport {
        partition,
        log_start: Offset::ZERO,
        end: Offset::ZERO,
        durable_mark: DurableMark::peek(vfs, &dir)?,
        lazy: false,
        cut_bytes: cut_record::load(vfs, &dir)?,
        epochs: Vec::new(),
        segments: Vec::new(),
        remark: None,
        problem: None,
    };
    match walk(vfs, &dir, verify, &mut report) {
        Ok(()) => {}
        Err(LogError::Corrupt { at, what }) => {
            report.problem = Some(format!("at offset {at}: {what}"))
        }
        Err(error) => return Err(error),
    }
    if report.problem.is_none() && report.durable_mark.is_some_and(|mark| mark > report.end) {
        report.problem = Some("the log ends before what was durable".to_owned());
    }
    Ok(report)
}

fn walk(
    vfs: &dyn Vfs,
    dir: &Path,
    verify: bool,
    report: &mut PartitionReport,
) -> Result<(), LogError> {
    let Some(meta) = Meta::load(vfs, dir, report.partition)? else {
        report.problem = Some("there is no `meta`".to_owned());
        return Ok(());
    };
    (report.log_start, report.lazy) = (meta.log_start, meta.lazy);
    report.end = meta.log_start;
    if meta.pending != Pending::Nothing {
        report.remark = Some(format!(
            "an interrupted {:?} is finished at the start",
            meta.pending
        ));
        return Ok(());
    }
    let table = EpochTable::load(vfs, dir)?;
    report.epochs = table
        .as_ref()
        .map(|t| t.entries().to_vec())
        .unwrap_or_default();
    let mut files = Segment::list(vfs, dir)?;
    let below = files.partition_point(|(base, _)| *base <= meta.log_start);
    files.drain(..below.saturating_sub(1));
    let mut expected = files.first().map_or(meta.log_start, |(base, _)| *base);
    let last = files.len().saturating_sub(1);
    for (index, (base, path)) in files.into_iter().enumerate() {
        if base != expected {
            report.problem = Some(format!("the segment that begins at {expected} is missing"));
            return Ok(());
        }
        let file = vfs.open(&path, OpenMode::Read)?;
        let length = file.len()?;
        let window = if verify {
            BODY_WINDOW_BYTES
        } else {
            HEADER_WINDOW_BYTES
        };
        let mut reader = BatchReader::new(file.as_ref(), length, window);
        let (mut bytes, mut batches) = (0, 0);
        let bad = loop {
            let header = match reader.batch(bytes, verify)? {
                Ok(Some(header)) => header,
                Ok(None) => break None,
                Err(what) => break Some(what),
            };
            let first = batches == 0 && index == 0;
            let continues =
                header.base() == Some(expected) || first && header.base() < Some(meta.log_start);
            let agrees = table
                .as_ref()
                .is_none_or(|t| t.agrees_with(&header, meta.log_start));
            if !continues || !agrees {
                break Some("offset or leader epoch contradicts what is before it".to_owned());
            }
            bytes += header.total_bytes as u64;
            batches += 1;
            expected = header.end_offset().unwrap_or(expected);
        };
        report.end = expected.max(meta.log_start);
        report.segments.push(SegmentReport {
            base,
            end: expected,
            bytes,
            file_bytes: length,
            batches,
        });
        if let Some(what) = bad {
            let what = format!("{} at byte {bytes}: {what}", path.display());
            let durable = report.durable_mark.is_some_and(|mark| expected < mark);
            if index == last && !durable {
                report.remark = Some(format!("perhaps a torn tail: {what}"));
            } else {
                report.problem = Some(what);
            }
            return Ok(());
        }
    }
    Ok(())
}
