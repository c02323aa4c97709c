//! What is done to the cluster, and in which order.

use std::time::Duration;

use rivven_core_types::Rng;

/// One kind of harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Nemesis {
    /// `kill -9`, and a restart.
    Kill,
    /// `kill -9` of all nodes at once.
    KillAll,
    /// SIGTERM: the node hands over and stops in order.
    Restart,
    /// `kill -9` several times in a row, also while the node starts.
    Storm,
    /// SIGSTOP, later SIGCONT: the node believes that no time has passed.
    Pause,
    /// No packet between a node and its peers; clients still reach it.
    Isolate,
    /// It hears its peers; they do not hear it.
    Mute,
    /// They hear it; it does not hear them.
    Deaf,
    /// Two nodes do not reach each other; the third reaches both.
    Link,
    /// Packets between all nodes are lost at random.
    Loss,
    /// A node sends through a slow link with a long queue.
    Slow,
    /// What is sent to a node comes late.
    Delay,
    /// What is sent to a node is held back, and then comes all at once.
    Stall,
    /// Connections to a node break again and again.
    Reset,
    /// Datagrams to all nodes are lost, doubled and reordered.
    Datagrams,
    /// The disk of a node is full.
    FullDisk,
    /// fsync fails with an I/O error.
    SyncError,
    /// Writing fails with an I/O error.
    WriteError,
    /// fsync takes long.
    SlowSync,
    /// The wall clock jumps.
    Clock,
}

/// What a nemesis cannot do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing but processes.
    Nothing,
    /// Network namespaces with a packet filter.
    Namespaces,
    /// A file system of its own.
    Mount,
    /// The preloaded library.
    Preload,
}

impl Nemesis {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Kill,
        Self::KillAll,
        Self::Restart,
        Self::Storm,
        Self::Pause,
        Self::Isolate,
        Self::Mute,
        Self::Deaf,
        Self::Link,
        Self::Loss,
        Self::Slow,
        Self::Delay,
        Self::Stall,
        Self::Reset,
        Self::Datagrams,
        Self::FullDisk,
        Self::SyncError,
        Self::WriteError,
        Self::SlowSync,
        Self::Clock,
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillAll => "kill-all",
            Self::Restart => "restart",
            Self::Storm => "storm",
            Self::Pause => "pause",
            Self::Isolate => "isolate",
            Self::Mute => "mute",
            Self::Deaf => "deaf",
            Self::Link => "link",
            Self::Loss => "loss",
            Self::Slow => "slow-link",
            Self::Delay => "delay",
            Self::Stall => "stall",
            Self::Reset => "reset",
            Self::Datagrams => "datagrams",
            Self::FullDisk => "full-disk",
            Self::SyncError => "sync-error",
            Self::WriteError => "write-error",
            Self::SlowSync => "slow-sync",
            Self::Clock => "clock",
        }
    }

    /// What it does, for `--list`.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 a node, then start it again",
            Self::KillAll => "kill -9 all nodes at once",
            Self::Restart => "stop a node in order with SIGTERM",
            Self::Storm => "kill -9 a node several times, also while it starts",
            Self::Pause => "SIGSTOP a node, then SIGCONT",
            Self::Isolate => "cut a node off from its peers, not from clients (nft)",
            Self::Mute => "drop what a node sends to its peers (nft)",
            Self::Deaf => "drop what a node's peers send to it (nft)",
            Self::Link => "cut the link between two of three nodes (nft)",
            Self::Loss => "lose 5-35 % of the packets between nodes (nft)",
            Self::Slow => "let a node send at 0.5-4 Mbit/s through a long queue (tbf)",
            Self::Delay => "delay what is sent to a node by 20-150 ms (proxy)",
            Self::Stall => "hold back what is sent to a node (proxy)",
            Self::Reset => "break all connections to a node repeatedly (proxy)",
            Self::Datagrams => "lose, double and reorder datagrams to all nodes (proxy)",
            Self::FullDisk => "fill the disk of a node (tmpfs)",
            Self::SyncError => "let fsync fail with EIO (preload)",
            Self::WriteError => "let writes fail with EIO (preload)",
            Self::SlowSync => "let fsync take 50-800 ms longer (preload)",
            Self::Clock => "let the wall clock jump by up to a day (preload)",
        }
    }

    pub(super) const fn need(self) -> Need {
        match self {
            Self::Kill | Self::KillAll | Self::Restart | Self::Storm | Self::Pause => Need::Nothing,
            Self::Delay | Self::Stall | Self::Reset | Self::Datagrams => Need::Nothing,
            Self::Isolate | Self::Mute | Self::Deaf => Need::Namespaces,
            Self::Link | Self::Loss | Self::Slow => Need::Namespaces,
            Self::FullDisk => Need::Mount,
            Self::SyncError | Self::WriteError | Self::SlowSync | Self::Clock => Need::Preload,
        }
    }

    /// Whether a node must stop rather than go on: its process is replaced afterwards.
    pub(super) const fn is_fatal(self) -> bool {
        matches!(self, Self::FullDisk | Self::SyncError | Self::WriteError)
    }
}

