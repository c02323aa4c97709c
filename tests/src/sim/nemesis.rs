//! What goes wrong: faults drawn from the seed, each undone after a while.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rivven_core_types::Rng;
use rivven_core_types::test_util::DiskFault;

use super::network::Weather;
use super::stage::Stage;

/// The kinds of faults. A seed draws a part of them (swarm testing: Groce et al., ISSTA 2012).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    PowerLoss,
    KillAll,
    PowerLossOfAll,
    Storm,
    KillController,
    KillLeader,
    KillOnJoin,
    Isolate,
    IsolateController,
    IsolateLeader,
    CutPair,
    CutOneWay,
    Flap,
    Weather,
    SlowDisk,
    BrokenDisk,
    Stop,
}

const ALL: [Fault; 18] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::KillAll,
    Fault::PowerLossOfAll,
    Fault::Storm,
    Fault::KillController,
    Fault::KillLeader,
    Fault::KillOnJoin,
    Fault::Isolate,
    Fault::IsolateController,
    Fault::IsolateLeader,
    Fault::CutPair,
    Fault::CutOneWay,
    Fault::Flap,
    Fault::Weather,
    Fault::SlowDisk,
    Fault::BrokenDisk,
    Fault::Stop,
];

/// Plays the faults of one seed.
pub(super) struct Nemesis {
    stage: Arc<Stage>,
    rng: Rng,
    kinds: Vec<Fault>,
    mean_pause_millis: u64,
    mean_length_millis: u64,
}

impl Nemesis {
    pub(super) fn new(stage: Arc<Stage>) -> Self {
        let mut rng = stage.fork_rng();
        let mut kinds = ALL.to_vec();
        rng.shuffle(&mut kinds);
        let count = 2 + rng.below(u64::try_from(ALL.len()).unwrap_or(0) - 2);
        kinds.truncate(usize::try_from(count).unwrap_or(0));
        let mean_pause_millis = 200 << rng.below(5);
        let mean_length_millis = 200 << rng.below(6);
        stage.tell(format!(
            "faults: {kinds:?}, one each {mean_pause_millis} ms, of {mean_length_millis} ms"
        ));
        Self {
            stage,
            rng,
            kinds,
            mean_pause_millis,
            mean_length_millis,
        }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        loop {
            let pause = self.rng.below(self.mean_pause_millis * 2);
            tokio::time::sleep(Duration::from_millis(1 + pause)).await;
            let n = usize::try_from(self.rng.below(u64::try_from(self.kinds.len()).unwrap_or(0)));
            if let Some(fault) = n.ok().and_then(|n| self.kinds.get(n).copied()) {
                self.stage.count(&format!("fault: {fault:?}"));
                self.strike(fault);
            }
        }
    }

    fn length(&mut self) -> Duration {
        Duration::from_millis(1 + self.rng.below(self.mean_length_millis * 2))
    }

    fn nodes(&self) -> usize {
        self.stage.cluster().nodes.len()
    }

    fn node(&mut self) -> usize {
        let nodes = u64::try_from(self.nodes()).unwrap_or(1);
        usize::try_from(self.rng.below(nodes)).unwrap_or(0)
    }

    fn strike(&mut self, fault: Fault) {
        let node = self.node();
        match fault {
            Fault::Kill => self.crash(node, false),
            Fault::PowerLoss => self.crash(node, true),
            Fault::KillAll => (0..self.nodes()).for_each(|n| self.crash(n, false)),
            Fault::PowerLossOfAll => self.lose_all_power(),
            Fault::Storm => self.storm(node),
            Fault::KillController => {
                let power = self.rng.below(2) == 0;
                let controller = self.stage.cluster().controller();
                self.crash(controller.unwrap_or(node), power);
            }
            Fault::KillLeader => {
                let power = self.rng.below(2) == 0;
                let leader = self.leader().unwrap_or(node);
                self.crash(leader, power);
            }
            Fault::KillOnJoin => self.kill_on_join(),
            Fault::Isolate => self.isolate(node),
            Fault::IsolateController => {
                let controller = self.stage.cluster().controller();
                self.isolate(controller.unwrap_or(node));
            }
            Fault::IsolateLeader => {
                let leader = self.leader().unwrap_or(node);
                self.isolate(leader);
            }
            Fault::CutPair => self.cut(node, true),
            Fault::CutOneWay => self.cut(node, false),
            Fault::Flap => self.flap(node),
            Fault::Weather => self.weather(),
            Fault::SlowDisk => self.slow_disk(node),
            Fault::BrokenDisk => self.break_disk(node),
            Fault::Stop => self.stop(node),
        }
    }

