//! QUIC below the lanes: one connection per peer, one long-lived stream per lane.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, ready};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    Connecting, Connection, ConnectionError, Endpoint, RecvStream, SendStream, TokioRuntime,
};
use rivven_core_types::{Address, BoxFuture, Lane as RpcLane};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::dial::{Opening, Secured};
use super::early::{self, Acquaintances};
use super::lifecycle::{Shared, lock};
use super::link::{Link, ReadSide, WriteSide};
use super::secure::{NO_HOST_NAME, identify, is_refusal, untrusted};
use crate::error::{HandshakeError, TransportError};
use crate::quic::QuicConfig;
use crate::tls::TlsBundle;

mod serve;

pub(super) use serve::accept_loop;

/// Why a connection was closed, as the other side is told.
const CLOSED: quinn::VarInt = quinn::VarInt::from_u32(0);

/// The sending direction of a stream. Its end waits until the peer has everything: `finish` alone only
/// queues the end, and when the last stream of a connection is dropped the connection is closed, which
/// discards what has not been delivered (RFC 9000, section 10.2).
struct Outlet {
    stream: SendStream,
    /// Once the end is queued.
    delivered: Option<BoxFuture<'static, io::Result<()>>>,
    /// The connection is in use for as long as a lane of it is.
    _connection: Arc<Connection>,
}

impl Outlet {
    const fn new(stream: SendStream, connection: Arc<Connection>) -> Self {
        Self {
            stream,
            delivered: None,
            _connection: connection,
        }
    }

    /// Queues the end and waits for the peer's acknowledgement of it, or for its word that it reads no more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = &mut self.stream;
        let delivered = self.delivered.get_or_insert_with(|| {
            // It fails only if the stream has ended already; the wait below then is over at once.
            let _queued = stream.finish().is_ok();
            let stopped = stream.stopped();
            Box::pin(async move { stopped.await.map(drop).map_err(io::Error::from) })
        });
        let outcome = ready!(delivered.as_mut().poll(cx));
        // A future that is over must not be polled again.
        self.delivered = Some(Box::pin(std::future::ready(Ok(()))));
        Poll::Ready(outcome)
    }
}

impl AsyncWrite for Outlet {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_end(cx)
    }
}

/// The stream of one lane.
pub(super) struct Lane {
    send: Outlet,
    receive: RecvStream,
    chain: Vec<CertificateDer<'static>>,
}

impl Lane {
    /// A stream of `connection`, whose peer has shown `chain`.
    pub(super) fn new(
        connection: Arc<Connection>,
        (send, receive): (SendStream, RecvStream),
        chain: Vec<CertificateDer<'static>>,
    ) -> Self {
        let send = Outlet::new(send, connection);
        Self {
            send,
            receive,
            chain,
        }
    }

    /// How it may begin.
    pub(super) fn opening(&self) -> Opening {
        if self.receive.is_0rtt() {
            Opening::Early
        } else {
            Opening::Either
        }
    }

    /// The certificates of the peer.
    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(super) fn split(self) -> (ReadSide, WriteSide) {
        (Box::new(self.receive), Box::new(self.send))
    }
}

impl AsyncRead for Lane {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.receive), cx, buf)
    }
}

impl AsyncWrite for Lane {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

/// A heartbeat goes before metadata, and both before records.
const fn priority(lane: RpcLane) -> i32 {
    match lane {
        RpcLane::Control => 2,
        RpcLane::Rpc => 1,
        RpcLane::Bulk => 0,
    }
}

/// How to reach a node over QUIC (RFC 7838 is the model: alternative services).
#[derive(Debug)]
struct Alternative {
    address: Address,
    broken_until: Option<Instant>,
}

/// How long TCP is used where QUIC did not get through, as where a firewall drops UDP.
const BROKEN_FOR: std::time::Duration = std::time::Duration::from_secs(60);

/// The connection to one address, while lanes use it; locked while it is dialled.
pub(super) type Shelf = Arc<tokio::sync::Mutex<Weak<Connection>>>;

/// The endpoint of a node: its one UDP socket for both roles.
pub(super) struct Quic {
    pub(super) endpoint: Endpoint,
    pub(super) config: QuicConfig,
    /// Where peers are told to come, if TCP is there as well.
    pub(super) advertised: Option<Address>,
    /// What peers have told of themselves over TCP, by their TCP addresses.
    alternatives: Mutex<BTreeMap<Address, Alternative>>,
    /// One connection per address, dialled once however many lanes wait for it.
    connections: Mutex<BTreeMap<SocketAddr, Shelf>>,
    pub(super) acquaintances: Acquaintances,
}

impl Quic {
    /// Serves on `socket`; nothing is accepted before [`accept_loop`].
    pub(super) fn new(
        socket: UdpSocket,
        config: QuicConfig,
        advertised: Option<Address>,
        tls: &TlsBundle,
    ) -> Result<Self, TransportError> {
        config.validate()?;
        let failed = |e: io::Error| TransportError::Certificate(format!("QUIC: {e}"));
        let server = server_config(&config, tls)?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(tls.reset.endpoint_config(), Some(server), socket, runtime);
        Ok(Self {
            endpoint: endpoint.map_err(failed)?,
            config,
            advertised,
            alternatives: Mutex::default(),
            connections: Mutex::default(),
            acquaintances: Acquaintances::default(),
        })
    }

