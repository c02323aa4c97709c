//! The members of a group and what they subscribe to.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rivven_core_types::TopicName;

use crate::error::AssignError;

/// Longest [`MemberId`] or [`InstanceId`], in bytes.
pub const MAX_ID_BYTES: usize = 1_024;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps `value`: any text of 1 to [`MAX_ID_BYTES`] bytes, since a client's id is part
            /// of it and Kafka does not restrict that.
            pub fn new(value: impl AsRef<str>) -> Result<Self, AssignError> {
                let value = value.as_ref();
                match value.len() {
                    0 => Err(AssignError::EmptyId { what: $what }),
                    1..=MAX_ID_BYTES => Ok(Self(Arc::from(value))),
                    length => Err(AssignError::IdTooLong {
                        what: $what,
                        length,
                        max: MAX_ID_BYTES,
                    }),
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }
    };
}

id_type! {
    /// A member of a group, as the coordinator named it when it joined.
    MemberId, "member id"
}
id_type! {
    /// A static member's own stable id, `group.instance.id` (KIP-345).
    InstanceId, "instance id"
}

/// A member and the topics that it wants to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Who.
    pub member: MemberId,
    /// Its static id, which survives a restart; `None` for a dynamic member.
    pub instance: Option<InstanceId>,
    /// What it wants to read.
    pub topics: BTreeSet<TopicName>,
}

impl Subscription {
    /// A dynamic member's subscription.
    pub fn new(member: MemberId, topics: impl IntoIterator<Item = TopicName>) -> Self {
        Self {
            member,
            instance: None,
            topics: topics.into_iter().collect(),
        }
    }

    /// Makes the member a static one.
    #[must_use]
    pub fn with_instance(mut self, instance: InstanceId) -> Self {
        self.instance = Some(instance);
        self
    }

    /// The order in which members are served: static ones first, by instance id, so that their
    /// ranges survive a restart under a new member id; then dynamic ones by member id.
    pub(crate) fn rank(&self) -> (bool, Option<&InstanceId>, &MemberId) {
        (
            self.instance.is_none(),
            self.instance.as_ref(),
            &self.member,
        )
    }
}
