//! What is measured: a carrier with its security.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{Incarnation, NodeName, OsEntropy};
use rivven_transport::{
    CertificateAuthority, Compression, QuicConfig, Secret, Security, TlsConfig, TlsFiles,
    Transport, TransportConfig, TransportLimits, TransportRuntimes,
};
use tempfile::TempDir;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// TCP without security.
    Tcp,
    /// TCP with a shared secret: every frame carries an HMAC.
    Secret,
    /// TCP with mutual TLS 1.3.
    Tls,
    /// QUIC with mutual TLS 1.3.
    Quic,
}

impl Mode {
    pub(crate) const ALL: [Self; 4] = [Self::Tcp, Self::Secret, Self::Tls, Self::Quic];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Secret => "secret",
            Self::Tls => "tls",
            Self::Quic => "quic",
        }
    }

    pub(crate) fn named(name: &str) -> Self {
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == name)
            .unwrap()
    }

    /// A folder with the certificates that the mode needs.
    pub(crate) fn files(self) -> Option<TempDir> {
        if !matches!(self, Self::Tls | Self::Quic) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::create("bench".parse().unwrap(), 1).unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.certificate_pem()).unwrap();
        for node in ["server", "client"] {
            let issued = authority.issue(&NodeName::new(node).unwrap(), 1).unwrap();
            let certificate = dir.path().join(format!("{node}.pem"));
            std::fs::write(certificate, &issued.certificate_pem).unwrap();
            let key = dir.path().join(format!("{node}.key"));
            std::fs::write(&key, issued.key_pem.as_bytes()).unwrap();
            let owner_alone = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(&key, owner_alone).unwrap();
        }
        Some(dir)
    }

    /// Binds what a node would.
    pub(crate) async fn bind(
        self,
        node: &str,
        files: Option<&Path>,
        runtimes: TransportRuntimes,
    ) -> Transport {
        let config = self.config(node, files);
        let entropy = Arc::new(OsEntropy);
        let bound = if self == Self::Quic {
            Transport::bind_quic(config, QuicConfig::default(), runtimes, entropy).await
        } else {
            Transport::bind(config, runtimes, entropy).await
        };
        bound.unwrap()
    }

    fn config(self, node: &str, files: Option<&Path>) -> TransportConfig {
        let security = match self {
            Self::Tcp => Security::InsecureDev,
            Self::Secret => {
                Security::SharedSecret(Secret::new("a secret of 32 bytes for a bench").unwrap())
            }
            Self::Tls | Self::Quic => {
                let files = files.unwrap();
                Security::MutualTls(TlsConfig::files(TlsFiles {
                    ca: files.join("ca.pem"),
                    certificate: files.join(format!("{node}.pem")),
                    key: files.join(format!("{node}.key")),
                    denied: None,
                }))
            }
        };
        TransportConfig {
            name: NodeName::new(node).unwrap(),
            incarnation: Incarnation::from_bytes([7; 16]),
            cluster_id: None,
            listen: "127.0.0.1:0".parse().unwrap(),
            security,
            compression: Compression::None,
            limits: TransportLimits {
                max_unauthenticated_per_source: 256,
                drain_timeout: Duration::from_millis(200),
                ..TransportLimits::default()
            },
        }
    }
}
