//! Connecting and shaking hands, on either side.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rivven_core_types::{Address, Lane, NodeName, RpcError, limits};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use super::client::Connection;
use super::lifecycle::Shared;
use super::link::{Link, Socket};
use super::reader::{FrameReader, ReadError};
use super::socket;
use crate::error::HandshakeError;
use crate::frame::{FrameDecoder, FrameEncoder, FrameHeader, FrameType, MAX_SLICES, WriteBatch};
use crate::handshake::{
    Established, Initiator, InitiatorStep, ProvenPeer, Responder, ResponderStep,
};

/// Handshake frames carry version 0: nothing is agreed on yet.
const UNNEGOTIATED: u8 = 0;

/// Connects to `address`, shakes hands and starts the connection on the current runtime. `expected`
/// is the name that must answer; `label` stands for the peer in errors while its name is unknown.
pub(super) async fn dial(
    shared: &Arc<Shared>,
    address: &Address,
    expected: Option<&NodeName>,
    label: &NodeName,
    lane: Lane,
) -> Result<Arc<Connection>, RpcError> {
    let alive = shared.alive().ok_or(RpcError::Shutdown)?;
    let target = Target {
        shared,
        expected,
        label,
        lane,
    };
    let shaken = target.shake_hands(address).await?;
    Ok(Connection::start(shared, shaken, alive))
}

/// Whom to reach.
struct Target<'a> {
    shared: &'a Arc<Shared>,
    expected: Option<&'a NodeName>,
    label: &'a NodeName,
    lane: Lane,
}

impl Target<'_> {
    /// Over what this transport runs over. Where that is TCP and QUIC, over QUIC if the peer is known or
    /// says to be there as well; calls by address are too short for a second dial.
    async fn shake_hands(&self, address: &Address) -> Result<Shaken, RpcError> {
        #[cfg(feature = "quic")]
        if let Some(quic) = &self.shared.quic {
            if quic.advertised.is_none() {
                let shaken = self.over(Carried::Quic, address).await;
                return shaken.map_err(|failed| failed.error);
            }
            if self.expected.is_some() {
                return self.over_the_better(quic, address).await;
            }
        }
        let shaken = self.over(Carried::Tcp, address).await;
        shaken.map_err(|failed| failed.error)
    }

    #[cfg(feature = "quic")]
    async fn over_the_better(
        &self,
        quic: &super::quic::Quic,
        address: &Address,
    ) -> Result<Shaken, RpcError> {
        // An address that was silent for all the time there was.
        let mut silent = None;
        if let Some(better) = quic.alternative(address) {
            match self.over(Carried::Quic, &better).await {
                Ok(shaken) => return Ok(shaken),
                Err(failed) => silent = failed.silent.then_some((better, failed.error)),
            }
        }
        // Either the peer was away, or QUIC does not get through: if TCP does, that tells.
        let shaken = self.over(Carried::Tcp, address).await;
        let shaken = shaken.map_err(|failed| failed.error)?;
        let Some(better) = shaken.established.quic.clone() else {
            // It is back without QUIC: whoever still sought it there would wait in vain at every dial.
            quic.unlearn(address);
            return Ok(shaken);
        };
        let most = self.shared.limits().max_peers;
        if quic.learn(address, better.clone(), most) {
            // Where UDP is dropped now, a second try would be as long a wait for nothing. After one that was
            // answered with a failure, such as the reset of a connection to the peer's last life, it is not.
            let error = match silent {
                Some((same, error)) if same == better => error,
                _ => match self.over(Carried::Quic, &better).await {
                    Ok(shaken) => return Ok(shaken),
                    Err(failed) => failed.error,
                },
            };
            quic.broken(address);
            tracing::info!(peer = %self.label, "not over QUIC, using TCP for now: {error}");
        }
        Ok(shaken)
    }

    async fn over(&self, carried: Carried, address: &Address) -> Result<Shaken, Failed> {
        let Self {
            shared,
            expected,
            label,
            lane,
        } = *self;
        let unreachable = |reason: String| RpcError::Unreachable {
            peer: label.clone(),
            reason: format!("{address}: {reason}"),
        };
        let limits = shared.limits();
        let began = Instant::now();
        let failed = |outcome| super::metrics::connected(lane, carried.name(), outcome);
        let found = timeout(limits.connect_timeout, way(shared, carried, address)).await;
        let (way, remote) = found
            .map_err(|_| unreachable(format!("no connection within {:?}", limits.connect_timeout)))
            .and_then(|found| found.map_err(|e| unreachable(e.to_string())))
            .inspect_err(|_| failed("unreachable"))
            .map_err(|error| Failed {
                error,
                #[cfg(feature = "quic")]
                silent: false,
            })?;
        let shaken = timeout(limits.handshake_timeout, async {
            let secured = match way {
                Way::Tcp(stream) => secure_outgoing(shared, stream).await?,
                #[cfg(feature = "quic")]
                Way::Quic => super::quic::open(shared, remote, lane).await?,
            };
            initiate(shared, secured, expected, lane).await
        });
        let error = match shaken.await.unwrap_or(Err(HandshakeError::Timeout)) {
            Ok(shaken) => {
                let carrier = shaken.link.carrier();
                super::metrics::shaken_hands("out", carrier, began.elapsed());
                super::metrics::connected(lane, carrier, "ok");
                return Ok(shaken);
            }
            Err(error) => error,
        };
        #[cfg(feature = "quic")]
        if carried == Carried::Quic
            && error == HandshakeError::Timeout
            && let Some(quic) = &shared.quic
        {
            quic.forget(remote);
        }
        failed(error.name());
        shared.handshake_failed("dialled", &format!("{label} at {remote}"), &error);
        #[cfg(feature = "quic")]
        let silent = error == HandshakeError::Timeout;
        let error = match error {
            HandshakeError::Refused(reason) => RpcError::Handshake {
                peer: label.clone(),
                reason,
            },
            other @ (HandshakeError::Unexpected
            | HandshakeError::Malformed(_)
            | HandshakeError::Frame(_)
            | HandshakeError::Io(_)
            | HandshakeError::Timeout) => unreachable(other.to_string()),
        };
        Err(Failed {
            error,
            #[cfg(feature = "quic")]
            silent,
        })
    }
}

