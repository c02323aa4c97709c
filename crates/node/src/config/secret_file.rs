//! Files with secrets, which may be replaced while the node runs.

use std::fmt;
use std::path::{Path, PathBuf};

use rivven_cluster::swim::{SharedSecret, SwimError};
use rivven_cluster::transport::{Secret, TransportError};
use zeroize::Zeroizing;

/// Longest secret file, in bytes.
const MAX_SECRET_FILE_BYTES: u64 = 1024;

/// The files that the configuration names, and what they held when it was read.
#[derive(Debug, Clone)]
pub struct SecretFiles {
    /// The secret that is preferred.
    pub(crate) primary: PathBuf,
    /// The one that is being rotated out (or in); an empty file holds none.
    pub(crate) previous: Option<PathBuf>,
    /// What they held.
    pub(crate) held: Secrets,
}

/// What secret files hold. Never printed; wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secrets {
    pub(super) primary: Zeroizing<Vec<u8>>,
    pub(super) previous: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(redacted)")
    }
}

impl SecretFiles {
    /// Reads the files again.
    ///
    /// # Errors
    /// Says which file, and what is wrong with it.
    pub(crate) fn read(&self) -> Result<Secrets, String> {
        let previous = match &self.previous {
            Some(path) => Some(read(path)?).filter(|secret| !secret.is_empty()),
            None => None,
        };
        let primary = read(&self.primary)?;
        Ok(Secrets { primary, previous })
    }
}

impl Secrets {
    /// As the transport takes them.
    pub(crate) fn transport(&self) -> Result<Secret, TransportError> {
        let secret = Secret::new(&self.primary)?;
        match &self.previous {
            Some(previous) => secret.with_previous(previous),
            None => Ok(secret),
        }
    }

    /// As the failure detector takes them.
    pub(crate) fn swim(&self) -> Result<SharedSecret, SwimError> {
        let secret = SharedSecret::new(self.primary.to_vec())?;
        match &self.previous {
            Some(previous) => secret.with_previous(previous.to_vec()),
            None => Ok(secret),
        }
    }
}

/// Reads a secret file; line ends at its end are not part of the secret.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let unreadable = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > MAX_SECRET_FILE_BYTES {
        let path = path.display();
        return Err(format!(
            "{path} has more than {MAX_SECRET_FILE_BYTES} bytes"
        ));
    }
    let mut bytes = Zeroizing::new(std::fs::read(path).map_err(unreadable)?);
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    Ok(bytes)
}
