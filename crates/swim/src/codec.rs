//! Bytes in and out: bounds are checked before anything is taken or allocated.

use crate::event::DropReason;

/// Longest variable-length number, in bytes.
const MAX_VARINT_BYTES: u32 = 10;

/// Takes pieces off the front of received bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], DropReason> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DropReason::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DropReason> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DropReason::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DropReason> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DropReason> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DropReason> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DropReason> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number in groups of seven bits, the lowest first. Only its shortest form is taken, so that
    /// what decodes encodes to the same bytes.
    pub(crate) fn varint(&mut self) -> Result<u64, DropReason> {
        let mut value = 0u64;
        for group in 0..MAX_VARINT_BYTES {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * group);
            if shifted >> (7 * group) != bits || (byte == 0 && group > 0) {
                return Err(DropReason::Malformed);
            }
            value |= shifted;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DropReason::Malformed)
    }

    /// A number that must fit 32 bits.
    pub(crate) fn varint32(&mut self) -> Result<u32, DropReason> {
        u32::try_from(self.varint()?).map_err(|_| DropReason::Malformed)
    }

    /// Text of at most 255 bytes, preceded by its length.
    pub(crate) fn text(&mut self) -> Result<&'a str, DropReason> {
        let length = usize::from(self.u8()?);
        std::str::from_utf8(self.take(length)?).map_err(|_| DropReason::Malformed)
    }
}

/// Appends a number in groups of seven bits, the lowest first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let group = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(group);
            return;
        }
        out.push(group | 0x80);
    }
}

/// Appends text of at most 255 bytes; names and hosts are bounded below that. Longer text is cut at
/// nothing: it is replaced by the empty one, which no decoder takes for a name.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len());
    out.push(length.unwrap_or(0));
    if length.is_ok() {
        out.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_varint_comes_back_and_has_one_form(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            prop_assert!(bytes.len() <= MAX_VARINT_BYTES as usize);
            let mut reader = Reader(&bytes);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert!(reader.is_empty());
        }

        #[test]
        fn what_decodes_as_a_varint_encodes_to_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            let mut reader = Reader(&bytes);
            if let Ok(value) = reader.varint() {
                let mut again = Vec::new();
                put_varint(&mut again, value);
                prop_assert_eq!(&again[..], &bytes[..bytes.len() - reader.0.len()]);
            }
        }
    }
}
