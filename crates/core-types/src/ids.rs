//! Identifiers. Each is a newtype, so that two of them cannot be swapped by accident.
//!
//! How the identities of a node relate (the design's D16): the operator gives a [`NodeName`]; the
//! metadata state machine allocates one [`BrokerId`] per name and keeps it for ever; every blank
//! start of a data directory makes a new [`Incarnation`], and each `(name, incarnation)` gets its
//! own [`RaftNodeId`], so that a wiped node can never vote twice in one term under its old id.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use crate::entropy::Entropy;
use crate::limits;

/// Why a string or number is not a valid identifier. Nothing changed; retrying cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// The text is empty.
    #[error("{what} must not be empty")]
    Empty {
        /// Which identifier.
        what: &'static str,
    },
    /// The text is longer than allowed.
    #[error("{what} is {length} bytes long; at most {max} are allowed")]
    TooLong {
        /// Which identifier.
        what: &'static str,
        /// Length found, in bytes.
        length: usize,
        /// Greatest length allowed, in bytes.
        max: usize,
    },
    /// The text has a character outside the allowed set.
    #[error("{what} {value:?} has the character {character:?}; allowed are {allowed}")]
    BadCharacter {
        /// Which identifier.
        what: &'static str,
        /// The offending text.
        value: String,
        /// The first offending character.
        character: char,
        /// The allowed set, for people.
        allowed: &'static str,
    },
    /// The text is one of the reserved values.
    #[error("{what} must not be {value:?}: it is reserved")]
    Reserved {
        /// Which identifier.
        what: &'static str,
        /// The offending text.
        value: String,
    },
    /// The number is outside its range.
    #[error("{what} {value} is out of range {min}..={max}")]
    OutOfRange {
        /// Which identifier.
        what: &'static str,
        /// The number found.
        value: i64,
        /// Least value allowed.
        min: i64,
        /// Greatest value allowed.
        max: i64,
    },
    /// The text is not 32 hexadecimal digits (dashes are ignored).
    #[error("{what} {value:?} is not a UUID of 32 hexadecimal digits")]
    NotAUuid {
        /// Which identifier.
        what: &'static str,
        /// The offending text.
        value: String,
    },
}

const NAME_CHARACTERS: &str = "letters, digits, '.', '_' and '-'";

fn check_name(what: &'static str, value: &str, max: usize) -> Result<(), InvalidId> {
    if value.is_empty() {
        return Err(InvalidId::Empty { what });
    }
    if value.len() > max {
        return Err(InvalidId::TooLong {
            what,
            length: value.len(),
            max,
        });
    }
    let bad = value
        .chars()
        .find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
    if let Some(character) = bad {
        return Err(InvalidId::BadCharacter {
            what,
            value: value.to_owned(),
            character,
            allowed: NAME_CHARACTERS,
        });
    }
    if matches!(value, "." | "..") {
        return Err(InvalidId::Reserved {
            what,
            value: value.to_owned(),
        });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates `value` and wraps it.
            pub fn new(value: impl AsRef<str>) -> Result<Self, InvalidId> {
                let value = value.as_ref();
                check_name($what, value, $max)?;
                Ok(Self(Arc::from(value)))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.as_str())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;
            fn try_from(value: &str) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(value: String) -> Result<Self, InvalidId> {
                Self::new(value)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = String::deserialize(deserializer)?;
                Self::new(value).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// The operator's name of a node (`cluster.node_id` in the configuration). Stable for ever;
    /// survives a wiped disk. 1 to 128 letters, digits, `.`, `_`, `-`.
    NodeName, "node name", limits::MAX_NODE_NAME_BYTES
}
name_type! {
    /// A topic's name, by Kafka's rules: 1 to 249 letters, digits, `.`, `_`, `-`; not `.` or `..`.
    TopicName, "topic name", limits::MAX_TOPIC_NAME_BYTES
}
name_type! {
    /// A failure domain (rack, availability zone).
    RackId, "rack", limits::MAX_RACK_BYTES
}

macro_rules! uuid_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 16]);

        impl $name {
            /// A fresh random (version 4) identifier.
            pub fn random(entropy: &dyn Entropy) -> Self {
                let mut bytes = [0u8; 16];
                entropy.fill(&mut bytes);
                bytes[6] = (bytes[6] & 0x0f) | 0x40;
                bytes[8] = (bytes[8] & 0x3f) | 0x80;
                Self(bytes)
            }

            /// From its 16 bytes, big-endian as in RFC 9562.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// Its 16 bytes, big-endian as in RFC 9562.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, byte) in self.0.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(value: &str) -> Result<Self, InvalidId> {
                parse_uuid(value)
                    .map(Self)
                    .ok_or_else(|| InvalidId::NotAUuid { what: $what, value: value.to_owned() })
            }
        }
    };
}

