//! The cooperative sticky assignor (KIP-429): as the uniform one, but nobody is given a partition
//! that another member still has. That one gives it up first, and the next round hands it over.

use super::assignment::Assignment;
use super::spec::{AssignorKind, GroupSpec};

/// Assigns as [`AssignorKind::Uniform`] and withholds what is still in other hands.
pub fn assign_cooperatively(spec: &GroupSpec) -> Assignment<'_> {
    let mut assignment = AssignorKind::Uniform.assign(spec);
    assignment.withhold();
    assignment
}
