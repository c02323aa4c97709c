//! Requests of consumer group members and of the tools that look after groups.

use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// Most groups in one request.
const MAX_GROUPS: usize = 10_000;
/// Most members in one request.
const MAX_MEMBERS: usize = 10_000;
/// Most assignors in one JoinGroup.
const MAX_PROTOCOLS: usize = 64;
/// Most states or types to filter by.
const MAX_FILTERS: usize = 32;

type Decoded<T> = Result<T, DecodeError>;

/// An optional text of versions from `since` on.
fn since(reader: &mut Reader, is: bool, what: &'static str) -> Decoded<Option<StrBytes>> {
    if is {
        reader.nullable_string(what)
    } else {
        Ok(None)
    }
}

fn end(reader: &mut Reader) -> Decoded<()> {
    reader.skip_tags()?;
    reader.finish()
}

/// FindCoordinator.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FindCoordinatorRequest {
    /// 0 for groups, 1 for transactions, 2 for share groups.
    pub(crate) key_type: i8,
    pub(crate) keys: Vec<StrBytes>,
}

impl FindCoordinatorRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let mut keys = Vec::new();
        if version < 4 {
            keys.push(reader.string("key")?);
        }
        let key_type = if version >= 1 {
            reader.i8("key type")?
        } else {
            0
        };
        if version >= 4 {
            keys = reader.array("keys", MAX_GROUPS, 1, |r| r.string("key"))?;
        }
        end(reader)?;
        Ok(Self { key_type, keys })
    }
}

/// JoinGroup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JoinGroupRequest {
    pub(crate) group: StrBytes,
    pub(crate) session_timeout_ms: i32,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) member: StrBytes,
    pub(crate) instance: Option<StrBytes>,
    pub(crate) protocol_type: StrBytes,
    pub(crate) protocols: Vec<(StrBytes, Bytes)>,
}

impl JoinGroupRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let group = reader.string("group id")?;
        let session_timeout_ms = reader.i32("session timeout")?;
        let rebalance_timeout_ms = if version >= 1 {
            reader.i32("rebalance timeout")?
        } else {
            session_timeout_ms
        };
        let member = reader.string("member id")?;
        let instance = since(reader, version >= 5, "group instance id")?;
        let protocol_type = reader.string("protocol type")?;
        let protocols = reader.array("protocols", MAX_PROTOCOLS, 2, |reader| {
            let name = reader.string("protocol name")?;
            let metadata = reader.nullable_bytes("protocol metadata")?;
            reader.skip_tags()?;
            Ok((name, metadata.unwrap_or_default()))
        })?;
        since(reader, version >= 8, "reason")?;
        end(reader)?;
        Ok(Self {
            group,
            session_timeout_ms,
            rebalance_timeout_ms,
            member,
            instance,
            protocol_type,
            protocols,
        })
    }
}

/// SyncGroup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SyncGroupRequest {
    pub(crate) group: StrBytes,
    pub(crate) generation: i32,
    pub(crate) member: StrBytes,
    pub(crate) instance: Option<StrBytes>,
    pub(crate) protocol_type: Option<StrBytes>,
    pub(crate) protocol: Option<StrBytes>,
    pub(crate) assignments: Vec<(StrBytes, Bytes)>,
}

impl SyncGroupRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let request = Self {
            group: reader.string("group id")?,
            generation: reader.i32("generation")?,
            member: reader.string("member id")?,
            instance: since(reader, version >= 3, "group instance id")?,
            protocol_type: since(reader, version >= 5, "protocol type")?,
            protocol: since(reader, version >= 5, "protocol name")?,
            assignments: reader.array("assignments", MAX_MEMBERS, 2, |reader| {
                let member = reader.string("member id")?;
                let assignment = reader.nullable_bytes("assignment")?;
                reader.skip_tags()?;
                Ok((member, assignment.unwrap_or_default()))
            })?,
        };
        end(reader)?;
        Ok(request)
    }
}

/// Heartbeat.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct HeartbeatRequest {
    pub(crate) group: StrBytes,
    pub(crate) generation: i32,
    pub(crate) member: StrBytes,
    pub(crate) instance: Option<StrBytes>,
}

impl HeartbeatRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let request = Self {
            group: reader.string("group id")?,
            generation: reader.i32("generation")?,
            member: reader.string("member id")?,
            instance: since(reader, version >= 3, "group instance id")?,
        };
        end(reader)?;
        Ok(request)
    }
}

/// LeaveGroup: member ids with their instance ids.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LeaveGroupRequest {
    pub(crate) group: StrBytes,
    pub(crate) members: Vec<(StrBytes, Option<StrBytes>)>,
}

impl LeaveGroupRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let group = reader.string("group id")?;
        let members = if version < 3 {
            vec![(reader.string("member id")?, None)]
        } else {
            reader.array("members", MAX_MEMBERS, 2, |reader| {
                let member = reader.string("member id")?;
                let instance = reader.nullable_string("group instance id")?;
                since(reader, version >= 5, "reason")?;
                reader.skip_tags()?;
                Ok((member, instance))
            })?
        };
        end(reader)?;
        Ok(Self { group, members })
    }
}

/// An offset to be committed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommitPartition {
    pub(crate) index: i32,
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: Option<StrBytes>,
}

/// OffsetCommit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OffsetCommitRequest {
    pub(crate) group: StrBytes,
    pub(crate) generation: i32,
    pub(crate) member: StrBytes,
    pub(crate) instance: Option<StrBytes>,
    pub(crate) topics: Vec<(StrBytes, Vec<CommitPartition>)>,
}

