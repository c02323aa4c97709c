//! The first call on a QUIC connection that is made again, sent with its first packet (0-RTT: RFC 9001,
//! section 4.6), where both sides want that.
//!
//! Whoever records such a packet can send it again. So only requests go early that ask and change nothing
//! (`RpcKind::is_idempotent`), the accepting side refuses all others before it looks at what they say, and a
//! session serves once: its keys are gone when it is sent again (RFC 8446, section 8.1). A lane never
//! begins early. What does not get an answer this way is called again after the handshake, as if it had
//! not been tried.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{Connecting, Connection, ZeroRttAccepted};
use rivven_core_types::{
    Address, NodeName, Reply, RpcError, RpcHandler, RpcKind, RpcRequest, RpcResponse,
};
use rustls::client::Resumption;
use rustls::server::ServerSessionMemoryCache;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::lookup_host;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::Instrument as _;

use super::client::Answer;
use super::dial::{Shaken, handshake_frame};
use super::lifecycle::{Phase, Shared, lock};
use super::metrics::{self, EarlyData};
use super::peers::{connection, resting};
use super::quic::{Quic, live, peer_of};
use super::reader::FrameReader;
use super::secure::identify;
use crate::answer::{FailedAnswer, decode_answer, encode_failure};
use crate::error::HandshakeError;
use crate::frame::{
    FrameDecoder, FrameEncoder, FrameHeader, FrameType, MAX_SLICES, PART_BYTES, WriteBatch,
};
use crate::handshake::{MAX_VERSION, early_claim};
use crate::tls::TlsBundle;

/// Longest request that goes early: the first packets are few.
const REQUEST_BYTES: usize = 8 * 1024;
/// Longest frame on the stream of an early request, answers included.
const FRAME_BYTES: usize = 2 * PART_BYTES;
/// Sessions that the accepting side remembers, all peers together; each serves once.
const SESSIONS: usize = 1024;
/// Sessions that the calling side remembers for one address.
const TICKETS: usize = 8;
/// Addresses that the calling side remembers sessions for.
const ACQUAINTANCES: usize = 1024;
/// The only call on its stream.
const CORRELATION: u32 = 1;

/// The settings of a server that resumes sessions and takes early data.
pub(super) fn accepting(server: &rustls::ServerConfig) -> Arc<rustls::ServerConfig> {
    let mut server = server.clone();
    server.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    server.send_tls13_tickets = 1;
    // QUIC knows no other value (RFC 9001, section 4.6.1).
    server.max_early_data_size = u32::MAX;
    Arc::new(server)
}

/// Nodes whose handshake has been seen, by address.
#[derive(Default)]
pub(super) struct Acquaintances(Mutex<BTreeMap<SocketAddr, Acquaintance>>);

/// What it takes to call one of them early.
struct Acquaintance {
    /// Settings with sessions of this address alone: each node knows its own.
    client: Arc<rustls::ClientConfig>,
    /// What they were made from; sessions do not outlive a change of certificates.
    made_from: Arc<rustls::ClientConfig>,
    /// The certificates that it showed. A resumed session shows none, so these are judged.
    chain: Vec<CertificateDer<'static>>,
}

impl Acquaintances {
    /// The settings for a connection to `address`.
    pub(super) fn settings(
        &self,
        tls: &TlsBundle,
        address: SocketAddr,
    ) -> Arc<rustls::ClientConfig> {
        let mut known = lock(&self.0);
        if let Some(known) = known.get(&address)
            && Arc::ptr_eq(&known.made_from, &tls.client)
        {
            return Arc::clone(&known.client);
        }
        let mut client = rustls::ClientConfig::clone(&tls.client);
        client.resumption = Resumption::in_memory_sessions(TICKETS);
        client.enable_early_data = true;
        let client = Arc::new(client);
        if known.len() >= ACQUAINTANCES {
            // Nodes that moved leave entries behind; who still counts is met again.
            known.clear();
        }
        let new = Acquaintance {
            client: Arc::clone(&client),
            made_from: Arc::clone(&tls.client),
            chain: Vec::new(),
        };
        known.insert(address, new);
        client
    }

    /// The node at `address` has shown these certificates.
    pub(super) fn met(
        &self,
        tls: &TlsBundle,
        address: SocketAddr,
        chain: Vec<CertificateDer<'static>>,
    ) {
        if let Some(known) = lock(&self.0).get_mut(&address)
            && Arc::ptr_eq(&known.made_from, &tls.client)
        {
            known.chain = chain;
        }
    }

    pub(super) fn forget_all(&self) {
        lock(&self.0).clear();
    }

    /// Whether the node at `address` is known to be `expected`, and to be trusted now.
    fn trusts(&self, tls: &TlsBundle, address: SocketAddr, expected: &NodeName) -> bool {
        let known = lock(&self.0);
        known.get(&address).is_some_and(|known| {
            Arc::ptr_eq(&known.made_from, &tls.client)
                && identify(tls, &known.chain).is_ok_and(|proven| proven.name == *expected)
        })
    }
}

