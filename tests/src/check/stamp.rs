//! What a record says about itself, so that a reader knows who wrote it, and that it is whole.

/// Who wrote a record and which of its records it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The producer.
    pub producer: u32,
    /// The place among all records of that producer, from 0, in the order of sending.
    pub number: u32,
}

/// Why a value is no stamp: it is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StampError {
    /// It has not the parts of a stamp.
    #[error("no stamp: {0:?}")]
    Malformed(String),
    /// Its checksum is wrong.
    #[error("the checksum is {found:08x}, not {expected:08x}")]
    Checksum {
        /// What the bytes give.
        expected: u32,
        /// What they say.
        found: u32,
    },
}

/// Longest part of a value that is put into an error, in bytes.
const SHOWN_BYTES: usize = 48;

impl Stamp {
    /// A value of about `bytes` bytes that carries the stamp, and a CRC-32C of everything before it.
    pub fn encode(self, bytes: usize) -> String {
        let mut value = format!("{}:{}:", self.producer, self.number);
        // Filling that differs from record to record: bytes of another record do not pass for it.
        let letters = b"abcdefghijklmnopqrstuvwxyz";
        let mut at = usize::try_from(self.number).unwrap_or(0);
        while value.len() + 9 < bytes {
            value.push(char::from(letters[at % letters.len()]));
            at += 1;
        }
        let sum = crc32c::crc32c(value.as_bytes());
        format!("{value}:{sum:08x}")
    }

    /// The stamp of a value.
    pub fn decode(value: &[u8]) -> Result<Self, StampError> {
        let malformed = || {
            let shown = value.get(..SHOWN_BYTES).unwrap_or(value);
            StampError::Malformed(String::from_utf8_lossy(shown).into_owned())
        };
        let text = std::str::from_utf8(value).map_err(|_| malformed())?;
        let (body, sum) = text.rsplit_once(':').ok_or_else(malformed)?;
        let found = u32::from_str_radix(sum, 16).map_err(|_| malformed())?;
        let expected = crc32c::crc32c(body.as_bytes());
        if found != expected {
            return Err(StampError::Checksum { expected, found });
        }
        let mut parts = body.splitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse().ok());
        let (producer, number) = (number(), number());
        match (producer, number) {
            (Some(producer), Some(number)) => Ok(Self { producer, number }),
            _ => Err(malformed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_back_and_a_damaged_one_is_not() {
        let stamp = Stamp {
            producer: 7,
            number: 1_000_000,
        };
        for bytes in [0, 30, 100, 1_000] {
            let value = stamp.encode(bytes);
            assert!(value.len() >= bytes.min(30));
            assert_eq!(Stamp::decode(value.as_bytes()), Ok(stamp));
            for at in 0..value.len() {
                let mut torn = value.clone().into_bytes();
                torn[at] ^= 1;
                assert_ne!(Stamp::decode(&torn), Ok(stamp), "at {at}");
                assert!(Stamp::decode(&value.as_bytes()[..at]).is_err(), "to {at}");
            }
        }
    }
}
