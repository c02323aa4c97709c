//! Bugs that can be switched on, to prove that the tests would find them.
//!
//! A tester that finds nothing proves nothing until it is known to find what is there. Code under
//! test asks [`planted`] at the place where a known mistake could be made and makes it if the answer
//! is yes:
//!
//! ```
//! # fn truncate_to(_: u64) {}
//! # let (epoch_end, high_watermark) = (7, 3);
//! use rivven_core_types::planted;
//!
//! let end = if planted("isr.truncate-to-high-watermark") { high_watermark } else { epoch_end };
//! truncate_to(end);
//! ```
//!
//! Without the feature `planted` the answer is the constant `false` and the compiler removes the
//! branch. With it a tester plants one bug at a time, by its name in [`PLANTED_BUGS`], for its own
//! thread: testers on other threads are not disturbed.

/// A mistake that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlantedBug {
    /// `crate.what-is-wrong`, as given to [`planted`].
    pub name: &'static str,
    /// The rule that it breaks, and how.
    pub breaks: &'static str,
}

const fn bug(name: &'static str, breaks: &'static str) -> PlantedBug {
    PlantedBug { name, breaks }
}

/// Every bug that can be planted, in the order of the names.
pub const PLANTED_BUGS: &[PlantedBug] = &[
    bug(
        "coordinator.missing-log-not-told",
        "D9: a broker whose log directory is gone registers as if it held its records",
    ),
    bug(
        "coordinator.producer-id-given-twice",
        "KIP-98: the first id of a block is given to two producers",
    ),
    bug(
        "isr.acks-one-record-early",
        "a write is acknowledged when the high watermark reaches its last record, not its end",
    ),
    bug(
        "isr.commits-under-min-isr",
        "KIP-966: the high watermark moves while the in-sync set is under min ISR",
    ),
    bug(
        "isr.counts-what-is-not-synced",
        "D5: the end that counts is that of the page cache, not the durable one",
    ),
    bug(
        "isr.divergence-not-told",
        "KIP-279: the leader does not tell a follower where their logs part",
    ),
    bug(
        "isr.duplicate-acked-at-once",
        "a repeated batch is acknowledged before its first copy is committed",
    ),
    bug(
        "isr.equal-epoch-settles-a-proposal",
        "KIP-497: metadata of the same partition epoch ends the proposal under way, and nobody else waits for the joiner",
    ),
    bug(
        "isr.expands-by-message-lag",
        "KIP-16: a follower joins the ISR that lacks a few committed records",
    ),
    bug(
        "isr.high-watermark-ignores-followers",
        "the high watermark follows the leader's log alone",
    ),
    bug(
        "isr.joiner-does-not-count",
        "KIP-497: the replica proposed for the in-sync set does not hold the high watermark",
    ),
    bug(
        "isr.joins-without-the-epochs-records",
        "KAFKA-7286: a replica joins before it has reached the start of the leader's epoch",
    ),
    bug(
        "isr.leads-an-epoch-twice",
        "a restarted leader writes a second history under its old epoch",
    ),
    bug(
        "isr.proposed-shrink-counts",
        "KIP-497: the high watermark moves over a smaller ISR that is not committed",
    ),
    bug(
        "isr.refused-proposal-is-forgotten",
        "KIP-841: after a refusal a copy of the proposal under way is taken for void, and nobody else waits for the joiner",
    ),
    bug(
        "isr.remembers-producers-of-a-cut-log",
        "KIP-98: a truncated batch is still taken for a duplicate",
    ),
    bug(
        "isr.takes-overtaken-progress",
        "D5, KIP-903: a fetch that was overtaken, by a later one or by a later life, moves a follower's progress",
    ),
    bug(
        "isr.truncate-to-high-watermark",
        "KIP-101: a follower cuts its log at its high watermark instead of the epoch's end",
    ),
    bug(
        "isr.visible-end-goes-back",
        "KIP-207: a new leader shows its own high watermark before it is known",
    ),
    bug(
        "metadata.another-life-may-join",
        "KIP-903: an earlier life of a broker is taken into the in-sync set",
    ),
    bug(
        "metadata.election-keeps-the-epoch",
        "a new leader gets the leader epoch of the old one",
    ),
    bug(
        "metadata.eligible-for-ever",
        "KIP-966: eligible leaders are not forgotten when the in-sync set is large enough again",
    ),
    bug(
        "metadata.lossy-stays-eligible",
        "KIP-966: a replica that lost records stays in sync and eligible",
    ),
    bug(
        "metadata.producer-ids-twice",
        "KIP-730: a block of producer ids is handed out twice",
    ),
    bug(
        "metadata.recovers-by-length-alone",
        "D9: the longest log wins, whatever epoch its end has",
    ),
    bug(
        "metadata.recovers-without-everybody",
        "D9: a partition without electable replicas recovers before all that may hold records are back",
    ),
    bug(
        "metadata.takes-an-old-in-sync-set",
        "KIP-497: an in-sync set for an older partition epoch is accepted",
    ),
    bug(
        "raft-store.answers-before-the-sync",
        "Raft section 5: entries and votes are answered before they are on stable storage",
    ),
    bug(
        "raft-store.committed-beyond-the-log",
        "openraft: the saved committed index may lie beyond the durable log",
    ),
    bug(
        "raft-store.core-death-not-noticed",
        "D1: the supervisor judges a core by its running state, which a panic does not change, and builds no other",
    ),
    bug(
        "raft-store.dead-core-acknowledges",
        "Raft section 8: a command whose core has died is taken for applied, though nobody knows",
    ),
    bug(
        "raft-store.leader-restored",
        "openraft: a restarted leader goes on in its term without its unsynced tail",
    ),
    bug(
        "raft-store.snapshot-without-barrier",
        "openraft: a snapshot is answered before what it covers is durable",
    ),
    bug(
        "raft-store.truncation-not-stored",
        "Raft section 5.3: conflicting entries are cut in memory only",
    ),
    bug(
        "raft-store.vote-not-stored",
        "Raft section 5.2: a vote does not survive a restart",
    ),
    bug(
        "segment-log.cut-not-recorded",
        "D9: a torn tail is cut without a word to the broker's registration",
    ),
    bug(
        "segment-log.flush-does-not-sync",
        "a flush reports success without fsync",
    ),
    bug(
        "segment-log.flush-outlives-a-cut",
        "a flush begun before a truncation makes what replaced the records durable",
    ),
    bug(
        "segment-log.torn-batch-is-served",
        "recovery does not check the CRC of what lies above the durable mark",
    ),
    bug(
        "swim.believes-hearsay",
        "a death that another observer holds is believed without a suspicion of one's own",
    ),
    bug(
        "swim.does-not-refute",
        "SWIM section 4.2: a suspected member does not raise its incarnation",
    ),
    bug(
        "swim.gives-up-the-lost",
        "nobody looks for dead members and seeds: a partition never heals",
    ),
    bug(
        "swim.never-compares",
        "anti-entropy: what gossip missed stays missed",
    ),
    bug(
        "swim.no-time-to-refute",
        "SWIM section 4.2: a suspected member is dead at once",
    ),
    bug(
        "swim.raises-anothers-incarnation",
        "SWIM section 4.2: an accuser raises the incarnation of whom it accuses",
    ),
    bug(
        "swim.rises-from-the-dead",
        "SWIM section 4.2: alive overrides dead at the same incarnation",
    ),
    bug(
        "swim.takes-replays",
        "RFC 4303 section 3.4.3: a datagram counts as often as it comes",
    ),
    bug(
        "swim.takes-wrong-tags",
        "a datagram is taken although its tag is wrong",
    ),
    bug(
        "swim.tells-for-ever",
        "SWIM section 4.1: a piece of news is told without end",
    ),
];

