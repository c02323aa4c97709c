//! Lives of nodes: how they end, what they leave behind, and who starts them again.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rivven_coordinator::RaftState;
use rivven_core_types::{Durability, Offset, Rng, Vfs};
use rivven_isr::ReplicaRole;

use super::copies::{check_durable, durable_ends, may_lose_copies};
use super::marks::Mark;
use super::stage::Stage;

/// Where a node keeps the records.
pub(super) const LOGS: &str = "/data/logs";

/// Ends the life of node `n`, if it has one. The power goes only if what is not synced may go too.
pub(super) fn crash(stage: &Stage, n: usize, power: bool) {
    let power = power && (stage.durability == Durability::Fsync || may_lose_copies(stage, n));
    let durable = if power {
        durable_ends(stage, n)
    } else {
        Vec::new()
    };
    let mut cluster = stage.cluster();
    if cluster.nodes[n].is_up() {
        stage.count("crashes");
    }
    if power {
        cluster.lose_power(n);
    } else {
        cluster.kill(n);
    }
    let disk = cluster.nodes[n].disk.clone();
    drop(cluster);
    check_durable(stage, n, &disk, &durable);
    stage.tell(format!(
        "node {} {}",
        n + 1,
        if power { "loses power" } else { "is killed" }
    ));
}

/// Removes the logs of node `n`, if others hold everything, and starts it again.
pub(super) fn wipe(stage: &Arc<Stage>, n: usize, down: Duration) {
    if !may_lose_copies(stage, n) {
        return;
    }
    crash(stage, n, false);
    let disk = stage.cluster().nodes[n].disk.clone();
    if disk.remove_dir_all(LOGS.as_ref()).is_ok() {
        stage.mark(Mark::LogsWiped);
        stage.tell(format!("the logs of node {} are removed", n + 1));
    }
    restart_after(stage, n, down);
}

/// Ends the life of node `n`, if others hold everything, turns a bit of one of its logs over, and starts it
/// again.
pub(super) fn damage(stage: &Arc<Stage>, n: usize, rng: &mut Rng, down: Duration) {
    let logs: &Path = LOGS.as_ref();
    if stage.cluster().nodes[n].disk.is_damaged(logs) || !may_lose_copies(stage, n) {
        return;
    }
    crash(stage, n, false);
    let disk = stage.cluster().nodes[n].disk.clone();
    let mut files = disk.settled_files(logs);
    files.retain(|(path, _)| path.extension().is_some_and(|suffix| suffix == "log"));
    let mut below = |most: usize| {
        let most = u64::try_from(most).unwrap_or(0);
        usize::try_from(rng.below(most)).unwrap_or(0)
    };
    if let Some((path, length)) = files.get(below(files.len())) {
        let (byte, bit) = (below(*length), u8::try_from(below(8)).unwrap_or(0));
        if disk.flip_bit(path, byte, bit).is_ok() {
            stage.damaged.store(true, Ordering::Relaxed);
            stage.mark(Mark::BitFlipped);
            let place = format!("bit {bit} of byte {byte} of {}", path.display());
            stage.tell(format!("{place} of node {} turns over", n + 1));
        }
    }
    restart_after(stage, n, down);
}

/// A node with a replica that is not in sync though it has all that is committed.
pub(super) fn about_to_join(stage: &Stage) -> Option<usize> {
    let living = stage.living();
    living.into_iter().find_map(|node| {
        let broker = node.coordinator.session().local?.id;
        let state = node.coordinator.cluster_state();
        let statuses = node.coordinator.replication()?.statuses();
        let joins = statuses.iter().any(|status| {
            let record = state.partition(&status.partition);
            let outside = record.is_some_and(|r| r.is_replica(broker) && !r.isr.contains(&broker));
            let committed = stage.history().seen(status.partition).committed;
            outside && committed > Offset::ZERO && status.durable_end >= committed
        });
        joins.then_some(node.number)
    })
}

/// Stops the process of node `n` for a while.
pub(super) fn pause(stage: &Arc<Stage>, n: usize, length: Duration) {
    let life = stage.cluster().nodes[n].life;
    if !stage.living().iter().any(|node| node.number == n) {
        return;
    }
    stage.mark(Mark::Paused);
    stage.tell(format!("node {} stands still for {length:?}", n + 1));
    stage.cluster().pause(n);
    let stage = Arc::clone(stage);
    drop(tokio::spawn(async move {
        tokio::time::sleep(length).await;
        if stage.healing.load(Ordering::Relaxed) || stage.cluster().nodes[n].life != life {
            return;
        }
        if woken_too_late(&stage, n) {
            stage.mark(Mark::WokeDeposed);
        }
        stage.tell(format!("node {} goes on", n + 1));
        stage.cluster().resume(n);
    }));
}

