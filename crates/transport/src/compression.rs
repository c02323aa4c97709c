//! Bodies made shorter with zstd (RFC 8878).
//!
//! A compressed body is its plain length (u32, big-endian) and a zstd frame. Only what has been declared
//! is ever allocated, and no more than the lane allows.

#[cfg(feature = "compression")]
use std::cell::RefCell;

#[cfg(feature = "compression")]
use bytes::Buf as _;
use bytes::Bytes;

use crate::error::FrameError;

/// Shorter bodies are sent as they are.
pub const COMPRESS_FROM_BYTES: usize = 4 * 1024;
/// A plain body this many times as long as its compressed form is a bomb, not data.
pub const MAX_COMPRESSION_RATIO: usize = 1000;
/// The plain length before the zstd frame.
const PREFIX_BYTES: usize = 4;
/// zstd's fastest regular level: compression must not take longer than a fast network.
#[cfg(feature = "compression")]
const LEVEL: i32 = 1;

#[cfg(feature = "compression")]
thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The compressed form of `body`, if that saves an eighth or more.
#[cfg(feature = "compression")]
pub(crate) fn compress(body: &Bytes) -> Option<Bytes> {
    if body.len() < COMPRESS_FROM_BYTES {
        return None;
    }
    let length = u32::try_from(body.len()).ok()?;
    let most = body.len() - body.len() / 8;
    let mut out = vec![0; most];
    let (prefix, room) = out.split_at_mut_checked(PREFIX_BYTES)?;
    prefix.copy_from_slice(&length.to_be_bytes());
    let written = COMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = Some(zstd::bulk::Compressor::new(LEVEL).ok()?);
        }
        // Fails when the result does not fit into the room: then it is not worth it.
        kept.as_mut()?.compress_to_buffer(body, room).ok()
    })?;
    if body.len() > written.saturating_mul(MAX_COMPRESSION_RATIO) {
        // The peer would take it for a bomb.
        return None;
    }
    out.truncate(PREFIX_BYTES + written);
    Some(Bytes::from(out))
}

/// The plain length that a compressed body declares; checked before anything is allocated.
pub(crate) fn declared_length(body: &[u8], max: usize) -> Result<usize, FrameError> {
    let prefix = body.first_chunk::<PREFIX_BYTES>();
    let prefix = prefix.ok_or(FrameError::Compression("no length"))?;
    let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
    if length > max {
        return Err(FrameError::TooLong { length, max });
    }
    let compressed = body.len() - PREFIX_BYTES;
    if length > compressed.saturating_mul(MAX_COMPRESSION_RATIO) {
        return Err(FrameError::Compression("a bomb"));
    }
    Ok(length)
}

/// The plain form of a compressed body whose [`declared_length`] is `length`.
#[cfg(feature = "compression")]
pub(crate) fn decompress(mut body: Bytes, length: usize) -> Result<Bytes, FrameError> {
    const BROKEN: FrameError = FrameError::Compression("not what it declares");
    if body.len() < PREFIX_BYTES {
        return Err(BROKEN);
    }
    body.advance(PREFIX_BYTES);
    let plain = DECOMPRESSOR.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = zstd::bulk::Decompressor::new().ok();
        }
        // At most `length` bytes are allocated and written, whatever the zstd frame says.
        kept.as_mut()?.decompress(&body, length).ok()
    });
    match plain {
        Some(plain) if plain.len() == length => Ok(Bytes::from(plain)),
        Some(_) | None => Err(BROKEN),
    }
}

/// This build cannot read compressed bodies, and told the peer so.
#[cfg(not(feature = "compression"))]
pub(crate) fn decompress(_body: Bytes, _length: usize) -> Result<Bytes, FrameError> {
    Err(FrameError::Compression(
        "this build lacks the feature `compression`",
    ))
}

#[cfg(all(test, feature = "compression"))]
mod tests;
