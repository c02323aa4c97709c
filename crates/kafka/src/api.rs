//! The APIs that are served, with the version ranges that are advertised, and the request header.

use std::ops::RangeInclusive;

use bytes::{Buf, Bytes};

use crate::wire::{DecodeError, Reader};

/// Length of the part of a request header that all versions share: key, version, correlation id.
pub(crate) const FIXED_HEADER_BYTES: usize = 8;

/// One API that is served. A range's lower end is that of Kafka 4, its upper end the highest version
/// that the tests encode and decode; nothing else is ever advertised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiKey {
    Produce,
    Fetch,
    ListOffsets,
    Metadata,
    ApiVersions,
    CreateTopics,
    InitProducerId,
    DeleteTopics,
    DeleteRecords,
    DescribeConfigs,
    CreatePartitions,
    ElectLeaders,
    IncrementalAlterConfigs,
    AlterPartitionReassignments,
    ListPartitionReassignments,
    OffsetCommit,
    OffsetFetch,
    FindCoordinator,
    JoinGroup,
    Heartbeat,
    LeaveGroup,
    SyncGroup,
    DescribeGroups,
    ListGroups,
    DeleteGroups,
    OffsetDelete,
    OffsetForLeaderEpoch,
    ConsumerGroupHeartbeat,
    ConsumerGroupDescribe,
}

impl ApiKey {
    pub(crate) const ALL: [Self; 29] = [
        Self::Produce,
        Self::Fetch,
        Self::ListOffsets,
        Self::Metadata,
        Self::ApiVersions,
        Self::CreateTopics,
        Self::InitProducerId,
        Self::DeleteTopics,
        Self::DeleteRecords,
        Self::DescribeConfigs,
        Self::CreatePartitions,
        Self::ElectLeaders,
        Self::IncrementalAlterConfigs,
        Self::AlterPartitionReassignments,
        Self::ListPartitionReassignments,
        Self::OffsetCommit,
        Self::OffsetFetch,
        Self::FindCoordinator,
        Self::JoinGroup,
        Self::Heartbeat,
        Self::LeaveGroup,
        Self::SyncGroup,
        Self::DescribeGroups,
        Self::ListGroups,
        Self::DeleteGroups,
        Self::OffsetDelete,
        Self::OffsetForLeaderEpoch,
        Self::ConsumerGroupHeartbeat,
        Self::ConsumerGroupDescribe,
    ];

    pub(crate) const fn key(self) -> i16 {
        match self {
            Self::Produce => 0,
            Self::Fetch => 1,
            Self::ListOffsets => 2,
            Self::Metadata => 3,
            Self::ApiVersions => 18,
            Self::CreateTopics => 19,
            Self::InitProducerId => 22,
            Self::DeleteTopics => 20,
            Self::DeleteRecords => 21,
            Self::DescribeConfigs => 32,
            Self::CreatePartitions => 37,
            Self::ElectLeaders => 43,
            Self::IncrementalAlterConfigs => 44,
            Self::AlterPartitionReassignments => 45,
            Self::ListPartitionReassignments => 46,
            Self::OffsetCommit => 8,
            Self::OffsetFetch => 9,
            Self::FindCoordinator => 10,
            Self::JoinGroup => 11,
            Self::Heartbeat => 12,
            Self::LeaveGroup => 13,
            Self::SyncGroup => 14,
            Self::DescribeGroups => 15,
            Self::ListGroups => 16,
            Self::DeleteGroups => 42,
            Self::OffsetDelete => 47,
            Self::OffsetForLeaderEpoch => 23,
            Self::ConsumerGroupHeartbeat => 68,
            Self::ConsumerGroupDescribe => 69,
        }
    }

