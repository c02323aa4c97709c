//! What a seed draws before anything runs: the shape of the cluster, its clocks, its faults (swarm
//! testing: Groce et al., ISSTA 2012: each run with a part of the faults finds more than all with all).

use std::time::Duration;

use rivven_coordinator::RaftLimits;
use rivven_core_types::{Durability, Rng};

use super::nemesis::Fault;

/// The fastest and the slowest clock, in parts per million beside the true rate.
const MAX_DRIFT_PPM: u64 = 10_000;

/// One seed's world.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// The kinds of faults that occur.
    pub(super) kinds: Vec<Fault>,
    pub(super) mean_pause_millis: u64,
    pub(super) mean_length_millis: u64,
    /// How long faults come, and how long none comes then.
    pub(super) busy_millis: u64,
    pub(super) lull_millis: u64,
    /// How the topics store; without fsync the power never goes.
    pub(super) durability: Durability,
    /// The clock rate of each node, in parts per million beside the true one.
    pub(super) drift_ppm: Vec<i32>,
    pub(super) settings: Settings,
    /// Nodes join and leave.
    pub(super) members_change: bool,
}

/// What the nodes are configured with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) snapshot_threshold: u64,
    pub(super) raft_limits: RaftLimits,
    pub(super) lag_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            snapshot_threshold: 10_000,
            raft_limits: RaftLimits::default(),
            lag_max: Duration::from_secs(10),
        }
    }
}

impl Plan {
    pub(super) fn draw(seed: u64, nodes: usize) -> Self {
        let mut rng = Rng::new(seed ^ 0x0091_a27e);
        let durability = if rng.below(4) == 0 {
            Durability::Replicated
        } else {
            Durability::Fsync
        };
        let mut kinds: Vec<Fault> = Fault::ALL
            .into_iter()
            .filter(|kind| durability == Durability::Fsync || !kind.needs_fsync())
            .collect();
        rng.shuffle(&mut kinds);
        let most = u64::try_from(kinds.len()).unwrap_or(0);
        let count = 2 + rng.below(most.saturating_sub(2));
        kinds.truncate(usize::try_from(count).unwrap_or(0));
        if !kinds.iter().any(|kind| kind.kills()) {
            // A run without a crash proves little.
            kinds.push(Fault::KillLeader);
        }
        let bound = MAX_DRIFT_PPM * 2 + 1;
        let mut drift = || i32::try_from(rng.below(bound)).unwrap_or(0) - 10_000;
        let drift_ppm = (0..nodes).map(|_| drift()).collect();
        Self {
            kinds,
            mean_pause_millis: 200 << rng.below(5),
            mean_length_millis: 200 << rng.below(6),
            busy_millis: 5_000 + rng.below(20_000),
            lull_millis: 2_000 + rng.below(6_000),
            durability,
            drift_ppm,
            settings: Settings::draw(&mut rng),
            members_change: rng.below(3) == 0,
        }
    }
}

impl Settings {
    /// How long a follower's fetch waits: the default, or less where the lag time is short.
    pub(super) fn fetch_wait(&self) -> Duration {
        (self.lag_max / 4).min(Duration::from_millis(500))
    }

    fn draw(rng: &mut Rng) -> Self {
        const THRESHOLDS: [u64; 3] = [10, 60, 10_000];
        const KEPT: [u64; 4] = [0, 3, 20, 100_000];
        const LAG_MILLIS: [u64; 3] = [500, 2_000, 10_000];
        fn one_of(rng: &mut Rng, of: &[u64]) -> u64 {
            let n = rng.below(u64::try_from(of.len()).unwrap_or(1));
            let n = usize::try_from(n).unwrap_or(0);
            of.get(n).copied().unwrap_or_default()
        }
        Self {
            snapshot_threshold: one_of(rng, &THRESHOLDS),
            raft_limits: RaftLimits {
                snapshot_min_log_bytes: 0,
                logs_kept_behind_snapshot: one_of(rng, &KEPT),
                purge_batch_entries: 1,
                // Several chunks per snapshot.
                snapshot_chunk_bytes: 512,
                tail_cache_bytes: 16 * 1024,
                ..RaftLimits::default()
            },
            lag_max: Duration::from_millis(one_of(rng, &LAG_MILLIS)),
        }
    }
}
