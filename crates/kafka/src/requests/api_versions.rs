use kafka_protocol::protocol::StrBytes;

use crate::wire::{DecodeError, Reader};

/// ApiVersions (KIP-35, KIP-511).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ApiVersionsRequest {
    pub(crate) client_software_name: StrBytes,
    pub(crate) client_software_version: StrBytes,
}

impl ApiVersionsRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let (client_software_name, client_software_version) = if version >= 3 {
            (
                reader.string("client software name")?,
                reader.string("client software version")?,
            )
        } else {
            (StrBytes::default(), StrBytes::default())
        };
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            client_software_name,
            client_software_version,
        })
    }
}
