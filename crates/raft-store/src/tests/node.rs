//! One node through its public face.

use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{ProposeError, Proposer, RaftGroupId, Vfs};

use super::world::{self, DEADLINE};
use crate::{
    InitialMember, KvCommand, KvResult, RaftNode, RaftNodeConfig, RaftState, RaftStoreError,
};

fn put(key: &'static str, value: &'static str) -> Bytes {
    KvCommand::put(key, value).encode().unwrap()
}

async fn standalone(vfs: &MemVfs) -> RaftNode {
    let config = RaftNodeConfig {
        standalone: true,
        ..world::config("node-1")
    };
    let mut node = RaftNode::with_options(config, world::options(vfs, 1))
        .await
        .unwrap();
    node.start().await.unwrap();
    node
}

/// The public crate's cluster mode cannot start at all: it makes a directory where its database
/// ought to be. Here both calls succeed, on a real disk, and again after a restart.
#[tokio::test]
async fn a_node_without_members_starts_and_awaits_them() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftNodeConfig {
        node_id: "node-1".to_string(),
        standalone: false,
        data_dir: dir.path().into(),
        heartbeat_interval_ms: 50,
        election_timeout_min_ms: 150,
        election_timeout_max_ms: 300,
        snapshot_threshold: 10_000,
        initial_members: vec![],
    };
    for _ in 0..2 {
        let mut node = RaftNode::with_config(config.clone()).await.unwrap();
        node.start().await.unwrap();
        assert_eq!(node.handle().status().state, RaftState::AwaitingMembers);
        assert_eq!(
            node.propose(put("k", "v")).await,
            Err(ProposeError::NotInitialized)
        );
        assert!(matches!(
            node.start().await,
            Err(RaftStoreError::NotStartable { .. })
        ));
        node.shutdown().await;
    }
}

#[tokio::test]
async fn members_alone_do_not_make_a_node_initialize_its_group() {
    let address = rivven_core_types::Address::new("node-1", 1).unwrap();
    let member = InitialMember {
        name: world::name("node-1"),
        address,
    };
    let config = RaftNodeConfig {
        initial_members: vec![member],
        ..world::config("node-1")
    };
    let options = world::options(&MemVfs::new(), 1);
    let mut node = RaftNode::with_options(config, options).await.unwrap();
    node.start().await.unwrap();
    assert!(!node.handle().is_initialized());
}

/// In the public crate a standalone node loses everything, and reads look at another state machine
/// than the one that is written.
#[tokio::test]
async fn a_standalone_node_reads_its_writes_and_keeps_them() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftNodeConfig {
        standalone: true,
        data_dir: dir.path().into(),
        ..RaftNodeConfig::default()
    };
    let mut node = RaftNode::with_config(config.clone()).await.unwrap();
    node.start().await.unwrap();
    let done = node.propose(put("k", "v1")).await.unwrap();
    assert_eq!(KvResult::decode(&done.result), Ok(KvResult::Value(None)));
    let done = node.propose(put("k", "v2")).await.unwrap();
    let old = KvResult::Value(Some(Bytes::from_static(b"v1")));
    assert_eq!(KvResult::decode(&done.result), Ok(old));
    assert_eq!(node.kv_get(b"k").await.unwrap().unwrap(), "v2");
    let term = node.handle().status().term;
    let hash = node.handle().state_hash().unwrap().1;
    node.shutdown().await;
    assert!(matches!(
        node.propose(put("k", "v")).await,
        Err(ProposeError::Unavailable { .. })
    ));
    let mut node = RaftNode::with_config(config).await.unwrap();
    node.start().await.unwrap();
    assert_eq!(node.kv_get(b"k").await.unwrap().unwrap(), "v2");
    assert_eq!(node.handle().state_hash().unwrap().1, hash);
    assert!(
        node.handle().status().term > term,
        "a restarted leader must stand again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_appended_whole_in_its_order_or_not_at_all() {
    let node = standalone(&MemVfs::new()).await;
    let first = node.propose(put("k", "0")).await.unwrap().index.get();
    let values: Vec<String> = (1..=100).map(|i| i.to_string()).collect();
    let command = |value: &String| KvCommand::put("k", value.clone()).encode().unwrap();
    let done = node
        .propose_batch(values.iter().map(command).collect())
        .await
        .unwrap();
    assert_eq!(done.len(), 100);
    for (at, one) in done.into_iter().enumerate() {
        let one = one.unwrap();
        assert_eq!(one.index.get(), first + 1 + at as u64);
        let before = KvResult::Value(Some(Bytes::from(at.to_string())));
        assert_eq!(KvResult::decode(&one.result), Ok(before));
    }
    assert_eq!(node.propose_batch(Vec::new()).await, Ok(Vec::new()));

    // One command of it is too long, or there is no room for all of it.
    let too_long = Bytes::from(vec![0; rivven_core_types::limits::MAX_COMMAND_BYTES + 1]);
    let refused = node.propose_batch(vec![put("k", "x"), too_long]).await;
    assert!(
        matches!(refused, Err(ProposeError::TooLarge { .. })),
        "{refused:?}"
    );
    let refused = node.propose_batch(vec![put("k", "x"); 5_000]).await;
    assert_eq!(refused, Err(ProposeError::Overloaded));
    assert_eq!(node.kv_get(b"k").await.unwrap().unwrap(), "100");
    assert_eq!(
        node.propose(put("k", "y")).await.unwrap().index.get(),
        first + 101
    );
}

