//! Free ports on the loopback address.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Mutex;

use crate::failure::Failure;

/// From where ports are taken: below the range from which the operating system takes the source ports
/// of outgoing connections, so that no connection occupies the port of a node while it is down.
const FIRST: u16 = 10_240;
/// Ports in a block, the first of which is the claim to the others.
const BLOCK: u16 = 64;
const BLOCKS: u16 = 330;

/// A block of ports that belongs to this process: another one that looks for a block finds the first
/// port occupied. Nodes that are down keep their ports that way.
struct Claim {
    _claim: TcpListener,
    first: u16,
    used: u16,
}

/// The blocks of this process, the last of which still has ports to give.
static CLAIMS: Mutex<Vec<Claim>> = Mutex::new(Vec::new());

/// A loopback address whose port is free for TCP and UDP, and that neither this process nor another one
/// that asked here is given again.
pub fn free_address() -> Result<SocketAddr, Failure> {
    let poisoned = |_| Failure::new("a thread died while it chose a port");
    let mut claims = CLAIMS.lock().map_err(poisoned)?;
    loop {
        if let Some(claim) = claims.last_mut() {
            while claim.used + 1 < BLOCK {
                claim.used += 1;
                let address = loopback(claim.first + claim.used);
                if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                    return Ok(address);
                }
            }
        }
        claims.push(claim()?);
    }
}

fn claim() -> Result<Claim, Failure> {
    let start = RandomState::new().hash_one("ports") % u64::from(BLOCKS);
    let start = u16::try_from(start).unwrap_or(0);
    for block in (start..BLOCKS).chain(0..start) {
        let first = FIRST + block * BLOCK;
        if let Ok(listener) = TcpListener::bind(loopback(first)) {
            return Ok(Claim {
                _claim: listener,
                first,
                used: 0,
            });
        }
    }
    Err(Failure::new("every block of ports is occupied"))
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice_and_blocks_are_claimed_as_needed() {
        let count = usize::from(BLOCK) * 2;
        let ports: BTreeSet<SocketAddr> = (0..count).map(|_| free_address().unwrap()).collect();
        assert_eq!(ports.len(), count);
        let claims = CLAIMS.lock().unwrap();
        assert!(claims.len() >= 3);
        assert!(TcpListener::bind(loopback(claims[0].first)).is_err());
    }
}
