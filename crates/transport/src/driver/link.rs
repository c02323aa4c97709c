//! What a connection runs over, before its two directions part.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::dial::Opening;

/// The direction from the peer.
pub(super) type ReadSide = Box<dyn AsyncRead + Send + Unpin>;
/// The direction to the peer.
pub(super) type WriteSide = Box<dyn AsyncWrite + Send + Unpin>;

/// A TCP socket that can be taken from one runtime to another, also from inside of a TLS session: the
/// lane, and with it the runtime, is known only after the handshake.
pub(super) enum Socket {
    Live(TcpStream),
    Parked(std::net::TcpStream),
    /// It got lost on the way from one runtime to another.
    Gone,
}

impl Socket {
    /// Leaves the runtime on which it was made.
    fn park(&mut self) -> io::Result<()> {
        if let Self::Live(stream) = std::mem::replace(self, Self::Gone) {
            *self = Self::Parked(stream.into_std()?);
        }
        Ok(())
    }

    /// Joins the current runtime.
    fn unpark(&mut self) -> io::Result<()> {
        if let Self::Parked(stream) = std::mem::replace(self, Self::Gone) {
            *self = Self::Live(TcpStream::from_std(stream)?);
        }
        Ok(())
    }

    fn live(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        match self {
            Self::Live(stream) => Ok(Pin::new(stream)),
            Self::Parked(_) | Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.live()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.live()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.live()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.live()?.poll_shutdown(cx)
    }
}

/// A connection of any kind.
pub(super) enum Link {
    Tcp(Socket),
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::TlsStream<Socket>>),
    #[cfg(feature = "quic")]
    Quic(super::quic::Lane),
}

impl Link {
    fn socket(&mut self) -> Option<&mut Socket> {
        match self {
            Self::Tcp(socket) => Some(socket),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Some(match tls.as_mut() {
                tokio_rustls::TlsStream::Client(tls) => tls.get_mut().0,
                tokio_rustls::TlsStream::Server(tls) => tls.get_mut().0,
            }),
            #[cfg(feature = "quic")]
            Self::Quic(_) => None,
        }
    }

    /// What it is, for metrics.
    pub(super) const fn carrier(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            #[cfg(feature = "tls")]
            Self::Tls(_) => "tls",
            #[cfg(feature = "quic")]
            Self::Quic(_) => "quic",
        }
    }

    /// How it may begin.
    pub(super) fn opening(&self) -> Opening {
        match self {
            Self::Tcp(_) => Opening::Lane,
            #[cfg(feature = "tls")]
            Self::Tls(_) => Opening::Lane,
            #[cfg(feature = "quic")]
            Self::Quic(lane) => lane.opening(),
        }
    }

    /// Leaves the runtime on which it was made. QUIC's socket belongs to its endpoint and stays.
    pub(super) fn park(&mut self) -> io::Result<()> {
        self.socket().map_or(Ok(()), Socket::park)
    }

    /// Joins the current runtime.
    pub(super) fn unpark(&mut self) -> io::Result<()> {
        self.socket().map_or(Ok(()), Socket::unpark)
    }

    /// The certificates by which the peer was identified.
    #[cfg(feature = "tls")]
    pub(super) fn chain(&self) -> Vec<rustls_pki_types::CertificateDer<'static>> {
        match self {
            Self::Tcp(_) => Vec::new(),
            Self::Tls(tls) => {
                let chain = tls.get_ref().1.peer_certificates();
                chain.map(<[_]>::to_vec).unwrap_or_default()
            }
            #[cfg(feature = "quic")]
            Self::Quic(lane) => lane.chain().to_vec(),
        }
    }

    /// The two directions.
    pub(super) fn split(self) -> (ReadSide, WriteSide) {
        match self {
            Self::Tcp(Socket::Live(stream)) => {
                let (read, write) = stream.into_split();
                (Box::new(read), Box::new(write))
            }
            Self::Tcp(socket) => {
                let (read, write) = tokio::io::split(socket);
                (Box::new(read), Box::new(write))
            }
            #[cfg(feature = "tls")]
            Self::Tls(tls) => {
                let (read, write) = tokio::io::split(*tls);
                (Box::new(read), Box::new(write))
            }
            #[cfg(feature = "quic")]
            Self::Quic(lane) => lane.split(),
        }
    }

    /// Everything as one, while two sides shake hands.
    fn io(&mut self) -> Pin<&mut (dyn Both + Send)> {
        match self {
            Self::Tcp(socket) => Pin::new(socket),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Pin::new(tls.as_mut()),
            #[cfg(feature = "quic")]
            Self::Quic(lane) => Pin::new(lane),
        }
    }
}

/// Both directions of a stream.
trait Both: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Both for T {}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.io().poll_read(cx, buf)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(cx)
    }
}
