//! What can be wrong with a configuration.

use std::path::PathBuf;

/// Why a configuration was refused. Nothing was started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is absurdly long.
    #[error("the configuration {} is {length} bytes; at most {max} are allowed", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Not YAML, or a key that does not exist, or a value of the wrong type. The reason holds the
    /// line, the column and an excerpt.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A value that makes no sense.
    #[error("{}:{line}:{column}: {key}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: u64,
        /// Column, from 1.
        column: u64,
        /// The key, dotted from the root.
        key: &'static str,
        /// What is wrong and what would be right.
        reason: String,
    },
    /// A key that must be there is not.
    #[error("{}: {key} is missing: {reason}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key, dotted from the root.
        key: &'static str,
        /// What to write.
        reason: String,
    },
}
