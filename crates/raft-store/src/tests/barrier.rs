//! What a follower answers to a snapshot is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use openraft::EntryPayload;
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{
    Address, Incarnation, Lane, LogIndex, PeerIdentity, RaftGroupId, Reply, Rng, RpcError,
    RpcHandler, RpcKind, RpcRequest, RpcResponse, StateMachine, plant,
};
use serde::Serialize;

use super::world::{DEADLINE, Net, TestNode, name};
use crate::messages::{
    AppendAnswer, AppendMessage, SnapshotAnswer, SnapshotMessage, decode_answer, encode_entries,
    encode_request,
};
use crate::snapshot::{SnapshotDir, SnapshotHeader};
use crate::types::{
    Command, Entry, LastMembership, LogId, LogIdRecord, Membership, PeerNode, VoteRecord,
};
use crate::{KvCommand, KvStateMachine, RaftHandle, RaftState};

const GROUP: RaftGroupId = RaftGroupId::METADATA;
const LEADER: u64 = 7;

fn at(index: u64) -> LogIdRecord {
    LogIdRecord { term: 1, index }
}

fn vote() -> VoteRecord {
    VoteRecord {
        term: 1,
        node: LEADER,
        committed: true,
    }
}

async fn send<M: Serialize>(
    handle: RaftHandle,
    kind: RpcKind,
    message: M,
    body: Bytes,
) -> Result<RpcResponse, RpcError> {
    let leader = PeerIdentity {
        name: name("node-2"),
        incarnation: Incarnation::from_bytes([0; 16]),
        cluster: None,
    };
    let request = RpcRequest {
        kind,
        lane: Lane::Control,
        meta: encode_request(GROUP, &message)?,
        body,
        deadline: DEADLINE,
    };
    match handle.handle(&leader, request) {
        Reply::Now(answer) => answer,
        Reply::Later(answer) => answer.await,
    }
}

fn membership(own: u64) -> Membership {
    let node = |text: &str| PeerNode {
        name: name(text),
        address: Address::new(text, 1).unwrap(),
    };
    let nodes = BTreeMap::from([(own, node("node-1")), (LEADER, node("node-2"))]);
    Membership::new(vec![BTreeSet::from([own, LEADER])], nodes).unwrap()
}

fn entry(own: u64, index: u64) -> Entry {
    let command = KvCommand::put(index.to_le_bytes().to_vec(), "v");
    let payload = match index {
        0 => EntryPayload::Membership(membership(own)),
        _ => EntryPayload::Normal(Command(command.encode().unwrap())),
    };
    Entry {
        log_id: at(index).into(),
        payload,
    }
}

fn snapshot_file(header: &SnapshotHeader) -> Bytes {
    let vfs = std::sync::Arc::new(MemVfs::new());
    let dir = SnapshotDir::open(vfs, "/leader".as_ref(), GROUP, 1 << 20).unwrap();
    let file = dir.write(header, &*KvStateMachine::new().freeze()).unwrap();
    let mut bytes = vec![0; usize::try_from(file.bytes).unwrap()];
    let source = dir.open_file(&file.path).unwrap();
    source.read_exact_at(&mut bytes, 0).unwrap();
    bytes.into()
}

