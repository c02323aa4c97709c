//! The envelope of every message and of every small persistent record: one version byte, then
//! postcard.
//!
//! Postcard is positional: fields and enum variants are only ever added at the end, and a change
//! that is not an addition raises the version. Trailing bytes are an error, so that a message of a
//! later version is never silently cut short.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes could not be encoded or decoded. Nothing changed; retrying cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than the caller allows.
    #[error("{length} bytes exceed the limit of {max}")]
    TooLong {
        /// Length found, in bytes.
        length: usize,
        /// Greatest length allowed, in bytes.
        max: usize,
    },
    /// No version byte.
    #[error("empty message")]
    Empty,
    /// Another version than this build understands.
    #[error("version {found} is not supported; this build reads version {supported}")]
    Version {
        /// The version found.
        found: u8,
        /// The version understood.
        supported: u8,
    },
    /// Not a valid message.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Bytes are left after the message.
    #[error("{0} bytes left over after the message")]
    TrailingBytes(usize),
}

/// Encodes `value` under `version`, in at most `max` bytes.
pub fn encode<T: Serialize>(version: u8, value: &T, max: usize) -> Result<Bytes, WireError> {
    let bytes = postcard::to_extend(value, vec![version])
        .map_err(|e| WireError::Malformed(e.to_string()))?;
    if bytes.len() > max {
        return Err(WireError::TooLong {
            length: bytes.len(),
            max,
        });
    }
    Ok(Bytes::from(bytes))
}

/// Writes the encoding of `value` under `version` to `sink`, without holding it in memory.
pub fn encode_into<T: Serialize, S: Extend<u8>>(
    version: u8,
    value: &T,
    mut sink: S,
) -> Result<S, WireError> {
    sink.extend([version]);
    postcard::to_extend(value, sink).map_err(|e| WireError::Malformed(e.to_string()))
}

/// Decodes a message of `version` from at most `max` bytes. The length of every collection is
/// bounded by the bytes that are there, since postcard reserves at most what is left.
pub fn decode<T: DeserializeOwned>(version: u8, bytes: &[u8], max: usize) -> Result<T, WireError> {
    if bytes.len() > max {
        return Err(WireError::TooLong {
            length: bytes.len(),
            max,
        });
    }
    let (found, rest) = bytes.split_first().ok_or(WireError::Empty)?;
    if *found != version {
        return Err(WireError::Version {
            found: *found,
            supported: version,
        });
    }
    let (value, left) =
        postcard::take_from_bytes(rest).map_err(|e| WireError::Malformed(e.to_string()))?;
    if !left.is_empty() {
        return Err(WireError::TrailingBytes(left.len()));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_lie_about_the_envelope_is_named() {
        let bytes = encode(3, &(7u32, "abc"), 100).unwrap();
        assert_eq!(
            decode::<(u32, String)>(3, &bytes, 100),
            Ok((7, "abc".to_owned()))
        );
        assert_eq!(
            decode::<(u32, String)>(4, &bytes, 100),
            Err(WireError::Version {
                found: 3,
                supported: 4
            })
        );
        assert_eq!(
            decode::<u32>(3, &bytes, 100),
            Err(WireError::TrailingBytes(4))
        );
        assert_eq!(decode::<u32>(3, &[], 100), Err(WireError::Empty));
        assert_eq!(
            decode::<u32>(3, &bytes, 2),
            Err(WireError::TooLong { length: 6, max: 2 })
        );
        assert!(matches!(
            encode(3, &vec![0u8; 64], 10),
            Err(WireError::TooLong { .. })
        ));
    }

    #[test]
    fn a_huge_claimed_length_allocates_nothing() {
        // A vector of 2^60 items, with no item behind it.
        let lie = [1, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
        assert!(matches!(
            decode::<Vec<u64>>(1, &lie, 100),
            Err(WireError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = decode::<(u8, Vec<String>, Option<Vec<u64>>)>(1, &bytes, 200);
        }
    }
}
