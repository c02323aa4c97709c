//! What everybody in a simulated run shares: the cluster, the history, the story, the verdict.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rivven_coordinator::{ClusterCoordinator, NodeScope};
use rivven_core_types::{Durability, PartitionId, Rng};
use tokio::time::Instant;

use super::history::History;
use super::marks::Mark;
use super::trace::{Event, Trace};
use super::world::SimCluster;

/// Most lines that a story keeps.
const MAX_STORY_LINES: usize = 100_000;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
    /// When, in simulated milliseconds.
    pub at_millis: u64,
}

/// A living node, as a client sees it.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) life: u64,
    pub(super) scope: NodeScope,
    pub(super) coordinator: ClusterCoordinator,
}

impl Node {
    /// Waits while its process stands still: until then nothing that it is asked reaches it.
    pub(super) async fn reached(&self) {
        self.scope.hold(std::future::ready(())).await;
    }
}

/// What everybody shares. Locks are never held across a wait.
#[derive(Debug)]
pub(super) struct Stage {
    started: Instant,
    cluster: Mutex<SimCluster>,
    history: Mutex<History>,
    story: Mutex<Vec<String>>,
    trace: Trace,
    violation: Mutex<Option<Violation>>,
    rng: Mutex<Rng>,
    counters: Mutex<BTreeMap<String, u64>>,
    steps: Mutex<Vec<(u64, String)>>,
    keep_story: bool,
    /// How all topics store their records.
    pub(super) durability: Durability,
    /// The node that has lost what it had stored, since all were in sync last.
    lost_copies: Mutex<Option<usize>>,
    /// Whether the logs of that node are damaged.
    pub(super) damaged: AtomicBool,
    /// Set when the time of the faults is over and too little has happened yet: what is lacking is made up
    /// for, in a cluster that is otherwise left alone.
    pub(super) overtime: AtomicBool,
    /// Set when the faults have ended: nodes that stop are started again at once.
    pub(super) healing: AtomicBool,
    /// Set when producers write no new records but finish what they have begun.
    pub(super) draining: AtomicBool,
    /// Writes that have not been acknowledged yet.
    pub(super) unacked: AtomicU64,
}

impl Stage {
    pub(super) fn new(
        cluster: SimCluster,
        seed: u64,
        keep_story: bool,
        durability: Durability,
    ) -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            trace: cluster.network.trace(),
            cluster: Mutex::new(cluster),
            history: Mutex::default(),
            story: Mutex::default(),
            violation: Mutex::default(),
            rng: Mutex::new(Rng::new(seed ^ 0x57a6e)),
            counters: Mutex::default(),
            steps: Mutex::default(),
            keep_story,
            durability,
            lost_copies: Mutex::default(),
            damaged: AtomicBool::new(false),
            overtime: AtomicBool::new(false),
            healing: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            unacked: AtomicU64::new(0),
        })
    }

    pub(super) fn cluster(&self) -> MutexGuard<'_, SimCluster> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An independent generator for one actor.
    pub(super) fn fork_rng(&self) -> Rng {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        Rng::new(rng.next_u64())
    }

    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Adds a line to the story.
    pub(super) fn tell(&self, line: impl AsRef<str>) {
        let millis = self.millis();
        let line = format!(
            "{:>4}.{:03} {}",
            millis / 1000,
            millis % 1000,
            line.as_ref()
        );
        let digest = u64::from(crc32c::crc32c(line.as_bytes()));
        self.trace.note(Event::Story, &[digest]);
        let mut story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
        if self.keep_story && story.len() < MAX_STORY_LINES {
            story.push(line);
        }
    }

    pub(super) fn story(&self) -> Vec<String> {
        let story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
        story.clone()
    }

    pub(super) const fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn count(&self, what: &str) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counters.get_mut(what) {
            *count += 1;
        } else {
            counters.insert(what.to_owned(), 1);
        }
    }

    /// Notes that something happened that must happen sometimes.
    pub(super) fn mark(&self, mark: Mark) {
        self.count(&mark.counter());
    }

    pub(super) fn counter(&self, what: &str) -> u64 {
        let counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        counters.get(what).copied().unwrap_or_default()
    }

    /// Notes a fault with the number of its step.
    pub(super) fn struck(&self, step: u64, fault: String) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.push((step, fault));
    }

    pub(super) fn steps(&self) -> Vec<(u64, String)> {
        let steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.clone()
    }

    pub(super) fn counters(&self) -> BTreeMap<String, u64> {
        self.counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Records a broken invariant; the first one counts.
    pub(super) fn violate(&self, invariant: &'static str, detail: impl Into<String>) {
        let detail = detail.into();
        self.tell(format!("VIOLATION {invariant}: {detail}"));
        let at_millis = self.millis();
        let mut violation = self
            .violation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        violation.get_or_insert(Violation {
            invariant,
            detail,
            at_millis,
        });
    }

    pub(super) fn violation(&self) -> Option<Violation> {
        self.violation
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn lost_copies(&self) -> Option<usize> {
        *self
            .lost_copies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_lost_copies(&self, node: Option<usize>) {
        *self
            .lost_copies
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = node;
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn living(&self) -> Vec<Node> {
        let cluster = self.cluster();
        let nodes = cluster.nodes.iter().enumerate();
        nodes
            .filter_map(|(number, node)| {
                Some(Node {
                    number,
                    life: node.life,
                    scope: node.scope.clone(),
                    coordinator: node.coordinator.clone()?,
                })
            })
            .collect()
    }

    /// Whether an answer of this node still counts: a dead process has sent nothing.
    pub(super) fn is_alive(&self, node: &Node) -> bool {
        self.cluster().nodes[node.number].life == node.life
    }

    /// A short name for a partition in the story.
    pub(super) fn label(&self, partition: PartitionId) -> String {
        let topic = partition.topic.to_string();
        format!("{}/{}", topic.get(..4).unwrap_or("?"), partition.index)
    }

    /// Waits until `condition` holds, or `limit` is over, or an invariant is broken.
    pub(super) async fn wait(&self, limit: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let until = Instant::now() + limit;
        while !condition(self) {
            if Instant::now() >= until || self.violation().is_some() {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}
