//! The operating system's UDP behind the datagram port.

use std::net::SocketAddr;

use rivven_core_types::{BoxFuture, Datagram};
use tokio::net::UdpSocket;

/// A bound UDP socket.
#[derive(Debug)]
pub struct UdpDatagram(UdpSocket);

impl UdpDatagram {
    /// Binds `address`; port 0 takes a free one.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        UdpSocket::bind(address).await.map(Self)
    }
}

impl Datagram for UdpDatagram {
    fn send_to<'a>(
        &'a self,
        payload: &'a [u8],
        to: SocketAddr,
    ) -> BoxFuture<'a, std::io::Result<()>> {
        Box::pin(async move { self.0.send_to(payload, to).await.map(drop) })
    }

    fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> BoxFuture<'a, std::io::Result<(usize, SocketAddr)>> {
        Box::pin(self.0.recv_from(buffer))
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
