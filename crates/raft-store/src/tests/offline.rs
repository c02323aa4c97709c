//! Looking at stores that do not run, and the way back from a lost majority.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{Proposer, RaftGroupId, Rng, Vfs};

use super::world::{DEADLINE, Net, TestNode, config};
use crate::db::{Change, Db, database_path};
use crate::offline::{LogPosition, dump, force_single, inspect};
use crate::types::{Entry, LogIdRecord, Membership, PeerNode};
use crate::{KvCommand, RaftState, RaftStoreError};

const GROUP: RaftGroupId = RaftGroupId::METADATA;

/// Three disks of a group that has written and purged, taken by a power loss.
async fn disks() -> Vec<MemVfs> {
    let net = Net::default();
    let mut nodes = Vec::new();
    for name in ["n1", "n2", "n3"] {
        let node = TestNode::start(&net, name, MemVfs::new(), |config, options| {
            config.snapshot_threshold = 50;
            options.limits.logs_kept_behind_snapshot = 10;
            options.limits.snapshot_min_log_bytes = 0;
        });
        nodes.push(node.await.unwrap());
    }
    let voters = nodes.iter().map(|n| n.voter.clone()).collect();
    nodes[0].handle().initialize(voters).await.unwrap();
    let leader = nodes[0].handle();
    let leads = |s: &crate::RaftStatus| s.state == RaftState::Leader;
    leader
        .wait_status(DEADLINE, "the leadership", leads)
        .await
        .unwrap();
    leader.read_barrier(DEADLINE).await.unwrap();
    let mut index = None;
    for number in 0..400u32 {
        let key = number.to_le_bytes().to_vec();
        let command = KvCommand::put(key, "v").encode().unwrap();
        let done = leader.propose(GROUP, command, DEADLINE).await;
        index = Some(done.unwrap().index);
    }
    for node in &nodes {
        let handle = node.handle();
        handle.wait_applied(index.unwrap(), DEADLINE).await.unwrap();
    }
    let lose = |(seed, node): (u64, TestNode)| {
        node.scope.crash();
        node.vfs.lose_power(&mut Rng::new(seed))
    };
    (0..).zip(nodes).map(lose).collect()
}

fn vfs_of(disk: &MemVfs) -> Arc<dyn Vfs> {
    Arc::new(disk.clone())
}

fn dir(name: &str) -> std::path::PathBuf {
    config(name).data_dir
}

#[tokio::test(start_paused = true)]
async fn a_sound_store_is_described_and_a_damaged_one_is_named_and_neither_is_touched() {
    let disk = disks().await.remove(0);
    let vfs = vfs_of(&disk);
    let at = dir("n1");
    let report = inspect(&vfs, &at, GROUP).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.voters.len(), 3);
    assert!(report.entries > 0 && report.snapshots.iter().any(|s| s.is_recorded));
    let mut seen = 0;
    dump(&vfs, &at, GROUP, |_| seen += 1).unwrap();
    assert_eq!(seen, report.entries);
    assert_eq!(
        inspect(&vfs, &at, GROUP).unwrap(),
        report,
        "a look changes nothing"
    );

    let snapshot = report.snapshots.iter().find(|s| s.is_recorded).unwrap();
    disk.flip_bit(&snapshot.path, 40, 3).unwrap();
    let damaged = inspect(&vfs, &at, GROUP).unwrap();
    assert!(!damaged.problems.is_empty());
    let refused = force_single(&vfs, &at, GROUP);
    assert!(matches!(refused, Err(RaftStoreError::MembershipRefused(_))));
    disk.flip_bit(&snapshot.path, 40, 3).unwrap();
    // Wherever a bit of the database flips: it is noticed, or it was of no use.
    let path = at.join("raft").join("log.redb");
    let length = vfs.read_file(&path, 1 << 30).unwrap().len();
    for byte in (0..length).step_by(4_099) {
        disk.flip_bit(&path, byte, 5).unwrap();
        if let Ok(found) = inspect(&vfs, &at, GROUP) {
            assert_eq!(found, report, "byte {byte}");
        }
        disk.flip_bit(&path, byte, 5).unwrap();
    }
}

