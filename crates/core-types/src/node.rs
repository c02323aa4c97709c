//! A node as its peers see it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{InvalidId, NodeName, RackId};
use crate::limits::MAX_ADDRESS_BYTES;

/// A `host:port` to be resolved when it is used, so that a peer may move. IPv6 hosts stand in
/// brackets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Address {
    host: String,
    port: u16,
}

impl Address {
    /// From a host (name or IP address, without brackets) and a port.
    pub fn new(host: impl Into<String>, port: u16) -> Result<Self, InvalidId> {
        let host = host.into();
        if host.is_empty() {
            return Err(InvalidId::Empty { what: "host" });
        }
        if host.len() + 8 > MAX_ADDRESS_BYTES {
            let max = MAX_ADDRESS_BYTES - 8;
            return Err(InvalidId::TooLong {
                what: "host",
                length: host.len(),
                max,
            });
        }
        let allowed =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if let Some(character) = host.chars().find(|c| !allowed(*c)) {
            return Err(InvalidId::BadCharacter {
                what: "host",
                value: host,
                character,
                allowed: "letters, digits, '.', '-', '_' and ':'",
            });
        }
        Ok(Self { host, port })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host is `0.0.0.0` or `::`, which no peer can connect to.
    pub fn is_unspecified(&self) -> bool {
        self.host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_unspecified())
    }

    /// Whether the host is a loopback address or `localhost`.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_loopback())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(addr: std::net::SocketAddr) -> Self {
        Self {
            host: addr.ip().to_string(),
            port: addr.port(),
        }
    }
}

impl FromStr for Address {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let not_an_address = || InvalidId::BadCharacter {
            what: "address",
            value: text.to_owned(),
            character: ':',
            allowed: "host:port with a port of 0..=65535 (IPv6 hosts in brackets)",
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(not_an_address)?;
        let port = port.parse().map_err(|_| not_an_address())?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(not_an_address)?,
            None if host.contains(':') => return Err(not_an_address()),
            None => host,
        };
        Self::new(host, port)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            host: String,
            port: u16,
        }
        let raw = Raw::deserialize(deserializer)?;
        Self::new(raw.host, raw.port).map_err(serde::de::Error::custom)
    }
}

/// A node: its name, where it is, and what it can carry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The operator's name.
    pub name: NodeName,
    /// Its failure domain, if configured.
    pub rack: Option<RackId>,
    /// Where Kafka clients connect.
    pub client_addr: Address,
    /// Where peers connect (TCP), and where SWIM listens (UDP).
    pub cluster_addr: Address,
    /// Relative capacity for placement: a node of weight 200 takes twice as much as one of 100.
    pub weight: u32,
}

impl NodeInfo {
    /// A node of weight 100 without a rack.
    pub const fn new(name: NodeName, client_addr: Address, cluster_addr: Address) -> Self {
        Self {
            name,
            rack: None,
            client_addr,
            cluster_addr,
            weight: 100,
        }
    }

    /// Puts the node into a rack.
    #[must_use]
    pub fn with_rack(mut self, rack: RackId) -> Self {
        self.rack = Some(rack);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for text in ["node-2:9093", "127.0.0.1:0", "[::1]:9092"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "node-2",
            "node-2:x",
            "::1:9092",
            "[::1:9092",
            "a b:1",
            ":1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        assert!("0.0.0.0:1".parse::<Address>().unwrap().is_unspecified());
        assert!("[::1]:1".parse::<Address>().unwrap().is_loopback());
    }
}
