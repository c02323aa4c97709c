//! A bounded reader of Kafka's primitive types, for requests.
//!
//! Nothing is allocated for a count before the bytes that it promises are seen to be there: an array
//! must fit into the rest of its frame, its own maximum, and the item budget of the whole request.

use bytes::{Buf, Bytes};
use kafka_protocol::protocol::StrBytes;

/// Most array items in one request, all its arrays together: bounds the memory that decoding a
/// frame can take, whatever its counts say.
pub(crate) const MAX_ITEMS_PER_REQUEST: usize = 200_000;
/// Most tagged fields in one structure. Clients send none or one.
pub(crate) const MAX_TAGGED_FIELDS: usize = 64;

/// Why a request cannot be read. The connection is closed; nothing else changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("{what} needs {needed} bytes, but {remaining} are left in the frame")]
    Truncated {
        what: &'static str,
        needed: usize,
        remaining: usize,
    },
    #[error("{what} has {count} items; at most {max} are allowed")]
    TooMany {
        what: &'static str,
        count: usize,
        max: usize,
    },
    #[error("{what} has the length {length}")]
    BadLength { what: &'static str, length: i64 },
    #[error("{what} must not be null")]
    Null { what: &'static str },
    #[error("{what} is not UTF-8")]
    NotUtf8 { what: &'static str },
    #[error("{what} is a varint beyond 32 bits")]
    BadVarint { what: &'static str },
    #[error("tagged field {tag} has {size} bytes, of which {unread} were not read")]
    BadTag {
        tag: u32,
        size: usize,
        unread: usize,
    },
    #[error("{0} bytes are left over after the request")]
    Trailing(usize),
}

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads one request's bytes from front to back. Strings and records are slices of the frame.
#[derive(Debug)]
pub(crate) struct Reader {
    bytes: Bytes,
    flexible: bool,
    items_left: usize,
    client_id: Option<StrBytes>,
}

impl Reader {
    /// Over `bytes`; `flexible` chooses compact lengths and tagged fields (KIP-482).
    pub(crate) const fn new(bytes: Bytes, flexible: bool) -> Self {
        Self {
            bytes,
            flexible,
            items_left: MAX_ITEMS_PER_REQUEST,
            client_id: None,
        }
    }

    pub(crate) fn set_client_id(&mut self, client_id: Option<StrBytes>) {
        self.client_id = client_id;
    }

    /// The client id of the request's header.
    pub(crate) const fn client_id(&self) -> Option<&StrBytes> {
        self.client_id.as_ref()
    }

    pub(crate) fn set_flexible(&mut self, flexible: bool) {
        self.flexible = flexible;
    }

    fn need(&self, what: &'static str, needed: usize) -> Result<()> {
        let remaining = self.bytes.len();
        if needed > remaining {
            return Err(DecodeError::Truncated {
                what,
                needed,
                remaining,
            });
        }
        Ok(())
    }

    fn take(&mut self, what: &'static str, length: usize) -> Result<Bytes> {
        self.need(what, length)?;
        Ok(self.bytes.split_to(length))
    }

    pub(crate) fn i8(&mut self, what: &'static str) -> Result<i8> {
        self.need(what, 1)?;
        Ok(self.bytes.get_i8())
    }

    pub(crate) fn i16(&mut self, what: &'static str) -> Result<i16> {
        self.need(what, 2)?;
        Ok(self.bytes.get_i16())
    }

    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32> {
        self.need(what, 4)?;
        Ok(self.bytes.get_i32())
    }

    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64> {
        self.need(what, 8)?;
        Ok(self.bytes.get_i64())
    }

    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool> {
        Ok(self.i8(what)? != 0)
    }

    pub(crate) fn uuid(&mut self, what: &'static str) -> Result<[u8; 16]> {
        self.need(what, 16)?;
        let mut id = [0u8; 16];
        self.bytes.copy_to_slice(&mut id);
        Ok(id)
    }

    fn varint(&mut self, what: &'static str) -> Result<u32> {
        let mut value = 0u32;
        for shift in [0u32, 7, 14, 21, 28] {
            self.need(what, 1)?;
            let byte = self.bytes.get_u8();
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::BadVarint { what })
    }

    /// A length by the encoding in force: `None` is null. `wide` is the old encoding of arrays and
    /// bytes (four bytes), otherwise that of strings (two bytes).
    fn length(&mut self, what: &'static str, wide: bool) -> Result<Option<usize>> {
        let length = if self.flexible {
            i64::from(self.varint(what)?) - 1
        } else if wide {
            i64::from(self.i32(what)?)
        } else {
            i64::from(self.i16(what)?)
        };
        if length == -1 {
            return Ok(None);
        }
        let length =
            usize::try_from(length).map_err(|_| DecodeError::BadLength { what, length })?;
        // Every item takes one byte at least, so this holds for arrays as well.
        self.need(what, length)?;
        Ok(Some(length))
    }

    pub(crate) fn nullable_string(&mut self, what: &'static str) -> Result<Option<StrBytes>> {
        let Some(length) = self.length(what, false)? else {
            return Ok(None);
        };
        let bytes = self.take(what, length)?;
        StrBytes::from_utf8(bytes)
            .map(Some)
            .map_err(|_| DecodeError::NotUtf8 { what })
    }

    pub(crate) fn string(&mut self, what: &'static str) -> Result<StrBytes> {
        self.nullable_string(what)?
            .ok_or(DecodeError::Null { what })
    }

    pub(crate) fn nullable_bytes(&mut self, what: &'static str) -> Result<Option<Bytes>> {
        let Some(length) = self.length(what, true)? else {
            return Ok(None);
        };
        self.take(what, length).map(Some)
    }

    /// An array whose items take `item_bytes` at least, with `max` items at most.
    pub(crate) fn nullable_array<T>(
        &mut self,
        what: &'static str,
        max: usize,
        item_bytes: usize,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(count) = self.length(what, true)? else {
            return Ok(None);
        };
        let max = max.min(self.items_left);
        if count > max {
            return Err(DecodeError::TooMany { what, count, max });
        }
        self.need(what, count.saturating_mul(item_bytes))?;
        self.items_left -= count;
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(Some(items))
    }

    /// As [`Reader::nullable_array`]; null is an error.
    pub(crate) fn array<T>(
        &mut self,
        what: &'static str,
        max: usize,
        item_bytes: usize,
        item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.nullable_array(what, max, item_bytes, item)?
            .ok_or(DecodeError::Null { what })
    }

    /// Reads past a structure's tagged fields; in versions that have none it reads nothing.
    pub(crate) fn skip_tags(&mut self) -> Result<()> {
        self.tags(|_, _| Ok(false))
    }

    /// Reads a structure's tagged fields. `field` is given each tag with a reader over its bytes,
    /// and answers whether it knows the tag; it must then read all of them.
    pub(crate) fn tags(
        &mut self,
        mut field: impl FnMut(u32, &mut Self) -> Result<bool>,
    ) -> Result<()> {
        if !self.flexible {
            return Ok(());
        }
        let what = "tagged fields";
        let count = usize::try_from(self.varint(what)?).unwrap_or(usize::MAX);
        if count > MAX_TAGGED_FIELDS {
            return Err(DecodeError::TooMany {
                what,
                count,
                max: MAX_TAGGED_FIELDS,
            });
        }
        for _ in 0..count {
            let tag = self.varint(what)?;
            let size = usize::try_from(self.varint(what)?).unwrap_or(usize::MAX);
            let mut inner = Self {
                bytes: self.take(what, size)?,
                flexible: true,
                items_left: self.items_left,
                client_id: None,
            };
            if field(tag, &mut inner)? && !inner.bytes.is_empty() {
                let unread = inner.bytes.len();
                return Err(DecodeError::BadTag { tag, size, unread });
            }
            self.items_left = inner.items_left;
        }
        Ok(())
    }

    /// Refuses trailing bytes: a request that is longer than we understand was misread.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(DecodeError::Trailing(self.bytes.len()))
    }
}