/// The power went when a received snapshot was recorded and the log behind it not yet purged. openraft
/// removes all that the snapshot covers when it starts.
#[tokio::test(start_paused = true)]
async fn a_group_of_one_is_made_behind_a_snapshot_that_is_ahead_of_the_log() {
    let disk = disks().await.remove(1);
    let vfs = vfs_of(&disk);
    let before = inspect(&vfs, &dir("n2"), GROUP).unwrap();
    let recorded = before.snapshots.iter().find(|s| s.is_recorded).unwrap();
    let covered = recorded.last.clone().unwrap().unwrap();
    let end = covered.index.get() - 5;
    assert!(before.first.get() < end);
    // A membership that the snapshot's has replaced.
    let other = PeerNode {
        name: super::world::name("n1"),
        address: "n1:1".parse().unwrap(),
    };
    let voters = std::collections::BTreeSet::from([77]);
    let nodes = std::collections::BTreeMap::from([(77, other)]);
    let membership = Membership::new(vec![voters], nodes).unwrap();
    let last = LogIdRecord {
        term: covered.term.get(),
        index: end,
    };
    let entry = Entry {
        log_id: last.into(),
        payload: openraft::EntryPayload::Membership(membership),
    };
    let db = Db::open(&*vfs, &database_path(&dir("n2"), GROUP), GROUP).unwrap();
    db.commit(&[
        Change::TruncateAfter(Some(end - 1)),
        Change::Append(vec![entry]),
        Change::Committed(last),
    ])
    .unwrap();
    drop(db);
    let report = inspect(&vfs, &dir("n2"), GROUP).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.last.unwrap().index.get(), end);
    assert_eq!(report.voters, before.voters);

    let at = force_single(&vfs, &dir("n2"), GROUP).unwrap();
    assert_eq!(at.index.get(), covered.index.get() + 1);
    let after = inspect(&vfs, &dir("n2"), GROUP).unwrap();
    assert_eq!(after.problems, Vec::<String>::new());
    assert_eq!(after.voters.len(), 1);
    let node = leads_alone(disk, at).await;
    assert_eq!(node.handle().status().voters.len(), 1);
}

/// Starts node 2, which leads, since it is the only voter, and applies the log up to `at`.
async fn leads_alone(disk: MemVfs, at: LogPosition) -> TestNode {
    let node = TestNode::start(&Net::default(), "n2", disk, |_, _| {}).await;
    let node = node.unwrap();
    let leads = |s: &crate::RaftStatus| s.state == RaftState::Leader;
    let handle = node.handle();
    handle
        .wait_status(DEADLINE, "it leads", leads)
        .await
        .unwrap();
    handle.wait_applied(at.index, DEADLINE).await.unwrap();
    node
}

#[tokio::test(start_paused = true)]
async fn one_of_three_becomes_a_group_of_its_own_with_everything_it_held() {
    let disk = disks().await.remove(1);
    let vfs = vfs_of(&disk);
    let before = inspect(&vfs, &dir("n2"), GROUP).unwrap();
    let at = force_single(&vfs, &dir("n2"), GROUP).unwrap();
    assert_eq!(at.index.get(), before.last.unwrap().index.get() + 1);
    let after = inspect(&vfs, &dir("n2"), GROUP).unwrap();
    assert_eq!(after.problems, Vec::<String>::new());
    assert_eq!(after.voters.len(), 1);
    let node = leads_alone(disk, at).await;
    for number in 0..400u32 {
        let found = node.kv.get(&number.to_le_bytes());
        assert_eq!(found, Some(Bytes::from("v")));
    }
    let refused = inspect(&vfs_of(&node.vfs), Path::new("/nowhere"), GROUP);
    assert!(refused.is_err());
}
