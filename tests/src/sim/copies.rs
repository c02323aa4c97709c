//! Where the committed records are: the metadata promises them on every replica that it calls in sync
//! or eligible, and that promise also says what a nemesis may destroy.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rivven_coordinator::RaftState;
use rivven_core_types::test_util::MemVfs;
use rivven_core_types::{BrokerId, Durability, Offset, PartitionId, PartitionState, split_batches};
use rivven_isr::{PartitionStatus, ReplicaRole};
use rivven_metadata::ClusterState;
use rivven_segment_log::dump_bytes_from;

use super::lives::LOGS;
use super::marks::Mark;
use super::stage::{Node, Stage};
use super::views::{replicated, whole};

/// The replicas on one living node.
struct Copies {
    node: Node,
    statuses: Vec<PartitionStatus>,
}

/// A replica that the metadata knows, on a node that lives.
struct Copy<'a> {
    node: usize,
    record: &'a PartitionState,
    status: &'a PartitionStatus,
    /// Whether it is in sync or eligible, and its log serves.
    is_promised: bool,
    has_all: bool,
}

/// Checks that every replica in sync or eligible holds what was ever committed (KIP-497, KIP-966): what
/// counts as holding is what counts for the high watermark.
pub(super) fn look_at_copies(stage: &Stage) {
    let living = gather(stage);
    let Some(state) = newest_metadata(stage, &living) else {
        return;
    };
    for copy in known(stage, &state, &living) {
        if copy.is_promised && !copy.has_all {
            let record = copy.record;
            let detail = format!(
                "{} is committed up to {}, node {} holds it up to {}: {record:?}",
                stage.label(record.id),
                stage.history().seen(record.id).committed,
                copy.node + 1,
                counted_end(record, copy.status),
            );
            stage.violate("who is in sync or eligible holds what is committed", detail);
        }
    }
    let Some(lost) = stage.lost_copies() else {
        return;
    };
    if stage.damaged.load(Ordering::Relaxed) && !is_damaged(stage, lost) {
        stage.damaged.store(false, Ordering::Relaxed);
        stage.mark(Mark::DamageHealed);
        stage.tell(format!("the logs of node {} are sound again", lost + 1));
    }
    // Damage that nobody has met yet shows nowhere.
    if whole(stage) && replicated(stage) && !is_damaged(stage, lost) {
        stage.set_lost_copies(None);
    }
}

/// Whether node `n` may lose what it has stored: no other node has lost anything since all were in sync
/// last, and of every partition somebody else who is in sync or eligible holds all that is committed. The
/// caller must destroy it before anything else happens, or not at all.
pub(super) fn may_lose_copies(stage: &Stage, n: usize) -> bool {
    if stage.lost_copies().is_some_and(|lost| lost != n) {
        return false;
    }
    let living = gather(stage);
    let Some(state) = newest_metadata(stage, &living) else {
        return false;
    };
    let kept: BTreeSet<_> = known(stage, &state, &living)
        .filter(|copy| copy.node != n && copy.is_promised && copy.has_all)
        .map(|copy| copy.record.id)
        .collect();
    let may = state.partitions().all(|record| kept.contains(&record.id));
    if may {
        stage.set_lost_copies(Some(n));
    }
    may
}

fn is_damaged(stage: &Stage, n: usize) -> bool {
    stage.cluster().nodes[n].disk.is_damaged(LOGS.as_ref())
}

fn gather(stage: &Stage) -> Vec<Copies> {
    let living = stage.living().into_iter();
    let living: Vec<_> = living
        .map(|node| {
            let statuses = node.coordinator.replication().map(|r| r.statuses());
            let statuses = statuses.unwrap_or_default();
            Copies { node, statuses }
        })
        .collect();
    let mut history = stage.history();
    for status in living.iter().flat_map(|copies| &copies.statuses) {
        let seen = history.seen(status.partition);
        seen.committed = seen.committed.max(status.high_watermark);
    }
    drop(history);
    living
}

/// The metadata of the controller, if it is certain that nothing newer has been committed: it leads in the
/// highest term that anybody knows, and has applied its whole log.
fn newest_metadata(stage: &Stage, living: &[Copies]) -> Option<Arc<ClusterState>> {
    let statuses: Vec<_> = living
        .iter()
        .map(|copies| (&copies.node, copies.node.coordinator.raft_status()))
        .collect();
    let highest = statuses.iter().map(|(_, status)| status.term).max()?;
    let highest = stage.history().highest_term(highest.get());
    let (leader, _) = statuses.iter().find(|(_, status)| {
        status.state == RaftState::Leader
            && status.term.get() == highest
            && status.applied == status.last_log
    })?;
    Some(leader.coordinator.cluster_state())
}

/// The replicas on nodes of which the metadata knows the present life.
fn known<'a>(
    stage: &'a Stage,
    state: &'a ClusterState,
    living: &'a [Copies],
) -> impl Iterator<Item = Copy<'a>> {
    living.iter().flat_map(move |copies| {
        let local = copies.node.coordinator.session().local;
        let registered = local.filter(|local| {
            let broker = state.broker(local.id);
            broker.is_some_and(|broker| broker.node_epoch == local.node_epoch)
        });
        let registered: Option<BrokerId> = registered.map(|local| local.id);
        copies.statuses.iter().filter_map(move |status| {
            let (broker, record) = (registered?, state.partition(&status.partition)?);
            let promised = record.isr.contains(&broker) || record.elr.contains(&broker);
            let committed = stage.history().seen(record.id).committed;
            Some(Copy {
                node: copies.node.number,
                record,
                status,
                is_promised: promised && status.role != ReplicaRole::Offline,
                has_all: counted_end(record, status) >= committed,
            })
        })
    })
}

fn counted_end(record: &PartitionState, status: &PartitionStatus) -> Offset {
    match record.durability {
        Durability::Fsync => status.durable_end,
        Durability::Replicated => status.log_end,
    }
}

/// The durable end of each log of a node that is about to lose its power. Nothing is said of a log that is
/// offline, and of a disk that failed in the midst of a change.
pub(super) fn durable_ends(stage: &Stage, n: usize) -> Vec<(PartitionId, Offset)> {
    if stage.cluster().nodes[n].disk.is_blown() || is_damaged(stage, n) {
        return Vec::new();
    }
    let mut living = stage.living().into_iter();
    let node = living.find(|node| node.number == n);
    let replication = node.and_then(|node| node.coordinator.replication());
    let statuses = replication.map(|r| r.statuses()).unwrap_or_default();
    let serving = statuses.iter().filter(|s| s.role != ReplicaRole::Offline);
    serving.map(|s| (s.partition, s.durable_end)).collect()
}

/// What a node called durable is on its disk when its power is gone.
pub(super) fn check_durable(
    stage: &Stage,
    n: usize,
    disk: &MemVfs,
    durable: &[(PartitionId, Offset)],
) {
    for (partition, end) in durable {
        // A log that is gone was deleted, or never got its first record.
        let bytes = dump_bytes_from(disk, LOGS.as_ref(), *partition, *end);
        let Ok(batches) = bytes.map(|bytes| split_batches(bytes.into())) else {
            continue;
        };
        let last = batches
            .ok()
            .and_then(|batches| batches.last()?.header().end_offset());
        if last.unwrap_or_default() < *end {
            let detail = format!(
                "{} was durable up to {end} on node {}, which has it up to {last:?} without power",
                stage.label(*partition),
                n + 1
            );
            stage.violate("what is durable survives a loss of power", detail);
        }
    }
}
