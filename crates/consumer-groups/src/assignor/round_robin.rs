//! Kafka's round-robin assignor: one partition after the other to one member after the other, passing
//! over those who do not want the topic.

use super::spec::{GroupSpec, NOBODY};

pub(super) fn assign(spec: &GroupSpec) -> Vec<u32> {
    let members = spec.members.len();
    let mut owners = Vec::with_capacity(spec.total as usize);
    let mut next = 0usize;
    for (position, topic) in (0u32..).zip(&spec.topics) {
        let wants = |member: usize| {
            let topics = &spec.members[member].topics;
            topics.binary_search(&position).is_ok()
        };
        for _ in 0..topic.partitions {
            let taker = (0..members)
                .map(|step| (next + step) % members)
                .find(|member| wants(*member));
            let Some(taker) = taker else {
                owners.push(NOBODY);
                continue;
            };
            owners.push(u32::try_from(taker).unwrap_or(NOBODY));
            next = (taker + 1) % members;
        }
    }
    owners
}
