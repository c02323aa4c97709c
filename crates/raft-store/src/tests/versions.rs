//! Nodes of two versions in one group: an entry that one of them does not understand.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{
    Admission, ApplyStop, CommittedEntry, FrozenState, ProposeError, Proposer, RaftGroupId,
    RestoreError, StateMachine, Vfs,
};

use super::world::{DEADLINE, Net, TestNode};
use crate::{
    KvCommand, KvStateMachine, NodeScope, RaftNodeConfig, RaftNodeOptions, RaftState,
    RaftStoreError,
};

const GROUP: RaftGroupId = RaftGroupId::METADATA;

/// The next version of the built-in state machine: it knows commands of version 2 as well.
struct Next(Box<dyn StateMachine>);

impl StateMachine for Next {
    fn apply(&mut self, batch: &[CommittedEntry]) -> Result<Vec<Bytes>, ApplyStop> {
        let mut known = batch.to_vec();
        for entry in &mut known {
            let mut bytes = entry.command.to_vec();
            bytes[0] = 1;
            entry.command = bytes.into();
        }
        self.0.apply(&known)
    }

    fn admission(&self) -> Admission {
        |_| Ok(())
    }

    fn freeze(&self) -> Arc<dyn FrozenState> {
        self.0.freeze()
    }

    fn restore(&self, image: &mut dyn Read) -> Result<Box<dyn StateMachine>, RestoreError> {
        Ok(Box::new(Self(self.0.restore(image)?)))
    }

    fn installed(&mut self) {
        self.0.installed();
    }

    fn hash(&self) -> u64 {
        self.0.hash()
    }
}

fn put(key: &'static str, version: u8) -> Bytes {
    let mut bytes = KvCommand::put(key, "v").encode().unwrap().to_vec();
    bytes[0] = version;
    bytes.into()
}

async fn start(
    net: &Net,
    name: &str,
    vfs: MemVfs,
    is_next: bool,
) -> Result<TestNode, RaftStoreError> {
    let scope = NodeScope::new(u64::from(name.bytes().last().unwrap()));
    let wrap = |kv: KvStateMachine| -> Box<dyn StateMachine> {
        if is_next {
            Box::new(Next(Box::new(kv)))
        } else {
            Box::new(kv)
        }
    };
    TestNode::start_machine(net, name, vfs, scope, |_, _| {}, wrap).await
}

/// A skipped or refused entry would leave this node's state different from the others' for ever,
/// with nobody the wiser.
#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_understand_a_committed_entry_stops_and_goes_on_once_it_does() {
    let net = Net::default();
    let mut nodes = Vec::new();
    for (name, is_next) in [("n1", true), ("n2", true), ("n3", false)] {
        nodes.push(start(&net, name, MemVfs::new(), is_next).await.unwrap());
    }
    let voters = nodes.iter().map(|n| n.voter.clone()).collect();
    let leader = nodes[0].handle();
    leader.initialize(voters).await.unwrap();
    let leads = |s: &crate::RaftStatus| s.state == RaftState::Leader;
    leader
        .wait_status(DEADLINE, "the leadership", leads)
        .await
        .unwrap();
    leader.read_barrier(DEADLINE).await.unwrap();
    leader
        .propose(GROUP, put("before", 1), DEADLINE)
        .await
        .unwrap();

    let at = leader
        .propose(GROUP, put("later", 2), DEADLINE)
        .await
        .unwrap()
        .index;
    let old = nodes.pop().unwrap();
    let failed = |s: &crate::RaftStatus| s.state == RaftState::Failed;
    let status = old
        .handle()
        .wait_status(DEADLINE, "the stop", failed)
        .await
        .unwrap();
    let reason = status.failure.unwrap();
    assert!(
        reason.contains(&format!("index {at}")) && reason.contains("version 2"),
        "{reason}"
    );
    assert_eq!(status.restarts, 0, "a new core would meet the same entry");
    assert_eq!(old.handle().state_hash(), None, "of no index");

    let last = leader
        .propose(GROUP, put("after", 1), DEADLINE)
        .await
        .unwrap()
        .index;
    old.scope.crash();
    let vfs = old.vfs.clone();
    drop(old);
    // The same build again: it says the same, and changes nothing.
    let again = start(&net, "n3", vfs.clone(), false).await;
    let reason = match again {
        Err(error) => error.to_string(),
        Ok(node) => {
            let status = node
                .handle()
                .wait_status(DEADLINE, "the stop", failed)
                .await;
            node.scope.crash();
            status.unwrap().failure.unwrap()
        }
    };
    assert!(reason.contains(&format!("index {at}")), "{reason}");
    let upgraded = start(&net, "n3", vfs, true).await.unwrap();
    for node in nodes.iter().chain([&upgraded]) {
        node.handle().wait_applied(last, DEADLINE).await.unwrap();
        assert_eq!(node.kv.get(b"later").as_deref(), Some(&b"v"[..]));
    }
    assert_eq!(upgraded.handle().state_hash(), leader.state_hash());
}

