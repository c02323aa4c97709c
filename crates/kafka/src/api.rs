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
    ElectLeaders,
    IncrementalAlterConfigs,
}

impl ApiKey {
    pub(crate) const ALL: [Self; 12] = [
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
        Self::ElectLeaders,
        Self::IncrementalAlterConfigs,
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
            Self::ElectLeaders => 43,
            Self::IncrementalAlterConfigs => 44,
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
            Self::IncrementalAlterConfigs => 0..=1,
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
            Self::InitProducerId | Self::DeleteRecords | Self::ElectLeaders => 2,
            Self::DeleteTopics | Self::DescribeConfigs => 4,
            Self::IncrementalAlterConfigs => 1,
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
            Self::ElectLeaders => "elect_leaders",
            Self::IncrementalAlterConfigs => "incremental_alter_configs",
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
        reader.nullable_string("client id")?;
        reader.set_flexible(self.api.is_flexible(self.version));
        reader.skip_tags()?;
        Ok(reader)
    }
}
