//! The ids that clients choose.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::error::AssignError;

/// Longest [`MemberId`] or [`InstanceId`], in bytes.
pub const MAX_ID_BYTES: usize = 1_024;
/// Most members of one group.
pub const MAX_GROUP_MEMBERS: usize = 10_000;
/// Longest [`GroupId`], in bytes.
pub const MAX_GROUP_ID_BYTES: usize = 249;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Wraps `value`: any text that is neither empty nor longer than its limit, since clients
            /// choose it and Kafka does not restrict it.
            pub fn new(value: impl AsRef<str>) -> Result<Self, AssignError> {
                let value = value.as_ref();
                if value.is_empty() {
                    return Err(AssignError::EmptyId { what: $what });
                }
                if value.len() > $max {
                    return Err(AssignError::IdTooLong {
                        what: $what,
                        length: value.len(),
                        max: $max,
                    });
                }
                Ok(Self(Arc::from(value)))
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

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                Self::new(value).map_err(serde::de::Error::custom)
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
    /// A group, `group.id`.
    GroupId, "group id", MAX_GROUP_ID_BYTES
}
id_type! {
    /// A member of a group, as the coordinator named it when it joined.
    MemberId, "member id", MAX_ID_BYTES
}
id_type! {
    /// A static member's own stable id, `group.instance.id` (KIP-345).
    InstanceId, "instance id", MAX_ID_BYTES
}
