//! Nodes that join the cluster and leave it: a blank one is let in as a learner, another is emptied, stopped
//! and removed, and a learner votes in its place.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rivven_coordinator::{ClusterNode, MemberRole};
use rivven_core_types::{NodeName, Rng};
use tokio::time::timeout;

use super::lives::{crash, start};
use super::marks::Mark;
use super::stage::{Node, Stage};

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long a node may take to be emptied before it is left as it is.
const DRAIN_MILLIS: u64 = 60_000;
/// Voters of a cluster of three nodes and more that play.
const VOTERS: usize = 3;

/// Changes the members of a cluster that has one node more than it needs.
pub(super) struct Staff {
    stage: Arc<Stage>,
    rng: Rng,
}

impl Staff {
    pub(super) fn new(stage: Arc<Stage>) -> Self {
        Self {
            rng: stage.fork_rng(),
            stage,
        }
    }

    /// Works until the faults have ended; what has begun then is finished.
    pub(super) async fn run(mut self) {
        loop {
            let pause = 2_000 + self.rng.below(15_000);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            if self.is_over() {
                return;
            }
            let (out, nodes) = {
                let cluster = self.stage.cluster();
                let out = cluster.nodes.iter().position(|node| !node.in_service);
                (out, u64::try_from(cluster.nodes.len()).unwrap_or(1))
            };
            match out {
                Some(n) => self.join(n).await,
                None => {
                    let n = usize::try_from(self.rng.below(nodes)).unwrap_or(0);
                    self.leave(n).await;
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        self.stage.healing.load(Ordering::Relaxed)
    }

    async fn join(&mut self, n: usize) {
        self.stage.cluster().enlist(n);
        self.stage.tell(format!("node {} joins", n + 1));
        start(&self.stage, n).await;
        while !self.is_over() && !self.is_member(n) {
            // Its operator waits until it is in before he asks for anything else.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.stage.mark(Mark::NodeJoined);
        if let Ok(name) = name_of(n) {
            // One that has been here before was to be emptied.
            self.stay(&name).await;
        }
    }

    /// Empties a node, stops it and has it removed.
    async fn leave(&mut self, n: usize) {
        let Ok(name) = name_of(n) else { return };
        self.stage.tell(format!("node {} is to leave", n + 1));
        if !self.drain(&name).await {
            self.stay(&name).await;
            return;
        }
        let votes = self.votes(&name);
        self.stage.cluster().nodes[n].in_service = false;
        crash(&self.stage, n, false);
        while self.stage.violation().is_none() {
            if let Some(node) = self.someone() {
                let asked = node.coordinator.remove_node(name.clone(), false, DEADLINE);
                if let Ok(Ok(())) = timeout(DEADLINE, asked).await {
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        self.stage.tell(format!("node {} is removed", n + 1));
        self.stage.mark(Mark::NodeLeft);
        if votes {
            while self.stage.violation().is_none() {
                if self.voters() >= VOTERS {
                    self.stage.mark(Mark::VoterReplaced);
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Whether the node was emptied in time.
    async fn drain(&mut self, name: &NodeName) -> bool {
        let until = self.stage.millis() + DRAIN_MILLIS;
        let mut asked = false;
        while self.stage.millis() < until && !self.is_over() {
            if let Some(node) = self.someone() {
                if !asked {
                    let draining = node.coordinator.set_draining(name, true, DEADLINE);
                    asked = matches!(timeout(DEADLINE, draining).await, Ok(Ok(())));
                } else if is_empty(&node, name) {
                    return true;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        false
    }

    /// The node keeps what it has got, or is given something again.
    async fn stay(&mut self, name: &NodeName) {
        let until = self.stage.millis() + DRAIN_MILLIS;
        while self.stage.millis() < until && self.stage.violation().is_none() {
            if let Some(node) = self.someone() {
                let stays = node.coordinator.set_draining(name, false, DEADLINE);
                if let Ok(Ok(())) = timeout(DEADLINE, stays).await {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn votes(&mut self, name: &NodeName) -> bool {
        let mut members = self.members().into_iter();
        members.any(|node| node.name == *name && is_voter(&node))
    }

    fn is_member(&mut self, n: usize) -> bool {
        let name = name_of(n);
        let mut members = self.members().into_iter();
        members.any(|node| name.as_ref() == Ok(&node.name))
    }

    fn voters(&mut self) -> usize {
        self.members().iter().filter(|node| is_voter(node)).count()
    }

    /// The members of the cluster, as somebody knows them.
    fn members(&mut self) -> Vec<ClusterNode> {
        let somebody = self.someone();
        let nodes = somebody.and_then(|node| node.coordinator.nodes().ok());
        nodes.unwrap_or_default()
    }

    fn someone(&mut self) -> Option<Node> {
        let mut living = self.stage.living();
        let count = u64::try_from(living.len()).unwrap_or(0);
        if count == 0 {
            return None;
        }
        let at = usize::try_from(self.rng.below(count)).unwrap_or(0);
        Some(living.swap_remove(at))
    }
}

const fn is_voter(node: &ClusterNode) -> bool {
    matches!(node.role, MemberRole::Voter | MemberRole::Leader)
}

/// Whether everybody knows three voters, and nobody who has left.
pub(super) fn staffed(stage: &Stage) -> bool {
    let living = stage.living();
    let cluster = stage.cluster();
    let is_left = |node: &ClusterNode| {
        let mut nodes = cluster.nodes.iter().enumerate();
        nodes.any(|(n, known)| !known.in_service && name_of(n).is_ok_and(|name| name == node.name))
    };
    living.iter().all(|node| {
        let members = node.coordinator.nodes().unwrap_or_default();
        members.iter().filter(|node| is_voter(node)).count() >= VOTERS
            && !members.iter().any(is_left)
    })
}

/// Whether this node says that the one of this name is to be emptied, and has been.
fn is_empty(node: &Node, name: &NodeName) -> bool {
    let status = node.coordinator.placement_status();
    let mut draining = status.draining.into_iter();
    draining.any(|(drained, replicas)| drained == *name && replicas == 0)
}

fn name_of(n: usize) -> Result<NodeName, rivven_core_types::InvalidId> {
    NodeName::new(format!("node-{}", n + 1))
}
