//! The snapshot image: a sequence of records, each a `u32` length (little endian) and a wire
//! envelope. The first is the header, the last the end with counts and hash, so that a cut or
//! foreign image is never taken for a whole one.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use rivven_core_types::wire;
use rivven_core_types::{FrozenState, LogIndex, PartitionId, RestoreError, UnixMillis};

use crate::command::ClassicMember;
use crate::epoch::Epoch;
use crate::state::{CommittedOffset, ConsumerMember, Group, GroupsState, Head, Kind};

/// Version of the image format.
const IMAGE_VERSION: u8 = 1;
/// Longest record of an image, in bytes: a member that owns every partition of many large topics.
const MAX_IMAGE_RECORD_BYTES: usize = 16 * 1024 * 1024;

#[derive(Debug, Serialize, Deserialize)]
enum ImageRecord {
    Header {
        applied: LogIndex,
        clock: UnixMillis,
        epoch_floor: Epoch,
    },
    /// Begins a group; its members and offsets follow.
    Group(Head),
    Consumer(ConsumerMember),
    Classic(ClassicMember),
    Offset(PartitionId, CommittedOffset),
    End {
        groups: u64,
        hash: u64,
    },
}

/// An immutable image of the groups.
#[derive(Debug)]
pub(crate) struct FrozenGroups {
    state: GroupsState,
}

impl FrozenGroups {
    pub(crate) const fn new(state: GroupsState) -> Self {
        Self { state }
    }
}

impl FrozenState for FrozenGroups {
    fn write_to(&self, sink: &mut dyn Write) -> io::Result<()> {
        let state = &self.state;
        let header = ImageRecord::Header {
            applied: state.applied,
            clock: state.clock,
            epoch_floor: state.epoch_floor,
        };
        write_record(sink, &header)?;
        for group in state.groups() {
            write_record(sink, &ImageRecord::Group(group.head()))?;
            match &group.kind {
                Kind::Simple => {}
                Kind::Classic(classic) => {
                    for member in classic.members() {
                        write_record(sink, &ImageRecord::Classic(member.clone()))?;
                    }
                }
                Kind::Consumer(consumer) => {
                    for member in consumer.members() {
                        let member = ConsumerMember::clone(member);
                        write_record(sink, &ImageRecord::Consumer(member))?;
                    }
                }
            }
            for (partition, offset) in group.offsets() {
                write_record(sink, &ImageRecord::Offset(*partition, offset.clone()))?;
            }
        }
        let end = ImageRecord::End {
            groups: state.group_count() as u64,
            hash: state.hash(),
        };
        write_record(sink, &end)
    }
}

fn write_record(sink: &mut dyn Write, record: &ImageRecord) -> io::Result<()> {
    let invalid = |e: String| io::Error::new(io::ErrorKind::InvalidData, e);
    let bytes = wire::encode(IMAGE_VERSION, record, MAX_IMAGE_RECORD_BYTES)
        .map_err(|e| invalid(e.to_string()))?;
    let length = u32::try_from(bytes.len()).map_err(|e| invalid(e.to_string()))?;
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
    // Grown as bytes arrive, so that a cut image reserves no more than it has.
    let mut bytes = Vec::new();
    let limit = u64::try_from(length).unwrap_or(u64::MAX);
    image.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() < length {
        return Err(malformed("the image ends within a record".to_owned()));
    }
    Ok(wire::decode(IMAGE_VERSION, &bytes, MAX_IMAGE_RECORD_BYTES)?)
}

const fn malformed(what: String) -> RestoreError {
    RestoreError::Malformed(what)
}

/// Reads an image. Whatever the bytes, the result is a state that has the hash that was written, or
/// an error.
pub(crate) fn read(image: &mut dyn Read) -> Result<GroupsState, RestoreError> {
    let ImageRecord::Header {
        applied,
        clock,
        epoch_floor,
    } = read_record(image)?
    else {
        return Err(malformed("the image does not begin with a header".into()));
    };
    let mut state = GroupsState::begin(applied, clock, epoch_floor);
    let mut current: Option<Group> = None;
    loop {
        let stray = || malformed("a member or offset of no group, or of another kind".to_owned());
        match read_record(image)? {
            ImageRecord::Header { .. } => return Err(malformed("a second header".into())),
            ImageRecord::Group(head) => {
                if state.group(&head.id).is_some() {
                    return Err(malformed(format!("group {} twice", head.id)));
                }
                if let Some(done) = current.replace(Group::from_head(head)) {
                    state.put(done);
                }
            }
            ImageRecord::Consumer(member) => {
                let group = current.as_mut().ok_or_else(stray)?;
                if !group.restore_consumer(member) {
                    return Err(stray());
                }
            }
            ImageRecord::Classic(member) => {
                let group = current.as_mut().ok_or_else(stray)?;
                if !group.restore_classic(member) {
                    return Err(stray());
                }
            }
            ImageRecord::Offset(partition, offset) => {
                let group = current.as_mut().ok_or_else(stray)?;
                group.put_offset(partition, offset);
            }
            ImageRecord::End { groups, hash } => {
                if let Some(done) = current.take() {
                    state.put(done);
                }
                if (state.group_count() as u64, state.hash()) != (groups, hash) {
                    return Err(malformed("counts or hash do not match the records".into()));
                }
                return Ok(state);
            }
        }
    }
}
