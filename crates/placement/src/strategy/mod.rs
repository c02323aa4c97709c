//! How the replicas of one partition are chosen, strategy by strategy.

pub(crate) mod balanced;
pub(crate) mod choice;
pub(crate) mod consistent_hash;
pub(crate) mod copyset;
mod least;
mod log2;
pub(crate) mod scan;
