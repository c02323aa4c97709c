//! Random runs: a cluster of some size, some faults, a story of crashes, cuts and restarts, and then
//! peace, in which everything must come right again.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::Rng;

use super::faults::{Faults, Measured};
use super::network::Simulation;
use super::scenarios::is_death_of;
use crate::Input;

/// How long the views may take to agree once the network is whole again: the search for the lost goes
/// every 5 s and finds one of them at a time.
const PEACE: Duration = Duration::from_secs(45);
/// How long a crash may stay unnoticed by anybody, in peace.
const NOTICED: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(100);

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Played {
    /// The rule that was broken, and when.
    pub broken: Option<String>,
    /// What was counted.
    pub measured: Measured,
    /// Equal for equal seeds.
    pub trace_hash: u64,
}

/// Plays one seed.
pub fn swarm(seed: u64) -> Played {
    let mut story = Story::new(seed);
    let broken = match seed % 4 {
        0 => story.mild(),
        1 => story.partition(),
        _ => story.wild(),
    };
    let broken = broken.and_then(|()| story.peace());
    let rule = story.network.broken().map(str::to_owned);
    Played {
        broken: rule.or_else(|| broken.err()),
        measured: story.network.measured(),
        trace_hash: story.network.trace_hash(),
    }
}

struct Story {
    network: Simulation,
    rng: Rng,
    count: u32,
    /// The last life of each node, and whether it runs.
    lives: BTreeMap<u32, (u64, bool)>,
}