/// openraft answers at once to a snapshot that is not ahead of what is committed here, even when
/// that has not reached the disk. The leader books the answer as durable and never sends those
/// entries again, so that after a power loss the follower would be stuck for ever.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_not_needed_is_confirmed_only_when_the_log_is_durable() {
    let node = TestNode::start(&Net::default(), "node-1", MemVfs::new(), |_, _| {})
        .await
        .unwrap();
    let (handle, target) = (node.handle(), node.voter.raft_id.get());
    let append = |prev: Option<u64>, commit: u64| AppendMessage {
        target,
        vote: vote(),
        prev: prev.map(at),
        commit: Some(at(commit)),
    };
    let first = encode_entries(&[entry(target, 0)]).unwrap();
    let answer = send(handle.clone(), RpcKind::RAFT_APPEND, append(None, 0), first).await;
    let answer: AppendAnswer = decode_answer(&answer.unwrap()).unwrap();
    assert!(matches!(answer, AppendAnswer::Success), "{answer:?}");

    node.scope.set_sync_delay(Duration::from_secs(10));
    let entries: Vec<_> = (1..=25).map(|index| entry(target, index)).collect();
    let body = encode_entries(&entries).unwrap();
    let message = append(Some(0), 20);
    let waiting = tokio::spawn(send(handle.clone(), RpcKind::RAFT_APPEND, message, body));
    let committed = |s: &crate::RaftStatus| s.committed >= Some(LogIndex::new(20));
    handle
        .wait_status(DEADLINE, "the commit index", committed)
        .await
        .unwrap();
    assert!(!waiting.is_finished(), "the disk is slow");

    let id: LogId = at(0).into();
    let header = SnapshotHeader {
        group: GROUP.get(),
        cluster: None,
        last: Some(at(18)),
        membership: (&LastMembership::new(Some(id), membership(target))).into(),
    };
    let file = snapshot_file(&header);
    let message = SnapshotMessage {
        target,
        vote: vote(),
        last: header.last,
        membership: header.membership.clone(),
        transfer: 1,
        offset: 0,
        total: file.len() as u64,
    };
    let answer = send(handle, RpcKind::RAFT_SNAPSHOT, message, file).await;
    let answer: SnapshotAnswer = decode_answer(&answer.unwrap()).unwrap();
    assert!(matches!(answer, SnapshotAnswer::Installed(_)), "{answer:?}");

    let node = after_power_loss(node).await;
    let last = node.handle().status().last_log;
    assert!(
        last >= Some(LogIndex::new(18)),
        "confirmed up to 18, kept {last:?}"
    );
}

#[test]
fn a_planted_answer_before_the_barrier_loses_a_confirmed_snapshot() {
    let _planted = plant("raft-store.snapshot-without-barrier").unwrap();
    let lost = a_snapshot_that_is_not_needed_is_confirmed_only_when_the_log_is_durable;
    std::panic::catch_unwind(lost).unwrap_err();
}

/// A snapshot that ends behind what was handed to the log but not synced yet: openraft books it as the newest
/// write. Where assertions are on its core dies of that, and else its cursor goes back. Either way the node
/// has a core soon, and everything that was sent to it.
#[tokio::test(start_paused = true)]
async fn a_snapshot_behind_the_unsynced_log_costs_one_core_at_most_and_no_entry() {
    let (node, target) = follower().await;
    let handle = node.handle();
    node.scope.set_sync_delay(Duration::from_secs(2));
    let append = |prev: u64, commit: u64| AppendMessage {
        target,
        vote: vote(),
        prev: Some(at(prev)),
        commit: Some(at(commit)),
    };
    let entries: Vec<_> = (1..=25).map(|index| entry(target, index)).collect();
    let body = encode_entries(&entries).unwrap();
    let waiting = tokio::spawn(send(
        handle.clone(),
        RpcKind::RAFT_APPEND,
        append(0, 5),
        body,
    ));
    let committed = |s: &crate::RaftStatus| s.committed >= Some(LogIndex::new(5));
    let committed = handle.wait_status(DEADLINE, "the commit index", committed);
    committed.await.unwrap();
    let (message, file) = chunk(target, 18);
    let installed = send(handle.clone(), RpcKind::RAFT_SNAPSHOT, message, file).await;
    assert_eq!(installed.is_ok(), !cfg!(debug_assertions), "{installed:?}");
    drop(waiting.await);
    node.scope.set_sync_delay(Duration::ZERO);
    let restarts = u64::from(cfg!(debug_assertions));
    let rebuilt = |s: &crate::RaftStatus| s.restarts == restarts && s.state == RaftState::Follower;
    let rebuilt = handle.wait_status(DEADLINE, "a core that follows", rebuilt);
    rebuilt.await.unwrap();
    let answer = send(handle, RpcKind::RAFT_APPEND, append(25, 25), Bytes::new()).await;
    let answer: AppendAnswer = decode_answer(&answer.unwrap()).unwrap();
    assert!(matches!(answer, AppendAnswer::Success), "{answer:?}");
    let node = after_power_loss(node).await;
    let last = node.handle().status().last_log;
    assert_eq!(last, Some(LogIndex::new(25)));
}

/// Without assertions no core dies here.
#[cfg(debug_assertions)]
#[test]
fn a_planted_supervisor_that_trusts_the_running_state_leaves_the_node_without_a_core() {
    let _planted = plant("raft-store.core-death-not-noticed").unwrap();
    let dead = a_snapshot_behind_the_unsynced_log_costs_one_core_at_most_and_no_entry;
    std::panic::catch_unwind(dead).unwrap_err();
}