#[tokio::test(start_paused = true)]
async fn a_leader_does_not_propose_what_it_does_not_understand() {
    let net = Net::default();
    let node = start(&net, "n1", MemVfs::new(), false).await.unwrap();
    let handle = node.handle();
    handle.initialize(vec![node.voter.clone()]).await.unwrap();
    handle.read_barrier(DEADLINE).await.unwrap();
    let refused = handle.propose(GROUP, put("later", 2), DEADLINE).await;
    assert!(
        matches!(refused, Err(ProposeError::NotUnderstood { .. })),
        "{refused:?}"
    );
    handle
        .propose(GROUP, put("known", 1), DEADLINE)
        .await
        .unwrap();
    assert_eq!(handle.status().state, RaftState::Leader);
}

/// A build that fails to restore every image but its first.
struct Refusing {
    inner: KvStateMachine,
    failure: fn() -> RestoreError,
}

impl StateMachine for Refusing {
    fn apply(&mut self, batch: &[CommittedEntry]) -> Result<Vec<Bytes>, ApplyStop> {
        self.inner.apply(batch)
    }

    fn freeze(&self) -> Arc<dyn FrozenState> {
        self.inner.freeze()
    }

    fn restore(&self, image: &mut dyn Read) -> Result<Box<dyn StateMachine>, RestoreError> {
        let (mut bytes, mut genesis) = (Vec::new(), Vec::new());
        image.read_to_end(&mut bytes)?;
        self.inner.freeze().write_to(&mut genesis)?;
        if bytes == genesis {
            return self.inner.restore(&mut bytes.as_slice());
        }
        Err((self.failure)())
    }

    fn hash(&self) -> u64 {
        self.inner.hash()
    }
}

/// Taken for damaged, the newest snapshot would be given up for the one before and removed.
#[tokio::test(start_paused = true)]
async fn a_snapshot_of_a_later_version_is_kept_for_the_build_that_understands_it() {
    let refused = refusal_of_the_newest(|| RestoreError::Unsupported("level 2".to_owned())).await;
    assert!(
        matches!(&refused, RaftStoreError::StateUnsupported { reason, .. } if reason == "level 2"),
        "{refused:?}"
    );
}

/// The next attempt may be able to read it.
#[tokio::test(start_paused = true)]
async fn a_snapshot_whose_image_cannot_be_read_now_is_kept() {
    let refused = refusal_of_the_newest(|| std::io::Error::other("EIO").into()).await;
    assert!(
        matches!(&refused, RaftStoreError::Io { source, .. } if source.to_string() == "EIO"),
        "{refused:?}"
    );
}

/// Starts a node with two snapshots under a build that fails to restore them; returns what it says. It must
/// change nothing.
async fn refusal_of_the_newest(failure: fn() -> RestoreError) -> RaftStoreError {
    let net = Net::default();
    let scope = || NodeScope::new(1);
    let edit = |config: &mut RaftNodeConfig, options: &mut RaftNodeOptions| {
        config.snapshot_threshold = 20;
        options.limits.logs_kept_behind_snapshot = 5;
    };
    let build = |vfs: MemVfs, failure: Option<fn() -> RestoreError>| {
        TestNode::start_machine(&net, "n1", vfs, scope(), edit, move |inner| match failure {
            Some(failure) => Box::new(Refusing { inner, failure }),
            None => Box::new(inner),
        })
    };
    let vfs = MemVfs::new();
    let node = build(vfs.clone(), None).await.unwrap();
    let handle = node.handle();
    handle.initialize(vec![node.voter.clone()]).await.unwrap();
    handle.read_barrier(DEADLINE).await.unwrap();
    for _ in 0..100 {
        handle
            .propose(GROUP, put("key", 1), DEADLINE)
            .await
            .unwrap();
    }
    let snapshot = |s: &crate::RaftStatus| s.snapshot.is_some_and(|i| i.get() >= 60);
    let waited = handle.wait_status(DEADLINE, "snapshots", snapshot);
    waited.await.unwrap();
    let hash = handle.state_hash().unwrap();
    let mut node = node;
    node.node.shutdown().await;
    drop(node);
    let files = |vfs: &MemVfs| {
        let mut files = vfs.read_dir("/data/raft/snapshots".as_ref()).unwrap();
        files.sort();
        files
    };
    let before = files(&vfs);
    assert_eq!(before.len(), 2, "{before:?}");

    let vfs = vfs.restart_process();
    let refused = build(vfs.clone(), Some(failure)).await.err().unwrap();
    let (RaftStoreError::StateUnsupported { path, .. } | RaftStoreError::Io { path, .. }) =
        &refused
    else {
        panic!("{refused}")
    };
    assert!(before.contains(path), "{refused}");
    assert_eq!(files(&vfs), before);
    let again = build(vfs.restart_process(), None).await.unwrap();
    assert_eq!(again.handle().state_hash().unwrap().1, hash.1);
    refused
}
