//! What happened in a run, as one number: equal runs have equal traces.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

/// What kind of event a word of the trace stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Request,
    Delivery,
    Answer,
    Datagram,
    Story,
    Disk,
    State,
}

#[derive(Debug)]
struct Running {
    hash: u64,
    events: u64,
    /// The hash as of the end of each step of the observer.
    marks: Vec<u64>,
}

/// A running hash of everything that the world can see of its nodes: each message that is sent,
/// delivered or answered, the operations of every disk, the state of every node, each line of the
/// story; all with their time. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Trace {
    started: Instant,
    running: Arc<Mutex<Running>>,
}

/// Mixes a word into a hash (the finaliser of splitmix64).
pub(super) fn mix(hash: u64, word: u64) -> u64 {
    let mut z = (hash ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Trace {
    pub(super) fn new() -> Self {
        let running = Running {
            hash: 0,
            events: 0,
            marks: Vec::new(),
        };
        Self {
            started: Instant::now(),
            running: Arc::new(Mutex::new(running)),
        }
    }

    /// Notes an event with what makes it this one.
    pub(super) fn note(&self, event: Event, words: &[u64]) {
        let nanos = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.events += 1;
        let seed = mix(mix(running.hash, nanos), event as u64);
        running.hash = words.iter().fold(seed, |hash, word| mix(hash, *word));
    }

    /// Marks the present hash, so that two runs can be compared step by step.
    pub(super) fn mark(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = running.hash;
        running.marks.push(hash);
    }

    /// The hash, the number of events, the marks.
    pub(super) fn read(&self) -> (u64, u64, Vec<u64>) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        (running.hash, running.events, running.marks.clone())
    }
}
