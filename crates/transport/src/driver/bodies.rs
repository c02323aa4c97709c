//! Bodies on their way out and in: compressed and plain again.

use bytes::Bytes;
use rivven_core_types::Lane;

use super::lifecycle::Shared;
use super::memory::{Held, Memory};
use crate::compression::{declared_length, decompress};
use crate::config::Compression;
use crate::error::FrameError;
use crate::frame::Frame;
use crate::handshake::Abilities;

/// Longer bodies are compressed and read on a thread that may be kept busy: it takes a millisecond.
const OFF_THE_REACTOR_BYTES: usize = 256 * 1024;

impl Shared {
    /// Whether bodies on this lane are compressed for a peer.
    pub(super) fn compresses(&self, lane: Lane, peer: Abilities) -> bool {
        self.config.compression != Compression::None && lane != Lane::Control && peer.reads_zstd()
    }
}

/// Whether a body is worth the work of [`outgoing_body`].
pub(super) const fn is_compressed_first(body: &Bytes, compress: bool) -> bool {
    #[cfg(feature = "compression")]
    return compress && body.len() >= crate::compression::COMPRESS_FROM_BYTES;
    #[cfg(not(feature = "compression"))]
    {
        let _never = (body, compress);
        false
    }
}

/// A body as it is sent, and whether it is compressed.
pub(super) async fn outgoing_body(body: Bytes, compress: bool) -> (Bytes, bool) {
    #[cfg(feature = "compression")]
    if compress && body.len() >= crate::compression::COMPRESS_FROM_BYTES {
        let plain = body.clone();
        let short = if body.len() > OFF_THE_REACTOR_BYTES {
            let compressing =
                tokio::task::spawn_blocking(move || crate::compression::compress(&plain));
            compressing.await.unwrap_or_default()
        } else {
            crate::compression::compress(&plain)
        };
        return short.map_or((body, false), |short| (short, true));
    }
    #[cfg(not(feature = "compression"))]
    let _never = compress;
    (body, false)
}

/// What became of a received body.
pub(super) enum Received {
    /// It is plain, with the memory that it needs beyond what was held for it already.
    Plain(Frame, Option<Held>),
    /// There is no memory for its plain form.
    NoMemory(Frame),
}

/// The plain form of a received frame, of at most `max` bytes.
pub(super) async fn received_body(
    frame: Frame,
    memory: &Memory,
    max: usize,
) -> Result<Received, FrameError> {
    if !frame.header.compressed {
        return Ok(Received::Plain(frame, None));
    }
    let length = declared_length(&frame.body, max)?;
    let Some(held) = memory.try_hold(length) else {
        return Ok(Received::NoMemory(frame));
    };
    let Frame {
        mut header,
        meta,
        body,
    } = frame;
    header.compressed = false;
    let body = if length > OFF_THE_REACTOR_BYTES {
        let plain = tokio::task::spawn_blocking(move || decompress(body, length));
        plain
            .await
            .unwrap_or(Err(FrameError::Compression("failed")))?
    } else {
        decompress(body, length)?
    };
    Ok(Received::Plain(Frame { header, meta, body }, Some(held)))
}