/// Whether this request may go early, as far as the settings and it itself say.
pub(super) fn may_go(shared: &Shared, request: &RpcRequest) -> bool {
    let is_on = shared.quic.as_ref().is_some_and(|q| q.config.early_data);
    let length = request.meta.len() + request.body.len();
    is_on && request.kind.is_idempotent() && length <= REQUEST_BYTES
}

/// Calls `peer` with the first packet of a new connection, if that can be; `None` if it has to be called
/// in the usual way. The lane is dialled on the same connection meanwhile.
pub(super) async fn call(
    shared: &Arc<Shared>,
    peer: &NodeName,
    request: &RpcRequest,
    deadline: Instant,
) -> Option<Answer> {
    let quic = shared.quic.as_ref()?;
    if shared.phase_now() != Phase::Running {
        return None;
    }
    let address = resting(shared, peer, request.lane)?;
    let address = match quic.advertised {
        None => address,
        Some(_) => quic.alternative(&address)?,
    };
    let patience = deadline.min(Instant::now() + shared.limits().connect_timeout);
    let asked = async {
        let remote = resolve(&address).await?;
        let (connection, settling) = begin(shared, quic, remote, peer)?;
        let lane = request.lane;
        tokio::spawn(settling.follow(Arc::clone(shared), peer.clone(), lane, deadline));
        let connection = connection?;
        ask(shared, &connection, peer, request, deadline).await
    };
    match timeout_at(patience, asked).await {
        Ok(answer) => answer,
        Err(_) if patience < deadline => None,
        Err(_) => Some(Err(RpcError::Timeout {
            peer: peer.clone(),
            waited: request.deadline,
        })),
    }
}

async fn resolve(address: &Address) -> Option<SocketAddr> {
    let mut found = lookup_host((address.host(), address.port())).await.ok()?;
    found.next()
}

/// A connection whose handshake is under way, and the shelf that waits for it.
struct Settling {
    shelf: OwnedMutexGuard<std::sync::Weak<Connection>>,
    way: Way,
    alive: mpsc::Sender<()>,
}

enum Way {
    /// A call is on its way already.
    Early(Arc<Connection>, ZeroRttAccepted),
    /// There was no session to resume.
    Late(Connecting),
}

/// Dials an acquaintance that there is no connection to; the connection, if a call may go at once.
fn begin(
    shared: &Shared,
    quic: &Quic,
    remote: SocketAddr,
    expected: &NodeName,
) -> Option<(Option<Arc<Connection>>, Settling)> {
    let tls = shared.tls.as_ref()?.current();
    if !quic.acquaintances.trusts(&tls, remote, expected) {
        return None;
    }
    let alive = shared.alive()?;
    // Whoever dials already is not disturbed.
    let shelf = quic.shelf(remote).try_lock_owned().ok()?;
    if live(&shelf).is_some() {
        return None;
    }
    let (early, way) = match quic.connecting(&tls, remote).ok()?.into_0rtt() {
        Ok((connection, accepted)) => {
            let connection = Arc::new(connection);
            (
                Some(Arc::clone(&connection)),
                Way::Early(connection, accepted),
            )
        }
        Err(connecting) => (None, Way::Late(connecting)),
    };
    Some((early, Settling { shelf, way, alive }))
}

impl Settling {
    /// Waits for the end of the handshake, then opens the lane that the next calls will take.
    async fn follow(
        self,
        shared: Arc<Shared>,
        peer: NodeName,
        lane: rivven_core_types::Lane,
        deadline: Instant,
    ) {
        let Self {
            mut shelf,
            way,
            alive,
        } = self;
        let settled = timeout(shared.limits().connect_timeout, async {
            match way {
                Way::Early(connection, accepted) => {
                    metrics::early_data(if accepted.await {
                        EarlyData::Accepted
                    } else {
                        EarlyData::Rejected
                    });
                    Some(connection)
                }
                Way::Late(connecting) => Some(Arc::new(connecting.await.ok()?)),
            }
        });
        let Ok(Some(settled)) = settled.await else {
            return;
        };
        *shelf = Arc::downgrade(&settled);
        drop(shelf);
        // Its outcome is for those who call; here it keeps the connection until a lane does.
        let _opened = connection(&shared, &peer, lane, deadline).await.is_ok();
        drop((settled, alive));
    }
}