    pub(crate) fn from_key(key: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|api| api.key() == key)
    }

    /// The versions that are advertised.
    pub(crate) const fn versions(self) -> RangeInclusive<i16> {
        match self {
            Self::Produce => 3..=10,
            Self::Fetch => 4..=16,
            Self::ListOffsets => 1..=10,
            Self::Metadata => 0..=13,
            Self::ApiVersions => 0..=4,
            Self::CreateTopics => 2..=7,
            Self::InitProducerId => 0..=5,
            Self::DeleteTopics => 1..=6,
            Self::DeleteRecords | Self::ElectLeaders => 0..=2,
            Self::DescribeConfigs => 1..=4,
            Self::CreatePartitions => 0..=3,
            Self::IncrementalAlterConfigs | Self::AlterPartitionReassignments => 0..=1,
            Self::ListPartitionReassignments | Self::OffsetDelete => 0..=0,
            Self::OffsetCommit => 2..=9,
            Self::OffsetFetch => 1..=9,
            Self::FindCoordinator => 0..=6,
            Self::JoinGroup => 0..=9,
            Self::Heartbeat => 0..=4,
            Self::LeaveGroup => 0..=5,
            Self::SyncGroup => 0..=5,
            Self::DescribeGroups => 0..=6,
            Self::ListGroups => 0..=5,
            Self::DeleteGroups => 0..=2,
            Self::OffsetForLeaderEpoch => 2..=4,
            Self::ConsumerGroupHeartbeat => 0..=1,
            Self::ConsumerGroupDescribe => 0..=1,
        }
    }

    /// Whether `version` uses compact lengths and tagged fields (KIP-482).
    pub(crate) const fn is_flexible(self, version: i16) -> bool {
        let from = match self {
            Self::Produce | Self::Metadata => 9,
            Self::Fetch => 12,
            Self::ListOffsets => 6,
            Self::ApiVersions => 3,
            Self::CreateTopics => 5,
            Self::InitProducerId
            | Self::DeleteRecords
            | Self::ElectLeaders
            | Self::CreatePartitions => 2,
            Self::AlterPartitionReassignments | Self::ListPartitionReassignments => 0,
            Self::DeleteTopics | Self::DescribeConfigs => 4,
            Self::IncrementalAlterConfigs => 1,
            Self::OffsetCommit => 8,
            Self::OffsetFetch => 6,
            Self::FindCoordinator => 3,
            Self::JoinGroup => 6,
            Self::Heartbeat => 4,
            Self::LeaveGroup => 4,
            Self::SyncGroup => 4,
            Self::DescribeGroups => 5,
            Self::ListGroups => 3,
            Self::OffsetForLeaderEpoch => 4,
            Self::DeleteGroups => 2,
            Self::OffsetDelete => return false,
            Self::ConsumerGroupHeartbeat => 0,
            Self::ConsumerGroupDescribe => 0,
        };
        version >= from
    }

    /// Whether the response header has tagged fields. An ApiVersions response never has: its reader
    /// does not know yet what the broker speaks (KIP-511).
    pub(crate) const fn has_flexible_response_header(self, version: i16) -> bool {
        !matches!(self, Self::ApiVersions) && self.is_flexible(version)
    }

    /// The name as a metric label.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Fetch => "fetch",
            Self::ListOffsets => "list_offsets",
            Self::Metadata => "metadata",
            Self::ApiVersions => "api_versions",
            Self::CreateTopics => "create_topics",
            Self::InitProducerId => "init_producer_id",
            Self::DeleteTopics => "delete_topics",
            Self::DeleteRecords => "delete_records",
            Self::DescribeConfigs => "describe_configs",
            Self::CreatePartitions => "create_partitions",
            Self::ElectLeaders => "elect_leaders",
            Self::IncrementalAlterConfigs => "incremental_alter_configs",
            Self::AlterPartitionReassignments => "alter_partition_reassignments",
            Self::ListPartitionReassignments => "list_partition_reassignments",
            Self::OffsetCommit => "offset_commit",
            Self::OffsetFetch => "offset_fetch",
            Self::FindCoordinator => "find_coordinator",
            Self::JoinGroup => "join_group",
            Self::Heartbeat => "heartbeat",
            Self::LeaveGroup => "leave_group",
            Self::SyncGroup => "sync_group",
            Self::DescribeGroups => "describe_groups",
            Self::ListGroups => "list_groups",
            Self::DeleteGroups => "delete_groups",
            Self::OffsetDelete => "offset_delete",
            Self::OffsetForLeaderEpoch => "offset_for_leader_epoch",
            Self::ConsumerGroupHeartbeat => "consumer_group_heartbeat",
            Self::ConsumerGroupDescribe => "consumer_group_describe",
        }
    }
}

/// The part of the header that is read before anything is known about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FixedHeader {
    pub(crate) key: i16,
    pub(crate) version: i16,
    pub(crate) correlation: i32,
}

impl FixedHeader {
    /// Takes the header off the front of `frame`.
    pub(crate) fn split_from(frame: &mut Bytes) -> Result<Self, DecodeError> {
        if frame.len() < FIXED_HEADER_BYTES {
            return Err(DecodeError::Truncated {
                what: "request header",
                needed: FIXED_HEADER_BYTES,
                remaining: frame.len(),
            });
        }
        Ok(Self {
            key: frame.get_i16(),
            version: frame.get_i16(),
            correlation: frame.get_i32(),
        })
    }
}

/// Which request is being answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation: i32,
}

impl Call {
    /// Reads the rest of the header (client id, and from header version 2 tagged fields) and leaves
    /// a reader at the body.
    pub(crate) fn open(self, rest: Bytes) -> Result<Reader, DecodeError> {
        // The client id keeps its two-byte length in header version 2, so that old brokers can read it.
        let mut reader = Reader::new(rest, false);
        let client_id = reader.nullable_string("client id")?;
        reader.set_client_id(client_id);
        reader.set_flexible(self.api.is_flexible(self.version));
        reader.skip_tags()?;
        Ok(reader)
    }
}
