//! TLS around a socket, and what it proves about the peer.

use std::io;

use rivven_core_types::HandshakeRefusal;
use rustls::{AlertDescription, CommonState};
use rustls_pki_types::{ServerName, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::dial::Secured;
use super::link::{Link, Socket};
use crate::error::HandshakeError;
use crate::handshake::ProvenPeer;
use crate::tls::{ALPN, TlsBundle};

/// rustls asks for the name of a server. Nodes have none on the wire: the verifier looks at the node's
/// own name in the certificate.
pub(super) const NO_HOST_NAME: &str = "node.rivven.invalid";

pub(super) async fn connect(tls: &TlsBundle, socket: Socket) -> Result<Secured, HandshakeError> {
    let name = ServerName::try_from(NO_HOST_NAME).map_err(|e| io_of(&io::Error::other(e)))?;
    let connector = TlsConnector::from(tls.client.clone());
    let stream = connector
        .connect(name, socket)
        .await
        .map_err(|e| io_of(&e))?;
    let proven = proven(tls, stream.get_ref().1)?;
    let stream = Box::new(TlsStream::Client(stream));
    Ok((Link::Tls(stream), Some(proven)))
}

pub(super) async fn accept(tls: &TlsBundle, socket: Socket) -> Result<Secured, HandshakeError> {
    let acceptor = TlsAcceptor::from(tls.server.clone());
    let stream = acceptor.accept(socket).await.map_err(|e| io_of(&e))?;
    let proven = proven(tls, stream.get_ref().1)?;
    let stream = Box::new(TlsStream::Server(stream));
    Ok((Link::Tls(stream), Some(proven)))
}

fn proven(tls: &TlsBundle, session: &CommonState) -> Result<ProvenPeer, HandshakeError> {
    if session.alpn_protocol() != Some(ALPN) {
        return Err(untrusted("the peer did not agree on rivven/1".to_owned()));
    }
    identify(tls, session.peer_certificates().unwrap_or_default())
}

/// Who holds the chain, judged now, whatever the session says: one that is resumed was judged long ago.
pub(super) fn identify(
    tls: &TlsBundle,
    chain: &[rustls_pki_types::CertificateDer<'_>],
) -> Result<ProvenPeer, HandshakeError> {
    let identity = tls
        .verifier
        .identify(chain, UnixTime::now())
        .map_err(|e| untrusted(e.to_string()))?;
    Ok(ProvenPeer {
        name: identity.node,
        cluster: identity.cluster.cluster_id(),
    })
}

pub(super) const fn untrusted(reason: String) -> HandshakeError {
    HandshakeError::Refused(HandshakeRefusal::UntrustedPeer { reason })
}

fn io_of(error: &io::Error) -> HandshakeError {
    refusal(error).unwrap_or_else(|| HandshakeError::Io(error.to_string()))
}

/// Whether one side did not trust the other, seen from either.
pub(super) fn refusal(error: &io::Error) -> Option<HandshakeError> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    is_refusal(error).then(|| untrusted(error.to_string()))
}

pub(super) fn is_refusal(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(_)
        | rustls::Error::NoCertificatesPresented
        | rustls::Error::NoApplicationProtocol
        | rustls::Error::PeerIncompatible(_) => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError
                | AlertDescription::ProtocolVersion
                | AlertDescription::NoApplicationProtocol
        ),
        _ => false,
    }
}