/// Sends one request with what the peer must know of us, and reads its answer. `None`: there was none,
/// or the peer wants to be called again.
async fn ask(
    shared: &Shared,
    connection: &Connection,
    peer: &NodeName,
    request: &RpcRequest,
    deadline: Instant,
) -> Option<Answer> {
    let (mut send, receive) = connection.open_bi().await.ok()?;
    let claim = early_claim(&shared.identity(), peer, request.lane).ok()?;
    let mut batch = WriteBatch::default();
    handshake_frame(&claim, &mut batch).ok()?;
    let mut header = FrameHeader::new(MAX_VERSION, FrameType::Request);
    header.kind = request.kind.0;
    header.correlation = CORRELATION;
    let left = deadline.saturating_duration_since(Instant::now());
    header.budget_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
    let mut encoder = FrameEncoder::new(MAX_VERSION, FRAME_BYTES, None);
    encoder
        .encode(header, &request.meta, request.body.clone(), &mut batch)
        .ok()?;
    write(&mut send, batch).await.ok()?;
    send.finish().ok()?;
    let decoder = FrameDecoder::new(MAX_VERSION, FRAME_BYTES, None);
    let mut reader = FrameReader::new(receive, decoder, BytesMut::new());
    let frame = reader.next(None).await.ok()?;
    // The keys under which it came are those of the session; its other end is judged as it is now.
    let proven = peer_of(&shared.tls.as_ref()?.current(), connection).ok()?.0;
    if proven.name != *peer {
        return None;
    }
    let too_early = encode_failure(&FailedAnswer::TooEarly).ok()?;
    match frame.header.frame_type {
        FrameType::Response => Some(Ok(RpcResponse {
            meta: frame.meta,
            body: frame.body,
        })),
        FrameType::Failure if frame.meta == too_early => None,
        FrameType::Failure => Some(Err(decode_answer(peer, &frame.meta))),
        FrameType::Handshake
        | FrameType::Request
        | FrameType::Cancel
        | FrameType::Ping
        | FrameType::Pong
        | FrameType::Part
        | FrameType::GoAway => None,
    }
}

async fn write(to: &mut (impl AsyncWrite + Unpin), mut batch: WriteBatch) -> std::io::Result<()> {
    batch.close_segment();
    let mut room = [std::io::IoSlice::new(&[]); MAX_SLICES];
    for slice in batch.slices(&mut room) {
        to.write_all(slice).await?;
    }
    to.flush().await
}

/// Answers the one request of a stream.
pub(super) async fn answer(
    shared: Arc<Shared>,
    handler: Arc<dyn RpcHandler>,
    shaken: Shaken,
    _permit: OwnedSemaphorePermit,
    _alive: mpsc::Sender<()>,
) {
    let limits = shared.limits();
    let (peer, lane) = (shaken.established.peer, shaken.established.lane);
    let version = shaken.established.version;
    let (read, mut write_side) = shaken.link.split();
    let decoder = FrameDecoder::new(version, FRAME_BYTES, None);
    let mut reader = FrameReader::new(read, decoder, shaken.buffer);
    let Ok(Ok(frame)) = timeout(limits.handshake_timeout, reader.next(None)).await else {
        return;
    };
    let header = frame.header;
    if header.frame_type != FrameType::Request || header.in_parts || header.compressed {
        metrics::frame_rejected("early");
        return;
    }
    let kind = RpcKind(header.kind);
    // No caller waits longer than this for an early answer, whatever it says.
    let budget = Duration::from_millis(u64::from(header.budget_ms)).min(limits.handshake_timeout);
    let deadline = reader.last_read() + budget;
    let result = if kind.is_idempotent() {
        let request = RpcRequest {
            kind,
            lane,
            meta: frame.meta,
            body: frame.body,
            deadline: deadline.saturating_duration_since(Instant::now()),
        };
        let began = Instant::now();
        let span = tracing::debug_span!(
            "rpc.server", peer = %peer.name, kind = kind.name(), lane = lane.name(), early = true
        );
        let result = match span.in_scope(|| handler.handle(&peer, request)) {
            Reply::Now(result) => result,
            Reply::Later(answer) => match timeout_at(deadline, answer.instrument(span)).await {
                Ok(result) => result,
                Err(_) => return metrics::request_expired(kind),
            },
        };
        metrics::Served::of(kind, lane).answered(began.elapsed());
        Ok(result)
    } else {
        metrics::early_data(EarlyData::Refused);
        if shared.may_warn("early") {
            tracing::warn!(peer = %peer.name, kind = kind.name(), "refused: it came too early");
        }
        Err(FailedAnswer::TooEarly)
    };
    let mut batch = WriteBatch::default();
    if encode(result, version, &mut batch).is_ok() {
        let told = async {
            write(&mut write_side, batch).await?;
            write_side.shutdown().await
        };
        let _told = timeout(limits.write_stall, told).await.is_ok();
    }
}

/// An answer that is too long for its frame is asked for again.
fn encode(
    result: Result<Answer, FailedAnswer>,
    version: u8,
    batch: &mut WriteBatch,
) -> Result<(), HandshakeError> {
    let (frame_type, meta, body) = match result {
        Ok(Ok(answer)) if answer.body.len() <= PART_BYTES => {
            (FrameType::Response, answer.meta, answer.body)
        }
        Ok(Ok(_)) => (
            FrameType::Failure,
            encode_failure(&FailedAnswer::TooEarly)?,
            Bytes::new(),
        ),
        Ok(Err(error)) => {
            let failure = encode_failure(&FailedAnswer::from_handler(&error))?;
            (FrameType::Failure, failure, Bytes::new())
        }
        Err(failure) => (FrameType::Failure, encode_failure(&failure)?, Bytes::new()),
    };
    let mut header = FrameHeader::new(version, frame_type);
    header.correlation = CORRELATION;
    FrameEncoder::new(version, FRAME_BYTES, None).encode(header, &meta, body, batch)?;
    Ok(())
}
