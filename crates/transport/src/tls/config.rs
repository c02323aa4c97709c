//! Where a node's certificates come from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rivven_core_types::NodeName;

use super::issue::CertificateAuthority;
use crate::error::TransportError;

/// The files of a node's identity. They are read at the start and again whenever they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The CAs that are trusted, PEM. While a CA is being replaced: the old one and the new one.
    pub ca: PathBuf,
    /// The node's certificate and any intermediate ones, PEM, leaf first.
    pub certificate: PathBuf,
    /// Its private key, PEM; readable by its owner alone.
    pub key: PathBuf,
    /// Peers that are no longer trusted although their certificates are still valid: one a line, a node
    /// name or the SHA-256 of a certificate in hexadecimal.
    pub denied: Option<PathBuf>,
}

/// A node's side of mutual TLS.
#[derive(Clone)]
pub struct TlsConfig(pub(super) Source);

#[derive(Clone)]
pub(super) enum Source {
    Files(TlsFiles),
    Ephemeral {
        authority: Arc<CertificateAuthority>,
        node: Option<NodeName>,
    },
}

impl TlsConfig {
    /// The identity in files.
    pub const fn files(files: TlsFiles) -> Self {
        Self(Source::Files(files))
    }

    /// An identity for one process: makes a CA that exists in memory alone, and has it sign a certificate
    /// for each transport that is made from this value or a clone of it. They trust each other and nobody
    /// else; every other certificate, one from another `self_signed` included, is refused as untrusted.
    /// Between processes use [`TlsConfig::files`].
    ///
    /// Fails if `cluster` is no cluster name.
    pub fn self_signed(cluster: &str) -> Result<Self, TransportError> {
        let cluster = cluster.parse().map_err(TransportError::Certificate)?;
        let authority = CertificateAuthority::create(cluster, EPHEMERAL_DAYS)?;
        Ok(Self(Source::Ephemeral {
            authority: Arc::new(authority),
            node: None,
        }))
    }

    /// The same, for the node of this name. Files name their node themselves; there it changes nothing.
    pub fn for_node(mut self, name: NodeName) -> Self {
        if let Source::Ephemeral { node, .. } = &mut self.0 {
            *node = Some(name);
        }
        self
    }

    /// Reads everything and checks that `node` could use it now; changes nothing.
    pub fn check(&self, node: &NodeName) -> Result<(), TransportError> {
        super::bundle::TlsBundle::load(self, node).map(drop)
    }

    /// The node that it is known to be for.
    #[cfg(feature = "quic")]
    pub(crate) fn node(&self) -> Result<Option<NodeName>, TransportError> {
        match &self.0 {
            Source::Files(files) => super::bundle::node_of(files).map(Some),
            Source::Ephemeral { node, .. } => Ok(node.clone()),
        }
    }
}

/// No process is expected to live longer.
const EPHEMERAL_DAYS: u32 = 3650;

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Files(files) => f.debug_tuple("TlsConfig").field(files).finish(),
            Source::Ephemeral { node, .. } => f
                .debug_struct("TlsConfig")
                .field("self_signed_for", node)
                .finish(),
        }
    }
}
