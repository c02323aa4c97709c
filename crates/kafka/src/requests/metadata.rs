use kafka_protocol::protocol::StrBytes;

use super::MAX_TOPICS;
use crate::wire::{DecodeError, Reader};

/// One topic asked for: by name, or from version 12 by id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetadataTopicRequest {
    pub(crate) id: [u8; 16],
    pub(crate) name: Option<StrBytes>,
}

/// Metadata.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MetadataRequest {
    /// `None` asks for all topics.
    pub(crate) topics: Option<Vec<MetadataTopicRequest>>,
    pub(crate) allow_auto_topic_creation: bool,
    pub(crate) include_cluster_authorized_operations: bool,
    pub(crate) include_topic_authorized_operations: bool,
}

impl MetadataRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let topics = reader.nullable_array("topics", MAX_TOPICS, 2, |reader| {
            let id = if version >= 10 {
                reader.uuid("topic id")?
            } else {
                [0; 16]
            };
            let name = if version >= 10 {
                reader.nullable_string("topic name")?
            } else {
                Some(reader.string("topic name")?)
            };
            reader.skip_tags()?;
            Ok(MetadataTopicRequest { id, name })
        })?;
        let topics = match topics {
            None if version == 0 => return Err(DecodeError::Null { what: "topics" }),
            // Version 0 has no null: an empty list asks for all topics there.
            Some(topics) if topics.is_empty() && version == 0 => None,
            topics => topics,
        };
        let allow_auto_topic_creation = version < 4 || reader.bool("allow_auto_topic_creation")?;
        let include_cluster_authorized_operations =
            (8..=10).contains(&version) && reader.bool("include_cluster_authorized_operations")?;
        let include_topic_authorized_operations =
            version >= 8 && reader.bool("include_topic_authorized_operations")?;
        reader.skip_tags()?;
        // Trailing bytes are let pass, as by Kafka, and here alone: librdkafka 2.16 asks for all topics
        // with an old count of four bytes at versions whose counts have one, which leaves three over.
        Ok(Self {
            topics,
            allow_auto_topic_creation,
            include_cluster_authorized_operations,
            include_topic_authorized_operations,
        })
    }
}