impl OffsetCommitRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let group = reader.string("group id")?;
        let generation = reader.i32("generation")?;
        let member = reader.string("member id")?;
        if version <= 4 {
            reader.i64("retention time")?;
        }
        let instance = since(reader, version >= 7, "group instance id")?;
        let topics = reader.array("topics", MAX_TOPICS, 2, |reader| {
            let name = reader.string("topic name")?;
            let partitions = reader.array("partitions", MAX_PARTITIONS, 12, |reader| {
                let partition = CommitPartition {
                    index: reader.i32("partition")?,
                    offset: reader.i64("offset")?,
                    leader_epoch: if version >= 6 {
                        reader.i32("leader epoch")?
                    } else {
                        -1
                    },
                    metadata: reader.nullable_string("metadata")?,
                };
                reader.skip_tags()?;
                Ok(partition)
            })?;
            reader.skip_tags()?;
            Ok((name, partitions))
        })?;
        end(reader)?;
        Ok(Self {
            group,
            generation,
            member,
            instance,
            topics,
        })
    }
}

/// Topics by name with their partitions.
pub(crate) type NamedPartitions = Vec<(StrBytes, Vec<i32>)>;

fn named_partitions(reader: &mut Reader) -> Decoded<Option<NamedPartitions>> {
    reader.nullable_array("topics", MAX_TOPICS, 2, |reader| {
        let name = reader.string("topic name")?;
        let partitions = reader.array("partitions", MAX_PARTITIONS, 4, |r| r.i32("partition"))?;
        reader.skip_tags()?;
        Ok((name, partitions))
    })
}

/// OffsetFetch: groups with the partitions asked for, `None` for all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OffsetFetchRequest {
    pub(crate) groups: Vec<(StrBytes, Option<NamedPartitions>)>,
}

impl OffsetFetchRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let groups = if version <= 7 {
            let group = reader.string("group id")?;
            vec![(group, named_partitions(reader)?)]
        } else {
            reader.array("groups", MAX_GROUPS, 2, |reader| {
                let group = reader.string("group id")?;
                if version >= 9 {
                    reader.nullable_string("member id")?;
                    reader.i32("member epoch")?;
                }
                let topics = named_partitions(reader)?;
                reader.skip_tags()?;
                Ok((group, topics))
            })?
        };
        if version >= 7 {
            reader.bool("require stable")?;
        }
        end(reader)?;
        Ok(Self { groups })
    }
}

/// OffsetDelete.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OffsetDeleteRequest {
    pub(crate) group: StrBytes,
    pub(crate) topics: NamedPartitions,
}

impl OffsetDeleteRequest {
    pub(crate) fn decode(reader: &mut Reader) -> Decoded<Self> {
        let group = reader.string("group id")?;
        let topics = named_partitions(reader)?.unwrap_or_default();
        end(reader)?;
        Ok(Self { group, topics })
    }
}

/// ListGroups.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListGroupsRequest {
    pub(crate) states: Vec<StrBytes>,
    pub(crate) types: Vec<StrBytes>,
}

impl ListGroupsRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let mut filter = |is: bool, what| {
            if is {
                reader.array(what, MAX_FILTERS, 1, |r| r.string("filter"))
            } else {
                Ok(Vec::new())
            }
        };
        let states = filter(version >= 4, "states filter")?;
        let types = filter(version >= 5, "types filter")?;
        end(reader)?;
        Ok(Self { states, types })
    }
}

/// DescribeGroups, ConsumerGroupDescribe and DeleteGroups: group ids.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct GroupIdsRequest {
    pub(crate) groups: Vec<StrBytes>,
}

impl GroupIdsRequest {
    /// `authorized`: whether the version asks for authorized operations too.
    pub(crate) fn decode(reader: &mut Reader, authorized: bool) -> Decoded<Self> {
        let groups = reader.array("groups", MAX_GROUPS, 1, |r| r.string("group id"))?;
        if authorized {
            reader.bool("include authorized operations")?;
        }
        end(reader)?;
        Ok(Self { groups })
    }
}

/// ConsumerGroupHeartbeat (KIP-848).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ConsumerHeartbeatRequest {
    pub(crate) group: StrBytes,
    pub(crate) member: StrBytes,
    pub(crate) epoch: i32,
    pub(crate) instance: Option<StrBytes>,
    pub(crate) rack: Option<StrBytes>,
    pub(crate) rebalance_timeout_ms: i32,
    pub(crate) topics: Option<Vec<StrBytes>>,
    pub(crate) pattern: Option<StrBytes>,
    pub(crate) assignor: Option<StrBytes>,
    pub(crate) owned: Option<Vec<([u8; 16], Vec<i32>)>>,
}

impl ConsumerHeartbeatRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Decoded<Self> {
        let request = Self {
            group: reader.string("group id")?,
            member: reader.string("member id")?,
            epoch: reader.i32("member epoch")?,
            instance: reader.nullable_string("instance id")?,
            rack: reader.nullable_string("rack id")?,
            rebalance_timeout_ms: reader.i32("rebalance timeout")?,
            topics: reader.nullable_array("subscribed topics", MAX_TOPICS, 1, |r| {
                r.string("topic name")
            })?,
            pattern: since(reader, version >= 1, "subscribed topic regex")?,
            assignor: reader.nullable_string("server assignor")?,
            owned: reader.nullable_array("topic partitions", MAX_TOPICS, 17, |reader| {
                let id = reader.uuid("topic id")?;
                let indexes =
                    reader.array("partitions", MAX_PARTITIONS, 4, |r| r.i32("partition"))?;
                reader.skip_tags()?;
                Ok((id, indexes))
            })?,
        };
        end(reader)?;
        Ok(request)
    }
}
