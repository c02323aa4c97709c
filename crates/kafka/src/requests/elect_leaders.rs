use kafka_protocol::protocol::StrBytes;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// ElectLeaders (KIP-460).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ElectLeadersRequest {
    /// 0 = preferred, 1 = unclean.
    pub(crate) election_type: i8,
    /// Topics and their partitions; `None` for all.
    pub(crate) topics: Option<Vec<(StrBytes, Vec<i32>)>>,
    pub(crate) timeout_ms: i32,
}

impl ElectLeadersRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let election_type = if version >= 1 {
            reader.i8("election type")?
        } else {
            0
        };
        let topics = reader.nullable_array("topics", MAX_TOPICS, 2, |reader| {
            let name = reader.string("topic name")?;
            let partitions = reader.array("partitions", MAX_PARTITIONS, 4, |reader| {
                reader.i32("partition")
            })?;
            reader.skip_tags()?;
            Ok((name, partitions))
        })?;
        let timeout_ms = reader.i32("timeout_ms")?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            election_type,
            topics,
            timeout_ms,
        })
    }
}
