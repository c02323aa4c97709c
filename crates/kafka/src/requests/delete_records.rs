use kafka_protocol::protocol::StrBytes;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// One topic's partitions, each with the first offset that stays (-1: the high watermark).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeleteRecordsTopic {
    pub(crate) name: StrBytes,
    pub(crate) partitions: Vec<(i32, i64)>,
}

/// DeleteRecords.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeleteRecordsRequest {
    pub(crate) topics: Vec<DeleteRecordsTopic>,
    pub(crate) timeout_ms: i32,
}

impl DeleteRecordsRequest {
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let topics = reader.array("topics", MAX_TOPICS, 2, |reader| {
            let name = reader.string("topic name")?;
            let partitions = reader.array("partitions", MAX_PARTITIONS, 12, |reader| {
                let partition = (reader.i32("partition")?, reader.i64("offset")?);
                reader.skip_tags()?;
                Ok(partition)
            })?;
            reader.skip_tags()?;
            Ok(DeleteRecordsTopic { name, partitions })
        })?;
        let timeout_ms = reader.i32("timeout_ms")?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self { topics, timeout_ms })
    }
}
