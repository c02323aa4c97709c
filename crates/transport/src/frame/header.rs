//! The frame header.
//!
//! Big-endian, 24 bytes: magic `0x5256` u16, version u8, type u8, kind u16, flags u16, message length
//! u32, body length u32, correlation id u32, remaining budget in milliseconds u32.

use crate::error::FrameError;

/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 24;

/// "RV".
const MAGIC: u16 = 0x5256;

/// Flag: a seal follows the body.
const FLAG_SEALED: u16 = 1;
/// Flag: the body is not in this frame but in the parts that follow; its length is that of the whole.
const FLAG_IN_PARTS: u16 = 2;
/// Flag: the body is compressed.
const FLAG_COMPRESSED: u16 = 4;
const KNOWN_FLAGS: u16 = FLAG_SEALED | FLAG_IN_PARTS | FLAG_COMPRESSED;

/// What a frame is. Numbers are part of the wire protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameType {
    /// A step of the handshake.
    Handshake,
    /// A call.
    Request,
    /// Its answer.
    Response,
    /// Its failure.
    Failure,
    /// The caller has given the call up.
    Cancel,
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// The next part of a body that was announced before.
    Part,
    /// No new calls here: those up to the correlation id will be answered (one whose body has not come in
    /// full with a failure), later ones were not run.
    GoAway,
}

impl FrameType {
    const fn number(self) -> u8 {
        match self {
            Self::Handshake => 0,
            Self::Request => 1,
            Self::Response => 2,
            Self::Failure => 3,
            Self::Cancel => 4,
            Self::Ping => 5,
            Self::Pong => 6,
            Self::Part => 7,
            Self::GoAway => 8,
        }
    }

    const fn from_number(number: u8) -> Result<Self, FrameError> {
        match number {
            0 => Ok(Self::Handshake),
            1 => Ok(Self::Request),
            2 => Ok(Self::Response),
            3 => Ok(Self::Failure),
            4 => Ok(Self::Cancel),
            5 => Ok(Self::Ping),
            6 => Ok(Self::Pong),
            7 => Ok(Self::Part),
            8 => Ok(Self::GoAway),
            other => Err(FrameError::Type(other)),
        }
    }
}

/// A decoded header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Protocol version of the connection; 0 during the handshake.
    pub version: u8,
    /// What the frame is.
    pub frame_type: FrameType,
    /// The method called (`RpcKind`), in a request.
    pub kind: u16,
    /// Whether a seal follows the body.
    pub sealed: bool,
    /// Whether the body follows in frames of type [`FrameType::Part`].
    pub in_parts: bool,
    /// Whether the body is compressed.
    pub compressed: bool,
    /// Length of the message part, in bytes.
    pub meta_len: u32,
    /// Length of the body, in bytes; of the whole body if it comes in parts.
    pub body_len: u32,
    /// Matches an answer to its request, and a part to its body; 0 = none.
    pub correlation: u32,
    /// Remaining budget when the frame was written, in milliseconds. A request with 0 is not run.
    pub budget_ms: u32,
}

impl FrameHeader {
    /// A header of no message, body, correlation or budget.
    pub const fn new(version: u8, frame_type: FrameType) -> Self {
        Self {
            version,
            frame_type,
            kind: 0,
            sealed: false,
            in_parts: false,
            compressed: false,
            meta_len: 0,
            body_len: 0,
            correlation: 0,
            budget_ms: 0,
        }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..2].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[2] = self.version;
        bytes[3] = self.frame_type.number();
        bytes[4..6].copy_from_slice(&self.kind.to_be_bytes());
        let flag = |set: bool, flag: u16| if set { flag } else { 0 };
        let flags = flag(self.sealed, FLAG_SEALED)
            | flag(self.in_parts, FLAG_IN_PARTS)
            | flag(self.compressed, FLAG_COMPRESSED);
        bytes[6..8].copy_from_slice(&flags.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.meta_len.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.body_len.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.correlation.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.budget_ms.to_be_bytes());
        bytes
    }

    /// Reads a header; checks the magic number, the type and the flags.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let magic = u16_at(0);
        if magic != MAGIC {
            return Err(FrameError::Magic(magic));
        }
        let flags = u16_at(6);
        let frame_type = FrameType::from_number(bytes[3])?;
        let has_body_of_its_own = matches!(frame_type, FrameType::Request | FrameType::Response);
        let about_bodies = FLAG_IN_PARTS | FLAG_COMPRESSED;
        if flags & !KNOWN_FLAGS != 0 || (flags & about_bodies != 0 && !has_body_of_its_own) {
            return Err(FrameError::Flags(flags));
        }
        Ok(Self {
            version: bytes[2],
            frame_type,
            kind: u16_at(4),
            sealed: flags & FLAG_SEALED != 0,
            in_parts: flags & FLAG_IN_PARTS != 0,
            compressed: flags & FLAG_COMPRESSED != 0,
            meta_len: u32_at(8),
            body_len: u32_at(12),
            correlation: u32_at(16),
            budget_ms: u32_at(20),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_fixed() {
        let header = FrameHeader {
            version: 1,
            frame_type: FrameType::Request,
            kind: 0x0102,
            sealed: true,
            in_parts: true,
            compressed: true,
            meta_len: 3,
            body_len: 4,
            correlation: 5,
            budget_ms: 6,
        };
        assert_eq!(
            header.encode(),
            [
                0x52, 0x56, 1, 1, 1, 2, 0, 7, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6
            ]
        );
    }

    #[test]
    fn unknown_types_flags_and_magic_are_named() {
        let good = FrameHeader::new(1, FrameType::Ping).encode();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            FrameHeader::decode(&bytes)
        };
        assert_eq!(with(0, 0), Err(FrameError::Magic(0x0056)));
        assert_eq!(with(3, 9), Err(FrameError::Type(9)));
        assert_eq!(with(7, 8), Err(FrameError::Flags(8)));
        // A ping has no body that could come in parts or be compressed.
        assert_eq!(with(7, 2), Err(FrameError::Flags(2)));
        assert_eq!(with(7, 4), Err(FrameError::Flags(4)));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(bytes in any::<[u8; HEADER_BYTES]>(), known in any::<bool>()) {
            let mut bytes = bytes;
            if known {
                bytes[0..2].copy_from_slice(&MAGIC.to_be_bytes());
                bytes[3] %= 9;
                bytes[6] = 0;
                bytes[7] %= if matches!(bytes[3], 1 | 2) { 8 } else { 2 };
            }
            match FrameHeader::decode(&bytes) {
                Ok(header) => prop_assert_eq!(header.encode(), bytes),
                Err(_) => prop_assert!(!known),
            }
        }
    }
}
