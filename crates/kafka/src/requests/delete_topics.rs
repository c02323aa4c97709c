use kafka_protocol::protocol::StrBytes;

use super::MAX_TOPICS;
use crate::wire::{DecodeError, Reader};

/// A topic to be deleted, by its name or, from version 6 on, by its id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeleteTopic {
    pub(crate) name: Option<StrBytes>,
    pub(crate) id: [u8; 16],
}

/// DeleteTopics.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeleteTopicsRequest {
    pub(crate) topics: Vec<DeleteTopic>,
    pub(crate) timeout_ms: i32,
}

impl DeleteTopicsRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let topics = if version >= 6 {
            reader.array("topics", MAX_TOPICS, 18, |reader| {
                let name = reader.nullable_string("topic name")?;
                let id = reader.uuid("topic id")?;
                reader.skip_tags()?;
                Ok(DeleteTopic { name, id })
            })?
        } else {
            reader.array("topic names", MAX_TOPICS, 1, |reader| {
                let name = Some(reader.string("topic name")?);
                Ok(DeleteTopic { name, id: [0; 16] })
            })?
        };
        let timeout_ms = reader.i32("timeout_ms")?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self { topics, timeout_ms })
    }
}