pub(crate) fn parse_uuid(value: &str) -> Option<[u8; 16]> {
    let mut bytes = [0u8; 16];
    let mut digits = value.bytes().filter(|b| *b != b'-');
    for byte in &mut bytes {
        let high = char::from(digits.next()?).to_digit(16)?;
        let low = char::from(digits.next()?).to_digit(16)?;
        *byte = u8::try_from(high << 4 | low).ok()?;
    }
    digits.next().is_none().then_some(bytes)
}

uuid_type! {
    /// One cluster. Written into every identity file and checked in every handshake.
    ClusterId, "cluster id"
}
uuid_type! {
    /// One life of a data directory: made when a blank one is first started.
    Incarnation, "incarnation"
}
uuid_type! {
    /// One log directory (KIP-858's directory id).
    LogDirId, "log directory id"
}
uuid_type! {
    /// One creation of a topic; a topic made again under the same name has another id (KIP-516).
    TopicId, "topic id"
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
        )]
        pub struct $name($inner);

        impl $name {
            /// Wraps the number.
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}
pub(crate) use number_type;

number_type! {
    /// A broker's number, as Kafka clients see it: allocated by the metadata state machine from 1
    /// upwards, one per [`NodeName`], never reused.
    BrokerId, i32
}
number_type! {
    /// A node's id within Raft: one per `(name, incarnation)`, never reused.
    RaftNodeId, u64
}
number_type! {
    /// Which Raft group: [`RaftGroupId::METADATA`] or [`RaftGroupId::GROUPS`].
    RaftGroupId, u32
}
number_type! {
    /// A partition's index within its topic, from 0.
    PartitionIndex, u32
}
number_type! {
    /// An idempotent producer's id (KIP-98), unique in the cluster; allocated in blocks through Raft.
    ProducerId, i64
}
number_type! {
    /// A producer's epoch (KIP-98).
    ProducerEpoch, i16
}

impl RaftGroupId {
    /// Group 0: cluster metadata. Its leader is the controller.
    pub const METADATA: Self = Self(0);
    /// Group 1: consumer groups and offsets. Its leader is the group coordinator.
    pub const GROUPS: Self = Self(1);
}

impl RaftNodeId {
    /// Derives the id of `(name, incarnation)`: FNV-1a (64 bit) over both, kept off zero. The
    /// coordinator checks it for collisions against the membership before it is used.
    pub fn derive(name: &NodeName, incarnation: &Incarnation) -> Self {
        let bytes = name
            .as_str()
            .bytes()
            .chain(incarnation.as_bytes().iter().copied());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        Self(hash.max(1))
    }
}

/// One partition of one creation of a topic. `Copy`, since the hot path passes it around.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    /// The topic's id.
    pub topic: TopicId,
    /// The index within the topic.
    pub index: PartitionIndex,
}

impl PartitionId {
    /// Partition `index` of `topic`.
    pub const fn new(topic: TopicId, index: u32) -> Self {
        Self {
            topic,
            index: PartitionIndex::new(index),
        }
    }
}

impl fmt::Debug for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_validated_on_every_way_in() {
        assert!(NodeName::new("node-1").is_ok());
        assert_eq!(
            NodeName::new(""),
            Err(InvalidId::Empty { what: "node name" })
        );
        assert!(matches!(
            TopicName::new("a/b"),
            Err(InvalidId::BadCharacter { character: '/', .. })
        ));
        assert!(matches!(
            TopicName::new(".."),
            Err(InvalidId::Reserved { .. })
        ));
        assert!(matches!(
            TopicName::new("x".repeat(250)),
            Err(InvalidId::TooLong { .. })
        ));
        let bytes = postcard::to_stdvec("a b").unwrap();
        assert!(postcard::from_bytes::<NodeName>(&bytes).is_err());
    }

    #[test]
    fn uuids_round_trip_through_text() {
        let id = TopicId::from_bytes([0xab; 16]);
        assert_eq!(id.to_string().parse::<TopicId>(), Ok(id));
        assert_eq!(id.to_string(), "abababab-abab-abab-abab-abababababab");
        assert!("abab".parse::<TopicId>().is_err());
        assert!(
            "ababababababababababababababababab"
                .parse::<TopicId>()
                .is_err()
        );
    }

    #[test]
    fn another_incarnation_is_another_raft_id() {
        let name = NodeName::new("node-1").unwrap();
        let one = RaftNodeId::derive(&name, &Incarnation::from_bytes([1; 16]));
        let two = RaftNodeId::derive(&name, &Incarnation::from_bytes([2; 16]));
        assert_ne!(one, two);
    }
}