    /// Where the node at `address` is reached over QUIC, if it has said so and it has worked.
    pub(super) fn alternative(&self, address: &Address) -> Option<Address> {
        let alternatives = lock(&self.alternatives);
        let known = alternatives.get(address)?;
        let works = known
            .broken_until
            .is_none_or(|until| Instant::now() >= until);
        works.then(|| known.address.clone())
    }

    /// The node at `address` says that `quic` leads to it, too; whether that is worth a try.
    pub(super) fn learn(&self, address: &Address, quic: Address, most: usize) -> bool {
        let mut alternatives = lock(&self.alternatives);
        match alternatives.get(address) {
            Some(known) if known.address == quic => {}
            // Peers that moved leave entries behind; what still counts is learnt again.
            None if alternatives.len() >= most => alternatives.clear(),
            Some(_) | None => {}
        }
        let known = alternatives
            .entry(address.clone())
            .or_insert_with(|| Alternative {
                address: quic.clone(),
                broken_until: None,
            });
        if known.address != quic {
            *known = Alternative {
                address: quic,
                broken_until: None,
            };
        }
        known
            .broken_until
            .is_none_or(|until| Instant::now() >= until)
    }

    /// The node at `address` speaks QUIC no longer.
    pub(super) fn unlearn(&self, address: &Address) {
        lock(&self.alternatives).remove(address);
    }

    /// It did not work: TCP for a while.
    pub(super) fn broken(&self, address: &Address) {
        if let Some(known) = lock(&self.alternatives).get_mut(address) {
            known.broken_until = Some(Instant::now() + BROKEN_FOR);
        }
    }

    /// New connections use these certificates; old ones are left to the calls in flight.
    pub(super) fn renew(&self, tls: &TlsBundle) -> Result<(), TransportError> {
        let server = server_config(&self.config, tls)?;
        self.endpoint.set_server_config(Some(server));
        lock(&self.connections).clear();
        self.acquaintances.forget_all();
        Ok(())
    }

    pub(super) fn close(&self) {
        self.endpoint.close(CLOSED, b"shut down");
        lock(&self.connections).clear();
    }

    /// A new stream got no answer: the connection is dead, whatever its timers say so far.
    pub(super) fn forget(&self, address: SocketAddr) {
        let shelf = lock(&self.connections).remove(&address);
        if let Some(connection) = shelf.and_then(|shelf| shelf.try_lock().ok()?.upgrade()) {
            connection.close(CLOSED, b"no answer");
        }
    }

    #[cfg(test)]
    pub(super) fn in_use(&self) -> usize {
        let connections = lock(&self.connections);
        let in_use = connections.values().filter(|shelf| {
            let kept = shelf.try_lock();
            kept.map_or(true, |kept| live(&kept).is_some())
        });
        in_use.count()
    }

    /// The place of the connection to `address`.
    pub(super) fn shelf(&self, address: SocketAddr) -> Shelf {
        let mut connections = lock(&self.connections);
        // Those that ended are forgotten; one that is being dialled is left alone.
        connections.retain(|_, shelf| shelf.try_lock().map_or(true, |kept| live(&kept).is_some()));
        Arc::clone(connections.entry(address).or_default())
    }

    /// A lane to the node at `address`, on the connection that the other lanes use.
    pub(super) async fn connect(
        &self,
        tls: &TlsBundle,
        address: SocketAddr,
        lane: RpcLane,
    ) -> Result<Secured, HandshakeError> {
        let shelf = self.shelf(address);
        let mut kept = shelf.lock().await;
        let connection = match live(&kept) {
            Some(connection) => connection,
            None => {
                let dialled = Arc::new(self.dial(tls, address).await?);
                *kept = Arc::downgrade(&dialled);
                dialled
            }
        };
        drop(kept);
        let (proven, chain) = peer_of(tls, &connection)?;
        let stream = connection.open_bi().await.map_err(|e| ended(&e))?;
        let set = stream.0.set_priority(priority(lane));
        set.map_err(|e| HandshakeError::Io(e.to_string()))?;
        let lane = Lane::new(connection, stream, chain);
        Ok((Link::Quic(lane), Some(proven)))
    }

