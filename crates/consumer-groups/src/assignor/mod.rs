//! The assignors: pure functions from members and topics to who reads what.
//!
//! All are deterministic: members count in the order of [`MemberSpec`]'s rank, topics by id.

mod assignment;
mod balance;
mod cooperative;
mod range;
mod round_robin;
mod spec;
mod topic_index;
mod uniform;

#[cfg(test)]
pub(crate) const fn nobody() -> u32 {
    spec::NOBODY
}

pub use assignment::Assignment;
pub use cooperative::assign_cooperatively;
pub use spec::{AssignorKind, GroupSpec, MemberSpec, TopicSpec};
