//! A follower as its leader sees it.

use std::time::Duration;

use rivven_core_types::{Durability, MonoTime, NodeEpoch, Offset, planted};

/// What a fetch says about the follower's log, once it is known not to diverge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The life of the broker that fetched.
    pub(crate) node_epoch: NodeEpoch,
    /// The fetch's number within its session; grows with every fetch of that life.
    pub(crate) session_epoch: u64,
    /// The end of the follower's log.
    pub(crate) log_end: Offset,
    /// The end of what it has on stable storage.
    pub(crate) durable_end: Offset,
    /// Its log's first offset.
    pub(crate) log_start: Offset,
}

/// A follower's state in one leader epoch. Fresh in every epoch: what an earlier epoch knew says
/// nothing about the log after a truncation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remote {
    /// The newest progress; `None` until the first fetch in this leader epoch.
    pub(crate) progress: Option<Progress>,
    /// When it last had everything that the leader had (KIP-16).
    last_caught_up: Option<MonoTime>,
    last_fetch: Option<(MonoTime, Offset)>,
}

impl Remote {
    /// A follower that has not fetched yet. Members of the in-sync set get a full lag time before
    /// they count as lagging.
    pub(crate) const fn new(last_caught_up: Option<MonoTime>) -> Self {
        Self {
            progress: None,
            last_caught_up,
            last_fetch: None,
        }
    }

    /// Forgets the progress: the broker has a new life.
    pub(crate) const fn forget_progress(&mut self) {
        self.progress = None;
        self.last_fetch = None;
    }

    /// The follower fetched at `at` and stood where it had told. It still had everything then if it had
    /// everything until now, which `leader_end` tells.
    pub(crate) fn polled(&mut self, at: MonoTime, leader_end: Offset, durability: Durability) {
        if self
            .counted_end(durability)
            .is_some_and(|end| end >= leader_end)
        {
            self.last_caught_up = self.last_caught_up.max(Some(at));
        }
    }

    /// Takes newer progress; `false` if it is older than what is known (delayed or repeated).
    /// `leader_end` is the leader's log end before the read that answers the fetch.
    pub(crate) fn update(
        &mut self,
        now: MonoTime,
        progress: Progress,
        leader_end: Offset,
        durability: Durability,
    ) -> bool {
        let newest = self.progress.map(|p| (p.node_epoch, p.session_epoch));
        let overtaken = newest.is_some_and(|n| (progress.node_epoch, progress.session_epoch) <= n);
        if overtaken && !planted("isr.takes-overtaken-progress") {
            return false;
        }
        self.progress = Some(progress);
        let counted = counted(&progress, durability);
        if counted >= leader_end {
            self.last_caught_up = Some(now);
        } else if let Some((at, end)) = self.last_fetch
            && counted >= end
        {
            self.last_caught_up = self.last_caught_up.max(Some(at));
        }
        self.last_fetch = Some((now, leader_end));
        true
    }

    /// The end that counts for the high watermark; `None` before the first fetch in this epoch.
    pub(crate) fn counted_end(&self, durability: Durability) -> Option<Offset> {
        self.progress.as_ref().map(|p| counted(p, durability))
    }

    /// Whether it has everything, or had it within `lag_max`.
    pub(crate) fn is_caught_up(
        &self,
        now: MonoTime,
        leader_end: Offset,
        lag_max: Duration,
        durability: Durability,
    ) -> bool {
        self.counted_end(durability)
            .is_some_and(|end| end >= leader_end)
            || self
                .last_caught_up
                .is_some_and(|at| now.since(at) <= lag_max)
    }
}

fn counted(progress: &Progress, durability: Durability) -> Offset {
    match durability {
        Durability::Fsync if planted("isr.counts-what-is-not-synced") => progress.log_end,
        Durability::Fsync => progress.durable_end,
        Durability::Replicated => progress.log_end,
    }
}
