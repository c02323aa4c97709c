//! The power goes at every single write and sync of a store's life; the disk fills up at every step; any
//! bit turns over.

use std::panic::AssertUnwindSafe;

use futures_util::{FutureExt, stream};
use openraft::EntryPayload;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use rivven_core_types::test_util::hunt::assert_found;
use rivven_core_types::test_util::{DiskFault, MemVfs};
use rivven_core_types::{CommittedEntry, LogIndex, Rng, StateMachine, Term, Vfs};

use super::store::{context, open};
use crate::instance::Store;
use crate::snapshot::SnapshotHeader;
use crate::types::{Command, Entry, LogId, SnapshotMeta, Vote};
use crate::{KvCommand, KvStateMachine, RaftStoreError};

/// One step of a store's life: it is on the disk whole or not at all.
#[derive(Debug, Clone, Copy)]
enum Step {
    Vote(u64),
    /// Term and indexes.
    Append(u64, u64, u64),
    /// The last entry that stays.
    Truncate(u64, u64),
    Purge(u64, u64),
    /// Applies up to here and builds.
    Snapshot(u64),
    Install(u64, u64),
}

/// All kinds of steps, in the orders in which Raft takes them.
const LIFE: [Step; 43] = [
    Step::Vote(1),
    Step::Append(1, 0, 20),
    Step::Append(1, 20, 21),
    Step::Append(1, 21, 40),
    Step::Truncate(1, 29),
    Step::Vote(2),
    Step::Append(2, 30, 50),
    Step::Snapshot(29),
    Step::Purge(1, 19),
    Step::Append(2, 50, 80),
    Step::Truncate(2, 70),
    Step::Append(2, 71, 90),
    Step::Snapshot(60),
    Step::Purge(2, 49),
    Step::Vote(3),
    Step::Install(3, 200),
    Step::Purge(3, 200),
    Step::Append(3, 201, 230),
    Step::Truncate(3, 210),
    Step::Vote(4),
    Step::Append(4, 211, 240),
    Step::Snapshot(230),
    Step::Purge(4, 225),
    Step::Append(4, 240, 260),
    Step::Vote(5),
    Step::Append(5, 260, 265),
    Step::Append(5, 265, 300),
    Step::Truncate(5, 280),
    Step::Append(5, 281, 310),
    Step::Snapshot(290),
    Step::Purge(5, 285),
    Step::Vote(6),
    Step::Install(6, 500),
    Step::Purge(6, 500),
    Step::Append(6, 501, 505),
    Step::Append(6, 505, 510),
    Step::Append(6, 510, 530),
    Step::Truncate(6, 520),
    Step::Vote(7),
    Step::Append(7, 521, 560),
    Step::Snapshot(550),
    Step::Purge(7, 545),
    Step::Append(7, 560, 600),
];

/// What a store holds, as it is found after a start.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
    snapshot: Option<LogId>,
    hash: u64,
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn entry(term: u64, index: u64) -> Entry {
    let value = vec![u8::try_from(term).unwrap(); 100];
    let command = KvCommand::put(index.to_le_bytes().to_vec(), value);
    Entry {
        log_id: id(term, index),
        payload: EntryPayload::Normal(Command(command.encode().unwrap())),
    }
}

async fn look(store: &Store) -> Seen {
    let mut log = store.log.clone();
    let snapshot = store.machine.clone().get_current_snapshot().await.unwrap();
    Seen {
        vote: log.read_vote().await.unwrap(),
        purged: log.get_log_state().await.unwrap().last_purged_log_id,
        entries: log.try_get_log_entries(..).await.unwrap(),
        snapshot: snapshot.and_then(|s| s.meta.last_log_id),
        hash: store.machine.hash().1,
    }
}

async fn snapshot(store: &Store, upto: u64) -> std::io::Result<()> {
    let mut machine = store.machine.clone();
    let applied = machine.applied_state().await?.0;
    let from = applied.map_or(0, |id| id.index + 1);
    let entries = store.log.clone().try_get_log_entries(from..=upto).await?;
    let entries = stream::iter(entries.into_iter().map(|entry| Ok((entry, None))));
    machine.apply(entries).await?;
    machine
        .get_snapshot_builder()
        .await
        .build_snapshot()
        .await
        .map(drop)
}

