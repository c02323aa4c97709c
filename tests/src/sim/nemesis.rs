//! What goes wrong: faults drawn from the seed, each undone after a while.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rivven_core_types::test_util::DiskFault;
use rivven_core_types::{Rng, RpcKind};

use super::lives::{about_to_join, crash, damage, pause, restart_after, start, wipe};
use super::marks::Mark;
use super::network::Weather;
use super::plan::Plan;
use super::stage::Stage;
use super::swarm::ENOUGH_CRASHES;
use super::trace::mix;
use super::world::SimCluster;

/// The kinds of faults. A seed draws a part of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    PowerLoss,
    PowerLossInCommit,
    PowerLossOnSnapshot,
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
    WipedLogs,
    WipedOnCatchUp,
    Clock,
    Stop,
    Pause,
    BitFlip,
}

impl Fault {
    pub(super) const ALL: [Self; 25] = [
        Self::Kill,
        Self::PowerLoss,
        Self::PowerLossInCommit,
        Self::PowerLossOnSnapshot,
        Self::KillAll,
        Self::PowerLossOfAll,
        Self::Storm,
        Self::KillController,
        Self::KillLeader,
        Self::KillOnJoin,
        Self::Isolate,
        Self::IsolateController,
        Self::IsolateLeader,
        Self::CutPair,
        Self::CutOneWay,
        Self::Flap,
        Self::Weather,
        Self::SlowDisk,
        Self::BrokenDisk,
        Self::WipedLogs,
        Self::WipedOnCatchUp,
        Self::Clock,
        Self::Stop,
        Self::Pause,
        Self::BitFlip,
    ];

    /// Whether it may take unsynced records from several nodes at once: nothing promises those without
    /// fsync.
    pub(super) const fn needs_fsync(self) -> bool {
        matches!(self, Self::PowerLossOfAll | Self::BrokenDisk)
    }

    /// Whether nodes die of it.
    pub(super) const fn kills(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::PowerLoss
                | Self::PowerLossInCommit
                | Self::PowerLossOnSnapshot
                | Self::KillAll
                | Self::PowerLossOfAll
                | Self::Storm
                | Self::KillController
                | Self::KillLeader
        )
    }
}

/// Plays the faults of one seed. Every step has its own randomness, so that a step can be left out
/// without changing the others.
pub(super) struct Nemesis {
    stage: Arc<Stage>,
    seed: u64,
    rng: Rng,
    plan: Plan,
    only: Option<BTreeSet<u64>>,
}

impl Nemesis {
    pub(super) fn new(stage: Arc<Stage>, plan: Plan, only: Option<&[u64]>) -> Self {
        let rng = stage.fork_rng();
        stage.tell(format!("plan: {plan:?}"));
        Self {
            seed: rng.clone().next_u64(),
            stage,
            rng,
            plan,
            only: only.map(|steps| steps.iter().copied().collect()),
        }
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        let mut lull_at = self.stage.millis() + self.plan.busy_millis;
        for step in 0.. {
            self.rng = Rng::new(mix(self.seed, step));
            let pause = self.rng.below(self.plan.mean_pause_millis * 2);
            tokio::time::sleep(Duration::from_millis(1 + pause)).await;
            if self.stage.millis() >= lull_at {
                // Faults so dense that nothing commits find nothing.
                tokio::time::sleep(Duration::from_millis(self.plan.lull_millis)).await;
                lull_at = self.stage.millis() + self.plan.busy_millis;
            }
            let kinds = u64::try_from(self.plan.kinds.len()).unwrap_or(0);
            let n = usize::try_from(self.rng.below(kinds));
            let mut fault = n.ok().and_then(|n| self.plan.kinds.get(n).copied());
            if self.stage.overtime.load(Ordering::Relaxed) {
                fault = (self.stage.counter("crashes") < ENOUGH_CRASHES).then_some(Fault::Kill);
            }
            if let Some(fault) =
                fault.filter(|_| self.only.as_ref().is_none_or(|only| only.contains(&step)))
            {
                self.stage.count(&format!("fault: {fault:?}"));
                self.stage.struck(step, format!("{fault:?}"));
                self.strike(fault);
            }
        }
    }

