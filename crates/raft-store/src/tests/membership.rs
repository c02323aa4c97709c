//! Members come and go: learners, voters by joint consensus, a wiped node under a new Raft id.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{LogIndex, Proposer, RaftGroupId, RaftNodeId, Rng};

use super::world::{DEADLINE, Net, TestNode, name};
use crate::{KvCommand, NodeScope, RaftState, RaftStoreError};

/// Nodes that have formed a group of the first `voters` of `names`.
async fn form(net: &Net, names: &[&str], voters: usize) -> Vec<TestNode> {
    let mut nodes = Vec::new();
    for name in names {
        let node = TestNode::start(net, name, MemVfs::new(), |_, _| {}).await;
        nodes.push(node.unwrap());
    }
    let first = nodes[..voters].iter().map(|n| n.voter.clone()).collect();
    nodes[0].handle().initialize(first).await.unwrap();
    nodes
}

async fn leader(nodes: &[TestNode]) -> &TestNode {
    let find = async {
        loop {
            for node in nodes {
                let wait = Duration::from_millis(500);
                if node.handle().is_leader() && node.handle().read_barrier(wait).await.is_ok() {
                    return node;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, find).await;
    found.expect("a leader within the deadline")
}

async fn put(node: &TestNode, key: &str) -> LogIndex {
    let command = KvCommand::put(key.to_owned(), "v").encode().unwrap();
    let group = RaftGroupId::METADATA;
    let done = node.handle().propose(group, command, DEADLINE).await;
    done.unwrap().index
}

async fn holds(node: &TestNode, index: LogIndex, key: &str) {
    node.handle().wait_applied(index, DEADLINE).await.unwrap();
    assert_eq!(node.kv.get(key.as_bytes()), Some(Bytes::from("v")));
}

fn ids(nodes: &[&TestNode]) -> BTreeSet<RaftNodeId> {
    nodes.iter().map(|node| node.voter.raft_id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_group_grows_from_one_to_five_voters_and_shrinks_again() {
    let net = Net::default();
    let nodes = form(&net, &["n1", "n2", "n3", "n4", "n5"], 1).await;
    let first = leader(&nodes).await;
    assert_eq!(first.name, name("n1"));
    let index = put(first, "early").await;
    for node in &nodes[1..] {
        let learner = node.voter.clone();
        first
            .handle()
            .add_learner(learner.clone(), DEADLINE)
            .await
            .unwrap();
        // Again is no change.
        first.handle().add_learner(learner, DEADLINE).await.unwrap();
        holds(node, index, "early").await;
        let is_learner = |s: &crate::RaftStatus| s.state == RaftState::Learner;
        let handle = node.handle();
        handle
            .wait_status(DEADLINE, "a learner", is_learner)
            .await
            .unwrap();
    }
    let all: Vec<_> = nodes.iter().collect();
    first
        .handle()
        .set_voters(&ids(&all), DEADLINE)
        .await
        .unwrap();
    let membership = first.handle().membership().unwrap();
    assert_eq!(membership.voter_ids(), ids(&all));
    assert!(membership.outgoing.is_empty() && membership.learners.is_empty());
    let index = put(first, "five").await;
    for node in &nodes {
        holds(node, index, "five").await;
    }
    // Every learner can take over once it votes.
    first
        .handle()
        .transfer_leadership(&nodes[3].name)
        .await
        .unwrap();
    let fourth = leader(&nodes[3..4]).await;
    let handle = fourth.handle();
    for gone in [0, 1] {
        let id = nodes[gone].voter.raft_id;
        handle.remove_member(id, DEADLINE).await.unwrap();
        handle.remove_member(id, DEADLINE).await.unwrap();
    }
    let membership = handle.membership().unwrap();
    assert_eq!(membership.voter_ids(), ids(&all[2..]));
    let index = put(fourth, "three").await;
    for node in &nodes[2..] {
        holds(node, index, "three").await;
    }
    let own = handle.remove_member(fourth.voter.raft_id, DEADLINE).await;
    assert!(matches!(own, Err(RaftStoreError::MembershipRefused(_))));
    // Those that were removed hear nothing of it and disturb nobody.
    let term = handle.status().term;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(handle.status().term, term);
}

#[tokio::test(start_paused = true)]
async fn a_wiped_voter_comes_back_as_another_member_and_nothing_is_lost() {
    let net = Net::default();
    let mut nodes = form(&net, &["n1", "n2", "n3"], 3).await;
    let index = put(leader(&nodes).await, "kept").await;
    for node in &nodes {
        holds(node, index, "kept").await;
    }
    // Number 3 loses its disk.
    let old = nodes.pop().unwrap();
    net.detach(&old.name);
    old.scope.crash();
    let (old_id, seed) = (old.voter.raft_id, 77);
    drop(old);
    let scope = NodeScope::new(seed);
    let edit = |_: &mut crate::RaftNodeConfig, options: &mut crate::RaftNodeOptions| {
        options.entropy = std::sync::Arc::new(rivven_core_types::test_util::SeededEntropy::new(99));
    };
    let fresh = TestNode::start_as(&net, "n3", MemVfs::new(), scope, edit).await;
    let fresh = fresh.unwrap();
    assert_ne!(fresh.voter.raft_id, old_id);
    nodes.push(fresh);
    let at = leader(&nodes).await.handle();
    let refused = at.add_learner(nodes[2].voter.clone(), DEADLINE).await;
    assert!(
        matches!(refused, Err(RaftStoreError::MembershipRefused(_))),
        "the old member has that name still"
    );
    at.remove_member(old_id, DEADLINE).await.unwrap();
    let learner = nodes[2].voter.clone();
    at.add_learner(learner.clone(), DEADLINE).await.unwrap();
    holds(&nodes[2], index, "kept").await;
    at.promote(learner.raft_id, DEADLINE).await.unwrap();
    // One of the others dies for good: the new voter is needed for every commit now.
    let leading = leader(&nodes).await.name.clone();
    let victim = nodes[..2].iter().position(|n| n.name != leading).unwrap();
    let dead = nodes.remove(victim);
    net.detach(&dead.name);
    dead.scope.crash();
    let index = put(leader(&nodes).await, "after").await;
    for node in &nodes {
        holds(node, index, "after").await;
        holds(node, index, "kept").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_its_leader_left_half_way_is_finished_by_the_next_one() {
    for seed in 0..6 {
        let net = Net::default();
        let mut nodes = form(&net, &["n1", "n2", "n3", "n4"], 3).await;
        let at = leader(&nodes).await;
        let leading = at.name.clone();
        let learner = nodes[3].voter.clone();
        at.handle().add_learner(learner, DEADLINE).await.unwrap();
        let index = put(at, "before").await;
        holds(&nodes[3], index, "before").await;
        // The leader dies some time after it has begun to swap one voter.
        let gone = nodes
            .iter()
            .position(|n| n.name != leading && n.name != name("n4"));
        let gone = gone.unwrap();
        let keep: Vec<_> = (0..4).filter(|n| *n != gone).map(|n| &nodes[n]).collect();
        let goal = ids(&keep);
        let (handle, wanted) = (at.handle(), goal.clone());
        let change = tokio::spawn(async move { handle.set_voters(&wanted, DEADLINE).await });
        tokio::time::sleep(Duration::from_micros(300 * seed)).await;
        let position = nodes.iter().position(|n| n.name == leading).unwrap();
        let dead = nodes.remove(position);
        net.detach(&dead.name);
        dead.scope.crash();
        change.abort();
        let vfs = dead.vfs.lose_power(&mut Rng::new(seed));
        drop(dead);
        let next = leader(&nodes).await;
        next.handle().set_voters(&goal, DEADLINE).await.unwrap();
        let back = TestNode::start(&net, leading.as_str(), vfs, |_, _| {}).await;
        nodes.push(back.unwrap());
        let at = leader(&nodes).await;
        let membership = at.handle().membership().unwrap();
        assert!(membership.outgoing.is_empty(), "{membership:?}");
        assert_eq!(membership.voter_ids(), goal);
        put(at, "after").await;
    }
}
