use kafka_protocol::protocol::StrBytes;

use super::{MAX_PARTITIONS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// One partition asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchPartitionRequest {
    pub(crate) index: i32,
    pub(crate) current_leader_epoch: i32,
    pub(crate) fetch_offset: i64,
    pub(crate) last_fetched_epoch: i32,
    pub(crate) log_start_offset: i64,
    pub(crate) max_bytes: i32,
}

/// One topic's partitions: by name up to version 12, by id from 13.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchTopicRequest {
    pub(crate) name: StrBytes,
    pub(crate) id: [u8; 16],
    pub(crate) partitions: Vec<FetchPartitionRequest>,
}

/// A topic that leaves a fetch session (KIP-227).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForgottenTopic {
    pub(crate) name: StrBytes,
    pub(crate) id: [u8; 16],
    pub(crate) partitions: Vec<i32>,
}

/// Fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FetchRequest {
    pub(crate) cluster_id: Option<StrBytes>,
    /// A replica's id and epoch; `-1` for a client.
    pub(crate) replica: (i32, i64),
    pub(crate) max_wait_ms: i32,
    pub(crate) min_bytes: i32,
    pub(crate) max_bytes: i32,
    pub(crate) isolation_level: i8,
    pub(crate) session_id: i32,
    pub(crate) session_epoch: i32,
    pub(crate) topics: Vec<FetchTopicRequest>,
    pub(crate) forgotten: Vec<ForgottenTopic>,
    pub(crate) rack: StrBytes,
}

impl FetchRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let mut replica = (-1, -1);
        if version <= 14 {
            replica.0 = reader.i32("replica id")?;
        }
        let max_wait_ms = reader.i32("max_wait_ms")?;
        let min_bytes = reader.i32("min_bytes")?;
        let max_bytes = reader.i32("max_bytes")?;
        let isolation_level = reader.i8("isolation level")?;
        let (session_id, session_epoch) = if version >= 7 {
            (reader.i32("session id")?, reader.i32("session epoch")?)
        } else {
            (0, -1)
        };
        let topics = reader.array("topics", MAX_TOPICS, 3, |reader| topic(reader, version))?;
        let forgotten = if version >= 7 {
            reader.array("forgotten topics", MAX_TOPICS, 3, |reader| {
                forgotten_topic(reader, version)
            })?
        } else {
            Vec::new()
        };
        let rack = if version >= 11 {
            reader.string("rack")?
        } else {
            StrBytes::default()
        };
        let mut cluster_id = None;
        reader.tags(|tag, reader| match tag {
            0 => {
                cluster_id = reader.nullable_string("cluster id")?;
                Ok(true)
            }
            1 if version >= 15 => {
                replica = (reader.i32("replica id")?, reader.i64("replica epoch")?);
                reader.skip_tags()?;
                Ok(true)
            }
            _ => Ok(false),
        })?;
        reader.finish()?;
        Ok(Self {
            cluster_id,
            replica,
            max_wait_ms,
            min_bytes,
            max_bytes,
            isolation_level,
            session_id,
            session_epoch,
            topics,
            forgotten,
            rack,
        })
    }
}

fn name_or_id(reader: &mut Reader, version: i16) -> Result<(StrBytes, [u8; 16]), DecodeError> {
    if version >= 13 {
        Ok((StrBytes::default(), reader.uuid("topic id")?))
    } else {
        Ok((reader.string("topic name")?, [0; 16]))
    }
}

fn topic(reader: &mut Reader, version: i16) -> Result<FetchTopicRequest, DecodeError> {
    let (name, id) = name_or_id(reader, version)?;
    let partitions = reader.array("partitions", MAX_PARTITIONS, 16, |reader| {
        let partition = FetchPartitionRequest {
            index: reader.i32("partition")?,
            current_leader_epoch: if version >= 9 {
                reader.i32("current leader epoch")?
            } else {
                -1
            },
            fetch_offset: reader.i64("fetch offset")?,
            last_fetched_epoch: if version >= 12 {
                reader.i32("last fetched epoch")?
            } else {
                -1
            },
            log_start_offset: if version >= 5 {
                reader.i64("log start offset")?
            } else {
                -1
            },
            max_bytes: reader.i32("partition max bytes")?,
        };
        reader.skip_tags()?;
        Ok(partition)
    })?;
    reader.skip_tags()?;
    Ok(FetchTopicRequest {
        name,
        id,
        partitions,
    })
}

fn forgotten_topic(reader: &mut Reader, version: i16) -> Result<ForgottenTopic, DecodeError> {
    let (name, id) = name_or_id(reader, version)?;
    let partitions = reader.array("forgotten partitions", MAX_PARTITIONS, 4, |reader| {
        reader.i32("partition")
    })?;
    reader.skip_tags()?;
    Ok(ForgottenTopic {
        name,
        id,
        partitions,
    })
}
