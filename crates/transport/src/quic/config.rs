//! Settings of QUIC.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, CubicConfig, NewRenoConfig};
use quinn::{IdleTimeout, MtuDiscoveryConfig, VarInt};
use rivven_core_types::Address;

use crate::error::TransportError;

/// Smallest packet that QUIC may assume to get through (RFC 9000, section 14).
const MIN_MTU: u16 = 1200;
/// Ten segments, which is how many quinn hands over at once, must fit into the 65,535 bytes that the
/// kernel takes; beyond that the throughput falls a hundredfold.
const MAX_MTU_WITH_OFFLOAD: u16 = 6500;
const MAX_MTU: u16 = 9000;

/// Who decides how fast to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Congestion {
    /// CUBIC (RFC 9438).
    Cubic,
    /// BBR, version 1: keeps the pipe full where packets are lost without congestion. quinn calls its
    /// implementation experimental.
    Bbr,
    /// NewReno (RFC 9002).
    NewReno,
}

/// QUIC beside TCP: where to listen, and where peers are told to come.
#[derive(Debug, Clone)]
pub struct QuicListen {
    /// The UDP address to bind; never the failure detector's.
    pub listen: SocketAddr,
    /// What peers are told in the handshake over TCP; the bound address if `None`.
    pub advertised: Option<Address>,
    /// Settings.
    pub config: QuicConfig,
}

/// Settings of QUIC. Every window is finite: together they bound the memory that a peer can take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuicConfig {
    /// Congestion control.
    pub congestion: Congestion,
    /// Bytes that a peer may send ahead on one stream.
    pub stream_window: u32,
    /// Bytes that a peer may send ahead on one connection.
    pub connection_window: u32,
    /// Bytes sent and not yet acknowledged, per connection.
    pub send_window: u32,
    /// Streams that a peer may have open: three lanes, and calls by address.
    pub max_streams: u32,
    /// A connection that has heard nothing for this long is dead.
    pub idle_timeout: Duration,
    /// A silent connection sends a sign of life this often.
    pub keep_alive: Duration,
    /// Largest UDP payload to try, in bytes.
    pub mtu: u16,
    /// Hands several packets to the kernel at once (GSO): two to three times the throughput.
    pub segmentation_offload: bool,
    /// Socket buffers of the kernel, in bytes, each way; it may grant less.
    pub socket_buffer_bytes: usize,
    /// Whether the first call on a connection that is made again may go out with its first packet (0-RTT),
    /// if it asks and changes nothing ([`rivven_core_types::RpcKind::is_idempotent`]). It saves three round
    /// trips. Sessions are resumed then: the peer's certificate is judged anew, but the peer does not prove
    /// its key again. Off unless both sides set it.
    pub early_data: bool,
}

impl Default for QuicConfig {
    /// CUBIC, and windows for a datacentre.
    fn default() -> Self {
        Self {
            congestion: Congestion::Cubic,
            stream_window: 4 << 20,
            connection_window: 32 << 20,
            send_window: 16 << 20,
            max_streams: 128,
            idle_timeout: Duration::from_secs(6),
            keep_alive: Duration::from_secs(2),
            mtu: 1452,
            segmentation_offload: true,
            socket_buffer_bytes: 4 << 20,
            early_data: false,
        }
    }
}

impl QuicConfig {
    /// BBR, and windows for long or lossy paths.
    pub fn high_throughput() -> Self {
        Self {
            congestion: Congestion::Bbr,
            stream_window: 16 << 20,
            connection_window: 64 << 20,
            send_window: 64 << 20,
            ..Self::default()
        }
    }

    /// Checks every field; the first one out of range is named.
    pub fn validate(&self) -> Result<(), TransportError> {
        let limit = |name, requirement| Err(TransportError::Limit { name, requirement });
        let largest = if self.segmentation_offload {
            MAX_MTU_WITH_OFFLOAD
        } else {
            MAX_MTU
        };
        if !(MIN_MTU..=largest).contains(&self.mtu) {
            return limit(
                "mtu",
                "1200 to 6500, or to 9000 without segmentation_offload",
            );
        }
        let windows = [
            ("stream_window", self.stream_window),
            ("connection_window", self.connection_window),
            ("send_window", self.send_window),
        ];
        if let Some((name, _)) = windows
            .iter()
            .find(|(_, bytes)| !(64 << 10..=1 << 30).contains(bytes))
        {
            return limit(name, "64 KiB to 1 GiB");
        }
        if self.connection_window < self.stream_window {
            return limit("connection_window", "at least stream_window");
        }
        if !(3..=10_000).contains(&self.max_streams) {
            return limit("max_streams", "3 to 10,000");
        }
        let day = Duration::from_secs(86_400);
        if self.keep_alive < Duration::from_millis(10) || self.idle_timeout > day {
            return limit(
                "keep_alive",
                "10 ms or more, with an idle_timeout of up to a day",
            );
        }
        if self.idle_timeout < 2 * self.keep_alive {
            return limit("idle_timeout", "at least twice keep_alive");
        }
        Ok(())
    }

    pub(crate) fn transport(&self) -> Result<quinn::TransportConfig, TransportError> {
        let mut transport = quinn::TransportConfig::default();
        let idle = IdleTimeout::try_from(self.idle_timeout).map_err(|_| TransportError::Limit {
            name: "idle_timeout",
            requirement: "up to a day",
        })?;
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu);
        transport
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .stream_receive_window(VarInt::from_u32(self.stream_window))
            .receive_window(VarInt::from_u32(self.connection_window))
            .send_window(u64::from(self.send_window))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.max_streams))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .datagram_receive_buffer_size(None)
            .mtu_discovery_config(Some(discovery))
            .enable_segmentation_offload(self.segmentation_offload);
        match self.congestion {
            Congestion::Cubic => {
                transport.congestion_controller_factory(Arc::new(CubicConfig::default()))
            }
            Congestion::Bbr => {
                transport.congestion_controller_factory(Arc::new(BbrConfig::default()))
            }
            Congestion::NewReno => {
                transport.congestion_controller_factory(Arc::new(NewRenoConfig::default()))
            }
        };
        Ok(transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_the_offload_trap_is_not() {
        assert_eq!(QuicConfig::default().congestion, Congestion::Cubic);
        assert_eq!(QuicConfig::high_throughput().congestion, Congestion::Bbr);
        for config in [QuicConfig::default(), QuicConfig::high_throughput()] {
            config.validate().unwrap();
            config.transport().unwrap();
        }
        let jumbo = QuicConfig {
            mtu: 8900,
            ..QuicConfig::default()
        };
        assert!(jumbo.validate().unwrap_err().to_string().contains("mtu"));
        let without = QuicConfig {
            segmentation_offload: false,
            ..jumbo
        };
        without.validate().unwrap();
    }
}
