//! A short byte string on the stack.

use rivven_core_types::limits::MAX_TOPIC_NAME_BYTES;

/// A topic's name, a separator and a partition.
const MAX_KEY_BYTES: usize = MAX_TOPIC_NAME_BYTES + 5;

/// Bytes to be hashed; what exceeds [`MAX_KEY_BYTES`] is left out, which no valid name does.
#[derive(Debug)]
pub(crate) struct SmallKey {
    bytes: [u8; MAX_KEY_BYTES],
    length: usize,
}

impl Default for SmallKey {
    fn default() -> Self {
        Self {
            bytes: [0; MAX_KEY_BYTES],
            length: 0,
        }
    }
}

impl SmallKey {
    #[inline]
    pub(crate) fn extend(&mut self, part: &[u8]) {
        let end = (self.length + part.len()).min(MAX_KEY_BYTES);
        let taken = end - self.length;
        self.bytes[self.length..end].copy_from_slice(&part[..taken]);
        self.length = end;
    }

    #[inline]
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
