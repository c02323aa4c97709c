//! Whom we trust.

use std::collections::BTreeSet;
use std::sync::Arc;

use rivven_core_types::NodeName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use sha2::{Digest, Sha256};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::identity::{CertificateIdentity, ClusterName};
use super::issue::certificates;
use crate::error::TransportError;

/// Longest chain that a peer may send, leaf included.
const MAX_CHAIN: usize = 4;

/// The one judge of certificates: in the handshake of either role, on resumption, and again on
/// connections that exist when trust changes.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    anchors: Vec<TrustAnchor<'static>>,
    cluster: ClusterName,
    denied: Denied,
    provider: Arc<CryptoProvider>,
}

/// Who is refused whatever the certificate says.
#[derive(Debug, Default)]
pub(super) struct Denied {
    pub(super) names: BTreeSet<NodeName>,
    pub(super) fingerprints: BTreeSet<[u8; 32]>,
}

impl Denied {
    /// Reads the lines of a deny-list; `#` begins a comment.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut denied = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let entry = line.split('#').next().unwrap_or_default().trim();
            if entry.is_empty() {
                continue;
            }
            if let Some(fingerprint) = fingerprint(entry) {
                denied.fingerprints.insert(fingerprint);
            } else {
                let name = NodeName::new(entry);
                denied
                    .names
                    .insert(name.map_err(|e| format!("line {number}: {e}"))?);
            }
        }
        Ok(denied)
    }
}

/// 64 hexadecimal digits, with or without colons.
fn fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b':').collect();
    let mut found = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in found.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(found)
}

/// Trust anchors of CA certificates.
pub(super) fn anchors(
    authorities: &[CertificateDer<'_>],
) -> Result<Vec<TrustAnchor<'static>>, String> {
    let anchors = authorities.iter().map(|certificate| {
        let anchor = anchor_from_trusted_cert(certificate);
        anchor.map(|anchor| anchor.to_owned())
    });
    let anchors: Result<Vec<_>, _> = anchors.collect();
    anchors.map_err(|e| format!("not a CA certificate: {e}"))
}

impl PeerVerifier {
    pub(super) const fn new(
        anchors: Vec<TrustAnchor<'static>>,
        cluster: ClusterName,
        denied: Denied,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self {
            anchors,
            cluster,
            denied,
            provider,
        }
    }

    /// Who holds this chain, if we trust it now: signed by a CA of ours, valid at this time, for both
    /// roles, for our cluster, and not denied.
    pub(crate) fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<CertificateIdentity, Error> {
        let Some((leaf, rest)) = chain.split_first() else {
            return Err(Error::NoCertificatesPresented);
        };
        if chain.len() > MAX_CHAIN {
            return Err(refused(format!(
                "a chain of more than {MAX_CHAIN} certificates"
            )));
        }
        let parsed = EndEntityCert::try_from(leaf).map_err(|e| refused(e.to_string()))?;
        for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
            parsed
                .verify_for_usage(
                    self.provider.signature_verification_algorithms.all,
                    &self.anchors,
                    rest,
                    now,
                    usage,
                    None,
                    None,
                )
                .map_err(|e| certificate_error(&e))?;
        }
        let identity = CertificateIdentity::of(leaf).map_err(refused)?;
        if identity.cluster != self.cluster {
            return Err(refused(format!(
                "the certificate is for cluster {}, ours is {}",
                identity.cluster, self.cluster
            )));
        }
        let fingerprint: [u8; 32] = Sha256::digest(leaf).into();
        if self.denied.names.contains(&identity.node)
            || self.denied.fingerprints.contains(&fingerprint)
        {
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(identity)
    }

    /// A peer's certificates as rustls hands them over; the two sides are judged alike.
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        self.identify(&chain, now).map(drop)
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

fn refused(reason: String) -> Error {
    /// A reason of ours inside of rustls' error.
    #[derive(Debug)]
    struct Reason(String);
    impl std::fmt::Display for Reason {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(&self.0)
        }
    }
    impl std::error::Error for Reason {}
    let reason = rustls::OtherError(Arc::new(Reason(reason)));
    Error::InvalidCertificate(CertificateError::Other(reason))
}

fn certificate_error(error: &webpki::Error) -> Error {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only what has an alert of its own; the rest is told as text"
    )]
    let known = match error {
        webpki::Error::CertExpired { .. } => CertificateError::Expired,
        webpki::Error::CertNotValidYet { .. } => CertificateError::NotValidYet,
        webpki::Error::UnknownIssuer => CertificateError::UnknownIssuer,
        webpki::Error::InvalidSignatureForPublicKey => CertificateError::BadSignature,
        webpki::Error::RequiredEkuNotFoundContext(_) => {
            return refused(
                "not for both roles: a node's certificate needs the extended key usages serverAuth \
                 and clientAuth"
                    .to_owned(),
            );
        }
        other => return refused(other.to_string()),
    };
    Error::InvalidCertificate(known)
}

const ONLY_TLS13: &str = "TLS 1.3 is the only version spoken here";

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(ONLY_TLS13.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(ONLY_TLS13.to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Whether `issued` verifies against the CA `authority`.
pub(super) fn check_issued(authority: &str, issued: &str) -> Result<(), TransportError> {
    let judge = || {
        let anchors = anchors(&certificates(authority.as_bytes())?)?;
        let chain = certificates(issued.as_bytes())?;
        let identity = CertificateIdentity::of(chain.first().ok_or("empty")?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = PeerVerifier::new(anchors, identity.cluster, Denied::default(), provider);
        let verified = verifier.identify(&chain, UnixTime::now());
        verified
            .map_err(|e| format!("the CA's key and certificate do not fit for this cluster: {e}"))
    };
    judge().map(drop).map_err(TransportError::Certificate)
}
