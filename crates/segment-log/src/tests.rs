//! Helpers of the tests, and the tests of everyday behaviour.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{
    BatchBuilder, LeaderEpoch, LogError, Offset, PartitionId, RecordBatch, ReplicaLog, SyncBy,
    TopicId, Vfs,
};

use crate::{SegmentLog, SegmentLogConfig, SegmentLogStore};

mod blank;
mod damage;
mod epochs;
mod everyday;
mod faults;
mod keeping;
mod model;
mod open_files;
mod planted;
mod power_loss;
mod stored_logs;

const DIR: &str = "/data/logs";

fn partition() -> PartitionId {
    PartitionId::new(TopicId::from_bytes([7; 16]), 3)
}

fn o(offset: i64) -> Offset {
    Offset::new(offset).unwrap()
}

fn e(epoch: i32) -> LeaderEpoch {
    LeaderEpoch::new(epoch)
}

/// Small segments and a dense index, so that few batches reach every case.
fn config() -> SegmentLogConfig {
    SegmentLogConfig {
        segment_bytes: 400,
        index_interval_bytes: 150,
        // Fewer than one log has, so that files are closed all the time.
        max_open_files: 2,
    }
}

fn store(vfs: &MemVfs) -> SegmentLogStore {
    SegmentLogStore::open(DIR, Arc::new(vfs.clone()), config()).unwrap()
}

fn open(vfs: &MemVfs) -> (SegmentLog, u64) {
    store(vfs).open_log(partition()).unwrap()
}

fn open_error(vfs: &MemVfs) -> LogError {
    store(vfs).open_log(partition()).map(|_| ()).unwrap_err()
}

fn batch(records: usize, value: &[u8], timestamp: i64) -> RecordBatch {
    let mut builder = BatchBuilder::new(timestamp);
    for i in 0..records {
        builder = builder.record(timestamp + i64::try_from(i).unwrap(), None, Some(value));
    }
    builder.build().unwrap()
}

fn at(base: i64, epoch: i32, records: usize) -> RecordBatch {
    batch(records, b"value", base).restamped(o(base), e(epoch))
}

/// Appends `count` batches of two records in `epoch`, which is assigned first.
fn fill(log: &mut SegmentLog, epoch: i32, count: usize) {
    log.assign_epoch(e(epoch), log.log_end()).unwrap();
    for _ in 0..count {
        let timestamp = log.log_end().get().wrapping_mul(10);
        let batch = batch(2, b"some value", timestamp);
        log.append_as_leader(e(epoch), &batch).unwrap();
    }
}

fn flush(log: &mut SegmentLog) {
    if let Some(ticket) = log.begin_flush() {
        let result = (ticket.job)(SyncBy::Job);
        log.finish_flush(ticket.end, ticket.generation, result)
            .unwrap();
    }
}

/// Everything from the log start below `limit`.
fn contents(log: &dyn ReplicaLog, limit: Offset) -> Result<Vec<u8>, LogError> {
    let mut bytes = Vec::new();
    let mut from = log.log_start();
    while from < limit {
        let slice = log.read(from, limit, 300)?;
        if slice.bytes.is_empty() {
            break;
        }
        bytes.extend_from_slice(&slice.bytes);
        from = slice.next;
    }
    Ok(bytes)
}

fn everything(log: &SegmentLog) -> Vec<u8> {
    contents(log, log.log_end()).unwrap()
}

fn segment_files(vfs: &MemVfs) -> Vec<PathBuf> {
    let dir = Path::new(DIR).join(partition().to_string());
    let mut paths = vfs.read_dir(&dir).unwrap();
    paths.retain(|p| p.extension().is_some_and(|e| e == "log"));
    paths
}

fn file(name: &str) -> PathBuf {
    Path::new(DIR).join(partition().to_string()).join(name)
}
