use kafka_protocol::protocol::StrBytes;
use rivven_core_types::limits::MAX_BROKERS;

use super::{MAX_CONFIGS, MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// One topic to be created.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TopicRequest {
    pub(crate) name: StrBytes,
    pub(crate) num_partitions: i32,
    pub(crate) replication_factor: i16,
    /// Partition index and its replicas' broker ids.
    pub(crate) assignments: Vec<(i32, Vec<i32>)>,
    pub(crate) configs: Vec<(StrBytes, Option<StrBytes>)>,
}

/// CreateTopics.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CreateTopicsRequest {
    pub(crate) topics: Vec<TopicRequest>,
    pub(crate) timeout_ms: i32,
    pub(crate) validate_only: bool,
}

impl CreateTopicsRequest {
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let topics = reader.array("topics", MAX_TOPICS, 10, topic)?;
        let timeout_ms = reader.i32("timeout_ms")?;
        let validate_only = reader.bool("validate_only")?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            topics,
            timeout_ms,
            validate_only,
        })
    }
}

fn topic(reader: &mut Reader) -> Result<TopicRequest, DecodeError> {
    let name = reader.string("topic name")?;
    let num_partitions = reader.i32("num_partitions")?;
    let replication_factor = reader.i16("replication_factor")?;
    let assignments = reader.array("assignments", MAX_PARTITIONS, 6, |reader| {
        let index = reader.i32("partition")?;
        let brokers = reader.array("brokers", MAX_BROKERS, 4, |reader| reader.i32("broker"))?;
        reader.skip_tags()?;
        Ok((index, brokers))
    })?;
    let configs = reader.array("configs", MAX_CONFIGS, 3, |reader| {
        let name = reader.string("config name")?;
        let value = reader.nullable_string("config value")?;
        reader.skip_tags()?;
        Ok((name, value))
    })?;
    reader.skip_tags()?;
    Ok(TopicRequest {
        name,
        num_partitions,
        replication_factor,
        assignments,
        configs,
    })
}
