//! The snapshot image: a sequence of records, each a `u32` length (little endian) and a wire
//! envelope. The first is the header, the last the end with counts and hash, so that a cut or
//! foreign image is never taken for a whole one.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use rivven_core_types::wire;
use rivven_core_types::{
    BrokerId, ClusterId, FrozenState, LogIndex, PartitionId, ProducerId, RestoreError,
};

use crate::levels::{LevelRange, MetadataLevel};
use crate::placement::Reassignment;
use crate::records::{BrokerRecord, TopicRecord};
use crate::state::{ClusterState, PartitionEntry};

/// Version of the image format. 2: a topic says how it was placed. 3: a partition says who lost its disk.
const IMAGE_VERSION: u8 = 3;
/// Longest record of an image, in bytes: a broker with the longest names fits many times over.
const MAX_IMAGE_RECORD_BYTES: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
enum ImageRecord {
    Header {
        cluster_id: Option<ClusterId>,
        applied: LogIndex,
        next_producer_id: ProducerId,
    },
    Broker(BrokerRecord),
    Topic(TopicRecord),
    Partition(PartitionEntry),
    End {
        brokers: u64,
        topics: u64,
        partitions: u64,
        hash: u64,
    },
    Reassignment(PartitionId, Reassignment),
    Draining(BrokerId),
    Rebalancing,
    Level(MetadataLevel),
    Levels(BrokerId, LevelRange),
}

/// An immutable image of the metadata.
#[derive(Debug)]
pub(crate) struct FrozenMetadata {
    state: ClusterState,
}

