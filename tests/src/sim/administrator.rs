//! An administrator at work: topics come, move and go, leaders and controllers change on request.

use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{NodeName, Rng, TopicName};
use tokio::time::timeout;

use super::marks::Mark;
use super::plan::Plan;
use super::stage::{Node, Stage};
use super::world::SimCluster;

/// How long a wish may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// Most topics that are created in a run.
const MAX_TOPICS: u64 = 40;

pub(super) struct Administrator {
    stage: Arc<Stage>,
    plan: Plan,
    rng: Rng,
    /// How many topics it has tried to create.
    created: u64,
}

impl Administrator {
    pub(super) fn new(stage: Arc<Stage>, plan: Plan) -> Self {
        Self {
            rng: stage.fork_rng(),
            stage,
            plan,
            created: 0,
        }
    }

    /// Works until it is aborted.
    pub(super) async fn run(mut self) {
        loop {
            let pause = 200 + self.rng.below(1_500);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let living = self.stage.living();
            let count = u64::try_from(living.len()).unwrap_or(0);
            let at = usize::try_from(self.rng.below(count)).unwrap_or(0);
            let Some(node) = living.get(at) else {
                continue;
            };
            if timeout(DEADLINE, node.reached()).await.is_err() {
                continue;
            }
            match self.rng.below(16) {
                0 | 1 => self.create(node).await,
                2 => self.delete(node).await,
                3 => self.reassign(node).await,
                4 => self.prefer(node).await,
                5 => self.transfer(node).await,
                _ => self.take_producer_id(node).await,
            }
        }
    }

    fn count(&self, what: &str, ok: bool) {
        let outcome = if ok { "done" } else { "refused" };
        self.stage.count(&format!("{what}: {outcome}"));
    }

    async fn create(&mut self, node: &Node) {
        if self.created >= MAX_TOPICS {
            return;
        }
        self.created += 1;
        let Ok(mut topic) = SimCluster::topic(&format!("more-{}", self.created), 1) else {
            return;
        };
        topic.durability = self.plan.durability;
        topic.replication_factor = Some(2 + u32::try_from(self.rng.below(2)).unwrap_or(0));
        let created = node.coordinator.create_topic(&topic, DEADLINE).await;
        self.count("topic created", created.is_ok());
    }

    /// One of the topics that it may have created.
    fn some_topic(&mut self) -> Option<TopicName> {
        let n = 1 + self.rng.below(self.created);
        TopicName::new(format!("more-{n}")).ok()
    }

    async fn delete(&mut self, node: &Node) {
        if let Some(name) = self.some_topic() {
            let deleted = node.coordinator.delete_topic(&name, DEADLINE).await;
            if deleted.is_ok() {
                self.stage.mark(Mark::TopicDeleted);
            }
            self.count("topic deleted", deleted.is_ok());
        }
    }

    /// Two of the three nodes are to hold a topic (KIP-455).
    async fn reassign(&mut self, node: &Node) {
        let Some(topic) = self.some_topic() else {
            return;
        };
        let mut names: Vec<NodeName> = (1..=3)
            .filter_map(|n| NodeName::new(format!("node-{n}")).ok())
            .collect();
        self.rng.shuffle(&mut names);
        names.truncate(2);
        let target = (self.rng.below(5) > 0).then_some(&*names);
        let asked = node.coordinator.reassign(&topic, 0, target, DEADLINE).await;
        if asked.is_ok() {
            self.stage.mark(Mark::Reassigned);
        }
        self.count("reassignment", asked.is_ok());
    }

    async fn prefer(&mut self, node: &Node) {
        let elected = node.coordinator.elect_preferred(DEADLINE).await;
        if elected.as_ref().is_ok_and(|leaders| *leaders > 0) {
            self.stage.mark(Mark::PreferredLeader);
        }
        self.count("preferred leaders", elected.is_ok());
    }

    async fn transfer(&mut self, node: &Node) {
        let Ok(name) = NodeName::new(format!("node-{}", 1 + self.rng.below(3))) else {
            return;
        };
        let asked = node.coordinator.transfer_controller(&name).await;
        self.count("transfer of the controller", asked.is_ok());
    }

    async fn take_producer_id(&mut self, node: &Node) {
        if let Ok(id) = node.coordinator.next_producer_id(DEADLINE).await
            && self.stage.is_alive(node)
            && let Err(detail) = self.stage.history().on_producer_id(id.get())
        {
            self.stage.violate("producer ids are unique", detail);
        }
    }
}