    async fn dial(
        &self,
        tls: &TlsBundle,
        address: SocketAddr,
    ) -> Result<Connection, HandshakeError> {
        let connecting = self.connecting(tls, address)?;
        let connection = connecting.await.map_err(|e| ended(&e))?;
        if self.config.early_data
            && let Ok((_, chain)) = peer_of(tls, &connection)
        {
            self.acquaintances.met(tls, address, chain);
        }
        Ok(connection)
    }

    /// Begins to dial.
    pub(super) fn connecting(
        &self,
        tls: &TlsBundle,
        address: SocketAddr,
    ) -> Result<Connecting, HandshakeError> {
        let crypto = if self.config.early_data {
            self.acquaintances.settings(tls, address)
        } else {
            Arc::clone(&tls.client)
        };
        let client = client_config(&self.config, crypto);
        let client = client.map_err(|e| HandshakeError::Io(e.to_string()))?;
        let connecting = self.endpoint.connect_with(client, address, NO_HOST_NAME);
        connecting.map_err(|e| HandshakeError::Io(e.to_string()))
    }
}

/// The connection on a shelf, if it can be used.
pub(super) fn live(kept: &Weak<Connection>) -> Option<Arc<Connection>> {
    let connection = kept.upgrade()?;
    connection.close_reason().is_none().then_some(connection)
}

/// A lane of a transport that runs over QUIC.
pub(super) async fn open(
    shared: &Shared,
    address: SocketAddr,
    lane: RpcLane,
) -> Result<Secured, HandshakeError> {
    let (Some(quic), Some(tls)) = (&shared.quic, &shared.tls) else {
        return Err(HandshakeError::Io("not a transport over QUIC".to_owned()));
    };
    quic.connect(&tls.current(), address, lane).await
}

/// Who is at the other end, judged now.
pub(super) fn peer_of(
    tls: &TlsBundle,
    connection: &Connection,
) -> Result<(crate::handshake::ProvenPeer, Vec<CertificateDer<'static>>), HandshakeError> {
    let identity = connection.peer_identity();
    let chain = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let chain = chain.map(|chain| *chain).unwrap_or_default();
    Ok((identify(tls, &chain)?, chain))
}

/// A failed handshake as the rest of the transport knows it. RFC 9001, section 4.8: alerts of TLS travel
/// as error 0x100 plus the alert.
fn ended(error: &ConnectionError) -> HandshakeError {
    let code = match error {
        ConnectionError::TimedOut => return HandshakeError::Timeout,
        ConnectionError::TransportError(e) => u64::from(e.code),
        ConnectionError::ConnectionClosed(close) => u64::from(close.error_code),
        _ => 0,
    };
    let alert = code
        .checked_sub(0x100)
        .and_then(|alert| u8::try_from(alert).ok())
        .map(|alert| rustls::Error::AlertReceived(alert.into()));
    if alert.is_some_and(|alert| is_refusal(&alert)) {
        return untrusted(error.to_string());
    }
    HandshakeError::Io(error.to_string())
}

fn server_config(
    config: &QuicConfig,
    tls: &TlsBundle,
) -> Result<quinn::ServerConfig, TransportError> {
    let failed = |e: quinn::crypto::rustls::NoInitialCipherSuite| {
        TransportError::Certificate(format!("QUIC: {e}"))
    };
    let crypto = if config.early_data {
        early::accepting(&tls.server)
    } else {
        Arc::clone(&tls.server)
    };
    let crypto = QuicServerConfig::try_from(crypto).map_err(failed)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(config.transport()?))
        // Nodes have fixed addresses; whoever moves dials anew.
        .migration(false)
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BYTES)
        .incoming_buffer_size_total(INCOMING_TOTAL_BYTES);
    Ok(server)
}

/// Handshakes that wait to be looked at, and what they may have sent before.
const MAX_INCOMING: usize = 1024;
const INCOMING_BYTES: u64 = 64 * 1024;
const INCOMING_TOTAL_BYTES: u64 = 8 * 1024 * 1024;

fn client_config(
    config: &QuicConfig,
    crypto: Arc<rustls::ClientConfig>,
) -> Result<quinn::ClientConfig, TransportError> {
    let crypto = QuicClientConfig::try_from(crypto)
        .map_err(|e| TransportError::Certificate(format!("QUIC: {e}")))?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::new(config.transport()?));
    Ok(client)
}