async fn after_power_loss(node: TestNode) -> TestNode {
    node.scope.crash();
    let vfs = node.vfs.lose_power(&mut Rng::new(1));
    drop(node);
    TestNode::start(&Net::default(), "node-1", vfs, |_, _| {})
        .await
        .unwrap()
}

/// A follower whose log has one entry, and its Raft id.
async fn follower() -> (TestNode, u64) {
    let node = TestNode::start(&Net::default(), "node-1", MemVfs::new(), |_, _| {})
        .await
        .unwrap();
    let (handle, target) = (node.handle(), node.voter.raft_id.get());
    let first = encode_entries(&[entry(target, 0)]).unwrap();
    let message = AppendMessage {
        target,
        vote: vote(),
        prev: None,
        commit: Some(at(0)),
    };
    send(handle, RpcKind::RAFT_APPEND, message, first)
        .await
        .unwrap();
    (node, target)
}

/// A snapshot up to `last`, as one chunk.
fn chunk(target: u64, last: u64) -> (SnapshotMessage, Bytes) {
    let id: LogId = at(0).into();
    let header = SnapshotHeader {
        group: GROUP.get(),
        cluster: None,
        last: Some(at(last)),
        membership: (&LastMembership::new(Some(id), membership(target))).into(),
    };
    let file = snapshot_file(&header);
    let message = SnapshotMessage {
        target,
        vote: vote(),
        last: header.last,
        membership: header.membership,
        transfer: 1,
        offset: 0,
        total: file.len() as u64,
    };
    (message, file)
}

async fn install(handle: RaftHandle, (message, file): (SnapshotMessage, Bytes)) {
    let answer = send(handle, RpcKind::RAFT_SNAPSHOT, message, file).await;
    let answer: SnapshotAnswer = decode_answer(&answer.unwrap()).unwrap();
    assert!(matches!(answer, SnapshotAnswer::Installed(_)), "{answer:?}");
}

/// The transport drops an answer with its connection or its deadline, at any of its steps, and the
/// sender tries again at once: with the file that the first attempt is about to install.
#[tokio::test(start_paused = true)]
async fn a_sender_that_goes_while_its_snapshot_is_installed_spoils_nothing() {
    let mut gone_early = 0;
    for polls in 1..4 {
        let (node, target) = follower().await;
        let (message, file) = chunk(target, 18);
        let mut first = Box::pin(send(node.handle(), RpcKind::RAFT_SNAPSHOT, message, file));
        let mut is_done = false;
        for _ in 0..polls {
            is_done = is_done || futures_util::poll!(&mut first).is_ready();
            tokio::task::yield_now().await;
        }
        drop(first);
        gone_early += u32::from(!is_done);
        // The next attempt gets no further than its first bytes.
        let (message, file) = chunk(target, 18);
        let begun = send(
            node.handle(),
            RpcKind::RAFT_SNAPSHOT,
            message,
            file.slice(..40),
        );
        begun.await.unwrap();
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        node.scope.crash();
        let vfs = node.vfs.clone();
        drop(node);
        let node = TestNode::start(&Net::default(), "node-1", vfs, |_, _| {}).await;
        let node = node.unwrap_or_else(|e| panic!("gone after {polls} polls: {e}"));
        install(node.handle(), chunk(target, 18)).await;
        let node = after_power_loss(node).await;
        let found = node.handle().status().applied;
        assert_eq!(found, Some(LogIndex::new(18)), "gone after {polls} polls");
    }
    assert!(gone_early > 0, "{gone_early}");
}

#[tokio::test(start_paused = true)]
async fn snapshots_with_equal_transfer_ids_are_told_apart_by_what_they_cover() {
    let (node, target) = follower().await;
    install(node.handle(), chunk(target, 18)).await;
    let (message, file) = chunk(target, 20);
    assert_eq!(message.total, chunk(target, 18).0.total);
    install(node.handle(), (message, file)).await;
    let node = after_power_loss(node).await;
    assert_eq!(node.handle().status().applied, Some(LogIndex::new(20)));

    // Nor does one go on where the other stopped.
    let (first, rest) = (chunk(target, 30), chunk(target, 31));
    let half = first.1.slice(..40);
    let answer = send(node.handle(), RpcKind::RAFT_SNAPSHOT, first.0, half).await;
    let answer: SnapshotAnswer = decode_answer(&answer.unwrap()).unwrap();
    assert!(matches!(answer, SnapshotAnswer::Continue { next: 40 }));
    install(node.handle(), rest).await;
    assert_eq!(node.handle().status().applied, Some(LogIndex::new(31)));
}
