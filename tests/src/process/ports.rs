//! Free ports on the loopback address.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

use crate::failure::Failure;

/// From where ports are taken: below the range from which the operating system takes the source ports
/// of outgoing connections, so that no connection occupies the port of a node while it is down.
const FIRST: u16 = 10_240;
const LAST: u16 = 32_000;
/// How many ports are tried before giving up.
const MAX_TRIES: usize = 4_000;

/// Ports that this process has handed out, so that two clusters of one test binary never share one.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A loopback address whose port is free for TCP and UDP and was never handed out before.
pub fn free_address() -> Result<SocketAddr, Failure> {
    let mut taken = TAKEN
        .lock()
        .map_err(|_| Failure::new("a thread died while it chose a port"))?;
    let random = RandomState::new();
    for attempt in 0..MAX_TRIES {
        let span = u64::from(LAST - FIRST);
        let offset = u16::try_from(random.hash_one(attempt) % span).unwrap_or(0);
        let port = FIRST + offset;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let is_free = TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok();
        if is_free && taken.insert(port) {
            return Ok(address);
        }
    }
    Err(Failure::new("no free port on the loopback address"))
}
