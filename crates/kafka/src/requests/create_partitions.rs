use kafka_protocol::protocol::StrBytes;
use rivven_core_types::limits::MAX_BROKERS;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// One topic that is to have more partitions.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PartitionsRequest {
    pub(crate) name: StrBytes,
    /// How many partitions it is to have in all.
    pub(crate) count: i32,
    /// The replicas of each new partition; `None` when the cluster is to choose.
    pub(crate) assignments: Option<Vec<Vec<i32>>>,
}

/// CreatePartitions (KIP-195).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CreatePartitionsRequest {
    pub(crate) topics: Vec<PartitionsRequest>,
    pub(crate) timeout_ms: i32,
    pub(crate) validate_only: bool,
}

impl CreatePartitionsRequest {
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let topics = reader.array("topics", MAX_TOPICS, 6, |reader| {
            let name = reader.string("topic name")?;
            let count = reader.i32("count")?;
            let assignments =
                reader.nullable_array("assignments", MAX_PARTITIONS, 1, |reader| {
                    let brokers =
                        reader.array("brokers", MAX_BROKERS, 4, |reader| reader.i32("broker"))?;
                    reader.skip_tags()?;
                    Ok(brokers)
                })?;
            reader.skip_tags()?;
            Ok(PartitionsRequest {
                name,
                count,
                assignments,
            })
        })?;
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