#[tokio::test(start_paused = true)]
async fn a_state_behind_a_snapshot_and_a_purged_log_survives_a_restart() {
    let vfs = MemVfs::new();
    let config = RaftNodeConfig {
        standalone: true,
        snapshot_threshold: 20,
        ..world::config("node-1")
    };
    let mut options = world::options(&vfs, 1);
    options.limits.logs_kept_behind_snapshot = 5;
    let mut node = RaftNode::with_options(config.clone(), options)
        .await
        .unwrap();
    node.start().await.unwrap();
    for i in 0..100u32 {
        let command = KvCommand::put(i.to_le_bytes().to_vec(), vec![1; 10])
            .encode()
            .unwrap();
        node.propose(command).await.unwrap();
    }
    let handle = node.handle();
    let snapshot = |s: &crate::RaftStatus| s.snapshot.is_some_and(|i| i.get() >= 60);
    handle
        .wait_status(DEADLINE, "snapshots", snapshot)
        .await
        .unwrap();
    let hash = handle.state_hash().unwrap();
    node.shutdown().await;
    // By the index in their names, the newest first.
    let files = |vfs: &MemVfs| {
        let mut files = vfs.read_dir("/data/raft/snapshots".as_ref()).unwrap();
        files.sort_by_key(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let index = name.rsplit('-').next().unwrap().parse::<u64>().unwrap();
            std::cmp::Reverse(index)
        });
        files
    };
    assert_eq!(files(&vfs).len(), 2, "{:?}", files(&vfs));

    let vfs = vfs.restart_process();
    let mut node = RaftNode::with_options(config.clone(), world::options(&vfs, 1))
        .await
        .unwrap();
    node.start().await.unwrap();
    assert_eq!(node.handle().state_hash().unwrap().1, hash.1);
    node.shutdown().await;

    // The newest is damaged, or gone: the log is applied to the one before it.
    let mut vfs = vfs;
    for damage in [true, false] {
        vfs = vfs.restart_process();
        let newest = files(&vfs).remove(0);
        if damage {
            vfs.flip_bit(&newest, 40, 3).unwrap();
        } else {
            vfs.remove_file(&newest).unwrap();
        }
        for _ in 0..2 {
            let options = world::options(&vfs, 1);
            let mut node = RaftNode::with_options(config.clone(), options)
                .await
                .unwrap();
            node.start().await.unwrap();
            assert_eq!(node.handle().state_hash().unwrap().1, hash.1);
            node.shutdown().await;
        }
    }

    // The public crate would now start with an empty state over a purged log.
    let all = files(&vfs);
    for path in &all {
        vfs.flip_bit(path, 40, 3).unwrap();
    }
    let refused = RaftNode::with_options(config.clone(), world::options(&vfs, 1)).await;
    assert!(
        matches!(refused, Err(RaftStoreError::Corrupt { .. })),
        "{refused:?}"
    );
    for path in &all {
        vfs.remove_file(path).unwrap();
    }
    let refused = RaftNode::with_options(config, world::options(&vfs, 1)).await;
    assert!(refused.unwrap_err().to_string().contains(".snap"));
}

#[tokio::test(start_paused = true)]
async fn a_panicking_core_is_rebuilt_behind_the_same_handle_and_not_for_ever() {
    let vfs = MemVfs::new();
    let node = standalone(&vfs).await;
    let handle = node.handle();
    for round in 1..=4u64 {
        let before = node.propose(put("k", "v")).await.unwrap().index;
        let instance = node.shared_for_tests().instance.load_full().unwrap();
        instance
            .raft
            .external_request(|_| panic!("injected"))
            .await
            .unwrap();
        drop(instance);
        if round == 4 {
            break;
        }
        let again = |s: &crate::RaftStatus| s.restarts == round && s.state == RaftState::Leader;
        handle
            .wait_status(DEADLINE, "a new core", again)
            .await
            .unwrap();
        handle.wait_applied(before, DEADLINE).await.unwrap();
        assert_eq!(node.kv_get(b"k").await.unwrap().unwrap(), "v");
    }
    let failed = |s: &crate::RaftStatus| s.state == RaftState::Failed;
    let status = handle
        .wait_status(DEADLINE, "giving up", failed)
        .await
        .unwrap();
    assert!(status.failure.unwrap().contains("more than 3 times"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_write_is_not_opened_again() {
    let vfs = MemVfs::new();
    let node = standalone(&vfs).await;
    vfs.inject(
        "log.redb",
        rivven_core_types::test_util::DiskFault::FailSync,
    );
    let outcome = node.propose(put("k", "v")).await;
    assert!(
        matches!(outcome, Err(ProposeError::Unknown { .. })),
        "{outcome:?}"
    );
    let failed = |s: &crate::RaftStatus| s.state == RaftState::Failed;
    let status = node
        .handle()
        .wait_status(DEADLINE, "the failure", failed)
        .await
        .unwrap();
    assert_eq!(status.restarts, 0);
    let outcome = node.propose(put("k", "v")).await;
    assert!(
        matches!(outcome, Err(ProposeError::Unavailable { .. })),
        "{outcome:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn proposals_are_bounded_in_length_number_and_time() {
    let vfs = MemVfs::new();
    let config = RaftNodeConfig {
        standalone: true,
        ..world::config("node-1")
    };
    let mut options = world::options(&vfs, 1);
    options.limits.max_inflight_proposals = 0;
    let mut node = RaftNode::with_options(config, options).await.unwrap();
    node.start().await.unwrap();
    let long = Bytes::from(vec![0; rivven_core_types::limits::MAX_COMMAND_BYTES + 1]);
    assert!(matches!(
        node.propose(long).await,
        Err(ProposeError::TooLarge { .. })
    ));
    assert_eq!(
        node.propose(put("k", "v")).await,
        Err(ProposeError::Overloaded)
    );
    let other = node
        .handle()
        .propose(RaftGroupId::GROUPS, put("k", "v"), Duration::from_secs(1));
    assert!(matches!(other.await, Err(ProposeError::Unavailable { .. })));
}