/// Whom it meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Whoever is the controller then.
    Controller,
    /// Whoever leads this partition then, counted through all.
    Leader(u32),
    /// The node with this index.
    Node(usize),
}

/// One harm of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Episode {
    pub(super) nemesis: Nemesis,
    pub(super) target: Target,
    /// How much, in units that the nemesis understands.
    pub(super) strength: u64,
    /// For how long.
    pub(super) hold: Duration,
    /// How long nothing happens before it.
    pub(super) calm: Duration,
}

/// Draws episodes from a seed: first each nemesis once, in random order, then any.
#[derive(Debug)]
pub(super) struct Schedule {
    rng: Rng,
    nemeses: Vec<Nemesis>,
    /// Those of the first round that are still to come.
    first: Vec<Nemesis>,
    nodes: usize,
}

impl Schedule {
    pub(super) fn new(seed: u64, nemeses: &[Nemesis], nodes: usize) -> Self {
        Self {
            rng: Rng::new(seed),
            nemeses: nemeses.to_vec(),
            first: nemeses.to_vec(),
            nodes,
        }
    }

    fn pick(&mut self, length: usize) -> usize {
        let bound = u64::try_from(length).unwrap_or(1);
        usize::try_from(self.rng.below(bound)).unwrap_or(0)
    }

    /// The next episode; `None` if there are no nemeses.
    pub(super) fn next(&mut self) -> Option<Episode> {
        let nemesis = if self.first.is_empty() {
            let at = self.pick(self.nemeses.len());
            *self.nemeses.get(at)?
        } else {
            let at = self.pick(self.first.len());
            self.first.swap_remove(at)
        };
        let target = match self.rng.below(3) {
            0 => Target::Controller,
            1 => Target::Leader(u32::try_from(self.rng.below(64)).unwrap_or(0)),
            _ => Target::Node(self.pick(self.nodes)),
        };
        let (strength, extra, calm) = (
            self.rng.next_u64(),
            self.rng.below(1_000),
            self.rng.below(1_000),
        );
        // Long enough for a session to time out now and then, short enough for many.
        let hold = match nemesis {
            Nemesis::Kill | Nemesis::KillAll | Nemesis::Restart => extra,
            Nemesis::Storm | Nemesis::Reset => 1_000,
            Nemesis::Pause | Nemesis::Stall => 1_000 + extra * 6,
            _ => 2_000 + extra * 6,
        };
        Some(Episode {
            nemesis,
            target,
            strength,
            hold: Duration::from_millis(hold),
            calm: Duration::from_millis(300 + calm),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_draws_the_same_schedule_and_each_nemesis_first_once() {
        let draw = |seed| {
            let mut schedule = Schedule::new(seed, &Nemesis::ALL, 3);
            let episodes: Vec<_> = (0..50).map_while(|_| schedule.next()).collect();
            episodes
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let count = Nemesis::ALL.len();
        let first: BTreeSet<Nemesis> = draw(3)[..count].iter().map(|e| e.nemesis).collect();
        assert_eq!(first.len(), count);
        assert!(Schedule::new(1, &[], 3).next().is_none());
    }
}
