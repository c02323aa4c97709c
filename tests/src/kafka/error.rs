//! Why a call to a broker failed.

use kafka_protocol::error::ResponseError;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The connection could not be made, broke, or gave no answer in time. The request may have been
    /// carried out.
    #[error("{0}")]
    Connection(String),
    /// The broker's answer cannot be understood.
    #[error("an answer that cannot be understood: {0}")]
    Malformed(String),
    /// The broker answered with an error code.
    #[error("{what}: {}", describe(*.code))]
    Answered {
        /// What was asked.
        what: String,
        /// The code.
        code: i16,
    },
}

impl ClientError {
    /// Whether the same request may succeed later.
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Connection(_) => true,
            Self::Malformed(_) => false,
            Self::Answered { code, .. } => {
                ResponseError::try_from_code(*code).is_some_and(|error| error.is_retriable())
            }
        }
    }

    /// An error for any code but 0.
    pub(super) fn check(code: i16, what: impl FnOnce() -> String) -> Result<(), Self> {
        if code == 0 {
            Ok(())
        } else {
            Err(Self::Answered { what: what(), code })
        }
    }

    pub(super) fn malformed(error: impl std::fmt::Display) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> Self {
        Self::Connection(error.to_string())
    }
}

/// A code with its name.
pub fn describe(code: i16) -> String {
    match ResponseError::try_from_code(code) {
        Some(error) => format!("{error:?} ({code})"),
        None => format!("no error ({code})"),
    }
}
