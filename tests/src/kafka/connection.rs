//! One connection: requests are written in order, answers come back in the same order.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::error::ClientError;

/// How long a broker may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a broker may take to answer: more than any time-out in a request.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Answers that are read ahead of their processing.
const MAX_READ_AHEAD: usize = 16;
/// Longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A connection to a broker, to be split for pipelining.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) reading: Reading,
    pub(super) writing: Writing,
}

/// The half that reads answers.
#[derive(Debug)]
pub(super) struct Reading(OwnedReadHalf);

/// The half that writes requests.
#[derive(Debug)]
pub(super) struct Writing {
    stream: OwnedWriteHalf,
    next: i32,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, ClientError> {
        let connecting = TcpStream::connect(address);
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(stream) => stream?,
            Err(_) => {
                let text = format!("{address} accepts no connection");
                return Err(ClientError::Connection(text));
            }
        };
        stream.set_nodelay(true)?;
        let (reading, writing) = stream.into_split();
        Ok(Self {
            reading: Reading(reading),
            writing: Writing {
                stream: writing,
                next: 0,
            },
        })
    }

    /// One request, one answer.
    pub(super) async fn call<R: Request>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        let correlation = self.writing.send(request, version).await?;
        self.reading.answer::<R>(correlation, version).await
    }
}

impl Writing {
    /// Writes a request and returns its correlation id.
    pub(super) async fn send<R: Request>(
        &mut self,
        request: &R,
        version: i16,
    ) -> Result<i32, ClientError> {
        let correlation = self.next;
        self.next = self.next.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(correlation)
            .with_client_id(Some(StrBytes::from_static_str("rivven-tests")));
        let mut frame = BytesMut::new();
        frame.put_u32(0);
        header
            .encode(&mut frame, R::header_version(version))
            .and_then(|()| request.encode(&mut frame, version))
            .map_err(ClientError::malformed)?;
        let length = u32::try_from(frame.len() - 4).map_err(ClientError::malformed)?;
        frame[..4].copy_from_slice(&length.to_be_bytes());
        self.stream.write_all(&frame).await?;
        Ok(correlation)
    }
}

impl Reading {
    async fn answer<R: Request>(
        &mut self,
        correlation: i32,
        version: i16,
    ) -> Result<R::Response, ClientError> {
        let reading = tokio::time::timeout(ANSWER_TIMEOUT, self.frame());
        let Ok(frame) = reading.await else {
            return Err(ClientError::Connection("no answer in time".to_owned()));
        };
        decode::<R>(frame?, correlation, version)
    }

    async fn frame(&mut self) -> Result<Bytes, ClientError> {
        let length = usize::try_from(self.0.read_i32().await?).map_err(ClientError::malformed)?;
        if length > MAX_ANSWER_BYTES {
            return Err(ClientError::Malformed(format!("a frame of {length} bytes")));
        }
        let mut frame = vec![0; length];
        self.0.read_exact(&mut frame).await?;
        Ok(frame.into())
    }

    /// Reads in a task, so that waiting for a frame can be given up without losing a part of it.
    pub(super) fn into_frames(mut self) -> Frames {
        let (sender, frames) = mpsc::channel(MAX_READ_AHEAD);
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let frame = self.frame().await;
                let failed = frame.is_err();
                if sender.send(frame).await.is_err() || failed {
                    return;
                }
            }
        });
        Frames {
            frames,
            _task: task,
        }
    }
}

/// The answers of a connection, still encoded. Waiting for the next can be cancelled.
#[derive(Debug)]
pub(super) struct Frames {
    frames: mpsc::Receiver<Result<Bytes, ClientError>>,
    // Ends with this value.
    _task: JoinSet<()>,
}

impl Frames {
    pub(super) async fn next(&mut self) -> Result<Bytes, ClientError> {
        let gone = || ClientError::Connection("the connection is closed".to_owned());
        self.frames.recv().await.unwrap_or_else(|| Err(gone()))
    }
}

/// Decodes the answer to the request with this correlation id.
pub(super) fn decode<R: Request>(
    mut frame: Bytes,
    correlation: i32,
    version: i16,
) -> Result<R::Response, ClientError> {
    let header_version = R::Response::header_version(version);
    let header = ResponseHeader::decode(&mut frame, header_version);
    let header = header.map_err(ClientError::malformed)?;
    if header.correlation_id != correlation {
        let text = format!(
            "correlation id {} instead of {correlation}",
            header.correlation_id
        );
        return Err(ClientError::Malformed(text));
    }
    let response = R::Response::decode(&mut frame, version).map_err(ClientError::malformed)?;
    if frame.has_remaining() {
        let text = format!("{} bytes after the answer", frame.remaining());
        return Err(ClientError::Malformed(text));
    }
    Ok(response)
}
