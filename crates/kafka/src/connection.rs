//! One client's connection: requests are started in order and answered in order.
//!
//! A reader half decodes frames and starts handlers; a writer half awaits the answers one after the
//! other. Between them is a queue whose length is the connection's bound of requests in flight. A
//! response that waits (a long poll, `acks=all`) holds back those behind it, as with Kafka, but not
//! the appends behind it, which are queued when their request is started.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::admission::LogGate;
use crate::api::{ApiKey, Call, FixedHeader};
use crate::config::KafkaConfig;
use crate::frame::EncodeError;
use crate::frame_reader::{FrameReader, ReadError, RequestFrame};
use crate::handlers::{self, Context, Pending};
use crate::metrics;
use crate::wire::DecodeError;

/// Up to so many bytes of answers are held back while the next one is already there.
const HELD_BYTES: usize = 16 * 1024;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Close {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("malformed {api} request: {error}")]
    Malformed {
        api: &'static str,
        error: DecodeError,
    },
    #[error("version {version} of API {key} is not supported")]
    Unsupported { key: i16, version: i16 },
    #[error("a produce request with acks=0 failed")]
    Unacknowledged,
    #[error("the client takes no response for {0:?}")]
    SlowReader(Duration),
    #[error("cannot write: {0}")]
    Write(std::io::Error),
    #[error("cannot encode the {api} response: {error}")]
    Encode {
        api: &'static str,
        error: EncodeError,
    },
    #[error("the server shuts down")]
    Shutdown,
    #[error("all requests are answered")]
    Drained,
}

impl Close {
    /// The reason as a metric label, if it is a refusal.
    const fn rejection(&self) -> Option<&'static str> {
        match self {
            Self::Read(ReadError::Length { .. }) => Some("frame_length"),
            Self::Read(ReadError::Slow(_)) => Some("slow_frame"),
            Self::Read(ReadError::Memory) => Some("memory"),
            Self::Malformed { .. } => Some("malformed"),
            Self::Unsupported { .. } => Some("unsupported_version"),
            Self::SlowReader(_) => Some("slow_reader"),
            Self::Encode { .. } => Some("encode"),
            Self::Read(ReadError::Closed | ReadError::Idle(_) | ReadError::Io(_))
            | Self::Unacknowledged
            | Self::Write(_)
            | Self::Shutdown
            | Self::Drained => None,
        }
    }

    /// Whether what came before is still answered. A client that is gone hears no answer.
    const fn drains(&self) -> bool {
        !matches!(self, Self::Read(ReadError::Closed | ReadError::Io(_)))
    }
}

/// What all connections of a server share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) context: Context,
    pub(crate) memory: Arc<Semaphore>,
    pub(crate) gate: Arc<LogGate>,
}

/// A request whose answer is awaited, with what it holds until then.
struct Started {
    api: ApiKey,
    at: Instant,
    answer: Pending,
    _memory: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

/// Waits until the server is told to stop, or is gone.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        tracing::trace!("the Kafka server was dropped");
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(mut shared: Shared, stream: TcpStream, stop: watch::Receiver<bool>) {
    let peer = stream.peer_addr().ok();
    shared.context.peer = peer.map(|peer| peer.ip());
    // Without it a small response may wait 40 ms for the client's delayed ACK.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(?peer, %error, "cannot set TCP_NODELAY");
    }
    let close = run(&shared, stream, stop).await;
    match close.rejection() {
        Some(reason) => {
            metrics::rejected(reason);
            if let Some(suppressed) = shared.gate.pass() {
                tracing::warn!(?peer, %close, suppressed, "closed a Kafka connection");
            }
        }
        None => tracing::debug!(?peer, %close, "a Kafka connection ended"),
    }
}

async fn run(shared: &Shared, stream: TcpStream, stop: watch::Receiver<bool>) -> Close {
    let config = &shared.context.config;
    let (input, output) = stream.into_split();
    let (queue, started) = mpsc::channel(config.max_in_flight);
    let mut writer = pin!(write(config, output, started));
    let close = {
        let reader = pin!(read(shared, input, queue, stop));
        tokio::select! {
            close = reader => close,
            close = &mut writer => return close,
        }
    };
    if close.drains() && timeout(config.shutdown_grace, writer).await.is_err() {
        tracing::debug!("requests in flight were given up");
    }
    close
}