    fn leader(&mut self) -> Option<usize> {
        let living = self.stage.living();
        let state = living.first()?.coordinator.cluster_state();
        let leaders: Vec<_> = state.partitions().filter_map(|p| p.leader).collect();
        let count = u64::try_from(leaders.len()).unwrap_or(0);
        let n = usize::try_from(self.rng.below(count)).ok()?;
        self.stage.cluster().node_of(*leaders.get(n)?)
    }

    fn crash(&mut self, n: usize, power: bool) {
        let down = self.length();
        crash(&self.stage, n, power);
        restart_after(&self.stage, n, down);
    }

    /// Kills the next leaders whose in-sync set grows, at the moment when the controller has committed
    /// it and the leader may not know.
    fn kill_on_join(&mut self) {
        let (length, down) = (self.length(), self.length());
        let stage = Arc::clone(&self.stage);
        stage.tell(format!("for {length:?} leaders die when a replica joins"));
        drop(tokio::spawn(async move {
            let Some(watched) = stage.living().into_iter().next() else {
                return;
            };
            let mut states = watched.coordinator.watch_cluster_state();
            let mut before = watched.coordinator.cluster_state();
            let watch = async {
                while states.changed().await.is_ok() {
                    let now = Arc::clone(&states.borrow_and_update());
                    let grown = now.changed_since(&before).into_iter().find_map(|id| {
                        let (old, new) = (before.partition(&id)?, now.partition(&id)?);
                        (new.isr.len() > old.isr.len()).then_some(new.leader?)
                    });
                    before = now;
                    let leader = grown.and_then(|broker| stage.cluster().node_of(broker));
                    if let Some(leader) = leader {
                        crash(&stage, leader, false);
                        restart_after(&stage, leader, down);
                    }
                }
            };
            // It ends with its time, or with the node that was watched.
            drop(tokio::time::timeout(length, watch).await);
        }));
    }

    /// Half of the time the disks are slow when it happens, so that much is not synced anywhere.
    fn lose_all_power(&mut self) {
        let nodes = self.nodes();
        if self.rng.below(2) == 0 {
            (0..nodes).for_each(|n| self.crash(n, true));
            return;
        }
        let (length, down) = (
            Duration::from_millis(50 + self.rng.below(500)),
            self.length(),
        );
        let slow = 20 + self.rng.below(200);
        let stage = Arc::clone(&self.stage);
        stage.tell(format!(
            "all disks take up to {slow} ms, then the power goes"
        ));
        drop(tokio::spawn(async move {
            let pace = |millis| {
                let cluster = stage.cluster();
                cluster.nodes.iter().for_each(|node| node.slow_disk(millis));
            };
            pace(slow);
            tokio::time::sleep(length).await;
            (0..nodes).for_each(|n| crash(&stage, n, true));
            pace(0);
            (0..nodes).for_each(|n| restart_after(&stage, n, down));
        }));
    }

    fn storm(&mut self, n: usize) {
        let mut rng = self.stage.fork_rng();
        let stage = Arc::clone(&self.stage);
        drop(tokio::spawn(async move {
            for _ in 0..3 + rng.below(6) {
                if stage.healing.load(Ordering::Relaxed) {
                    return;
                }
                crash(&stage, n, rng.below(3) == 0);
                start(&stage, n).await;
                tokio::time::sleep(Duration::from_millis(rng.below(800))).await;
            }
        }));
    }

    fn address(&self, n: usize) -> std::net::SocketAddr {
        self.stage.cluster().nodes[n].address
    }

    fn isolate(&mut self, n: usize) {
        let (length, one_way) = (self.length(), self.rng.below(3));
        self.stage.tell(format!(
            "node {} isolated for {length:?} ({})",
            n + 1,
            ["both ways", "deaf", "mute"][usize::try_from(one_way).unwrap_or(0)]
        ));
        let others: Vec<_> = (0..self.nodes()).filter(|other| *other != n).collect();
        for other in others {
            let (here, there) = (self.address(n), self.address(other));
            if one_way != 2 {
                self.cut_for(there, here, length);
            }
            if one_way != 1 {
                self.cut_for(here, there, length);
            }
        }
    }

    fn cut(&mut self, n: usize, both: bool) {
        let other = (n + 1) % self.nodes();
        let length = self.length();
        let way = if both { "<->" } else { "->" };
        self.stage
            .tell(format!("cut {} {way} {} for {length:?}", n + 1, other + 1));
        let (here, there) = (self.address(n), self.address(other));
        self.cut_for(here, there, length);
        if both {
            self.cut_for(there, here, length);
        }
    }

