//! The records inside an uncompressed batch.

use super::{BatchError, Compression, HEADER_BYTES, RecordBatch};

/// One record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: i64,
    /// Its timestamp, Unix milliseconds.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers, still encoded: the count, then each key and value with its length.
    pub encoded_headers: &'a [u8],
}

/// Iterator over the records of a batch; stops after the first error.
#[derive(Debug)]
pub struct RecordIter<'a> {
    batch: &'a RecordBatch,
    rest: &'a [u8],
    next: i32,
    failed: bool,
}

impl<'a> RecordIter<'a> {
    pub(super) fn new(batch: &'a RecordBatch) -> Self {
        let rest = batch.bytes.get(HEADER_BYTES..).unwrap_or_default();
        Self {
            batch,
            rest,
            next: 0,
            failed: false,
        }
    }

    fn read(&mut self) -> Result<Record<'a>, BatchError> {
        if self.batch.header.compression() != Compression::None {
            return Err(BatchError::Inconsistent("the records are compressed"));
        }
        let length = length(varint(&mut self.rest)?)?;
        let mut body = take(&mut self.rest, length)?;
        let _attributes = take(&mut body, 1)?;
        let timestamp_delta = varlong(&mut body)?;
        let offset_delta = varint(&mut body)?;
        if offset_delta != self.next {
            return Err(BatchError::Inconsistent(
                "offset deltas are not 0, 1, 2, ...",
            ));
        }
        let key = nullable(&mut body)?;
        let value = nullable(&mut body)?;
        let encoded_headers = body;
        check_headers(body)?;
        let header = &self.batch.header;
        Ok(Record {
            offset: header.base_offset.wrapping_add(i64::from(offset_delta)),
            timestamp: header.base_timestamp.wrapping_add(timestamp_delta),
            key,
            value,
            encoded_headers,
        })
    }
}

impl<'a> Iterator for RecordIter<'a> {
    type Item = Result<Record<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.next == self.batch.header.record_count {
            self.failed = true;
            return (!self.rest.is_empty()).then_some(Err(BatchError::Inconsistent(
                "bytes left over after the last record",
            )));
        }
        let record = self.read();
        self.next += 1;
        self.failed = record.is_err();
        Some(record)
    }
}

fn check_headers(mut body: &[u8]) -> Result<(), BatchError> {
    let count = length(varint(&mut body)?)?;
    if count > body.len() {
        return Err(BatchError::Inconsistent(
            "more record headers than the bytes can hold",
        ));
    }
    for _ in 0..count {
        let key_length = length(varint(&mut body)?)?;
        take(&mut body, key_length)?;
        nullable(&mut body)?;
    }
    if !body.is_empty() {
        return Err(BatchError::Inconsistent(
            "bytes left over after the record headers",
        ));
    }
    Ok(())
}

fn length(value: i32) -> Result<usize, BatchError> {
    usize::try_from(value).map_err(|_| BatchError::Inconsistent("negative length in a record"))
}

fn nullable<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BatchError> {
    let value = varint(bytes)?;
    if value == -1 {
        return Ok(None);
    }
    take(bytes, length(value)?).map(Some)
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], BatchError> {
    let (taken, rest) = bytes
        .split_at_checked(length)
        .ok_or(BatchError::Inconsistent(
            "a record reaches beyond its batch",
        ))?;
    *bytes = rest;
    Ok(taken)
}

fn varint(bytes: &mut &[u8]) -> Result<i32, BatchError> {
    let value = varlong(bytes)?;
    i32::try_from(value).map_err(|_| BatchError::Inconsistent("varint beyond 32 bits"))
}

/// Zigzag varint of up to 64 bits, as Protocol Buffers writes it.
fn varlong(bytes: &mut &[u8]) -> Result<i64, BatchError> {
    let mut raw = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *take(bytes, 1)?.first().unwrap_or(&0);
        raw |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            if shift == 63 && byte > 1 {
                break;
            }
            return Ok((raw >> 1).cast_signed() ^ -((raw & 1).cast_signed()));
        }
    }
    Err(BatchError::Inconsistent("varint of more than 64 bits"))
}