/// A dial that led to no connection.
struct Failed {
    error: RpcError,
    /// The handshake was not over in its time.
    #[cfg(feature = "quic")]
    silent: bool,
}

/// What to connect over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carried {
    Tcp,
    #[cfg(feature = "quic")]
    Quic,
}

impl Carried {
    /// What it is, for metrics: of a connection that was not made nobody knows whether TLS was inside.
    const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            #[cfg(feature = "quic")]
            Self::Quic => "quic",
        }
    }
}

/// The way to a peer, before it is secured.
enum Way {
    Tcp(TcpStream),
    #[cfg(feature = "quic")]
    Quic,
}

async fn way(
    shared: &Shared,
    carried: Carried,
    address: &Address,
) -> std::io::Result<(Way, SocketAddr)> {
    #[cfg(feature = "quic")]
    if carried == Carried::Quic {
        let mut found = lookup_host((address.host(), address.port())).await?;
        let remote = found.next().ok_or_else(no_address)?;
        return Ok((Way::Quic, remote));
    }
    #[cfg(not(feature = "quic"))]
    let Carried::Tcp = carried;
    let (stream, remote) = connect(shared, address).await?;
    Ok((Way::Tcp(stream), remote))
}

fn no_address() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address")
}

async fn connect(shared: &Shared, address: &Address) -> std::io::Result<(TcpStream, SocketAddr)> {
    let mut last = no_address();
    for candidate in lookup_host((address.host(), address.port())).await? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => {
                socket::configure(&stream, shared.limits().write_stall)?;
                return Ok((stream, candidate));
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A link, and what it has proved about the peer.
pub(super) type Secured = (Link, Option<ProvenPeer>);

/// The dialling side of TLS, if the mode asks for it.
async fn secure_outgoing(shared: &Shared, stream: TcpStream) -> Result<Secured, HandshakeError> {
    let socket = Socket::Live(stream);
    #[cfg(feature = "tls")]
    if let Some(tls) = &shared.tls {
        return super::secure::connect(&tls.current(), socket).await;
    }
    #[cfg(not(feature = "tls"))]
    let _nothing_to_secure_with = shared;
    Ok((Link::Tcp(socket), None))
}

/// The accepting side of TLS, if the mode asks for it.
pub(super) async fn secure_incoming(
    shared: &Shared,
    stream: TcpStream,
) -> Result<Secured, HandshakeError> {
    let socket = Socket::Live(stream);
    #[cfg(feature = "tls")]
    if let Some(tls) = &shared.tls {
        return super::secure::accept(&tls.current(), socket).await;
    }
    #[cfg(not(feature = "tls"))]
    let _nothing_to_secure_with = shared;
    Ok((Link::Tcp(socket), None))
}

/// A link on which handshake frames go back and forth.
struct Talk {
    reader: FrameReader<Link>,
}

/// Appends a message of the handshake as a frame.
pub(super) fn handshake_frame(
    message: &Bytes,
    batch: &mut WriteBatch,
) -> Result<(), HandshakeError> {
    let header = FrameHeader::new(UNNEGOTIATED, FrameType::Handshake);
    let max = limits::MAX_UNAUTHENTICATED_FRAME_BYTES;
    let mut encoder = FrameEncoder::new(UNNEGOTIATED, max, None);
    Ok(encoder.encode(header, message, Bytes::new(), batch)?)
}

impl Talk {
    fn new(link: Link) -> Self {
        let max = limits::MAX_UNAUTHENTICATED_FRAME_BYTES;
        let decoder = FrameDecoder::new(UNNEGOTIATED, max, None);
        Self {
            reader: FrameReader::new(link, decoder, BytesMut::new()),
        }
    }

    async fn say(&mut self, message: &Bytes) -> Result<(), HandshakeError> {
        let mut batch = WriteBatch::default();
        handshake_frame(message, &mut batch)?;
        batch.close_segment();
        let link = self.reader.io_mut();
        let mut room = [IoSlice::new(&[]); MAX_SLICES];
        for slice in batch.slices(&mut room) {
            link.write_all(slice).await.map_err(|e| io_error(&e))?;
        }
        link.flush().await.map_err(|e| io_error(&e))
    }

    async fn hear(&mut self) -> Result<Bytes, HandshakeError> {
        let frame = self.reader.next(None).await.map_err(|e| match e {
            ReadError::Frame(e) => HandshakeError::Frame(e),
            ReadError::Io(e) => io_error(&e),
            ReadError::Closed => HandshakeError::Io(e.to_string()),
        })?;
        if frame.header.frame_type != FrameType::Handshake {
            return Err(HandshakeError::Unexpected);
        }
        Ok(frame.meta)
    }

    fn done(self, established: Established) -> Shaken {
        let (link, buffer) = self.reader.into_parts();
        Shaken {
            link,
            established,
            buffer,
            #[cfg(feature = "quic")]
            early: false,
        }
    }
}

/// A failure below the handshake. A peer that does not trust our certificate says so only now: in TLS 1.3
/// the dialling side is done first.
fn io_error(error: &std::io::Error) -> HandshakeError {
    #[cfg(feature = "tls")]
    if let Some(refused) = super::secure::refusal(error) {
        return refused;
    }
    HandshakeError::Io(error.to_string())
}

/// A link after the handshake, what was agreed on, and bytes already read beyond it.
pub(super) struct Shaken {
    pub(super) link: Link,
    pub(super) established: Established,
    pub(super) buffer: BytesMut,
    /// One request follows, on a link of its own; see the module `early`.
    #[cfg(feature = "quic")]
    pub(super) early: bool,
}

/// How one that has been accepted may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// With the handshake of a lane.
    Lane,
    /// In either way.
    #[cfg(feature = "quic")]
    Either,
    /// With one request, which is all that may come before the channel below has shaken hands.
    #[cfg(feature = "quic")]
    Early,
}

impl Opening {
    const fn takes_lane(self) -> bool {
        match self {
            Self::Lane => true,
            #[cfg(feature = "quic")]
            Self::Either => true,
            #[cfg(feature = "quic")]
            Self::Early => false,
        }
    }
}

pub(super) async fn initiate(
    shared: &Shared,
    (link, proven): Secured,
    expected: Option<&NodeName>,
    lane: Lane,
) -> Result<Shaken, HandshakeError> {
    let mut talk = Talk::new(link);
    let (mut initiator, mut message) = Initiator::start(
        shared.identity(),
        shared.config.security.clone(),
        proven,
        expected.cloned(),
        lane,
        shared.entropy.as_ref(),
    )?;
    loop {
        talk.say(&message).await?;
        match initiator.receive(&talk.hear().await?)? {
            InitiatorStep::Send(next) => message = next,
            InitiatorStep::Done(established) => return Ok(talk.done(*established)),
        }
    }
}

/// The accepting side of the handshake.
pub(super) async fn respond(
    shared: &Shared,
    (link, proven): Secured,
) -> Result<Shaken, HandshakeError> {
    let opening = link.opening();
    let mut talk = Talk::new(link);
    let security = shared.config.security.clone();
    let mut responder = Responder::new(shared.identity(), security, proven);
    loop {
        let heard = talk.hear().await?;
        match responder.receive(&heard, shared.entropy.as_ref())? {
            #[cfg(feature = "quic")]
            ResponderStep::Early(established) if opening != Opening::Lane => {
                let early = true;
                let shaken = talk.done(*established);
                return Ok(Shaken { early, ..shaken });
            }
            ResponderStep::Early(_) => return Err(HandshakeError::Unexpected),
            _ if !opening.takes_lane() => return Err(HandshakeError::Unexpected),
            ResponderStep::Send(message) => talk.say(&message).await?,
            ResponderStep::Done(message, established) => {
                talk.say(&message).await?;
                return Ok(talk.done(*established));
            }
            ResponderStep::Refuse(message, refusal) => {
                // The refusal is what counts, whether or not the peer still hears of it.
                let _heard = talk.say(&message).await.is_ok();
                return Err(HandshakeError::Refused(refusal));
            }
        }
    }
}
