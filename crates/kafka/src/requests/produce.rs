use bytes::Bytes;
use kafka_protocol::protocol::StrBytes;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// One partition's records: a slice of the frame, not yet looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProducePartition {
    pub(crate) index: i32,
    pub(crate) records: Option<Bytes>,
}

/// One topic's partitions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProduceTopic {
    pub(crate) name: StrBytes,
    pub(crate) partitions: Vec<ProducePartition>,
}

/// Produce.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ProduceRequest {
    pub(crate) transactional_id: Option<StrBytes>,
    pub(crate) acks: i16,
    pub(crate) timeout_ms: i32,
    pub(crate) topics: Vec<ProduceTopic>,
}

impl ProduceRequest {
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let transactional_id = reader.nullable_string("transactional id")?;
        let acks = reader.i16("acks")?;
        let timeout_ms = reader.i32("timeout_ms")?;
        let topics = reader.array("topics", MAX_TOPICS, 3, |reader| {
            let name = reader.string("topic name")?;
            let partitions = reader.array("partitions", MAX_PARTITIONS, 6, |reader| {
                let index = reader.i32("partition")?;
                let records = reader.nullable_bytes("records")?;
                reader.skip_tags()?;
                Ok(ProducePartition { index, records })
            })?;
            reader.skip_tags()?;
            Ok(ProduceTopic { name, partitions })
        })?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            transactional_id,
            acks,
            timeout_ms,
            topics,
        })
    }
}