    /// Undoes something after a while, unless the faults have ended and everything is undone.
    fn later(&self, after: Duration, undo: impl FnOnce(&SimCluster) + Send + 'static) {
        let stage = Arc::clone(&self.stage);
        drop(tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if !stage.healing.load(Ordering::Relaxed) {
                undo(&stage.cluster());
            }
        }));
    }

    fn length(&mut self) -> Duration {
        Duration::from_millis(1 + self.rng.below(self.plan.mean_length_millis * 2))
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
            Fault::PowerLossInCommit => self.lose_power_in_commit(node),
            Fault::PowerLossOnSnapshot => self.lose_power_on_snapshot(node),
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
            Fault::WipedLogs => self.wipe_logs(node),
            Fault::WipedOnCatchUp => self.wipe_on_catch_up(),
            Fault::Clock => self.clock(node),
            Fault::Stop => self.stop(node),
            Fault::Pause => self.pause(node),
            Fault::BitFlip => self.flip_bit(node),
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
                    if let Some(leader) = leader.filter(|_| !stage.healing.load(Ordering::Relaxed))
                    {
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
            if stage.healing.load(Ordering::Relaxed) {
                return;
            }
            (0..nodes).for_each(|n| crash(&stage, n, true));
            pace(0);
            (0..nodes).for_each(|n| restart_after(&stage, n, down));
        }));
    }

    fn storm(&mut self, n: usize) {
        let mut rng = Rng::new(self.rng.next_u64());
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
        self.later(length, move |cluster| {
            cluster.network.set_way(from, to, true)
        });
    }

    fn flap(&mut self, n: usize) {
        let other = (n + 1) % self.nodes();
        let (here, there) = (self.address(n), self.address(other));
        let network = self.stage.cluster().network.clone();
        let mut rng = Rng::new(self.rng.next_u64());
        let stage = Arc::clone(&self.stage);
        self.stage
            .tell(format!("the link {} <-> {} flaps", n + 1, other + 1));
        drop(tokio::spawn(async move {
            for round in 0..20 {
                if stage.healing.load(Ordering::Relaxed) {
                    return;
                }
                network.set_link(here, there, round % 2 == 1);
                tokio::time::sleep(Duration::from_millis(20 + rng.below(400))).await;
            }
        }));
    }

    fn weather(&mut self) {
        let weather = Weather {
            latency_spread_micros: 900 << self.rng.below(8),
            stalled_requests: self.rng.below(2) * self.rng.below(100),
            stalled_kind: Some((RpcKind::PROPOSE, self.rng.below(2) * self.rng.below(600))),
            lost_requests: self.rng.below(2) * self.rng.below(200),
            lost_answers: self.rng.below(2) * self.rng.below(200),
            lost_datagrams: self.rng.below(2) * self.rng.below(500),
            doubled_datagrams: self.rng.below(300),
        };
        let length = self.length();
        self.stage.tell(format!("{weather:?} for {length:?}"));
        let network = self.stage.cluster().network.clone();
        network.set_weather(weather);
        self.later(length, |cluster| {
            cluster.network.set_weather(Weather::default())
        });
    }

    fn slow_disk(&mut self, n: usize) {
        let (length, millis) = (self.length(), 4 << self.rng.below(8));
        self.stage.tell(format!(
            "the disk of node {} takes up to {millis} ms for {length:?}",
            n + 1
        ));
        self.stage.cluster().nodes[n].slow_disk(millis);
        self.later(length, move |cluster| cluster.nodes[n].slow_disk(0));
    }

    fn break_disk(&mut self, n: usize) {
        const FAULTS: [DiskFault; 4] = [
            DiskFault::FailSync,
            DiskFault::FailWrite,
            DiskFault::Full,
            DiskFault::FailRead,
        ];
        const PLACES: [&str; 3] = ["/data", "/data/logs", "/data/raft"];
        let fault = FAULTS[usize::try_from(self.rng.below(4)).unwrap_or(0)];
        let pattern = PLACES[usize::try_from(self.rng.below(3)).unwrap_or(0)];
        let (length, power) = (self.length(), self.rng.below(2) == 0);
        self.stage.tell(format!(
            "{fault:?} under {pattern} of node {} for {length:?}",
            n + 1
        ));
        self.stage.cluster().nodes[n].disk.inject(pattern, fault);
        let stage = Arc::clone(&self.stage);
        drop(tokio::spawn(async move {
            tokio::time::sleep(length).await;
            if stage.healing.load(Ordering::Relaxed) {
                return;
            }
            crash(&stage, n, power);
            stage.cluster().nodes[n].disk.heal();
            start(&stage, n).await;
        }));
    }

    /// The power of a node, and sometimes of a second one, goes in the midst of its next writes. Half of
    /// the time it is the controller, and half of the time its disk is slow, so that much is under way.
    fn lose_power_in_commit(&mut self, n: usize) {
        let controller = self.stage.cluster().controller();
        let n = controller.filter(|_| self.rng.below(2) == 0).unwrap_or(n);
        let slow = self.rng.below(2) * (10 + self.rng.below(200));
        self.stage.cluster().nodes[n].slow_disk(slow);
        let length = Duration::from_secs(3);
        self.later(length, move |cluster| cluster.nodes[n].slow_disk(0));
        let also = (self.rng.below(3) == 0).then(|| (n + 1) % self.nodes());
        for n in std::iter::once(n).chain(also) {
            let (operations, down) = (1 + self.rng.below(24), self.length());
            let stage = Arc::clone(&self.stage);
            let disk = stage.cluster().nodes[n].disk.clone();
            stage.tell(format!(
                "node {} loses power after {operations} writes",
                n + 1
            ));
            disk.blow_after(operations);
            drop(tokio::spawn(async move {
                // A node that writes nothing for so long is down already.
                for _ in 0..2_000 {
                    if disk.is_blown() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                if disk.is_blown() && !stage.healing.load(Ordering::Relaxed) {
                    stage.mark(Mark::PowerLostInCommit);
                    crash(&stage, n, true);
                    restart_after(&stage, n, down);
                } else {
                    disk.heal();
                }
            }));
        }
    }

    /// The power of a node goes when it has just been sent a snapshot and its disk is behind.
    fn lose_power_on_snapshot(&mut self, n: usize) {
        let (down, address) = (self.length(), self.address(n));
        let slow = 50 + self.rng.below(400);
        let pause = Duration::from_millis(self.rng.below(slow));
        let stage = Arc::clone(&self.stage);
        stage.tell(format!("node {} is slow until it gets a snapshot", n + 1));
        stage.cluster().nodes[n].slow_disk(slow);
        let network = stage.cluster().network.clone();
        let before = network.delivered_to(RpcKind::RAFT_SNAPSHOT, address);
        drop(tokio::spawn(async move {
            for _ in 0..1_500 {
                let now = network.delivered_to(RpcKind::RAFT_SNAPSHOT, address);
                if stage.healing.load(Ordering::Relaxed) {
                    return;
                }
                if now > before {
                    tokio::time::sleep(pause).await;
                    stage.mark(Mark::PowerLostOnSnapshot);
                    crash(&stage, n, true);
                    restart_after(&stage, n, down);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            stage.cluster().nodes[n].slow_disk(0);
        }));
    }

    /// Somebody removes the logs of a node, at a moment when others have everything: two copies that are
    /// gone at once are nobody's promise.
    fn wipe_logs(&mut self, n: usize) {
        // Often it is back before anybody has noticed.
        let down = self.length() * u32::try_from(self.rng.below(2)).unwrap_or(0);
        wipe(&self.stage, n, down);
    }

    /// The next replica that has everything again, and so is about to join, loses it all, while proposals
    /// take long.
    fn wipe_on_catch_up(&mut self) {
        let length = self.length();
        let stage = Arc::clone(&self.stage);
        stage.tell(format!("for {length:?} who catches up is wiped"));
        let weather = Weather {
            // Late copies of in-sync sets.
            stalled_kind: Some((RpcKind::PROPOSE, 700)),
            ..Weather::default()
        };
        stage.cluster().network.set_weather(weather);
        self.later(length, |cluster| {
            cluster.network.set_weather(Weather::default());
        });
        let until = stage.millis() + u64::try_from(length.as_millis()).unwrap_or(0);
        drop(tokio::spawn(async move {
            while stage.millis() < until && !stage.healing.load(Ordering::Relaxed) {
                if let Some(n) = about_to_join(&stage) {
                    wipe(&stage, n, Duration::ZERO);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }));
    }

    /// While a node is down a bit of one of its logs turns over.
    fn flip_bit(&mut self, n: usize) {
        let (down, mut rng) = (self.length(), Rng::new(self.rng.next_u64()));
        damage(&self.stage, n, &mut rng, down);
    }

    fn clock(&mut self, n: usize) {
        let by = Duration::from_millis(1 + self.rng.below(5_000));
        let jumps = self.rng.below(2) == 0;
        let what = if jumps { "jumps by" } else { "stalls for" };
        self.stage.mark(Mark::ClockMoved);
        self.stage
            .tell(format!("the clock of node {} {what} {by:?}", n + 1));
        let scope = self.stage.cluster().nodes[n].scope.clone();
        if jumps {
            scope.jump_clock(by);
        } else {
            scope.stall_clock(by);
        }
    }

    /// Half of the time the controller, and sometimes a leader: longer than any lease, or a moment.
    fn pause(&mut self, n: usize) {
        let n = match self.rng.below(4) {
            0 | 1 => self.stage.cluster().controller(),
            2 => self.leader(),
            _ => None,
        }
        .unwrap_or(n);
        let most = 200 << self.rng.below(9);
        let length = Duration::from_millis(most / 2 + self.rng.below(most / 2));
        pause(&self.stage, n, length);
    }

    fn stop(&mut self, n: usize) {
        let down = self.length();
        let stage = Arc::clone(&self.stage);
        let Some(node) = stage.living().into_iter().find(|node| node.number == n) else {
            return;
        };
        stage.tell(format!("node {} is stopped in order", n + 1));
        drop(tokio::spawn(async move {
            node.reached().await;
            node.coordinator.shutdown().await;
            if stage.is_alive(&node) {
                crash(&stage, n, false);
                tokio::time::sleep(down).await;
                start(&stage, n).await;
            }
        }));
    }
}
