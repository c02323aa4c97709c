//! DescribeConfigs and IncrementalAlterConfigs.

use kafka_protocol::protocol::StrBytes;

use super::{MAX_CONFIGS, MAX_TOPICS};
use crate::wire::{DecodeError, Reader};

/// Whose configurations are asked for; no keys means all.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DescribeResource {
    pub(crate) kind: i8,
    pub(crate) name: StrBytes,
    pub(crate) keys: Option<Vec<StrBytes>>,
}

/// DescribeConfigs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DescribeConfigsRequest {
    pub(crate) resources: Vec<DescribeResource>,
    pub(crate) include_synonyms: bool,
    pub(crate) include_documentation: bool,
}

impl DescribeConfigsRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let resources = reader.array("resources", MAX_TOPICS, 3, |reader| {
            let kind = reader.i8("resource type")?;
            let name = reader.string("resource name")?;
            let keys = reader.nullable_array("configuration keys", MAX_CONFIGS, 1, |reader| {
                reader.string("configuration key")
            })?;
            reader.skip_tags()?;
            Ok(DescribeResource { kind, name, keys })
        })?;
        let include_synonyms = reader.bool("include synonyms")?;
        let include_documentation = version >= 3 && reader.bool("include documentation")?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            resources,
            include_synonyms,
            include_documentation,
        })
    }
}

/// A change of one configuration: name, operation, value.
pub(crate) type ConfigChange = (StrBytes, i8, Option<StrBytes>);

/// Whose configurations change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct AlterResource {
    pub(crate) kind: i8,
    pub(crate) name: StrBytes,
    pub(crate) changes: Vec<ConfigChange>,
}

/// IncrementalAlterConfigs (KIP-339).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct IncrementalAlterConfigsRequest {
    pub(crate) resources: Vec<AlterResource>,
    pub(crate) validate_only: bool,
}

impl IncrementalAlterConfigsRequest {
    pub(crate) fn decode(reader: &mut Reader) -> Result<Self, DecodeError> {
        let resources = reader.array("resources", MAX_TOPICS, 3, |reader| {
            let kind = reader.i8("resource type")?;
            let name = reader.string("resource name")?;
            let changes = reader.array("configurations", MAX_CONFIGS, 3, |reader| {
                let key = reader.string("configuration key")?;
                let operation = reader.i8("operation")?;
                let value = reader.nullable_string("configuration value")?;
                reader.skip_tags()?;
                Ok((key, operation, value))
            })?;
            reader.skip_tags()?;
            Ok(AlterResource {
                kind,
                name,
                changes,
            })
        })?;
        let validate_only = reader.bool("validate_only")?;
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            resources,
            validate_only,
        })
    }
}
