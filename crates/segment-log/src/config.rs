//! Settings of the store, and why it could not be opened.

use rivven_core_types::{HEADER_BYTES, LogError};

/// Greatest allowed segment size, in bytes.
const MAX_SEGMENT_BYTES: u64 = 16 << 30;
/// Greatest allowed distance between index entries, in bytes.
const MAX_INDEX_INTERVAL_BYTES: u64 = 64 << 20;
/// Least and greatest allowed number of open files.
const MIN_OPEN_FILES: u64 = 2;
const MAX_OPEN_FILES: u64 = 1 << 20;

/// Settings of a [`crate::SegmentLogStore`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentLogConfig {
    /// A segment is closed before it would grow beyond this, in bytes. A longer batch gets a segment
    /// of its own. Default 256 MiB.
    pub segment_bytes: u64,
    /// One entry of the sparse in-memory index per so many bytes. Smaller costs memory (24 bytes per
    /// entry), larger costs read time. Default 64 KiB.
    pub index_interval_bytes: u64,
    /// Most files that stay open, of all logs together; the one not used for longest is closed. A file
    /// with writes that are not synced stays open above it. Default 512.
    pub max_open_files: usize,
}

impl Default for SegmentLogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 256 << 20,
            index_interval_bytes: 64 << 10,
            max_open_files: 512,
        }
    }
}

impl SegmentLogConfig {
    /// Checks that all values are in range.
    pub fn validate(&self) -> Result<(), SegmentLogError> {
        let check = |field, value, min, max| {
            if (min..=max).contains(&value) {
                return Ok(());
            }
            Err(SegmentLogError::InvalidConfig {
                field,
                value,
                min,
                max,
            })
        };
        check(
            "segment_bytes",
            self.segment_bytes,
            HEADER_BYTES as u64,
            MAX_SEGMENT_BYTES,
        )?;
        check(
            "index_interval_bytes",
            self.index_interval_bytes,
            1,
            MAX_INDEX_INTERVAL_BYTES,
        )?;
        check(
            "max_open_files",
            self.max_open_files as u64,
            MIN_OPEN_FILES,
            MAX_OPEN_FILES,
        )
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentLogError {
    /// A setting is out of range. Nothing changed; retrying cannot help.
    #[error("{field} is {value}; it must lie in {min}..={max}")]
    InvalidConfig {
        /// Which setting.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Least value allowed.
        min: u64,
        /// Greatest value allowed.
        max: u64,
    },
    /// The directory could not be prepared.
    #[error(transparent)]
    Log(#[from] LogError),
}
