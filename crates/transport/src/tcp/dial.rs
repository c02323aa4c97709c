//! Connecting and shaking hands, on either side.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rivven_core_types::{Address, Lane, NodeName, RpcError, limits};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::client::Connection;
use super::lifecycle::Shared;
use super::reader::{FrameReader, ReadError};
use super::socket;
use crate::error::HandshakeError;
use crate::frame::{FrameDecoder, FrameEncoder, FrameHeader, FrameType, WriteBatch};
use crate::handshake::{Established, Initiator, InitiatorStep, Responder, ResponderStep};

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
    let unreachable = |reason: String| RpcError::Unreachable {
        peer: label.clone(),
        reason: format!("{address}: {reason}"),
    };
    let limits = shared.limits();
    let (stream, remote) = timeout(limits.connect_timeout, connect(address))
        .await
        .map_err(|_| unreachable(format!("no connection within {:?}", limits.connect_timeout)))?
        .map_err(|e| unreachable(e.to_string()))?;
    socket::configure(&stream, limits.write_stall).map_err(|e| unreachable(e.to_string()))?;
    let shaken = timeout(
        limits.handshake_timeout,
        initiate(shared, stream, expected, lane),
    );
    match shaken.await.unwrap_or(Err(HandshakeError::Timeout)) {
        Ok((stream, established, buffer)) => Ok(Connection::start(
            shared,
            stream,
            established,
            buffer,
            alive,
        )),
        Err(error) => {
            shared.handshake_failed("dialled", remote, &error);
            Err(match error {
                HandshakeError::Refused(reason) => RpcError::Handshake {
                    peer: label.clone(),
                    reason,
                },
                other @ (HandshakeError::Unexpected
                | HandshakeError::Malformed(_)
                | HandshakeError::Frame(_)
                | HandshakeError::Io(_)
                | HandshakeError::Timeout) => unreachable(other.to_string()),
            })
        }
    }
}

async fn connect(address: &Address) -> std::io::Result<(TcpStream, SocketAddr)> {
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    for candidate in lookup_host((address.host(), address.port())).await? {
        match TcpStream::connect(candidate).await {
            Ok(stream) => return Ok((stream, candidate)),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// A socket on which handshake frames go back and forth.
struct Talk {
    reader: FrameReader<TcpStream>,
    encoder: FrameEncoder,
}

impl Talk {
    fn new(stream: TcpStream) -> Self {
        let max = limits::MAX_UNAUTHENTICATED_FRAME_BYTES;
        let decoder = FrameDecoder::new(UNNEGOTIATED, max, None);
        Self {
            reader: FrameReader::new(stream, decoder, BytesMut::new()),
            encoder: FrameEncoder::new(UNNEGOTIATED, max, None),
        }
    }

    async fn say(&mut self, message: &Bytes) -> Result<(), HandshakeError> {
        let header = FrameHeader::new(UNNEGOTIATED, FrameType::Handshake);
        let mut batch = WriteBatch::default();
        self.encoder
            .encode(header, message, Bytes::new(), &mut batch)?;
        batch.close_segment();
        for slice in batch.slices() {
            let written = self.reader.io_mut().write_all(&slice).await;
            written.map_err(|e| HandshakeError::Io(e.to_string()))?;
        }
        Ok(())
    }

    async fn hear(&mut self) -> Result<Bytes, HandshakeError> {
        let frame = self.reader.next(None).await.map_err(|e| match e {
            ReadError::Frame(e) => HandshakeError::Frame(e),
            ReadError::Closed | ReadError::Io(_) => HandshakeError::Io(e.to_string()),
        })?;
        if frame.header.frame_type != FrameType::Handshake {
            return Err(HandshakeError::Unexpected);
        }
        Ok(frame.meta)
    }
}

/// A socket after the handshake, what was agreed on, and bytes already read beyond it.
pub(super) type Shaken = (TcpStream, Established, BytesMut);

async fn initiate(
    shared: &Shared,
    stream: TcpStream,
    expected: Option<&NodeName>,
    lane: Lane,
) -> Result<Shaken, HandshakeError> {
    let mut talk = Talk::new(stream);
    let (mut initiator, mut message) = Initiator::start(
        shared.identity(),
        shared.config.security.clone(),
        expected.cloned(),
        lane,
        shared.entropy.as_ref(),
    )?;
    loop {
        talk.say(&message).await?;
        match initiator.receive(&talk.hear().await?)? {
            InitiatorStep::Send(next) => message = next,
            InitiatorStep::Done(established) => {
                let (stream, buffer) = talk.reader.into_parts();
                return Ok((stream, *established, buffer));
            }
        }
    }
}

/// The accepting side of the handshake.
pub(super) async fn respond(shared: &Shared, stream: TcpStream) -> Result<Shaken, HandshakeError> {
    let mut talk = Talk::new(stream);
    let mut responder = Responder::new(shared.identity(), shared.config.security.clone());
    loop {
        let heard = talk.hear().await?;
        match responder.receive(&heard, shared.entropy.as_ref())? {
            ResponderStep::Send(message) => talk.say(&message).await?,
            ResponderStep::Done(message, established) => {
                talk.say(&message).await?;
                let (stream, buffer) = talk.reader.into_parts();
                return Ok((stream, *established, buffer));
            }
            ResponderStep::Refuse(message, refusal) => {
                // The refusal is what counts, whether or not the peer still hears of it.
                let _heard = talk.say(&message).await.is_ok();
                return Err(HandshakeError::Refused(refusal));
            }
        }
    }
}
