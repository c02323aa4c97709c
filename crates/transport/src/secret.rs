//! The shared secret of a cluster.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::TransportError;

/// Shortest shared secret, in bytes. Use 32 random bytes: whoever records one handshake can guess at
/// leisure, so a word that a person thought up is no secret.
pub const MIN_SECRET_BYTES: usize = 16;
/// Longest shared secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 1024;

/// A shared secret, wiped from memory when dropped and never printed.
///
/// To rotate without downtime: restart the nodes one by one with the new secret as primary and the
/// old one as previous (each pair of nodes settles on a secret that both know), then once more
/// without the previous one.
#[derive(Clone)]
pub struct Secret {
    primary: Zeroizing<Vec<u8>>,
    previous: Option<Zeroizing<Vec<u8>>>,
}

impl Secret {
    /// A secret of [`MIN_SECRET_BYTES`] to [`MAX_SECRET_BYTES`] bytes.
    pub fn new(primary: impl AsRef<[u8]>) -> Result<Self, TransportError> {
        Ok(Self {
            primary: checked(primary.as_ref())?,
            previous: None,
        })
    }

    /// Also accepts, and offers second, the secret that is being rotated out.
    pub fn with_previous(mut self, previous: impl AsRef<[u8]>) -> Result<Self, TransportError> {
        self.previous = Some(checked(previous.as_ref())?);
        Ok(self)
    }

    /// The secrets, the preferred one first.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.primary.as_slice())
            .chain(self.previous.iter().map(|secret| secret.as_slice()))
    }
}

fn checked(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
    if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes.len()) {
        return Err(TransportError::SecretLength {
            length: bytes.len(),
            min: MIN_SECRET_BYTES,
            max: MAX_SECRET_BYTES,
        });
    }
    Ok(Zeroizing::new(bytes.to_vec()))
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_a_least_length_and_is_never_printed() {
        assert!(Secret::new("fifteen bytes!!").is_err());
        assert!(Secret::new(vec![7u8; MAX_SECRET_BYTES + 1]).is_err());
        let secret = Secret::new("sixteen bytes!!!")
            .unwrap()
            .with_previous("another sixteen!")
            .unwrap();
        let shown = format!("{secret:?}");
        assert!(
            !shown.contains("sixteen") && !shown.contains("115"),
            "{shown}"
        );
        assert_eq!(secret.candidates().count(), 2);
    }
}