/// As a receiver does it: the file is whole and durable under a temporary name.
async fn install(store: &Store, last: LogId) -> std::io::Result<()> {
    let mut kv = KvStateMachine::new();
    let command = KvCommand::put("installed", "yes").encode().unwrap();
    let (index, term) = (LogIndex::new(last.index), Term::new(last.leader_id.term));
    let committed = CommittedEntry {
        index,
        term,
        command,
    };
    kv.apply(&[committed]).unwrap();
    let meta = SnapshotMeta {
        last_log_id: Some(last),
        ..SnapshotMeta::default()
    };
    let header = SnapshotHeader {
        group: 0,
        cluster: None,
        last: Some(last.into()),
        membership: (&meta.last_membership).into(),
    };
    let mut machine = store.machine.clone();
    let written = machine.dir().write(&header, &*kv.freeze());
    let file = written.map_err(RaftStoreError::into_io)?;
    machine.install_snapshot(&meta, file).await
}

/// Takes one step and waits until it is durable.
async fn take(store: &Store, step: Step) -> std::io::Result<()> {
    let mut log = store.log.clone();
    match step {
        Step::Vote(term) => log.save_vote(&Vote::new(term, 1)).await,
        Step::Append(term, from, to) => {
            let entries = (from..to).map(|index| entry(term, index));
            // A quorum of others may have committed what is still on its way to this disk.
            let mut commits = store.log.clone();
            let committed = commits.save_committed(Some(id(term, from)));
            let (appended, saved) = futures_util::join!(log.blocking_append(entries), committed);
            appended?;
            saved
        }
        Step::Truncate(term, last) => {
            log.truncate_after(Some(id(term, last))).await?;
            log.barrier().await
        }
        Step::Purge(term, upto) => {
            log.purge(id(term, upto)).await?;
            log.barrier().await
        }
        Step::Snapshot(upto) => snapshot(store, upto).await,
        Step::Install(term, last) => install(store, id(term, last)).await,
    }
}

/// What is found after so many steps and an orderly stop, for each number of steps.
async fn expected() -> Vec<Seen> {
    let mut vfs = MemVfs::new();
    let mut seen = Vec::new();
    for step in [None].into_iter().chain(LIFE.map(Some)) {
        let store = open(&vfs).await.unwrap();
        if let Some(step) = step {
            // What was applied in an earlier life is applied again.
            take(&store, step).await.unwrap();
        }
        store.close().await;
        vfs = vfs.restart_process();
        let store = open(&vfs).await.unwrap();
        seen.push(look(&store).await);
        store.close().await;
        vfs = vfs.restart_process();
    }
    seen
}

/// Lives until something fails; returns how many steps were acknowledged.
async fn live(vfs: &MemVfs) -> usize {
    let Ok(store) = open(vfs).await else {
        return 0;
    };
    for (done, step) in LIFE.into_iter().enumerate() {
        if take(&store, step).await.is_err() {
            return done;
        }
    }
    LIFE.len()
}

fn check(expected: &[Seen], done: usize, found: &Seen, at: &str) {
    let may_be = expected.iter().skip(done).take(2);
    assert!(
        may_be.into_iter().any(|seen| seen == found),
        "{at}: {done} steps were acknowledged; found vote {:?}, purged {:?}, {} entries up to {:?}, \
         snapshot {:?}",
        found.vote,
        found.purged,
        found.entries.len(),
        found.entries.last().map(|e| e.log_id),
        found.snapshot
    );
}

/// What becomes of unsynced writes is drawn: all, none, some of them, some of them torn.
const DRAWS: u64 = 3;

/// A life that loses power at one of its writes and syncs, and what is there then. False if it has
/// fewer of them.
async fn lose_power(expected: &[Seen], number: u64) -> bool {
    let (points, draw) = (number / DRAWS, number % DRAWS);
    let vfs = MemVfs::new();
    vfs.blow_after(points);
    let done = live(&vfs).await;
    let is_blown = vfs.is_blown();
    let vfs = vfs.lose_power(&mut Rng::new(number));
    let at = format!("power lost after {points} writes and syncs, draw {draw}");
    let again = context(&vfs).unwrap_or_else(|e| panic!("{at}: {e}"));
    let store = again.open().await.unwrap_or_else(|e| panic!("{at}: {e}"));
    check(expected, done, &look(&store).await, &at);
    // openraft takes it as it is, too.
    let started = again.run(store).await;
    let instance = started.unwrap_or_else(|e| panic!("{at}: {e}"));
    instance.close().await;
    is_blown
}

#[tokio::test(start_paused = true)]
async fn a_power_loss_at_any_write_or_sync_loses_nothing_acknowledged_and_leaves_no_step_half_done()
{
    let expected = expected().await;
    let mut losses = 0;
    while lose_power(&expected, losses).await {
        losses += 1;
    }
    let points = losses / DRAWS;
    assert!(points >= 500, "only {points} points");
}