#[cfg(not(feature = "planted"))]
mod switch {
    /// Whether the bug of this name is planted: never, without the feature `planted`.
    #[inline]
    #[must_use]
    pub const fn planted(_name: &'static str) -> bool {
        false
    }
}

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use super::PLANTED_BUGS;

    thread_local! {
        static PLANTED: Cell<Option<&'static str>> = const { Cell::new(None) };
        static HITS: Cell<u64> = const { Cell::new(0) };
    }

    /// Whether the bug of this name is planted in this thread.
    #[must_use]
    pub fn planted(name: &'static str) -> bool {
        let is_planted = PLANTED.get() == Some(name);
        if is_planted {
            HITS.set(HITS.get() + 1);
        }
        is_planted
    }

    /// A planted bug; it is gone when this is dropped. Tied to the thread that planted it.
    #[derive(Debug)]
    #[must_use = "the bug is gone when this is dropped"]
    pub struct PlantedBugGuard {
        /// Not `Send`: the switch belongs to the thread.
        _thread: std::marker::PhantomData<*const ()>,
    }

    impl PlantedBugGuard {
        /// How often the mistake was made since it was planted.
        #[must_use]
        pub fn hits(&self) -> u64 {
            HITS.get()
        }
    }

    impl Drop for PlantedBugGuard {
        fn drop(&mut self) {
            PLANTED.set(None);
        }
    }

    /// No bug of this name is listed, or another is planted already. Nothing has changed.
    #[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
    #[error("cannot plant {name:?}: {reason}")]
    pub struct PlantError {
        /// The name that was given.
        pub name: String,
        /// What is in the way.
        pub reason: &'static str,
    }

    /// Plants the bug of this name in this thread.
    ///
    /// # Errors
    /// If the name is not in [`PLANTED_BUGS`], or a bug is planted already. Nothing has changed then.
    pub fn plant(name: &str) -> Result<PlantedBugGuard, PlantError> {
        let refuse = |reason| PlantError {
            name: name.to_owned(),
            reason,
        };
        let bug = PLANTED_BUGS.iter().find(|bug| bug.name == name);
        let bug = bug.ok_or_else(|| refuse("no bug of this name is listed"))?;
        if PLANTED.get().is_some() {
            return Err(refuse("another bug is planted in this thread"));
        }
        HITS.set(0);
        PLANTED.set(Some(bug.name));
        Ok(PlantedBugGuard {
            _thread: std::marker::PhantomData,
        })
    }
}

pub use switch::*;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_without_doubles_and_says_what_breaks() {
        assert!(PLANTED_BUGS.windows(2).all(|w| w[0].name < w[1].name));
        for bug in PLANTED_BUGS {
            let (part, what) = bug.name.split_once('.').unwrap();
            assert!(!part.is_empty() && !what.is_empty() && !bug.breaks.is_empty());
        }
    }

    #[cfg(feature = "planted")]
    #[test]
    fn a_bug_is_planted_in_its_thread_until_its_guard_goes() {
        const NAME: &str = "isr.truncate-to-high-watermark";
        assert!(!planted(NAME));
        let guard = plant(NAME).unwrap();
        assert!(planted(NAME) && planted(NAME) && !planted("isr.another"));
        assert_eq!(guard.hits(), 2);
        assert!(plant(NAME).is_err());
        let elsewhere = std::thread::spawn(|| planted(NAME)).join().unwrap();
        assert!(!elsewhere);
        drop(guard);
        assert!(!planted(NAME));
        assert!(plant("isr.unheard-of").is_err());
    }

    #[cfg(not(feature = "planted"))]
    #[test]
    fn nothing_can_be_planted_without_the_feature() {
        const { assert!(!planted("isr.truncate-to-high-watermark")) };
    }
}
