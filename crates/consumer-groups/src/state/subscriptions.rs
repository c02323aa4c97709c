//! What members of a group name, kept once.

use rivven_core_types::TopicName;

use crate::shared::Shared;

/// The lists of topics that members name: most members of a group name the same, which is kept once. Only
/// saves memory and comparing; what it holds is no part of the state.
#[derive(Debug, Clone, Default)]
pub(super) struct Subscriptions {
    latest: Shared<Vec<TopicName>>,
}

impl Subscriptions {
    pub(super) fn share(&mut self, topics: Vec<TopicName>) -> Shared<Vec<TopicName>> {
        if *self.latest != topics {
            self.latest = Shared::new(topics);
        }
        self.latest.clone()
    }
}
