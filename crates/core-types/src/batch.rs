//! Kafka record batch v2, byte for byte as on the wire and on disk (KIP-98; the protocol guide's
//! "Record Batch").
//!
//! Base offset and partition leader epoch lie outside the CRC, so that a leader stamps them in place;
//! therefore whoever reads or appends a batch also checks them against the log and its epoch table.

use bytes::{BufMut, Bytes, BytesMut};

use crate::epochs::{LeaderEpoch, Offset};
use crate::ids::{ProducerEpoch, ProducerId};
use crate::limits::{MAX_RECORD_BATCH_BYTES, MAX_RECORDS_PER_BATCH};

mod builder;
mod records;

pub use builder::BatchBuilder;
pub use records::{Record, RecordIter};

/// Length of the fixed header, in bytes.
pub const HEADER_BYTES: usize = 61;
/// Length of base offset and batch length, in bytes: what must be read to know how long a batch is.
pub const LENGTH_PREFIX_BYTES: usize = 12;
/// Where the part begins that the CRC-32C covers.
const CRC_COVERS_FROM: usize = 21;
/// The least length that a record can have: its own length, attributes, two deltas, two lengths and
/// the header count, each one byte.
const MIN_RECORD_BYTES: usize = 7;

/// Why bytes are not a valid record batch. Nothing changed; retrying cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end inside the batch.
    #[error("the batch needs {needed} bytes, but only {available} are there")]
    Truncated {
        /// Bytes that the batch needs.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// Longer than [`MAX_RECORD_BATCH_BYTES`], or shorter than a header.
    #[error("batch length {length} is outside {min}..={max}")]
    BadLength {
        /// Length found, in bytes.
        length: i64,
        /// Least length, in bytes.
        min: usize,
        /// Greatest length, in bytes.
        max: usize,
    },
    /// Not magic 2: message sets of Kafka before 0.11 are not served.
    #[error("magic byte {0}; only record batches v2 are supported")]
    Magic(i8),
    /// The bytes are not those that were written.
    #[error("CRC-32C mismatch: stored {stored:#010x}, computed {computed:#010x}")]
    Crc {
        /// The checksum in the header.
        stored: u32,
        /// The checksum of the bytes.
        computed: u32,
    },
    /// Record count, last offset delta or the records themselves contradict each other.
    #[error("the batch contradicts itself: {0}")]
    Inconsistent(&'static str),
}

/// How the records of a batch are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy.
    Snappy,
    /// LZ4.
    Lz4,
    /// Zstandard (KIP-110).
    Zstd,
    /// A codec number that no Kafka version has.
    Unknown(u8),
}

/// The fixed header of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Length of the whole batch, in bytes.
    pub total_bytes: usize,
    /// Epoch of the leader that appended it; `-1` in a client's request.
    pub leader_epoch: i32,
    /// CRC-32C of everything behind it.
    pub crc: u32,
    /// Codec, timestamp type, transactional and control bits.
    pub attributes: u16,
    /// Offset of the last record, relative to the first.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, Unix milliseconds.
    pub base_timestamp: i64,
    /// Greatest timestamp in the batch, Unix milliseconds.
    pub max_timestamp: i64,
    /// The idempotent producer, or `-1`.
    pub producer_id: i64,
    /// Its epoch, or `-1`.
    pub producer_epoch: i16,
    /// Its sequence number of the first record, or `-1`.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes` and checks length and magic, not the CRC.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(BatchError::Truncated {
            needed: HEADER_BYTES,
            available: bytes.len(),
        })?;
        let batch_length = i32::from_be_bytes(field(header, 8));
        let total = i64::from(batch_length) + 12;
        let total_bytes = usize::try_from(total)
            .ok()
            .filter(|t| (HEADER_BYTES..=MAX_RECORD_BATCH_BYTES).contains(t))
            .ok_or(BatchError::BadLength {
                length: total,
                min: HEADER_BYTES,
                max: MAX_RECORD_BATCH_BYTES,
            })?;
        let magic = i8::from_be_bytes(field(header, 16));
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        Ok(Self {
            base_offset: i64::from_be_bytes(field(header, 0)),
            total_bytes,
            leader_epoch: i32::from_be_bytes(field(header, 12)),
            crc: u32::from_be_bytes(field(header, 17)),
            attributes: u16::from_be_bytes(field(header, 21)),
            last_offset_delta: i32::from_be_bytes(field(header, 23)),
            base_timestamp: i64::from_be_bytes(field(header, 27)),
            max_timestamp: i64::from_be_bytes(field(header, 35)),
            producer_id: i64::from_be_bytes(field(header, 43)),
            producer_epoch: i16::from_be_bytes(field(header, 51)),
            base_sequence: i32::from_be_bytes(field(header, 53)),
            record_count: i32::from_be_bytes(field(header, 57)),
        })
    }

    /// The codec of the records.
    pub const fn compression(&self) -> Compression {
        match self.attributes & 0x07 {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            _ => Compression::Unknown((self.attributes & 0x07) as u8),
        }
    }

    /// Whether the batch is part of a transaction.
    pub const fn is_transactional(&self) -> bool {
        self.attributes & 0x10 != 0
    }

    /// Whether the batch holds a transaction marker.
    pub const fn is_control(&self) -> bool {
        self.attributes & 0x20 != 0
    }

    /// The producer, if the batch is idempotent: id, epoch and first sequence number.
    pub fn producer(&self) -> Option<(ProducerId, ProducerEpoch, i32)> {
        (self.producer_id >= 0).then(|| {
            (
                ProducerId::new(self.producer_id),
                ProducerEpoch::new(self.producer_epoch),
                self.base_sequence,
            )
        })
    }

    /// The offset after the last record; `None` if base offset or delta make no sense.
    pub fn end_offset(&self) -> Option<Offset> {
        let records = u64::try_from(self.last_offset_delta).ok()?.checked_add(1)?;
        Offset::new(self.base_offset).ok()?.checked_add(records)
    }

    /// The offset of the first record; `None` if it is negative.
    pub fn base(&self) -> Option<Offset> {
        Offset::new(self.base_offset).ok()
    }

    /// The leader epoch; `None` if it is negative (a client's batch).
    pub fn epoch(&self) -> Option<LeaderEpoch> {
        (self.leader_epoch >= 0).then(|| LeaderEpoch::new(self.leader_epoch))
    }
}

fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|i| header[at + i])
}

/// A batch whose length, magic, CRC and counts have been checked. Cheap to clone; the bytes are
/// shared and never copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl RecordBatch {
    /// Takes the first batch off `bytes` and checks it: length, magic, CRC-32C, and that record count
    /// and last offset delta agree and fit into the length. Does not decode the records.
    pub fn split_from(bytes: &mut Bytes) -> Result<Self, BatchError> {
        let header = BatchHeader::parse(bytes)?;
        if bytes.len() < header.total_bytes {
            return Err(BatchError::Truncated {
                needed: header.total_bytes,
                available: bytes.len(),
            });
        }
        let batch = Self {
            header,
            bytes: bytes.slice(..header.total_bytes),
        };
        batch.check()?;
        *bytes = bytes.slice(header.total_bytes..);
        Ok(batch)
    }

    fn check(&self) -> Result<(), BatchError> {
        let covered = self.bytes.get(CRC_COVERS_FROM..).unwrap_or_default();
        let computed = crc32c::crc32c(covered);
        if computed != self.header.crc {
            return Err(BatchError::Crc {
                stored: self.header.crc,
                computed,
            });
        }
        let count = usize::try_from(self.header.record_count)
            .ok()
            .filter(|c| (1..=MAX_RECORDS_PER_BATCH).contains(c))
            .ok_or(BatchError::Inconsistent(
                "record count is not positive or beyond the limit",
            ))?;
        if i64::from(self.header.last_offset_delta) + 1 != i64::from(self.header.record_count) {
            return Err(BatchError::Inconsistent(
                "last offset delta is not record count - 1",
            ));
        }
        let payload = self.bytes.len() - HEADER_BYTES;
        if self.header.compression() == Compression::None && payload / MIN_RECORD_BYTES < count {
            return Err(BatchError::Inconsistent(
                "more records than the bytes can hold",
            ));
        }
        Ok(())
    }

    /// The header.
    pub const fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// The whole batch.
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Number of records, at least 1.
    pub fn record_count(&self) -> u64 {
        u64::try_from(self.header.record_count).unwrap_or(0)
    }

    /// The header bytes with base offset and leader epoch stamped in, and the untouched rest: two
    /// slices to be written one after the other, so that the records are not copied.
    pub fn stamped(&self, base: Offset, epoch: LeaderEpoch) -> ([u8; CRC_COVERS_FROM], Bytes) {
        let mut head = [0u8; CRC_COVERS_FROM];
        head.copy_from_slice(
            self.bytes
                .get(..CRC_COVERS_FROM)
                .unwrap_or(&[0; CRC_COVERS_FROM]),
        );
        head[..8].copy_from_slice(&base.get().to_be_bytes());
        head[12..16].copy_from_slice(&epoch.get().to_be_bytes());
        (head, self.bytes.slice(CRC_COVERS_FROM..))
    }

    /// A copy with base offset and leader epoch stamped in.
    pub fn restamped(&self, base: Offset, epoch: LeaderEpoch) -> Self {
        let (head, rest) = self.stamped(base, epoch);
        let mut bytes = BytesMut::with_capacity(self.bytes.len());
        bytes.put_slice(&head);
        bytes.put_slice(&rest);
        let header = BatchHeader {
            base_offset: base.get(),
            leader_epoch: epoch.get(),
            ..self.header
        };
        Self {
            header,
            bytes: bytes.freeze(),
        }
    }

    /// Walks the records of an uncompressed batch. Each item is checked against the bytes that are
    /// there; a compressed batch yields one [`BatchError::Inconsistent`].
    pub fn records(&self) -> RecordIter<'_> {
        RecordIter::new(self)
    }

    /// Walks all records once and reports the first contradiction: lengths, counts, offset deltas.
    /// The produce path calls it, so that a lie about the records never reaches a log.
    pub fn verify_records(&self) -> Result<(), BatchError> {
        self.records().try_for_each(|record| record.map(|_| ()))
    }
}

/// Splits `bytes` into checked batches.
pub fn split_batches(mut bytes: Bytes) -> Result<Vec<RecordBatch>, BatchError> {
    let mut batches = Vec::new();
    while !bytes.is_empty() {
        batches.push(RecordBatch::split_from(&mut bytes)?);
    }
    Ok(batches)
}

#[cfg(test)]
mod tests;
