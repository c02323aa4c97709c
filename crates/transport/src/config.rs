//! What a transport is made from.

use std::net::SocketAddr;
use std::time::Duration;

use rivven_core_types::{ClusterId, Incarnation, NodeName, limits};
use serde::{Deserialize, Serialize};

use crate::error::TransportError;
use crate::secret::Secret;
#[cfg(feature = "tls")]
use crate::tls::TlsConfig;

/// How peers prove who they are. One enum, and no flags that combine.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Security {
    /// TLS 1.3 with a certificate on both sides. Encrypts, and proves which node a peer is.
    #[cfg(feature = "tls")]
    MutualTls(TlsConfig),
    /// Both sides prove that they know the secret, and every frame is authenticated. Proves
    /// membership of the cluster, not which member; does not encrypt.
    SharedSecret(Secret),
    /// No proof at all: any process that reaches the port is a peer. For development alone.
    InsecureDev,
}

impl Security {
    /// The mode, without its secrets.
    pub const fn mode(&self) -> SecurityMode {
        match self {
            #[cfg(feature = "tls")]
            Self::MutualTls(_) => SecurityMode::MutualTls,
            Self::SharedSecret(_) => SecurityMode::SharedSecret,
            Self::InsecureDev => SecurityMode::InsecureDev,
        }
    }
}

/// The security mode as the handshake names it. Two peers must be in the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum SecurityMode {
    /// [`Security::InsecureDev`].
    InsecureDev,
    /// [`Security::SharedSecret`].
    SharedSecret,
    /// Mutual TLS. A build without the feature `tls` knows it by name.
    MutualTls,
}

/// Who this node is, where it listens, and how it is secured.
#[derive(Debug, Clone)]
pub struct TransportConfig {
    /// This node's name.
    pub name: NodeName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Its cluster; `None` while it is blank.
    pub cluster_id: Option<ClusterId>,
    /// Where to accept peers; port 0 lets the operating system choose.
    pub listen: SocketAddr,
    /// How peers prove themselves.
    pub security: Security,
    /// Whether long bodies are compressed.
    pub compression: Compression,
    /// Every bound.
    pub limits: TransportLimits,
}

impl TransportConfig {
    /// Checks the limits, also against what else is set; the first one out of range is named.
    pub fn validate(&self) -> Result<(), TransportError> {
        self.limits.validate()?;
        if self.compression == Compression::None {
            return Ok(());
        }
        let least = 2 * limits::MAX_BULK_FRAME_BYTES;
        for (name, bytes) in [
            ("max_in_flight_bytes", self.limits.max_in_flight_bytes),
            ("max_node_bytes", self.limits.max_node_bytes),
        ] {
            if bytes < least {
                // A body is held twice while it is made plain: the longest would be refused for ever.
                let requirement =
                    "with compression at least twice the longest frame of the bulk lane";
                return Err(TransportError::Limit { name, requirement });
            }
        }
        Ok(())
    }
}

/// Whether bodies are compressed on the way to peers that can read it. Never on the control lane, never
/// short ones, and only what shrinks by an eighth or more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compression {
    /// As they are. Records are often compressed by their producers already.
    #[default]
    None,
    /// With zstd: for links that are slower than about 300 MB/s.
    #[cfg(feature = "compression")]
    Zstd,
}

/// Every bound of the transport. The longest frame of each lane is fixed by the protocol
/// ([`crate::lane_limit`]), since both sides must agree on it.
#[derive(Debug, Clone)]
pub struct TransportLimits {
    /// Requests of one connection being answered at once; at the bound the connection is not read,
    /// so that TCP holds the peer back.
    pub max_in_flight_requests: usize,
    /// Bytes that one connection may hold: requests being answered, and bodies that come in parts. At
    /// the bound the connection is not read either; a body that finds no room is `Overloaded`.
    pub max_in_flight_bytes: usize,
    /// The same for all connections of the rpc and bulk lanes together. The control lane has 64 MiB of its
    /// own, so that records never hold up an append or a heartbeat.
    pub max_node_bytes: usize,
    /// Calls awaiting an answer on one outgoing connection.
    pub max_pending_calls: usize,
    /// Calls waiting to become pending, on one outgoing connection; more are `Overloaded`. On the
    /// control lane nothing waits.
    pub max_waiting_calls: usize,
    /// Frames queued for writing on one connection.
    pub send_queue_frames: usize,
    /// Bytes queued for writing on one connection.
    pub send_queue_bytes: usize,
    /// From accept or connect to the end of the handshake.
    pub handshake_timeout: Duration,
    /// To resolve a host name and to connect.
    pub connect_timeout: Duration,
    /// Accepted connections that have not finished the handshake.
    pub max_unauthenticated: usize,
    /// The same, from one IP address.
    pub max_unauthenticated_per_source: usize,
    /// Accepted connections in all.
    pub max_connections: usize,
    /// Peers in the address book; more are not added.
    pub max_peers: usize,
    /// Calls by address, each on a connection of its own, at once.
    pub max_unpooled_calls: usize,
    /// An outgoing connection that has heard nothing for this long sends a ping.
    pub ping_interval: Duration,
    /// A connection that has heard nothing for this long is dead.
    pub dead_after: Duration,
    /// A connection that could not write a byte for this long is dead.
    pub write_stall: Duration,
    /// Greatest pause after the first failed connection attempt; doubles with each further one.
    pub backoff_min: Duration,
    /// Greatest pause between connection attempts.
    pub backoff_max: Duration,
    /// An outgoing connection that no call has used for this long is closed.
    pub idle_timeout: Duration,
    /// An outgoing connection older than this (up to a tenth less, at random) takes no new calls and
    /// closes after its last answer: so that peers are judged anew, and moved addresses are noticed.
    pub max_connection_age: Duration,
    /// At shutdown, how long requests in flight may take to be answered.
    pub drain_timeout: Duration,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            max_in_flight_requests: 256,
            max_in_flight_bytes: 64 * 1024 * 1024,
            max_node_bytes: 512 * 1024 * 1024,
            max_pending_calls: 1024,
            max_waiting_calls: 4096,
            send_queue_frames: 1024,
            send_queue_bytes: 32 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(3),
            max_unauthenticated: 256,
            max_unauthenticated_per_source: 16,
            max_connections: 3 * limits::MAX_BROKERS + 1024,
            max_peers: limits::MAX_BROKERS,
            max_unpooled_calls: 64,
            ping_interval: Duration::from_secs(2),
            dead_after: Duration::from_secs(6),
            write_stall: Duration::from_secs(10),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(600),
            max_connection_age: Duration::from_secs(12 * 3600),
            drain_timeout: Duration::from_secs(5),
        }
    }
}

