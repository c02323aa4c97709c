use kafka_protocol::protocol::StrBytes;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// One partition that is asked about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct EpochPartition {
    pub(crate) index: i32,
    /// The leader epoch that the client knows, or -1.
    pub(crate) current_leader_epoch: i32,
    /// The epoch whose end is asked for.
    pub(crate) asked: i32,
}

/// OffsetForLeaderEpoch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OffsetForLeaderEpochRequest {
    pub(crate) topics: Vec<(StrBytes, Vec<EpochPartition>)>,
}

impl OffsetForLeaderEpochRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        if version >= 3 {
            // Followers of ours do not ask this way: whoever asks is a client.
            let _replica_id = reader.i32("replica id")?;
        }
        let topics = reader.array("topics", MAX_TOPICS, 2, |reader| {
            let name = reader.string("topic name")?;
            let partitions = reader.array("partitions", MAX_PARTITIONS, 12, |reader| {
                let partition = EpochPartition {
                    index: reader.i32("partition")?,
                    current_leader_epoch: reader.i32("current leader epoch")?,
                    asked: reader.i32("leader epoch")?,
                };
                reader.skip_tags()?;
                Ok(partition)
            })?;
            reader.skip_tags()?;
            Ok((name, partitions))
        })?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self { topics })
    }
}