/// Reads and starts requests until there are no more.
async fn read(
    shared: &Shared,
    input: OwnedReadHalf,
    queue: mpsc::Sender<Started>,
    mut stop: watch::Receiver<bool>,
) -> Close {
    let config = &shared.context.config;
    let places = Arc::new(Semaphore::new(config.max_in_flight));
    let mut frames = FrameReader::new(input, Arc::clone(config), Arc::clone(&shared.memory));
    loop {
        let next = async {
            // With all places taken the socket is not read: the client feels it as back-pressure.
            let place = Arc::clone(&places).acquire_owned().await;
            let busy = || places.available_permits() + 1 < config.max_in_flight;
            (place, frames.next(busy).await)
        };
        let (place, frame) = tokio::select! {
            biased;
            () = stopped(&mut stop) => return Close::Shutdown,
            next = next => next,
        };
        let started = match (place, frame) {
            (Ok(place), Ok(frame)) => start(&shared.context, frame, place),
            (_, Err(error)) => return error.into(),
            (Err(_), Ok(_)) => return Close::Shutdown,
        };
        match started {
            Ok(started) => {
                // There is room, since every item has a place. An error means the writer has ended.
                if queue.send(started).await.is_err() {
                    return Close::Drained;
                }
            }
            Err(close) => return close,
        }
    }
}

fn start(
    context: &Context,
    frame: RequestFrame,
    place: OwnedSemaphorePermit,
) -> Result<Started, Close> {
    let at = Instant::now();
    let mut rest = frame.bytes;
    let header = FixedHeader::split_from(&mut rest).map_err(|error| Close::Malformed {
        api: "unknown",
        error,
    })?;
    let FixedHeader {
        key,
        version,
        correlation,
    } = header;
    let unsupported = Close::Unsupported { key, version };
    let api = ApiKey::from_key(key).ok_or(unsupported)?;
    let answer = if api.versions().contains(&version) {
        let call = Call {
            api,
            version,
            correlation,
        };
        handlers::start(context, call, rest).map_err(|error| Close::Malformed {
            api: api.name(),
            error,
        })?
    } else if api == ApiKey::ApiVersions {
        Box::pin(async move { handlers::unsupported_version(correlation) })
    } else {
        return Err(Close::Unsupported { key, version });
    };
    Ok(Started {
        api,
        at,
        answer,
        _memory: frame.memory,
        _place: place,
    })
}

/// Awaits and writes the answers in order until no more come or one cannot be written. Short answers
/// that are there together go out together: a pipeline of small requests costs one call for many.
async fn write<W: AsyncWrite + Unpin>(
    config: &KafkaConfig,
    mut output: W,
    mut queue: mpsc::Receiver<Started>,
) -> Close {
    let mut held = BytesMut::new();
    loop {
        let next = if let Ok(started) = queue.try_recv() {
            Some(started)
        } else {
            if let Err(close) = write_frame(config, &mut output, &mut held).await {
                return close;
            }
            queue.recv().await
        };
        let Some(Started {
            api,
            at,
            mut answer,
            _memory,
            _place,
        }) = next
        else {
            break;
        };
        let there = tokio::select! {
            biased;
            answer = &mut answer => Some(answer),
            () = std::future::ready(()) => None,
        };
        let answer = if let Some(answer) = there {
            answer
        } else {
            if let Err(close) = write_frame(config, &mut output, &mut held).await {
                return close;
            }
            answer.await
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                metrics::request(api, "failed", at.elapsed());
                let written = write_frame(config, &mut output, &mut held).await;
                let api = api.name();
                return written.err().unwrap_or(Close::Encode { api, error });
            }
        };
        metrics::request(api, answer.outcome.name(), at.elapsed());
        if let Some(mut frame) = answer.frame {
            if held.len() + frame.remaining() <= HELD_BYTES {
                held.put(frame);
            } else {
                let mut written = write_frame(config, &mut output, &mut held).await;
                if written.is_ok() {
                    written = write_frame(config, &mut output, &mut frame).await;
                }
                if let Err(close) = written {
                    return close;
                }
            }
        }
        if answer.close {
            let written = write_frame(config, &mut output, &mut held).await;
            return written.err().unwrap_or(Close::Unacknowledged);
        }
    }
    // The client reads the last answers to their end before it sees the connection close.
    match timeout(config.write_timeout, output.shutdown()).await {
        Ok(Err(error)) => Close::Write(error),
        Ok(Ok(())) | Err(_) => Close::Drained,
    }
}

async fn write_frame<W: AsyncWrite + Unpin>(
    config: &KafkaConfig,
    output: &mut W,
    frame: &mut impl Buf,
) -> Result<(), Close> {
    if !frame.has_remaining() {
        return Ok(());
    }
    metrics::bytes("out", frame.remaining());
    while frame.has_remaining() {
        let written = timeout(config.write_timeout, output.write_buf(frame))
            .await
            .map_err(|_| Close::SlowReader(config.write_timeout))?
            .map_err(Close::Write)?;
        if written == 0 {
            return Err(Close::Write(std::io::ErrorKind::WriteZero.into()));
        }
    }
    Ok(())
}
