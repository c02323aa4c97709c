//! Socket options.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use crate::error::TransportError;

/// Connections that the kernel holds before they are accepted.
const BACKLOG: i32 = 1024;
/// Kernel keepalive: the backstop for a connection whose task is stuck.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(3);
const KEEPALIVE_PROBES: u32 = 3;

/// Binds and listens; says where, for port 0. Not inheriting `TIME_WAIT` (SO_REUSEADDR) lets a restarted node have its port
/// back at once; a live listener still makes it fail.
pub(super) fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), TransportError> {
    let bound = || -> io::Result<(TcpListener, SocketAddr)> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener: TcpListener = socket.into();
        let local = listener.local_addr()?;
        Ok((listener, local))
    };
    bound().map_err(|source| not_bound(address, source))
}

fn not_bound(address: SocketAddr, source: io::Error) -> TransportError {
    if source.kind() == io::ErrorKind::AddrInUse {
        TransportError::AddressInUse { address }
    } else {
        TransportError::Bind { address, source }
    }
}

/// Binds a UDP socket, with kernel buffers of this many bytes as far as the kernel grants them.
#[cfg(feature = "quic")]
pub(crate) fn bind_udp(
    address: SocketAddr,
    buffer_bytes: usize,
) -> Result<(std::net::UdpSocket, SocketAddr), TransportError> {
    let bound = || -> io::Result<(std::net::UdpSocket, SocketAddr)> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_recv_buffer_size(buffer_bytes)?;
        socket.set_send_buffer_size(buffer_bytes)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let socket: std::net::UdpSocket = socket.into();
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    bound().map_err(|source| not_bound(address, source))
}

/// Options of every connection, on both sides.
pub(super) fn configure(stream: &tokio::net::TcpStream, write_stall: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // RFC 5482: unacknowledged data closes the connection after this long.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(write_stall))?;
    #[cfg(not(target_os = "linux"))]
    let _not_on_this_system = write_stall;
    Ok(())
}