impl FrozenMetadata {
    pub(crate) const fn new(state: ClusterState) -> Self {
        Self { state }
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

impl FrozenState for FrozenMetadata {
    fn write_to(&self, sink: &mut dyn Write) -> io::Result<()> {
        let state = &self.state;
        let header = ImageRecord::Header {
            cluster_id: state.cluster_id(),
            applied: state.applied(),
            next_producer_id: state.next_producer_id(),
        };
        write_record(sink, &header)?;
        // In front of every record that only builds of this level know.
        if state.level() != MetadataLevel::FIRST {
            write_record(sink, &ImageRecord::Level(state.level()))?;
        }
        for broker in state.brokers() {
            write_record(sink, &ImageRecord::Broker(broker.clone()))?;
        }
        for topic in state.topics() {
            write_record(sink, &ImageRecord::Topic(topic.clone()))?;
        }
        for entry in state.partition_entries() {
            write_record(sink, &ImageRecord::Partition(entry.clone()))?;
        }
        for (id, reassignment) in state.reassignments() {
            let record = ImageRecord::Reassignment(*id, reassignment.clone());
            write_record(sink, &record)?;
        }
        for broker in state.draining() {
            write_record(sink, &ImageRecord::Draining(*broker))?;
        }
        if state.is_rebalancing() {
            write_record(sink, &ImageRecord::Rebalancing)?;
        }
        for (broker, levels) in state.levels() {
            write_record(sink, &ImageRecord::Levels(*broker, *levels))?;
        }
        let end = ImageRecord::End {
            brokers: count(state.broker_count()),
            topics: count(state.topic_count()),
            partitions: count(state.partition_count()),
            hash: state.hash(),
        };
        write_record(sink, &end)
    }
}

fn write_record(sink: &mut dyn Write, record: &ImageRecord) -> io::Result<()> {
    let bytes = wire::encode(IMAGE_VERSION, record, MAX_IMAGE_RECORD_BYTES)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    let length = u32::try_from(bytes.len())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    sink.write_all(&length.to_le_bytes())?;
    sink.write_all(&bytes)
}

fn read_record(image: &mut dyn Read) -> Result<ImageRecord, RestoreError> {
    let mut length = [0u8; 4];
    image.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_IMAGE_RECORD_BYTES {
        return Err(malformed(format!(
            "a record of {length} bytes exceeds the limit of {MAX_IMAGE_RECORD_BYTES}"
        )));
    }
    let mut bytes = vec![0u8; length];
    image.read_exact(&mut bytes)?;
    Ok(wire::decode(IMAGE_VERSION, &bytes, MAX_IMAGE_RECORD_BYTES)?)
}

const fn malformed(what: String) -> RestoreError {
    RestoreError::Malformed(what)
}

/// Reads an image. Whatever the bytes, the result is a state that satisfies the references between
/// its records and has the hash that was written, or an error. One of a level that is not among those
/// `supported` is [`RestoreError::Unsupported`].
pub(crate) fn read(
    image: &mut dyn Read,
    supported: LevelRange,
) -> Result<ClusterState, RestoreError> {
    let mut state = ClusterState::default();
    let ImageRecord::Header {
        cluster_id,
        applied,
        next_producer_id,
    } = read_record(image)?
    else {
        return Err(malformed("the image does not begin with a header".into()));
    };
    if let Some(id) = cluster_id {
        state.set_cluster_id(id);
    }
    state.begin_at(applied);
    state.set_next_producer_id(next_producer_id);
    loop {
        match read_record(image)? {
            ImageRecord::Header { .. } => return Err(malformed("a second header".into())),
            ImageRecord::Broker(record) => add_broker(&mut state, record)?,
            ImageRecord::Topic(record) => add_topic(&mut state, record)?,
            ImageRecord::Partition(entry) => add_partition(&mut state, entry)?,
            ImageRecord::Reassignment(id, reassignment) => {
                if state.partition(&id).is_none() || state.reassignment(&id).is_some() {
                    return Err(malformed(format!("a reassignment of partition {id}")));
                }
                state.set_reassignment(id, Some(reassignment));
            }
            ImageRecord::Draining(broker) => {
                if state.broker(broker).is_none() {
                    return Err(malformed(format!("broker {broker} is drained but unknown")));
                }
                state.set_draining(broker, true);
            }
            ImageRecord::Rebalancing => state.set_rebalancing(true),
            ImageRecord::Level(level) => {
                if level < MetadataLevel::FIRST {
                    return Err(malformed(format!("metadata level {level}")));
                }
                supported
                    .check_not_above(level)
                    .map_err(RestoreError::Unsupported)?;
                state.set_level(level);
            }
            ImageRecord::Levels(broker, levels) => {
                if state.broker(broker).is_none() || !levels.is_valid() {
                    return Err(malformed(format!("levels {levels} of broker {broker}")));
                }
                state.set_levels(broker, levels);
            }
            ImageRecord::End {
                brokers,
                topics,
                partitions,
                hash,
            } => {
                let found = (
                    count(state.broker_count()),
                    count(state.topic_count()),
                    count(state.partition_count()),
                    state.hash(),
                );
                if found != (brokers, topics, partitions, hash) {
                    return Err(malformed("counts or hash do not match the records".into()));
                }
                return Ok(state);
            }
        }
    }
}

fn add_broker(state: &mut ClusterState, record: BrokerRecord) -> Result<(), RestoreError> {
    let known = state.broker(record.id).is_some()
        || state.broker_by_name(&record.info.name).is_some()
        || state.broker_by_raft_id(record.raft_id).is_some();
    if known {
        return Err(malformed(format!("broker {} twice", record.id)));
    }
    state.put_broker(record);
    Ok(())
}

fn add_topic(state: &mut ClusterState, record: TopicRecord) -> Result<(), RestoreError> {
    if state.topic_by_id(&record.id).is_some() || state.topic(&record.name).is_some() {
        return Err(malformed(format!("topic {} twice", record.name)));
    }
    state.put_topic(record);
    Ok(())
}

fn add_partition(state: &mut ClusterState, entry: PartitionEntry) -> Result<(), RestoreError> {
    let id: PartitionId = entry.state.id;
    let in_topic = state
        .topic_by_id(&id.topic)
        .is_some_and(|topic| id.index.get() < topic.partitions);
    if !in_topic {
        return Err(malformed(format!("partition {id} of no topic")));
    }
    if state.partition(&id).is_some() {
        return Err(malformed(format!("partition {id} twice")));
    }
    let is_member = |b: &BrokerId| entry.state.last_known_isr.contains(b);
    if !entry.lost.iter().all(is_member) {
        return Err(malformed(format!("partition {id} misses a stranger")));
    }
    state.put_entry(entry);
    Ok(())
}