/// Whether node `n` believes that it leads the metadata group, and another does.
fn woken_too_late(stage: &Stage, n: usize) -> bool {
    let statuses: Vec<_> = stage
        .living()
        .iter()
        .map(|node| (node.number, node.coordinator.raft_status()))
        .filter(|(_, status)| status.state == RaftState::Leader)
        .collect();
    let own = statuses.iter().find(|(number, _)| *number == n);
    own.is_some_and(|(_, own)| statuses.iter().any(|(_, other)| other.term > own.term))
}

pub(super) fn restart_after(stage: &Arc<Stage>, n: usize, down: Duration) {
    let stage = Arc::clone(stage);
    drop(tokio::spawn(async move {
        tokio::time::sleep(down).await;
        start(&stage, n).await;
    }));
}

/// Starts node `n` if it is down. A start that fails is left to the supervisor.
pub(super) async fn start(stage: &Stage, n: usize) {
    let boot = {
        let mut cluster = stage.cluster();
        if cluster.nodes[n].is_up() || !cluster.nodes[n].in_service {
            return;
        }
        cluster.begin_boot(n)
    };
    let Ok(boot) = boot else {
        return;
    };
    let life = boot.life;
    match boot.run().await {
        Ok(started) => {
            if stage.cluster().end_boot(n, life, started) {
                stage.tell(format!("node {} has started", n + 1));
            }
        }
        Err(error) => {
            stage.mark(Mark::StartFailed);
            stage.tell(format!("node {} did not start: {error}", n + 1));
            stage.cluster().give_up_boot(n, life);
        }
    }
}

/// Cuts the power after so many syncs of one node, and brings who lost it back.
pub(super) async fn lose_power_after_syncs(stage: Arc<Stage>, syncs: Option<u64>) {
    let Some(syncs) = syncs else {
        return;
    };
    let mut rng = stage.fork_rng();
    let (victim, nodes) = {
        let cluster = stage.cluster();
        let nodes = cluster.nodes.len();
        let victim = usize::try_from(syncs).unwrap_or(0) % nodes;
        cluster.nodes[victim].disk.blow_after_syncs(syncs);
        (victim, nodes)
    };
    let has_gone = || {
        let cluster = stage.cluster();
        let node = &cluster.nodes[victim];
        node.lost_power_in_change || node.disk.is_blown()
    };
    while !has_gone() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stage.mark(Mark::PowerLostInCommit);
    let all = syncs.is_multiple_of(2);
    for n in (0..nodes).filter(|n| all || *n == victim) {
        crash(&stage, n, true);
        restart_after(&stage, n, Duration::from_millis(rng.below(2_000)));
    }
}

/// As a service manager does: starts again what has failed or was never started.
pub(super) async fn supervise(stage: Arc<Stage>) {
    let mut rng = stage.fork_rng();
    let nodes = stage.cluster().nodes.len();
    let mut down_since: Vec<Option<u64>> = vec![None; nodes];
    loop {
        tokio::time::sleep(Duration::from_millis(100 + rng.below(200))).await;
        for node in stage.living() {
            let failure = node.coordinator.watch_failure().borrow().clone();
            if let Some(failure) = failure {
                stage.tell(format!("node {} gives up: {failure}", node.number + 1));
                stage.mark(Mark::NodeGaveUp);
                crash(&stage, node.number, false);
            }
        }
        let healing = stage.healing.load(Ordering::Relaxed);
        if healing || stage.overtime.load(Ordering::Relaxed) {
            restart_offline(&stage);
        }
        for (n, since) in down_since.iter_mut().enumerate() {
            if stage.cluster().nodes[n].is_up() {
                *since = None;
                continue;
            }
            let now = stage.millis();
            // Long enough that the faults decide how long a node is down, in most cases.
            let patience = if healing { 0 } else { 10_000 };
            if now >= *since.get_or_insert(now) + patience {
                *since = None;
                start(&stage, n).await;
            }
        }
    }
}

/// A log that has failed stays offline until its process is restarted: a person's work, done here.
fn restart_offline(stage: &Arc<Stage>) {
    for node in stage.living() {
        let statuses = node.coordinator.replication().map(|r| r.statuses());
        // One that is damaged is made anew without that.
        let offline = statuses
            .iter()
            .flatten()
            .any(|status| status.role == ReplicaRole::Offline && !status.corrupt);
        if offline {
            stage.mark(Mark::LogOffline);
            crash(stage, node.number, false);
        }
    }
}
