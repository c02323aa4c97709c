//! The store alone: what survives what.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use redb::{ReadableTable, TableDefinition};
use rivven_core_types::test_util::{DiskFault, MemVfs, SeededEntropy};
use rivven_core_types::{OpenMode, Rng, StateMachine, Vfs};

use super::world::{self, name};
use crate::backend::VfsBackend;
use crate::instance::{Context, Store};
use crate::snapshot::SnapshotFile;
use crate::types::{Command, Entry, LogId, SnapshotMeta, Vote};
use crate::{Identity, KvStateMachine, RaftStoreError};

pub(super) fn context(vfs: &MemVfs) -> Result<Arc<Context>, RaftStoreError> {
    let config = world::config("node-1");
    let options = world::options(vfs, 1);
    let identity = Identity::load_or_create(
        &options.vfs,
        &config.data_dir,
        &name("node-1"),
        &SeededEntropy::new(1),
    )?;
    let machine: Box<dyn StateMachine> = Box::new(KvStateMachine::new());
    Ok(Arc::new(Context {
        config,
        options,
        identity: std::sync::Mutex::new(identity),
        admission: |_| Ok(()),
        genesis: machine.freeze(),
        prototype: Arc::new(std::sync::Mutex::new(machine)),
        rpc: world::Net::default().from(&name("node-1")),
    }))
}

pub(super) async fn open(vfs: &MemVfs) -> Result<Store, RaftStoreError> {
    context(vfs)?.open().await
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let fill = u8::try_from((term * 31 + index) % 251).unwrap();
    Entry {
        log_id: LogId::new_term_index(term, index),
        payload: EntryPayload::Normal(Command(vec![fill; bytes].into())),
    }
}

fn entries(term: u64, range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| entry(term, index, 100)).collect()
}

async fn append(store: &Store, list: Vec<Entry>) -> bool {
    store.log.clone().blocking_append(list).await.is_ok()
}

#[tokio::test]
async fn reopening_keeps_vote_log_and_committed() {
    let vfs = MemVfs::new();
    let store = open(&vfs).await.unwrap();
    let mut log = store.log.clone();
    log.save_vote(&Vote::new_committed(3, 7)).await.unwrap();
    assert!(append(&store, entries(3, 0..10)).await);
    log.save_committed(Some(LogId::new_term_index(3, 6)))
        .await
        .unwrap();
    store.close().await;
    let mut log = open(&vfs.restart_process()).await.unwrap().log;
    assert_eq!(
        log.read_vote().await.unwrap(),
        Some(Vote::new_committed(3, 7))
    );
    assert_eq!(
        log.try_get_log_entries(0..100).await.unwrap(),
        entries(3, 0..10)
    );
    assert_eq!(
        log.read_committed().await.unwrap(),
        Some(LogId::new_term_index(3, 6))
    );
}

/// The public crate starts one index too late, so that a conflicting entry survives.
#[tokio::test]
async fn a_truncation_removes_the_conflicting_entry_durably() {
    let vfs = MemVfs::new();
    let store = open(&vfs).await.unwrap();
    let mut log = store.log.clone();
    assert!(append(&store, entries(1, 0..6)).await);
    log.truncate_after(Some(LogId::new_term_index(1, 2)))
        .await
        .unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_log_id, Some(LogId::new_term_index(1, 2)));
    log.barrier().await.unwrap();
    let vfs = vfs.lose_power(&mut Rng::new(5));
    let mut log = open(&vfs).await.unwrap().log;
    let kept = log.try_get_log_entries(0..100).await.unwrap();
    assert_eq!(kept, entries(1, 0..3));
}

#[tokio::test]
async fn a_limited_read_stops_at_the_byte_limit_but_gives_at_least_one_entry() {
    for tail_cache_bytes in [0, 64 << 20] {
        let vfs = MemVfs::new();
        let context = context(&vfs).unwrap();
        let mut options = context.options.clone();
        let identity = crate::machine::guard(&context.identity).clone();
        options.limits.tail_cache_bytes = tail_cache_bytes;
        let store = Arc::new(Context {
            options,
            config: context.config.clone(),
            identity: std::sync::Mutex::new(identity),
            admission: |_| Ok(()),
            genesis: Arc::clone(&context.genesis),
            prototype: Arc::clone(&context.prototype),
            rpc: Arc::clone(&context.rpc),
        })
        .open()
        .await
        .unwrap();
        let big = (0..5).map(|index| entry(1, index, 600 * 1024)).collect();
        assert!(append(&store, big).await);
        let mut log = store.log.clone();
        assert_eq!(log.limited_get_log_entries(0, 5).await.unwrap().len(), 1);
        assert!(append(&store, vec![entry(1, 5, 3 << 20)]).await);
        assert_eq!(log.limited_get_log_entries(5, 6).await.unwrap().len(), 1);
        assert_eq!(log.try_get_log_entries(0..6).await.unwrap().len(), 6);
    }
}

