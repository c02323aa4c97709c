//! `rivven-node log`: the partition logs of a stopped node, for people.

use std::fmt::Write as _;
use std::path::Path;

use rivven_cluster::coordinator::segment_log::{PartitionReport, inspect};
use rivven_cluster::types::OsVfs;

/// Describes every partition log below `data_dir`, and says whether all are sound.
///
/// # Errors
/// Says what cannot be read.
pub fn report(data_dir: &Path, verify: bool) -> Result<(String, bool), String> {
    let dir = data_dir.join("logs");
    let reports = inspect(&OsVfs, &dir, verify)
        .map_err(|error| format!("cannot read {}: {error}", dir.display()))?;
    let mut text = String::new();
    for report in &reports {
        describe(&mut text, report);
    }
    let damaged = reports.iter().filter(|r| r.problem.is_some()).count();
    let checked = if verify {
        "every record checked"
    } else {
        "headers only"
    };
    let count = reports.len();
    // Writing to a String cannot fail.
    writeln!(
        text,
        "{count} partition logs, {damaged} damaged ({checked})"
    )
    .unwrap_or_default();
    Ok((text, damaged == 0))
}

fn describe(text: &mut String, report: &PartitionReport) {
    let (start, end) = (report.log_start, report.end);
    let mut line = format!("{} offsets {start}..{end}", report.partition);
    if let Some(mark) = report.durable_mark {
        write!(line, ", durable to {mark}").unwrap_or_default();
    }
    if report.lazy {
        line.push_str(", flushed lazily");
    }
    if report.cut_bytes > 0 {
        write!(line, ", {} bytes cut and not registered", report.cut_bytes).unwrap_or_default();
    }
    writeln!(text, "{line}").unwrap_or_default();
    for (epoch, start) in &report.epochs {
        writeln!(text, "  epoch {epoch} from {start}").unwrap_or_default();
    }
    for s in &report.segments {
        let (base, end, bytes, batches) = (s.base, s.end, s.bytes, s.batches);
        writeln!(
            text,
            "  segment {base}..{end}: {batches} batches, {bytes} bytes"
        )
        .unwrap_or_default();
    }
    for (kind, what) in [("note", &report.remark), ("DAMAGED", &report.problem)] {
        if let Some(what) = what {
            writeln!(text, "  {kind}: {what}").unwrap_or_default();
        }
    }
}
