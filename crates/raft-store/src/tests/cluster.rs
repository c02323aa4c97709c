//! Three nodes on a paused clock.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver as _;
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{
    ApplyStop, CommittedEntry, FrozenState, LogIndex, NodeName, ProposeError, Proposer,
    RaftGroupId, RestoreError, Rng, StateMachine, plant,
};

use super::world::{DEADLINE, Net, TestNode};
use crate::{KvCommand, NodeScope, RaftNodeConfig, RaftNodeOptions, RaftState};

const NAMES: [&str; 3] = ["node-1", "node-2", "node-3"];

struct Cluster {
    net: Net,
    nodes: BTreeMap<NodeName, TestNode>,
    edit: fn(&mut RaftNodeConfig, &mut RaftNodeOptions),
    acked: BTreeMap<u32, u32>,
    next: u32,
}

impl Cluster {
    async fn form(edit: fn(&mut RaftNodeConfig, &mut RaftNodeOptions)) -> Self {
        let net = Net::default();
        let mut nodes = BTreeMap::new();
        for name in NAMES {
            let node = TestNode::start(&net, name, MemVfs::new(), edit)
                .await
                .unwrap();
            nodes.insert(node.name.clone(), node);
        }
        let voters = nodes.values().map(|n| n.voter.clone()).collect();
        nodes
            .values()
            .next()
            .unwrap()
            .handle()
            .initialize(voters)
            .await
            .unwrap();
        Self {
            net,
            nodes,
            edit,
            acked: BTreeMap::new(),
            next: 0,
        }
    }