    fn cut_for(&self, from: std::net::SocketAddr, to: std::net::SocketAddr, length: Duration) {
        let network = self.stage.cluster().network.clone();
        network.set_way(from, to, false);
        drop(tokio::spawn(async move {
            tokio::time::sleep(length).await;
            network.set_way(from, to, true);
        }));
    }

    fn flap(&mut self, n: usize) {
        let other = (n + 1) % self.nodes();
        let (here, there) = (self.address(n), self.address(other));
        let network = self.stage.cluster().network.clone();
        let mut rng = self.stage.fork_rng();
        self.stage
            .tell(format!("the link {} <-> {} flaps", n + 1, other + 1));
        drop(tokio::spawn(async move {
            for round in 0..20 {
                network.set_link(here, there, round % 2 == 1);
                tokio::time::sleep(Duration::from_millis(20 + rng.below(400))).await;
            }
            network.set_link(here, there, true);
        }));
    }

    fn weather(&mut self) {
        let weather = Weather {
            latency_spread_micros: 900 << self.rng.below(8),
            stalled_requests: self.rng.below(2) * self.rng.below(100),
            stalled_proposals: self.rng.below(2) * self.rng.below(600),
            lost_requests: self.rng.below(2) * self.rng.below(200),
            lost_answers: self.rng.below(2) * self.rng.below(200),
            lost_datagrams: self.rng.below(2) * self.rng.below(500),
            doubled_datagrams: self.rng.below(300),
        };
        let length = self.length();
        self.stage.tell(format!("{weather:?} for {length:?}"));
        let network = self.stage.cluster().network.clone();
        network.set_weather(weather);
        drop(tokio::spawn(async move {
            tokio::time::sleep(length).await;
            network.set_weather(Weather::default());
        }));
    }

    fn slow_disk(&mut self, n: usize) {
        let (length, millis) = (self.length(), 4 << self.rng.below(8));
        self.stage.tell(format!(
            "the disk of node {} takes up to {millis} ms for {length:?}",
            n + 1
        ));
        self.stage.cluster().nodes[n].slow_disk(millis);
        let stage = Arc::clone(&self.stage);
        drop(tokio::spawn(async move {
            tokio::time::sleep(length).await;
            stage.cluster().nodes[n].slow_disk(0);
        }));
    }

    fn break_disk(&mut self, n: usize) {
        const FAULTS: [DiskFault; 3] = [DiskFault::FailSync, DiskFault::FailWrite, DiskFault::Full];
        let fault = FAULTS[usize::try_from(self.rng.below(3)).unwrap_or(0)];
        let pattern = if self.rng.below(2) == 0 {
            "/data"
        } else {
            "/data/logs"
        };
        let (length, power) = (self.length(), self.rng.below(2) == 0);
        self.stage.tell(format!(
            "{fault:?} under {pattern} of node {} for {length:?}",
            n + 1
        ));
        self.stage.cluster().nodes[n].disk.inject(pattern, fault);
        let stage = Arc::clone(&self.stage);
        drop(tokio::spawn(async move {
            tokio::time::sleep(length).await;
            crash(&stage, n, power);
            stage.cluster().nodes[n].disk.heal();
            start(&stage, n).await;
        }));
    }

    fn stop(&mut self, n: usize) {
        let down = self.length();
        let stage = Arc::clone(&self.stage);
        let Some(node) = stage.living().into_iter().find(|node| node.number == n) else {
            return;
        };
        stage.tell(format!("node {} is stopped in order", n + 1));
        drop(tokio::spawn(async move {
            node.coordinator.shutdown().await;
            if stage.is_alive(&node) {
                crash(&stage, n, false);
                tokio::time::sleep(down).await;
                start(&stage, n).await;
            }
        }));
    }
}

/// Ends the life of node `n`, if it has one.
pub(super) fn crash(stage: &Stage, n: usize, power: bool) {
    let mut cluster = stage.cluster();
    if power {
        cluster.lose_power(n);
    } else {
        cluster.kill(n);
    }
    drop(cluster);
    stage.tell(format!(
        "node {} {}",
        n + 1,
        if power { "loses power" } else { "is killed" }
    ));
}

fn restart_after(stage: &Arc<Stage>, n: usize, down: Duration) {
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
        if cluster.nodes[n].is_up() {
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
            stage.count("failed starts");
            stage.tell(format!("node {} did not start: {error}", n + 1));
            stage.cluster().give_up_boot(n, life);
        }
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
                stage.count("nodes that gave up");
                crash(&stage, node.number, false);
            }
        }
        let healing = stage.healing.load(Ordering::Relaxed);
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
