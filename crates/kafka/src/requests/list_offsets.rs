use kafka_protocol::protocol::StrBytes;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// One partition asked about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListOffsetsPartitionRequest {
    pub(crate) index: i32,
    pub(crate) current_leader_epoch: i32,
    /// Unix milliseconds, or one of the negative specials.
    pub(crate) timestamp: i64,
}

/// One topic's partitions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListOffsetsTopic {
    pub(crate) name: StrBytes,
    pub(crate) partitions: Vec<ListOffsetsPartitionRequest>,
}

/// ListOffsets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ListOffsetsRequest {
    pub(crate) replica_id: i32,
    pub(crate) isolation_level: i8,
    pub(crate) topics: Vec<ListOffsetsTopic>,
    pub(crate) timeout_ms: i32,
}

impl ListOffsetsRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let replica_id = reader.i32("replica id")?;
        let isolation_level = if version >= 2 {
            reader.i8("isolation level")?
        } else {
            0
        };
        let topics = reader.array("topics", MAX_TOPICS, 3, |reader| {
            let name = reader.string("topic name")?;
            let partitions = reader.array("partitions", MAX_PARTITIONS, 12, |reader| {
                let partition = ListOffsetsPartitionRequest {
                    index: reader.i32("partition")?,
                    current_leader_epoch: if version >= 4 {
                        reader.i32("current leader epoch")?
                    } else {
                        -1
                    },
                    timestamp: reader.i64("timestamp")?,
                };
                reader.skip_tags()?;
                Ok(partition)
            })?;
            reader.skip_tags()?;
            Ok(ListOffsetsTopic { name, partitions })
        })?;
        let timeout_ms = if version >= 10 {
            reader.i32("timeout_ms")?
        } else {
            0
        };
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            replica_id,
            isolation_level,
            topics,
            timeout_ms,
        })
    }
}
