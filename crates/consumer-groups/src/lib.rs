//! Consumer group assignors: which member of a group reads which partition.
//!
//! A pure crate: the same members and topics give the same assignment in every process, whatever
//! order they are given in.
//!
//! ```
//! use std::collections::BTreeMap;
//! use rivven_consumer_groups::{MemberId, RangeAssignor, Subscription};
//! use rivven_core_types::{PartitionIndex, TopicName};
//!
//! let orders = TopicName::new("orders")?;
//! let members = ["a", "b"].map(|id| MemberId::new(id).map(|id| {
//!     Subscription::new(id, [orders.clone()])
//! }));
//! let members: Vec<Subscription> = members.into_iter().collect::<Result<_, _>>()?;
//! let partitions = BTreeMap::from([(orders.clone(), 3)]);
//!
//! let assigned = RangeAssignor.assign(&members, &partitions)?;
//! let first: Vec<u32> = assigned[&MemberId::new("a")?][&orders].iter().map(|p| p.get()).collect();
//! assert_eq!(first, [0, 1]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Invariants
//! - Every partition of a subscribed topic goes to exactly one member, and that one subscribed.
//! - Within a topic, the shares of two members differ by at most one partition.
//!
//! # Sources
//! Apache Kafka's `RangeAssignor`; KIP-345 (static membership: instance ids order before member ids).

mod error;
mod member;
mod range;

pub use error::AssignError;
pub use member::{InstanceId, MAX_ID_BYTES, MemberId, Subscription};
pub use range::{Assignment, MAX_GROUP_MEMBERS, RangeAssignor};