    /// A leader that can commit, apart from `not`.
    async fn leader(&self, not: Option<&NodeName>) -> NodeName {
        let find = async {
            loop {
                for (name, node) in self.nodes.iter().filter(|(n, _)| Some(*n) != not) {
                    let wait = std::time::Duration::from_millis(500);
                    let leads = node.handle().is_leader();
                    if leads && node.handle().read_barrier(wait).await.is_ok() {
                        return name.clone();
                    }
                }
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(DEADLINE, find)
            .await
            .expect("a leader within the deadline")
    }

    /// Writes through `node`; remembers what was acknowledged.
    async fn write(&mut self, node: &NodeName, count: u32) {
        for _ in 0..count {
            let (key, value) = (self.next, self.next * 7);
            self.next += 1;
            let command = KvCommand::put(key.to_le_bytes().to_vec(), value.to_le_bytes().to_vec());
            let proposal = self.nodes[node].handle().propose(
                RaftGroupId::METADATA,
                command.encode().unwrap(),
                DEADLINE,
            );
            if proposal.await.is_ok() {
                self.acked.insert(key, value);
            }
        }
    }

    /// Waits until at most so many entries are left in `node`'s log.
    async fn purged_up_to_the_last(&self, node: &NodeName, most: u64) {
        let shared = self.nodes[node].node.shared_for_tests();
        let instance = shared.instance.load_full().unwrap();
        let mut metrics = instance.raft.metrics();
        let purge = async {
            loop {
                let (last, purged) = {
                    let metrics = metrics.borrow_watched();
                    let purged = metrics.purged.map_or(0, |id| id.index);
                    (metrics.last_log_index.unwrap(), purged)
                };
                if last - purged <= most {
                    return;
                }
                metrics.changed().await.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, purge)
            .await
            .expect("the log is purged");
    }

    async fn power_loss(&mut self, name: &NodeName, seed: u64) -> MemVfs {
        self.net.detach(name);
        let node = self.nodes.remove(name).unwrap();
        node.scope.crash();
        let vfs = node.vfs.lose_power(&mut Rng::new(seed));
        drop(node);
        vfs
    }

    /// `kill -9`.
    fn kill(&self, name: &NodeName) {
        self.nodes[name].scope.crash();
    }

    /// Starts a killed node again.
    async fn revive(&mut self, name: &NodeName) {
        self.net.detach(name);
        let vfs = self.nodes.remove(name).unwrap().vfs.restart_process();
        self.restart(name, vfs).await;
    }

    async fn restart(&mut self, name: &NodeName, vfs: MemVfs) {
        let node = TestNode::start(&self.net, name.as_str(), vfs, self.edit)
            .await
            .unwrap();
        self.nodes.insert(name.clone(), node);
    }

    /// Every acknowledged write is on every node, and all states are equal.
    async fn check(&self) {
        let leader = self.leader(None).await;
        let index = self.nodes[&leader]
            .handle()
            .read_barrier(DEADLINE)
            .await
            .unwrap();
        let mut hashes = Vec::new();
        for node in self.nodes.values() {
            node.handle().wait_applied(index, DEADLINE).await.unwrap();
            for (key, value) in &self.acked {
                let found = node.kv.get(&key.to_le_bytes());
                let expected = Bytes::copy_from_slice(&value.to_le_bytes());
                assert_eq!(found, Some(expected), "key {key} on {}", node.name);
            }
            hashes.push(node.handle().state_hash().unwrap());
        }
        assert!(hashes.windows(2).all(|w| w[0] == w[1]), "{hashes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_acknowledged_command_is_lost_when_leaders_lose_power() {
    let mut cluster = Cluster::form(|_, _| {}).await;
    for seed in 0..4 {
        let leader = cluster.leader(None).await;
        cluster.write(&leader, 20).await;
        let term = cluster.nodes[&leader].handle().status().term;
        let vfs = cluster.power_loss(&leader, seed).await;
        let next = cluster.leader(None).await;
        assert_ne!(next, leader);
        assert!(cluster.nodes[&next].handle().status().term > term);
        cluster.write(&next, 20).await;
        cluster.restart(&leader, vfs).await;
        cluster.check().await;
    }
    assert_eq!(cluster.acked.len(), 160);
    let names: Vec<_> = cluster.nodes.keys().cloned().collect();
    let mut disks = Vec::new();
    for (seed, name) in (10..).zip(&names) {
        disks.push(cluster.power_loss(name, seed).await);
    }
    for (name, vfs) in names.iter().zip(disks) {
        cluster.restart(name, vfs).await;
    }
    cluster.check().await;
}

/// The message part of a call holds 64 KiB; entries travel beside it.
#[tokio::test(start_paused = true)]
async fn the_longest_command_reaches_every_node() {
    let net = Net::default();
    let mut nodes = Vec::new();
    for (seed, name) in (1..).zip(NAMES) {
        let scope = NodeScope::new(seed);
        let node = TestNode::start_machine(
            &net,
            name,
            MemVfs::new(),
            scope,
            |_, _| {},
            |_| Box::new(Blind),
        );
        nodes.push(node.await.unwrap());
    }
    let leader = nodes[0].handle();
    let voters = nodes.iter().map(|n| n.voter.clone()).collect();
    leader.initialize(voters).await.unwrap();
    let leads = |s: &crate::RaftStatus| s.state == RaftState::Leader;
    let led = leader.wait_status(DEADLINE, "the leadership", leads);
    led.await.unwrap();
    leader.read_barrier(DEADLINE).await.unwrap();
    let long = Bytes::from(vec![1; rivven_core_types::limits::MAX_COMMAND_BYTES]);
    let done = leader
        .propose(RaftGroupId::METADATA, long, DEADLINE)
        .await
        .unwrap();
    for node in &nodes {
        let applied = node.handle().wait_applied(done.index, DEADLINE).await;
        applied.unwrap();
    }
}

/// A state machine that takes any command and remembers none.
struct Blind;

impl FrozenState for Blind {
    fn write_to(&self, _: &mut dyn Write) -> io::Result<()> {
        Ok(())
    }
}

impl StateMachine for Blind {
    fn apply(&mut self, batch: &[CommittedEntry]) -> Result<Vec<Bytes>, ApplyStop> {
        Ok(vec![Bytes::new(); batch.len()])
    }

    fn freeze(&self) -> Arc<dyn FrozenState> {
        Arc::new(Self)
    }

    fn restore(&self, _: &mut dyn Read) -> Result<Box<dyn StateMachine>, RestoreError> {
        Ok(Box::new(Self))
    }

    fn hash(&self) -> u64 {
        0
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_names_the_leader_and_an_isolated_leader_acks_nothing() {
    let mut cluster = Cluster::form(|_, _| {}).await;
    let leader = cluster.leader(None).await;
    cluster.write(&leader, 3).await;
    let others: Vec<_> = cluster
        .nodes
        .keys()
        .filter(|n| **n != leader)
        .cloned()
        .collect();
    let command = KvCommand::put("k", "v").encode().unwrap();
    let refused = ProposeError::NotLeader {
        leader: Some(leader.clone()),
    };
    for other in &others {
        let handle = cluster.nodes[other].handle();
        let knows = |s: &crate::RaftStatus| s.leader.as_ref() == Some(&leader);
        handle
            .wait_status(DEADLINE, "the leader's name", knows)
            .await
            .unwrap();
        let outcome = handle
            .propose(RaftGroupId::METADATA, command.clone(), DEADLINE)
            .await;
        assert_eq!(outcome, Err(refused.clone()));
        // A follower reads what is committed all the same: it asks the leader how far that is.
        assert!(handle.read_barrier(DEADLINE).await.unwrap() > LogIndex::new(0));
    }
    cluster.net.isolate(&leader, &others);
    let handle = cluster.nodes[&leader].handle();
    let second = std::time::Duration::from_secs(1);
    let outcome = handle.propose(RaftGroupId::METADATA, command, second).await;
    assert!(outcome.is_err());
    assert!(handle.read_barrier(second).await.is_err());
    let next = cluster.leader(Some(&leader)).await;
    cluster.write(&next, 5).await;
    let term = cluster.nodes[&next].handle().status().term;
    cluster.net.heal();
    cluster.check().await;
    let now = cluster.nodes[&next].handle().status().term;
    assert_eq!(
        now, term,
        "pre-vote: a node that comes back does not unseat the leader"
    );
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_away_too_long_gets_a_snapshot_in_chunks() {
    let mut cluster = Cluster::form(|config, options| {
        config.snapshot_threshold = 20;
        options.limits.logs_kept_behind_snapshot = 5;
        options.limits.snapshot_chunk_bytes = 100;
        options.limits.purge_batch_entries = 10;
    })
    .await;
    let leader = cluster.leader(None).await;
    let away = cluster
        .nodes
        .keys()
        .find(|n| **n != leader)
        .unwrap()
        .clone();
    let vfs = cluster.power_loss(&away, 3).await;
    // More than a purge batch beyond what is kept, so that the log that it needs is gone. The one who
    // replicates to it holds its own purge back: the other survivor must be the leader.
    cluster.write(&leader, 700).await;
    let other = cluster
        .nodes
        .keys()
        .find(|n| **n != leader && **n != away)
        .unwrap()
        .clone();
    let snapshot = |s: &crate::RaftStatus| s.snapshot.is_some_and(|i| i.get() > 600);
    let handle = cluster.nodes[&other].handle();
    handle
        .wait_status(DEADLINE, "a snapshot", snapshot)
        .await
        .unwrap();
    let old_leader = cluster.power_loss(&leader, 5).await;
    cluster.restart(&away, vfs).await;
    assert_eq!(
        cluster.leader(None).await,
        other,
        "the node that was away has too short a log"
    );
    cluster.write(&other, 5).await;
    assert!(cluster.net.installed() > 0, "it was not sent a snapshot");
    cluster.restart(&leader, old_leader).await;
    cluster.check().await;
    // What it got is durable.
    let vfs = cluster.power_loss(&away, 4).await;
    cluster.restart(&away, vfs).await;
    cluster.check().await;
}

#[tokio::test(start_paused = true)]
async fn leadership_is_handed_over_on_request() {
    let mut cluster = Cluster::form(|_, _| {}).await;
    let leader = cluster.leader(None).await;
    cluster.write(&leader, 5).await;
    let to = cluster
        .nodes
        .keys()
        .find(|n| **n != leader)
        .unwrap()
        .clone();
    let handle = cluster.nodes[&to].handle();
    assert!(
        handle.transfer_leadership(&leader).await.is_err(),
        "a follower cannot"
    );
    cluster.nodes[&leader]
        .handle()
        .transfer_leadership(&to)
        .await
        .unwrap();
    let leads = |s: &crate::RaftStatus| s.state == RaftState::Leader;
    handle
        .wait_status(DEADLINE, "the transfer", leads)
        .await
        .unwrap();
    assert_eq!(cluster.leader(None).await, to);
    cluster.write(&to, 5).await;
    assert_eq!(cluster.acked.len(), 10);
    cluster.check().await;
}

/// A wiped node has another Raft id: it must not answer for the old one, which has voted.
#[tokio::test(start_paused = true)]
async fn a_wiped_node_does_not_answer_for_its_former_life() {
    let mut cluster = Cluster::form(|_, _| {}).await;
    let leader = cluster.leader(None).await;
    cluster.write(&leader, 5).await;
    let away = cluster
        .nodes
        .keys()
        .find(|n| **n != leader)
        .unwrap()
        .clone();
    let old = cluster.nodes[&away].voter.raft_id;
    cluster.power_loss(&away, 3).await;
    let edit = |_: &mut RaftNodeConfig, options: &mut RaftNodeOptions| {
        options.entropy = Arc::new(rivven_core_types::test_util::SeededEntropy::new(99));
    };
    let blank = TestNode::start(&cluster.net, away.as_str(), MemVfs::new(), edit)
        .await
        .unwrap();
    assert_ne!(blank.voter.raft_id, old);
    cluster.write(&leader, 20).await;
    assert_eq!(blank.handle().status().state, RaftState::AwaitingMembers);
    assert_eq!(blank.handle().status().last_log, None);
}

/// One lost chunk costs one chunk, not the transfer; and while a follower is away the log is purged all
/// the same, or it would grow without end.
#[tokio::test(start_paused = true)]
async fn the_log_is_purged_while_a_follower_is_away_and_a_lossy_transfer_brings_it_back() {
    let mut cluster = Cluster::form(|config, options| {
        config.snapshot_threshold = 20;
        options.limits.logs_kept_behind_snapshot = 5;
        options.limits.snapshot_min_log_bytes = 0;
        options.limits.snapshot_chunk_bytes = 100;
        options.limits.purge_batch_entries = 10;
    })
    .await;
    let leader = cluster.leader(None).await;
    let away = cluster
        .nodes
        .keys()
        .find(|n| **n != leader)
        .cloned()
        .unwrap();
    let others: Vec<_> = cluster
        .nodes
        .keys()
        .filter(|n| **n != away)
        .cloned()
        .collect();
    cluster.write(&leader, 5).await;
    cluster.net.isolate(&away, &others);
    for _ in 0..6 {
        cluster.write(&leader, 100).await;
        cluster.purged_up_to_the_last(&leader, 150).await;
    }
    cluster.net.lose_chunks.store(4, Ordering::Relaxed);
    cluster.net.heal();
    cluster.check().await;
    assert!(cluster.net.installed() > 0, "it was not sent a snapshot");
    let bytes = cluster.acked.len() as u64 * 8;
    let chunks = bytes / 100;
    assert!(
        cluster.net.chunks() < chunks * 40,
        "{} messages for about {chunks} chunks",
        cluster.net.chunks()
    );
}

/// A leader whose disk hangs goes on sending heartbeats, so that nobody would replace it.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_stalls_hands_over_within_two_seconds_and_loses_nothing() {
    const STALL: std::time::Duration = std::time::Duration::from_secs(20);
    let mut cluster = Cluster::form(|_, _| {}).await;
    let stalled = cluster.leader(None).await;
    cluster.write(&stalled, 20).await;
    cluster.nodes[&stalled].scope.set_sync_delay(STALL);
    let handle = cluster.nodes[&stalled].handle();
    let command = KvCommand::put("while it hangs", "v").encode().unwrap();
    let started = tokio::time::Instant::now();
    let pending = tokio::spawn(handle.propose(RaftGroupId::METADATA, command, DEADLINE));
    let next = cluster.leader(Some(&stalled)).await;
    cluster.write(&next, 1).await;
    let took = started.elapsed();
    assert!(took < std::time::Duration::from_secs(2), "{took:?}");
    cluster.nodes[&stalled]
        .scope
        .set_sync_delay(std::time::Duration::ZERO);
    drop(pending.await);
    cluster.write(&next, 5).await;
    cluster.check().await;
    assert_eq!(cluster.acked.len(), 26);
}

#[test]
fn a_planted_ack_of_a_core_that_has_panicked_loses_a_write() {
    let _planted = plant("raft-store.dead-core-acknowledges").unwrap();
    let lost =
        ticket_2116_twenty_panics_of_leaders_under_load_cost_less_than_a_second_each_and_no_write;
    std::panic::catch_unwind(lost).unwrap_err();
}

/// openraft has an open fault that panics the core of a busy leader (its ticket 2116), and there may be
/// others: each costs less than a second, and nothing that was acknowledged.
#[tokio::test(start_paused = true)]
async fn ticket_2116_twenty_panics_of_leaders_under_load_cost_less_than_a_second_each_and_no_write()
{
    const ROUNDS: u32 = 20;
    let mut cluster = Cluster::form(|config, options| {
        config.snapshot_threshold = 20;
        options.limits.snapshot_min_log_bytes = 0;
        options.limits.logs_kept_behind_snapshot = 5;
        options.limits.purge_batch_entries = 1;
        options.limits.max_restarts_per_minute = ROUNDS;
    })
    .await;
    for round in 0..ROUNDS {
        let leader = cluster.leader(None).await;
        cluster.write(&leader, 25).await;
        let handle = cluster.nodes[&leader].handle();
        let shared = cluster.nodes[&leader].node.shared_for_tests();
        let instance = shared.instance.load_full().unwrap();
        let load = (0..50u32).map(|n| {
            let key = (1_000_000 + round * 50 + n).to_le_bytes().to_vec();
            let command = KvCommand::put(key, n.to_le_bytes().to_vec());
            handle.propose(RaftGroupId::METADATA, command.encode().unwrap(), DEADLINE)
        });
        let panic = instance.raft.external_request(|_| panic!("injected"));
        let (outcomes, _) = tokio::join!(futures_util::future::join_all(load), panic);
        drop(instance);
        let started = tokio::time::Instant::now();
        for (n, outcome) in (0..50u32).zip(outcomes) {
            if outcome.is_ok() {
                cluster.acked.insert(1_000_000 + round * 50 + n, n);
            }
        }
        let leader = cluster.leader(None).await;
        cluster.write(&leader, 1).await;
        let took = started.elapsed();
        assert!(
            took < std::time::Duration::from_secs(1),
            "round {round}: {took:?}"
        );
    }
    cluster.check().await;
    let restarts: u64 = cluster
        .nodes
        .values()
        .map(|n| n.handle().status().restarts)
        .sum();
    assert_eq!(restarts, u64::from(ROUNDS));
}

/// The election timeouts alone would take 450 ms at least.
#[tokio::test(start_paused = true)]
async fn when_the_leaders_process_ends_another_leads_as_soon_as_its_lease_is_over() {
    let mut cluster = Cluster::form(|_, _| {}).await;
    for _ in 0..5 {
        let leader = cluster.leader(None).await;
        cluster.write(&leader, 5).await;
        let started = tokio::time::Instant::now();
        cluster.kill(&leader);
        let next = cluster.leader(Some(&leader)).await;
        cluster.write(&next, 1).await;
        let took = started.elapsed();
        assert!(took.as_millis() < 400, "{took:?}");
        cluster.revive(&leader).await;
        cluster.check().await;
    }
}

/// Only its lease says whether a leader lives.
#[tokio::test(start_paused = true)]
async fn a_leader_that_lives_goes_on_however_often_connections_to_it_break() {
    let mut cluster = Cluster::form(|_, _| {}).await;
    let leader = cluster.leader(None).await;
    let term = cluster.nodes[&leader].handle().status().term;
    cluster.net.lose_watches.store(true, Ordering::Relaxed);
    for _ in 0..20 {
        cluster.write(&leader, 1).await;
        // sleep-ok: on a paused clock, to let elections happen.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert_eq!(cluster.acked.len(), 20);
    for node in cluster.nodes.values() {
        assert_eq!(node.handle().status().term, term, "{}", node.name);
    }
    cluster.check().await;
}