impl Story {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5714_0000);
        let count = [3, 5, 8, 13, 32]
            .get(usize::try_from(rng.below(5)).unwrap_or(0))
            .copied()
            .unwrap_or(3);
        let mut network = Simulation::new(seed);
        network.tolerate();
        network.start(0, 1);
        for node in 1..count {
            network.join(node, 1, 0);
        }
        Self {
            network,
            rng,
            count,
            lives: (0..count).map(|node| (node, (1, true))).collect(),
        }
    }

    fn run(&mut self, span: Duration) -> Result<(), String> {
        self.network.run(span);
        self.network.trace.clear();
        match self.network.broken() {
            Some(rule) => Err(rule.to_owned()),
            None => Ok(()),
        }
    }

    fn pause(&mut self, at_most_millis: u64) -> Result<(), String> {
        let millis = 1 + self.rng.below(at_most_millis);
        self.run(Duration::from_millis(millis))
    }

    /// A bad network, but none that may cost anybody its life.
    fn mild(&mut self) -> Result<(), String> {
        self.run(Duration::from_secs(2))?;
        self.network.faults = Faults {
            loss_per_mille: self.rng.below(51),
            duplicates_per_mille: self.rng.below(50),
            reordered_per_mille: self.rng.below(100),
            replayed_per_mille: self.rng.below(50),
            damaged_per_mille: self.rng.below(10),
            ..Faults::default()
        };
        for node in 0..self.count {
            let ppm = i64::try_from(self.rng.below(401)).unwrap_or(0) - 200;
            self.network.drift(node, ppm);
        }
        for _ in 0..10 {
            self.chatter();
            self.pause(4_000)?;
        }
        match self.network.measured().false_deaths {
            0 => Ok(()),
            deaths => Err(format!("{deaths} false deaths on a mildly bad network")),
        }
    }

    /// Half cannot reach the other half for longer than any suspicion; then it can.
    fn partition(&mut self) -> Result<(), String> {
        self.run(Duration::from_secs(2))?;
        let half = self.count / 2;
        let side = move |node: u32| node < half;
        self.network.cut(move |from, to| side(from) != side(to));
        let cut = Duration::from_secs(8 + self.rng.below(8));
        // With its trace, which tells who died meanwhile.
        self.network.run(cut);
        self.network.heal();
        self.network.run(Duration::from_secs(15));
        for (time, observer, event) in std::mem::take(&mut self.network.trace) {
            let own_side = |node: &u32| side(*node) == side(observer);
            if (0..self.count)
                .filter(own_side)
                .any(|n| is_death_of(&event, n))
            {
                return Err(format!(
                    "{observer} killed one of its own side: {event:?} at {time:?}"
                ));
            }
        }
        Ok(())
    }

    fn wild(&mut self) -> Result<(), String> {
        self.network.faults = Faults {
            loss_per_mille: self.rng.below(300),
            bursts_per_minute: self.rng.below(10),
            burst_ms: self.rng.below(1_000),
            duplicates_per_mille: self.rng.below(50),
            reordered_per_mille: self.rng.below(100),
            replayed_per_mille: self.rng.below(50),
            damaged_per_mille: self.rng.below(20),
        };
        for _ in 0..30 {
            let node = u32::try_from(self.rng.below(u64::from(self.count))).unwrap_or(0);
            match self.rng.below(10) {
                0 | 1 => self.crash(node),
                2 | 3 => self.restart(node),
                4 => self.cut(node),
                5 => self.network.heal(),
                6 => {
                    let pause = Duration::from_millis(self.rng.below(3_000));
                    self.network.pause(node, pause);
                }
                7 => self.leave(node)?,
                8 => self.chatter(),
                _ => {
                    let length = usize::try_from(self.rng.below(1_300)).unwrap_or(0);
                    let forged = self.network.forgery(length);
                    self.network.inject(node, &forged);
                }
            }
            self.pause(1_500)?;
        }
        Ok(())
    }

    fn crash(&mut self, node: u32) {
        if let Some((_, running)) = self.lives.get_mut(&node) {
            *running = false;
            self.network.kill(node);
        }
    }

    fn restart(&mut self, node: u32) {
        let seed = (node + 1) % self.count;
        if let Some((boot_id, running)) = self.lives.get_mut(&node) {
            *boot_id += 1;
            *running = true;
            self.network.kill(node);
            self.network.join(node, *boot_id, seed);
        }
    }

    /// One direction, or both, or one half from the other.
    fn cut(&mut self, node: u32) {
        let half = self.count / 2;
        match self.rng.below(3) {
            0 => self.network.cut(move |from, _| from == node),
            1 => self.network.cut(move |from, to| from == node || to == node),
            _ => self
                .network
                .cut(move |from, to| (from < half) != (to < half)),
        }
    }

    fn leave(&mut self, node: u32) -> Result<(), String> {
        self.network.input(node, Input::Leave);
        self.run(Duration::from_secs(1))?;
        self.crash(node);
        Ok(())
    }

    /// Metadata and events of some members.
    fn chatter(&mut self) {
        let node = u32::try_from(self.rng.below(u64::from(self.count))).unwrap_or(0);
        let length = usize::try_from(self.rng.below(513)).unwrap_or(0);
        let bytes = Bytes::from(vec![0x2a; length]);
        let input = if self.rng.below(2) == 0 {
            Input::SetMetadata(bytes)
        } else {
            Input::Broadcast(bytes)
        };
        self.network.input(node, input);
    }

    /// The network is whole, everybody runs: all know all, nobody doubts anybody, and a crash is
    /// noticed.
    fn peace(&mut self) -> Result<(), String> {
        self.network.heal();
        self.network.faults = Faults::default();
        let down: Vec<u32> = self
            .lives
            .iter()
            .filter(|(_, l)| !l.1)
            .map(|(n, _)| *n)
            .collect();
        for node in down {
            self.restart(node);
        }
        let others = usize::try_from(self.count).unwrap_or(0) - 1;
        let whole = move |network: &Simulation| network.all_know(others) && network.is_agreed();
        if self.network.until(PEACE, LOOK, whole).is_none() {
            return Err(format!("the views do not agree after {PEACE:?} of peace"));
        }
        self.run(Duration::from_secs(3))?;
        self.network.reset();
        self.run(Duration::from_secs(5))?;
        if self.network.measured().suspicions > 0 {
            return Err("somebody is suspected in peace".to_owned());
        }
        let victim = self.count - 1;
        self.crash(victim);
        let noticed = self
            .network
            .until(NOTICED, LOOK, move |network| network.all_know(others - 1));
        match noticed {
            Some(_) => self.run(Duration::from_secs(1)),
            None => Err(format!("a crash is not noticed in {NOTICED:?}")),
        }
    }
}
