//! Builds uncompressed batches, as a client would: for tests, tools and control records.

use bytes::{BufMut, BytesMut};

use super::{BatchError, CRC_COVERS_FROM, HEADER_BYTES, RecordBatch};
use crate::ids::{ProducerEpoch, ProducerId};

/// Collects records into one batch.
#[derive(Debug, Clone)]
pub struct BatchBuilder {
    base_timestamp: i64,
    max_timestamp: i64,
    producer: Option<(ProducerId, ProducerEpoch, i32)>,
    count: i32,
    records: BytesMut,
}

impl BatchBuilder {
    /// An empty batch whose timestamps are relative to `base_timestamp` (Unix milliseconds).
    pub fn new(base_timestamp: i64) -> Self {
        Self {
            base_timestamp,
            max_timestamp: base_timestamp,
            producer: None,
            count: 0,
            records: BytesMut::new(),
        }
    }

    /// Makes the batch idempotent (KIP-98).
    #[must_use]
    pub const fn producer(mut self, id: ProducerId, epoch: ProducerEpoch, first: i32) -> Self {
        self.producer = Some((id, epoch, first));
        self
    }

    /// Adds a record without headers.
    #[must_use]
    pub fn record(mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let mut body = BytesMut::new();
        body.put_u8(0);
        put_varlong(&mut body, timestamp.wrapping_sub(self.base_timestamp));
        put_varlong(&mut body, i64::from(self.count));
        for part in [key, value] {
            put_varlong(
                &mut body,
                part.map_or(-1, |p| i64::try_from(p.len()).unwrap_or(i64::MAX)),
            );
            body.put_slice(part.unwrap_or_default());
        }
        put_varlong(&mut body, 0);
        put_varlong(
            &mut self.records,
            i64::try_from(body.len()).unwrap_or(i64::MAX),
        );
        self.records.put_slice(&body);
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.count += 1;
        self
    }

    /// Finishes the batch with base offset 0 and leader epoch -1, as clients send it.
    pub fn build(&self) -> Result<RecordBatch, BatchError> {
        let (id, epoch, sequence) = self.producer.map_or((-1, -1, -1), |(id, epoch, sequence)| {
            (id.get(), epoch.get(), sequence)
        });
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + self.records.len());
        bytes.put_i64(0);
        let length = HEADER_BYTES - 12 + self.records.len();
        bytes.put_i32(i32::try_from(length).unwrap_or(i32::MAX));
        bytes.put_i32(-1);
        bytes.put_i8(2);
        bytes.put_u32(0);
        bytes.put_i16(0);
        bytes.put_i32(self.count - 1);
        bytes.put_i64(self.base_timestamp);
        bytes.put_i64(self.max_timestamp);
        bytes.put_i64(id);
        bytes.put_i16(epoch);
        bytes.put_i32(sequence);
        bytes.put_i32(self.count);
        bytes.put_slice(&self.records);
        let crc = crc32c::crc32c(bytes.get(CRC_COVERS_FROM..).unwrap_or_default());
        if let Some(stored) = bytes.get_mut(17..CRC_COVERS_FROM) {
            stored.copy_from_slice(&crc.to_be_bytes());
        }
        RecordBatch::split_from(&mut bytes.freeze())
    }
}

fn put_varlong(bytes: &mut BytesMut, value: i64) {
    let mut raw = (value << 1).cast_unsigned() ^ (value >> 63).cast_unsigned();
    while raw >= 0x80 {
        bytes.put_u8((raw & 0x7f) as u8 | 0x80);
        raw >>= 7;
    }
    bytes.put_u8((raw & 0x7f) as u8);
}
