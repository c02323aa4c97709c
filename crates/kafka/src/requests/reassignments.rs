use kafka_protocol::protocol::StrBytes;
use rivven_core_types::limits::MAX_BROKERS;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// A partition with the brokers that are to hold it; `None` cancels.
pub(crate) type TargetRequest = (i32, Option<Vec<i32>>);

/// AlterPartitionReassignments (KIP-455).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AlterPartitionReassignmentsRequest {
    pub(crate) timeout_ms: i32,
    /// Whether a target may have another number of replicas (KIP-860); before version 1 it may.
    pub(crate) allow_replication_factor_change: bool,
    pub(crate) topics: Vec<(StrBytes, Vec<TargetRequest>)>,
}

impl AlterPartitionReassignmentsRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let timeout_ms = reader.i32("timeout_ms")?;
        let allow_replication_factor_change =
            version < 1 || reader.bool("allow_replication_factor_change")?;
        let topics = reader.array("topics", MAX_TOPICS, 2, |reader| {
            let name = reader.string("topic name")?;
            let partitions = reader.array("partitions", MAX_PARTITIONS, 5, |reader| {
                let index = reader.i32("partition")?;
                let target = reader
                    .nullable_array("replicas", MAX_BROKERS, 4, |reader| reader.i32("replica"))?;
                reader.skip_tags()?;
                Ok((index, target))
            })?;
            reader.skip_tags()?;
            Ok((name, partitions))
        })?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            timeout_ms,
            allow_replication_factor_change,
            topics,
        })
    }
}

/// ListPartitionReassignments (KIP-455).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListPartitionReassignmentsRequest {
    /// Topics and their partitions; `None` for all.
    pub(crate) topics: Option<Vec<(StrBytes, Vec<i32>)>>,
}

impl ListPartitionReassignmentsRequest {
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        // The answer is at hand: there is nothing to wait for.
        reader.i32("timeout_ms")?;
        let topics = reader.nullable_array("topics", MAX_TOPICS, 2, |reader| {
            let name = reader.string("topic name")?;
            let partitions = reader.array("partitions", MAX_PARTITIONS, 4, |reader| {
                reader.i32("partition")
            })?;
            reader.skip_tags()?;
            Ok((name, partitions))
        })?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self { topics })
    }
}
