//! The shared secret of a cluster.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use zeroize::Zeroizing;

use crate::error::TransportError;

/// Shortest shared secret, in bytes. Use 32 random bytes: whoever records one handshake can guess at
/// leisure, so a word that a person thought up is no secret.
pub const MIN_SECRET_BYTES: usize = 16;
/// Longest shared secret, in bytes.
pub const MAX_SECRET_BYTES: usize = 1024;

/// A shared secret, wiped from memory when dropped and never printed. Clones are one secret: see
/// [`Secret::replace`].
///
/// To rotate without downtime: give the nodes one by one the new secret as primary and the old one as
/// previous (each pair of nodes settles on a secret that both know), then once more the new one alone.
#[derive(Clone)]
pub struct Secret(Arc<RwLock<Arc<Held>>>);

/// What a [`Secret`] holds at a time.
pub(crate) struct Held {
    primary: Zeroizing<Vec<u8>>,
    previous: Option<Zeroizing<Vec<u8>>>,
}

impl Held {
    /// The secrets, the preferred one first.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &[u8]> {
        std::iter::once(self.primary.as_slice())
            .chain(self.previous.iter().map(|secret| secret.as_slice()))
    }
}

impl Secret {
    /// A secret of [`MIN_SECRET_BYTES`] to [`MAX_SECRET_BYTES`] bytes.
    pub fn new(primary: impl AsRef<[u8]>) -> Result<Self, TransportError> {
        Ok(Self::holding(checked(primary.as_ref())?, None))
    }

    /// Also accepts, and offers second, the secret that is being rotated out.
    pub fn with_previous(self, previous: impl AsRef<[u8]>) -> Result<Self, TransportError> {
        let primary = self.held().primary.clone();
        Ok(Self::holding(primary, Some(checked(previous.as_ref())?)))
    }

    fn holding(primary: Zeroizing<Vec<u8>>, previous: Option<Zeroizing<Vec<u8>>>) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(Held { primary, previous }))))
    }

    /// Holds from now on what `other` holds, in every clone: handshakes that begin from now on go by
    /// it. Connections that exist keep the keys that they agreed on.
    pub fn replace(&self, other: &Self) {
        let held = other.held();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = held;
    }

    pub(crate) fn held(&self) -> Arc<Held> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
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
        assert_eq!(secret.held().candidates().count(), 2);
    }

    #[test]
    fn a_replaced_secret_is_replaced_in_every_clone() {
        let secret = Secret::new("sixteen bytes!!!").unwrap();
        let clone = secret.clone();
        secret.replace(&Secret::new("another sixteen!").unwrap());
        let held = clone.held();
        let held: Vec<&[u8]> = held.candidates().collect();
        assert_eq!(held, [b"another sixteen!"]);
    }
}
