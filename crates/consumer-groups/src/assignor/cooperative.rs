//! The cooperative sticky assignor (KIP-429): as the uniform one, but nobody is given a partition
//! that another member still has. That one gives it up first, and the next round hands it over.

use rivven_core_types::PartitionId;

use super::spec::{AssignorKind, GroupSpec};

/// Assigns as [`AssignorKind::Uniform`] and withholds what is still in other hands.
pub fn assign_cooperatively(spec: &GroupSpec) -> Vec<Vec<PartitionId>> {
    let owners = spec.claims();
    let mut lists = AssignorKind::Uniform.assign(spec);
    for (member, list) in (0u32..).zip(&mut lists) {
        list.retain(|partition| {
            let number = spec
                .position(partition.topic)
                .map(|position| (spec.first[position] + partition.index.get()) as usize);
            let owner = number.and_then(|number| owners.get(number));
            owner.is_none_or(|owner| *owner == member || *owner == super::spec::NOBODY)
        });
    }
    lists
}
