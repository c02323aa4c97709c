//! Mutual TLS 1.3: who a certificate says that a peer is, and the settings that follow from it.
//!
//! A node's certificate names it in one URI, `rivven://<cluster>/node/<name>`, and serves for both roles.
//! A peer is trusted if its chain ends at a CA of our bundle *and* the URI names our cluster; the name
//! then has to be the one of the handshake. No host names: nodes may move.

mod bundle;
mod config;
mod identity;
mod issue;
mod reload;
mod validity;
mod verify;

pub use config::{TlsConfig, TlsFiles};
pub use identity::{CertificateIdentity, ClusterName};
pub use issue::{CertificateAuthority, IssuedCertificate};

pub(crate) use bundle::{ALPN, TlsBundle};
pub(crate) use reload::{Reloader, WATCH_INTERVAL};