#[tokio::test]
async fn a_failed_fsync_is_fail_stop_and_acks_nothing() {
    let vfs = MemVfs::new();
    let store = open(&vfs).await.unwrap();
    assert!(append(&store, entries(1, 0..3)).await);
    vfs.inject("log.redb", DiskFault::FailSync);
    assert!(!append(&store, entries(1, 3..6)).await);
    vfs.heal();
    assert!(
        !append(&store, entries(1, 6..7)).await,
        "a store that failed is not used again"
    );
    assert!(store.log.clone().save_vote(&Vote::new(9, 9)).await.is_err());
    assert!(store.log.failure().is_some());
}

const DATABASE: &str = "/data/raft/log.redb";

#[tokio::test]
async fn a_store_that_has_gone_is_reported_and_never_replaced() {
    let vfs = MemVfs::new();
    open(&vfs).await.unwrap().close().await;
    let path = Path::new(DATABASE);
    let whole = vfs.read_file(path, 10 << 20).unwrap();
    vfs.remove_file(path).unwrap();
    for _ in 0..2 {
        let error = open(&vfs).await.err().unwrap();
        assert!(matches!(error, RaftStoreError::StoreLost { .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("move the whole data directory away")
        );
    }
    drop(vfs.open(path, OpenMode::CreateNew).unwrap());
    let error = open(&vfs).await.err().unwrap();
    assert!(
        matches!(error, RaftStoreError::StoreLost { .. }),
        "empty: {error}"
    );
    // Another life's database under this identity.
    vfs.remove_file(Path::new("/data/IDENTITY")).unwrap();
    vfs.write_file_atomically(path, &whole).unwrap();
    let other: Arc<dyn Vfs> = Arc::new(vfs.clone());
    let dir = Path::new("/data");
    Identity::load_or_create(&other, dir, &name("node-1"), &SeededEntropy::new(2)).unwrap();
    let error = open(&vfs).await.err().unwrap();
    assert!(
        matches!(error, RaftStoreError::StoreLost { .. }),
        "foreign: {error}"
    );
}

/// Changes one byte of a record's value behind the store's back, with valid page checksums.
fn damage(vfs: &MemVfs, table: &str, pick: impl Fn(&str) -> bool) -> bool {
    let file = vfs.open(Path::new(DATABASE), OpenMode::ReadWrite).unwrap();
    let db = redb::Database::builder()
        .create_with_backend(VfsBackend(file))
        .unwrap();
    let txn = db.begin_write().unwrap();
    let mut found = false;
    if table == "meta" {
        let mut table = txn
            .open_table(TableDefinition::<(u32, &str), &[u8]>::new("meta"))
            .unwrap();
        table
            .retain(|key, _| {
                found |= pick(key.1);
                true
            })
            .unwrap();
        let bytes = table.get((0, "vote")).unwrap().map(|v| v.value().to_vec());
        if let Some(mut bytes) = bytes.filter(|_| found) {
            *bytes.last_mut().unwrap() ^= 1;
            table.insert((0, "vote"), bytes.as_slice()).unwrap();
        }
    } else {
        let mut table = txn
            .open_table(TableDefinition::<(u32, u64), &[u8]>::new("log"))
            .unwrap();
        let bytes = table.get((0, 3)).unwrap().unwrap().value().to_vec();
        found = true;
        table.insert((0, 4), bytes.as_slice()).unwrap();
    }
    txn.commit().unwrap();
    found
}

#[tokio::test]
async fn a_corrupt_vote_and_a_record_under_a_wrong_key_are_hard_errors() {
    for table in ["meta", "log"] {
        let vfs = MemVfs::new();
        let store = open(&vfs).await.unwrap();
        store.log.clone().save_vote(&Vote::new(3, 7)).await.unwrap();
        assert!(append(&store, entries(1, 0..10)).await);
        store.close().await;
        assert!(damage(&vfs, table, |key| key == "vote"));
        let error = open(&vfs).await.err().unwrap();
        assert!(matches!(error, RaftStoreError::Corrupt { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_second_opener_of_a_store_on_a_real_disk_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::RaftNodeConfig {
        data_dir: PathBuf::from(dir.path()),
        standalone: true,
        ..crate::RaftNodeConfig::default()
    };
    let mut first = crate::RaftNode::with_config(config.clone()).await.unwrap();
    let second = crate::RaftNode::with_config(config.clone()).await;
    assert!(
        matches!(second, Err(RaftStoreError::AlreadyOpen { .. })),
        "{second:?}"
    );
    first.shutdown().await;
    crate::RaftNode::with_config(config).await.unwrap();
}

/// Every acknowledged write survives a power loss, wherever in a write it strikes; what follows it
/// survives whole or not at all.
#[tokio::test]
async fn acknowledged_entries_and_votes_survive_power_loss() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let mut vfs = MemVfs::new();
        let (mut end, mut term, mut vote) = (0, 1, None);
        for round in 0..4 {
            let store = open(&vfs)
                .await
                .unwrap_or_else(|e| panic!("seed {seed}/{round}: {e}"));
            let mut log = store.log.clone();
            assert_eq!(log.read_vote().await.unwrap(), vote, "seed {seed}");
            let found = log
                .get_log_state()
                .await
                .unwrap()
                .last_log_id
                .map_or(0, |id| id.index + 1);
            assert!(
                found >= end,
                "seed {seed}: {found} entries of {end} acknowledged"
            );
            let committed = log
                .read_committed()
                .await
                .unwrap()
                .map_or(0, |id| id.index + 1);
            assert!(
                committed <= found,
                "seed {seed}: committed ahead of the durable log"
            );
            let kept = log.try_get_log_entries(0..end).await.unwrap();
            assert_eq!(kept.len(), usize::try_from(end).unwrap(), "seed {seed}");
            if end > 0 {
                let cut = (end - 1 - rng.below(end.min(5))).max(committed.saturating_sub(1));
                let last = kept[usize::try_from(cut).unwrap()].log_id;
                log.truncate_after(Some(last)).await.unwrap();
                end = cut + 1;
            } else if found > 0 {
                log.truncate_after(None).await.unwrap();
            }
            term += 1;
            let new_vote = Vote::new(term, rng.below(3));
            log.save_vote(&new_vote).await.unwrap();
            vote = Some(new_vote);
            for _ in 0..rng.below(6) {
                let upto = end + 1 + rng.below(20);
                assert!(append(&store, entries(term, end..upto)).await);
                end = upto;
                let committed = LogId::new_term_index(term, end - 1);
                log.save_committed(Some(committed)).await.unwrap();
            }
            // One more write that is cut short: before the writer took it, or between its writes
            // and its fsync, so that any part of them may be on the disk.
            if rng.below(2) == 0 {
                vfs.inject("log.redb", DiskFault::FailSync);
            }
            let cut_short = tokio::spawn({
                let more = entries(term, end..end + 30);
                let mut log = store.log.clone();
                async move { log.blocking_append(more).await.is_ok() }
            });
            for _ in 0..rng.below(6) {
                tokio::task::yield_now().await;
            }
            let acked = cut_short.is_finished() && cut_short.await.unwrap();
            if acked {
                end += 30;
            }
            vfs = vfs.lose_power(&mut rng);
            vfs.heal();
        }
    }
}

/// An operation that its asker gave up before there was room for it is nobody's, and no sign of a disk
/// that stands still.
#[tokio::test(start_paused = true)]
async fn a_write_that_was_given_up_in_front_of_a_full_queue_is_not_waited_for() {
    let mut context = context(&MemVfs::new()).unwrap();
    let limits = &mut Arc::get_mut(&mut context).unwrap().options.limits;
    limits.max_queued_writes = 1;
    let store = context.open().await.unwrap();
    let (mut queued, mut given_up) = (Box::pin(store.log.barrier()), Box::pin(store.log.barrier()));
    assert!(futures_util::poll!(&mut queued).is_pending());
    assert!(futures_util::poll!(&mut given_up).is_pending());
    drop(given_up);
    queued.await.unwrap();
    store.log.barrier().await.unwrap();
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(store.log.waited(), Duration::ZERO);
    store.close().await;
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_now_is_not_one_that_this_build_does_not_understand() {
    let vfs = MemVfs::new();
    let store = open(&vfs).await.unwrap();
    let mut machine = store.machine.clone();
    let snapshot = SnapshotFile {
        path: machine.dir().temporary("incoming"),
        bytes: 100,
    };
    let meta = SnapshotMeta::default();
    // As when no file can be opened.
    let unread = machine.install_snapshot(&meta, snapshot.clone()).await;
    assert!(unread.is_err());
    assert_eq!(machine.stopped(), None, "the next core may try again");
    vfs.write_file_atomically(&snapshot.path, &[7; 100])
        .unwrap();
    assert!(machine.install_snapshot(&meta, snapshot).await.is_err());
    assert!(machine.stopped().unwrap().contains("checksum"));
    assert_eq!(machine.hash().0, None);
    store.close().await;
}