#[test]
fn the_same_losses_of_power_find_every_planted_bug() {
    const FINDS: [&str; 4] = [
        "raft-store.answers-before-the-sync",
        "raft-store.committed-beyond-the-log",
        "raft-store.truncation-not-stored",
        "raft-store.vote-not-stored",
    ];
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_time().start_paused(true).build().unwrap()
    };
    let expected = runtime().block_on(expected());
    assert_found(&FINDS, 0..500 * DRAWS, |number| {
        runtime().block_on(lose_power(&expected, number))
    });
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_at_any_step_costs_that_step_alone() {
    let expected = expected().await;
    for full in 0..LIFE.len() {
        let vfs = MemVfs::new();
        let store = open(&vfs).await.unwrap();
        let mut done = 0;
        for (number, step) in LIFE.into_iter().enumerate() {
            if number == full {
                vfs.inject("", DiskFault::Full);
            }
            if take(&store, step).await.is_err() {
                break;
            }
            done += 1;
        }
        assert_eq!(done, full, "a full disk goes unnoticed");
        let refused = take(&store, Step::Vote(9)).await;
        assert!(refused.is_err(), "a store that failed is used again");
        vfs.heal();
        drop(store);
        let store = open(&vfs.restart_process()).await.unwrap();
        let at = format!("disk full at step {full}");
        check(&expected, done, &look(&store).await, &at);
        store.close().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bit_that_turns_over_is_noticed_or_harmless_and_never_a_panic() {
    const FLIPS: u64 = 300;
    let expected = expected().await;
    let vfs = MemVfs::new();
    let store = open(&vfs).await.unwrap();
    for step in LIFE {
        take(&store, step).await.unwrap();
    }
    store.close().await;
    let mut vfs = vfs.restart_process();
    let files = [
        "/data/raft/log.redb",
        "/data/raft/snapshots/0-7-550.snap",
        "/data/raft/snapshots/0-6-500.snap",
    ]
    .map(std::path::Path::new);
    let whole = files.map(|path| vfs.read_file(path, 10 << 20).unwrap());
    // In place of a damaged snapshot stand the one before it and the log behind that one.
    let installed = expected.iter().find(|s| s.snapshot == Some(id(6, 500)));
    let term = |index| if index <= 520 { 6 } else { 7 };
    let before = Seen {
        purged: Some(id(6, 500)),
        entries: (501..600).map(|index| entry(term(index), index)).collect(),
        snapshot: Some(id(6, 500)),
        hash: installed.unwrap().hash,
        ..expected.last().unwrap().clone()
    };
    let mut noticed = [0; 2];
    for flip in 0..FLIPS {
        let which = usize::try_from(flip % 2).unwrap();
        let path = files[which];
        let length = u64::try_from(whole[which].len()).unwrap();
        let mut rng = Rng::new(flip);
        let (byte, bit) = (rng.below(length), u8::try_from(rng.below(8)).unwrap());
        vfs.flip_bit(path, usize::try_from(byte).unwrap(), bit)
            .unwrap();
        let opened = AssertUnwindSafe(open(&vfs)).catch_unwind().await;
        let at = format!("bit {bit} of byte {byte} of {}", path.display());
        match opened.unwrap_or_else(|_| panic!("{at}: a panic")) {
            Ok(store) => {
                let found = look(&store).await;
                if which == 1 && found == before {
                    noticed[which] += 1;
                } else {
                    check(&expected, LIFE.len(), &found, &at);
                }
                store.close().await;
            }
            Err(error) => {
                assert!(error.to_string().contains("/data/raft/"), "{at}: {error}");
                noticed[which] += 1;
            }
        }
        vfs = vfs.restart_process();
        for (path, bytes) in files.into_iter().zip(&whole) {
            vfs.write_file_atomically(path, bytes).unwrap();
        }
    }
    assert_eq!(noticed[1], FLIPS / 2, "every byte of a snapshot counts");
    assert!(noticed[0] > 0);
}

/// Building one is a task of its own: the leader may send a newer one meanwhile.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_a_received_one_has_overtaken_replaces_nothing() {
    let vfs = MemVfs::new();
    let store = open(&vfs).await.unwrap();
    for step in [Step::Append(1, 1, 100), Step::Snapshot(50)] {
        take(&store, step).await.unwrap();
    }
    let mut slow = store.machine.clone().get_snapshot_builder().await;
    for step in [Step::Install(6, 500), Step::Purge(6, 500)] {
        take(&store, step).await.unwrap();
    }
    slow.build_snapshot().await.unwrap();
    let held = look(&store).await;
    assert_eq!(held.snapshot, Some(id(6, 500)));
    store.close().await;
    let vfs = vfs.restart_process();
    let files = vfs.read_dir("/data/raft/snapshots".as_ref()).unwrap();
    assert_eq!(files.len(), 1, "{files:?}");
    let store = open(&vfs).await.unwrap();
    assert_eq!(look(&store).await, held);
    store.close().await;
}