impl TransportLimits {
    /// Checks every field; the first one out of range is named.
    pub fn validate(&self) -> Result<(), TransportError> {
        // tokio's semaphores hold at most usize::MAX >> 3 permits and give out u32 at a time.
        let counts = [
            ("max_in_flight_requests", self.max_in_flight_requests),
            ("max_in_flight_bytes", self.max_in_flight_bytes),
            ("max_node_bytes", self.max_node_bytes),
            ("max_pending_calls", self.max_pending_calls),
            ("max_waiting_calls", self.max_waiting_calls),
            ("send_queue_frames", self.send_queue_frames),
            ("send_queue_bytes", self.send_queue_bytes),
            ("max_unauthenticated", self.max_unauthenticated),
            (
                "max_unauthenticated_per_source",
                self.max_unauthenticated_per_source,
            ),
            ("max_connections", self.max_connections),
            ("max_peers", self.max_peers),
            ("max_unpooled_calls", self.max_unpooled_calls),
        ];
        let most = 1 << 31;
        if let Some((name, _)) = counts.iter().find(|(_, n)| !(1..=most).contains(n)) {
            let requirement = "1 to 2^31";
            return Err(TransportError::Limit { name, requirement });
        }
        let longest = limits::MAX_BULK_FRAME_BYTES;
        for (name, bytes) in [
            ("max_in_flight_bytes", self.max_in_flight_bytes),
            ("max_node_bytes", self.max_node_bytes),
            ("send_queue_bytes", self.send_queue_bytes),
        ] {
            if bytes < longest {
                let requirement = "at least the longest frame of the bulk lane";
                return Err(TransportError::Limit { name, requirement });
            }
        }
        let times = [
            ("handshake_timeout", self.handshake_timeout),
            ("connect_timeout", self.connect_timeout),
            ("ping_interval", self.ping_interval),
            ("write_stall", self.write_stall),
            ("backoff_min", self.backoff_min),
            ("backoff_max", self.backoff_max),
            ("dead_after", self.dead_after),
            ("idle_timeout", self.idle_timeout),
            ("max_connection_age", self.max_connection_age),
        ];
        let least = Duration::from_millis(1);
        let day = Duration::from_secs(86_400);
        if let Some((name, _)) = times.iter().find(|(_, t)| *t < least || *t > day) {
            let requirement = "a millisecond to a day";
            return Err(TransportError::Limit { name, requirement });
        }
        if self.dead_after <= self.ping_interval {
            return Err(TransportError::Limit {
                name: "dead_after",
                requirement: "longer than ping_interval",
            });
        }
        if self.backoff_max < self.backoff_min {
            return Err(TransportError::Limit {
                name: "backoff_max",
                requirement: "at least backoff_min",
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "compression")]
    #[test]
    fn with_compression_a_body_fits_twice() {
        let longest = limits::MAX_BULK_FRAME_BYTES;
        for (bytes, compression, good) in [
            (longest, Compression::None, true),
            (longest, Compression::Zstd, false),
            (2 * longest, Compression::Zstd, true),
        ] {
            let config = TransportConfig {
                name: NodeName::new("a").unwrap(),
                incarnation: Incarnation::from_bytes([1; 16]),
                cluster_id: None,
                listen: "127.0.0.1:0".parse().unwrap(),
                security: Security::InsecureDev,
                compression,
                limits: TransportLimits {
                    max_node_bytes: bytes,
                    ..TransportLimits::default()
                },
            };
            let outcome = config.validate();
            assert_eq!(outcome.is_ok(), good, "{outcome:?}");
            if let Err(error) = outcome {
                assert!(error.to_string().contains("max_node_bytes"), "{error}");
            }
        }
    }

    #[test]
    fn a_limit_out_of_range_is_named() {
        assert!(TransportLimits::default().validate().is_ok());
        let limits = TransportLimits {
            max_unauthenticated: 0,
            ..TransportLimits::default()
        };
        let error = limits.validate().unwrap_err().to_string();
        assert!(error.contains("max_unauthenticated"), "{error}");
        let limits = TransportLimits {
            dead_after: Duration::from_secs(1),
            ..TransportLimits::default()
        };
        let error = limits.validate().unwrap_err().to_string();
        assert!(error.contains("dead_after"), "{error}");
    }
}
