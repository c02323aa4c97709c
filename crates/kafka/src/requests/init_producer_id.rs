use kafka_protocol::protocol::StrBytes;

use crate::wire::{DecodeError, Reader};

/// InitProducerId (KIP-98, KIP-360).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InitProducerIdRequest {
    pub(crate) transactional_id: Option<StrBytes>,
    pub(crate) transaction_timeout_ms: i32,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
}

impl InitProducerIdRequest {
    pub(crate) fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let transactional_id = reader.nullable_string("transactional id")?;
        let transaction_timeout_ms = reader.i32("transaction timeout")?;
        let (producer_id, producer_epoch) = if version >= 3 {
            (reader.i64("producer id")?, reader.i16("producer epoch")?)
        } else {
            (-1, -1)
        };
        reader.skip_tags()?;
        reader.finish()?;
        Ok(Self {
            transactional_id,
            transaction_timeout_ms,
            producer_id,
            producer_epoch,
        })
    }
}
