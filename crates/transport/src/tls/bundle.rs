//! Everything that follows from one reading of a node's certificates; swapped as a whole.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rivven_core_types::NodeName;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use zeroize::Zeroizing;

use super::config::{Source, TlsConfig, TlsFiles};
use super::identity::CertificateIdentity;
use super::issue::{certificates, private_key};
use super::validity::not_after;
use super::verify::{Denied, PeerVerifier, anchors};
use crate::error::TransportError;

/// The protocol as TLS names it; both sides insist on it.
pub(crate) const ALPN: &[u8] = b"rivven/1";
/// Longest file of certificates, keys or denied peers, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// A process makes its certificates anew when it starts.
const EPHEMERAL_LEAF_DAYS: u32 = 3650;

/// The settings of both roles, and the judge of peers.
pub(crate) struct TlsBundle {
    pub(crate) server: Arc<ServerConfig>,
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) verifier: Arc<PeerVerifier>,
    /// When our certificate ends.
    pub(crate) not_after: Option<SystemTime>,
    #[cfg(feature = "quic")]
    pub(crate) reset: crate::quic::ResetSecret,
}

/// The parts of an identity before they are checked against each other.
struct Material {
    authorities: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    denied: Denied,
    /// How errors name the certificate.
    label: String,
}

impl TlsBundle {
    /// Reads and checks everything: the key fits the certificate, the certificate is valid now, for
    /// `node`, and signed by a CA that we trust ourselves.
    pub(crate) fn load(config: &TlsConfig, node: &NodeName) -> Result<Self, TransportError> {
        let material = match &config.0 {
            Source::Files(files) => from_files(files)?,
            Source::Ephemeral { authority, .. } => {
                let issued = authority.issue(node, EPHEMERAL_LEAF_DAYS)?;
                let fail = TransportError::Certificate;
                Material {
                    authorities: certificates(authority.certificate_pem().as_bytes())
                        .map_err(fail)?,
                    chain: certificates(issued.certificate_pem.as_bytes()).map_err(fail)?,
                    key: private_key(issued.key_pem.as_bytes()).map_err(fail)?,
                    denied: Denied::default(),
                    label: "the self-signed certificate".to_owned(),
                }
            }
        };
        let label = material.label.clone();
        Self::build(material, node)
            .map_err(|reason| TransportError::Certificate(format!("{label}: {reason}")))
    }

    fn build(material: Material, node: &NodeName) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let leaf = material.chain.first().ok_or("no certificate")?;
        let identity = CertificateIdentity::of(leaf)?;
        if identity.node != *node {
            return Err(format!("it is for node {}, this is {node}", identity.node));
        }
        let not_after = not_after(leaf);
        #[cfg(feature = "quic")]
        let reset = crate::quic::ResetSecret::of_private_key(material.key.secret_der(), node);
        let key = CertifiedKey::from_der(material.chain, material.key, &provider).map_err(|e| {
            if matches!(e, rustls::Error::InconsistentKeys(_)) {
                "the private key is not that of the certificate".to_owned()
            } else {
                e.to_string()
            }
        })?;
        let verifier = Arc::new(PeerVerifier::new(
            anchors(&material.authorities)?,
            identity.cluster,
            material.denied,
            Arc::clone(&provider),
        ));
        // A node that its peers would refuse must not start, or go on, as if all were well.
        verifier
            .identify(&key.cert, UnixTime::now())
            .map_err(|e| format!("its peers will not trust it: {e}"))?;
        let key = Arc::new(key);
        let (server, client) = settings(&provider, &verifier, &key)?;
        Ok(Self {
            server: Arc::new(server),
            client: Arc::new(client),
            verifier,
            not_after,
            #[cfg(feature = "quic")]
            reset,
        })
    }
}

/// The settings of the server and of the client: TLS 1.3 alone, no resumption. A session that is
/// resumed skips the verification of the peer; a connection that is made anew costs less than that.
fn settings(
    provider: &Arc<CryptoProvider>,
    verifier: &Arc<PeerVerifier>,
    key: &Arc<CertifiedKey>,
) -> Result<(ServerConfig, ClientConfig), String> {
    let text = |e: rustls::Error| e.to_string();
    let resolver = Arc::new(rustls::sign::SingleCertAndKey::from(Arc::clone(key)));
    let mut server = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(text)?
        .with_client_cert_verifier(Arc::<PeerVerifier>::clone(verifier))
        .with_cert_resolver(Arc::<rustls::sign::SingleCertAndKey>::clone(&resolver));
    server.alpn_protocols = vec![ALPN.to_vec()];
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(text)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<PeerVerifier>::clone(verifier))
        .with_client_cert_resolver(resolver);
    client.alpn_protocols = vec![ALPN.to_vec()];
    client.resumption = rustls::client::Resumption::disabled();
    // Nodes have names and no host names.
    client.enable_sni = false;
    Ok((server, client))
}

fn from_files(files: &TlsFiles) -> Result<Material, TransportError> {
    let denied = match &files.denied {
        Some(path) => in_file(path, |bytes| {
            let text = std::str::from_utf8(bytes).map_err(|e| e.to_string())?;
            Denied::parse(text)
        })?,
        None => Denied::default(),
    };
    check_mode(&files.key)?;
    Ok(Material {
        authorities: in_file(&files.ca, certificates)?,
        chain: in_file(&files.certificate, certificates)?,
        key: in_file(&files.key, private_key)?,
        denied,
        label: files.certificate.display().to_string(),
    })
}

/// The node that a certificate in a file is for.
#[cfg(feature = "quic")]
pub(super) fn node_of(files: &TlsFiles) -> Result<NodeName, TransportError> {
    in_file(&files.certificate, |pem| {
        let chain = certificates(pem)?;
        let leaf = chain.first().ok_or("no certificate")?;
        CertificateIdentity::of(leaf).map(|identity| identity.node)
    })
}

/// A key that others on the host can read is not private.
fn check_mode(key: &Path) -> Result<(), TransportError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = std::fs::metadata(key)
            .map_err(|e| TransportError::Certificate(format!("{}: {e}", key.display())))?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(TransportError::Certificate(format!(
                "{}: a private key must be readable by its owner alone (chmod 600); its mode is {mode:o}",
                key.display()
            )));
        }
    }
    #[cfg(not(unix))]
    let _not_on_this_system = key;
    Ok(())
}

fn in_file<T>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, TransportError> {
    let read = || -> Result<T, String> {
        let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
        if length > MAX_FILE_BYTES {
            return Err(format!("{length} bytes; at most {MAX_FILE_BYTES} are read"));
        }
        parse(&Zeroizing::new(
            std::fs::read(path).map_err(|e| e.to_string())?,
        ))
    };
    read().map_err(|reason| TransportError::Certificate(format!("{}: {reason}", path.display())))
}
