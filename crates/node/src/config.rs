//! The configuration file: reading, checking, and turning it into the options of the parts.
//!
//! Every complaint names the file, the line and the key, and says what would be right.

mod error;
mod model;
mod secret_file;
mod security;
mod transport;
mod validate;

pub use error::ConfigError;
pub use secret_file::SecretFiles;
pub use transport::QuicOptions;
pub use validate::{AdminOptions, NodeOptions};

pub(crate) use secret_file::Secrets;

use std::path::Path;

/// Longest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Reads and validates the file at `path`. Touches nothing else: no socket, no data directory.
pub fn load(path: &Path) -> Result<NodeOptions, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_FILE_BYTES {
        return Err(ConfigError::TooLong {
            path: path.to_owned(),
            length,
            max: MAX_FILE_BYTES,
        });
    }
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    parse(&text, path)
}

/// Validates the text of a configuration file; `path` is named in errors and is the base of the
/// relative paths in it.
pub fn parse(text: &str, path: &Path) -> Result<NodeOptions, ConfigError> {
    let file: model::File = serde_saphyr::from_str(text).map_err(|e| ConfigError::Malformed {
        path: path.to_owned(),
        reason: e.to_string(),
    })?;
    validate::validate(file, path)
}

#[cfg(test)]
mod tests;
