//! Configuration: timing, bounds, security and cluster isolation.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::limits::MAX_BROKERS;
use rivven_core_types::{ClusterId, NodeInfo};
use zeroize::Zeroizing;

use crate::error::SwimError;

/// Shortest shared secret, in bytes.
pub const MIN_SECRET_BYTES: usize = 16;
/// Longest shared secret, in bytes.
const MAX_SECRET_BYTES: usize = 4096;
/// Most secrets held at once, while one replaces another.
pub(crate) const MAX_SECRETS: usize = 8;
/// Most members that may be configured.
const MAX_MEMBERS: usize = 16_384;
/// Most relays asked for an indirect probe.
const MAX_INDIRECT_PROBES: usize = 16;
/// Greatest suspicion multiplier.
const MAX_SUSPICION_MULTIPLIER: u32 = 1_000;

/// Configuration of one node's membership. Timing and security must be equal on all nodes.
#[derive(Debug, Clone)]
pub struct SwimConfig {
    /// Time between two probes (the protocol period T').
    pub ping_interval: Duration,
    /// How long a direct answer may take before other members are asked to probe; below
    /// `ping_interval`, the rest of which is for their answers.
    pub ping_timeout: Duration,
    /// How many other members are asked to probe a member that has not answered.
    pub indirect_probes: usize,
    /// How long a suspected member has to refute at the least: a third of this, times log2 of the
    /// number of live members (4 at the least), times `ping_interval`. Six times as long while nobody
    /// else suspects it.
    pub suspicion_multiplier: u32,
    /// How datagrams are authenticated.
    pub security: SwimSecurity,
    /// Which cluster: datagrams of another are dropped.
    pub cluster: ClusterTag,
    /// This life of the process: greater at each start, best from a persisted counter. `None` takes
    /// the greater of the wall clock in milliseconds and, with a `state_file`, one more than the last
    /// life's; without one a clock set back breaks it. Do not change from a counter to the clock or
    /// back unless the counter starts above the clock.
    pub boot_id: Option<u64>,
    /// Where the driver keeps the boot id and the addresses of the last known members, so that the
    /// next life is newer than this one and finds the others without its seeds.
    pub state_file: Option<PathBuf>,
    /// Where to bind the socket, if not at the node's `cluster_addr`.
    pub bind_addr: Option<SocketAddr>,
    /// What this node says of itself besides its addresses, at most 512 bytes: for the application.
    pub metadata: Bytes,
    /// Whether the driver can ask a member over a stream when its datagrams stay out
    /// ([`crate::Output::StreamProbe`]); set by [`crate::SwimPorts`].
    pub stream_fallback: bool,
    /// Most members held, tombstones included.
    pub max_members: usize,
    /// Time between two attempts to reach one dead member and one seed, so that partitions heal.
    pub dead_probe_interval: Duration,
    /// How long dead and departed members are remembered.
    pub tombstone_ttl: Duration,
    /// First pause between two attempts to reach the seeds while this node is alone; it doubles.
    pub seed_retry_min: Duration,
    /// Longest pause between two attempts to reach the seeds while this node is alone.
    pub seed_retry_max: Duration,
    /// How long `join` waits for the first answer.
    pub join_timeout: Duration,
}

impl Default for SwimConfig {
    fn default() -> Self {
        Self {
            ping_interval: Duration::from_millis(100),
            ping_timeout: Duration::from_millis(50),
            indirect_probes: 3,
            suspicion_multiplier: 3,
            security: SwimSecurity::default(),
            cluster: ClusterTag::default(),
            boot_id: None,
            state_file: None,
            bind_addr: None,
            metadata: Bytes::new(),
            stream_fallback: false,
            max_members: MAX_BROKERS,
            dead_probe_interval: Duration::from_secs(5),
            tombstone_ttl: Duration::from_secs(24 * 60 * 60),
            seed_retry_min: Duration::from_millis(200),
            seed_retry_max: Duration::from_secs(10),
            join_timeout: Duration::from_secs(5),
        }
    }
}

impl SwimConfig {
    /// Checks every field on its own and against the others.
    pub fn validate(&self) -> Result<(), SwimError> {
        let day = Duration::from_secs(24 * 60 * 60);
        if self.ping_interval < Duration::from_millis(1) || self.ping_interval > day {
            return Err(SwimError::config("ping_interval", "must be 1 ms to 1 day"));
        }
        if self.ping_timeout.is_zero() || self.ping_timeout >= self.ping_interval {
            let reason = "must be above zero and below ping_interval, so that relays have time";
            return Err(SwimError::config("ping_timeout", reason));
        }
        if self.indirect_probes > MAX_INDIRECT_PROBES {
            let reason = format!("must be at most {MAX_INDIRECT_PROBES}");
            return Err(SwimError::config("indirect_probes", reason));
        }
        if !(1..=MAX_SUSPICION_MULTIPLIER).contains(&self.suspicion_multiplier) {
            let reason = format!("must be 1 to {MAX_SUSPICION_MULTIPLIER}");
            return Err(SwimError::config("suspicion_multiplier", reason));
        }
        if !(2..=MAX_MEMBERS).contains(&self.max_members) {
            let reason = format!("must be 2 to {MAX_MEMBERS}");
            return Err(SwimError::config("max_members", reason));
        }
        if self.dead_probe_interval < self.ping_interval {
            let reason = "must not be below ping_interval";
            return Err(SwimError::config("dead_probe_interval", reason));
        }
        if self.tombstone_ttl < self.dead_probe_interval {
            let reason = "must not be below dead_probe_interval";
            return Err(SwimError::config("tombstone_ttl", reason));
        }
        if self.seed_retry_min < Duration::from_millis(10) {
            return Err(SwimError::config(
                "seed_retry_min",
                "must be at least 10 ms",
            ));
        }
        if self.seed_retry_max < self.seed_retry_min {
            let reason = "must not be below seed_retry_min";
            return Err(SwimError::config("seed_retry_max", reason));
        }
        if self.join_timeout.is_zero() {
            return Err(SwimError::config("join_timeout", "must be above zero"));
        }
        if self.boot_id == Some(0) {
            let reason = "must be above zero: zero stands for a receiver not yet known";
            return Err(SwimError::config("boot_id", reason));
        }
        Ok(())
    }

    /// Checks the configuration for the node that will use it.
    pub(crate) fn validate_for(&self, local: &NodeInfo) -> Result<(), SwimError> {
        self.validate()?;
        let address = &local.cluster_addr;
        if address.is_unspecified() {
            return Err(SwimError::UnusableAddress {
                address: address.clone(),
            });
        }
        if !matches!(self.security, SwimSecurity::Unconfigured) {
            return Ok(());
        }
        let exposed = match self.bind_addr {
            Some(bind) if !bind.ip().is_loopback() => Some(bind.into()),
            _ if !address.is_loopback() => Some(address.clone()),
            _ => None,
        };
        exposed.map_or(Ok(()), |address| {
            Err(SwimError::SecurityRequired { address })
        })
    }
}

/// How datagrams are authenticated.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum SwimSecurity {
    /// Nothing was chosen: unauthenticated, and refused unless every address is a loopback one.
    #[default]
    Unconfigured,
    /// HMAC-SHA256 (RFC 2104, truncated to 128 bits) under a secret that all nodes share.
    SharedSecret(SharedSecret),
    /// Unauthenticated on purpose, on any address: whoever can send a datagram can change the
    /// membership. For development alone.
    InsecureDev,
}

/// A secret that all nodes of a cluster share. Never printed; wiped from memory when dropped.
///
/// To rotate without downtime: restart the nodes one by one with the new secret and the old one as a
/// previous one, then once more without it. Every node tells which secrets it holds, and each pair
/// uses the first that both do. [`crate::Membership`] does the same without restarts: install the new
/// secret everywhere, then use it everywhere, then remove the old one.
#[derive(Clone)]
pub struct SharedSecret(Vec<Zeroizing<Vec<u8>>>);

impl SharedSecret {
    /// Wraps `secret`, of 16 to 4096 bytes. Take it from a random source: a password can be guessed
    /// from one captured datagram.
    pub fn new(secret: impl Into<Vec<u8>>) -> Result<Self, SwimError> {
        Ok(Self(vec![checked(secret.into())?]))
    }

    /// Also holds a secret that is being rotated out (or in): it is used with nodes that hold no
    /// better one. At most 8 in all.
    pub fn with_previous(mut self, secret: impl Into<Vec<u8>>) -> Result<Self, SwimError> {
        if self.0.len() >= MAX_SECRETS {
            let reason = format!("at most {MAX_SECRETS} secrets can be held at once");
            return Err(SwimError::config("security", reason));
        }
        self.0.push(checked(secret.into())?);
        Ok(self)
    }

    /// The secrets, the preferred one first.
    pub(crate) fn candidates(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|secret| secret.as_slice())
    }
}

fn checked(secret: Vec<u8>) -> Result<Zeroizing<Vec<u8>>, SwimError> {
    let secret = Zeroizing::new(secret);
    if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&secret.len()) {
        let reason = format!(
            "the shared secret has {} bytes; {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} are allowed",
            secret.len()
        );
        return Err(SwimError::config("security", reason));
    }
    Ok(secret)
}

impl fmt::Debug for SharedSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedSecret(redacted)")
    }
}

/// Tells clusters apart on the wire. Not a secret: it keeps clusters that share a secret, or have
/// none, from growing together by a wrong seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ClusterTag(u64);

impl ClusterTag {
    /// From any number that all nodes agree on.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// From the cluster's name (FNV-1a, 64 bit), which is known before the cluster has an id.
    pub fn from_name(name: &str) -> Self {
        Self(fnv1a(name.as_bytes()))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The part of it that goes with each datagram; all of it goes into the keys.
    pub(crate) const fn short(self) -> u32 {
        let [.., a, b, c, d] = self.0.to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

impl From<ClusterId> for ClusterTag {
    fn from(id: ClusterId) -> Self {
        Self(fnv1a(id.as_bytes()))
    }
}

pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    fnv1a_from(0xcbf2_9ce4_8422_2325, bytes)
}

pub(crate) fn fnv1a_from(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_core_types::NodeName;

    fn node(address: &str) -> NodeInfo {
        let address: rivven_core_types::Address = address.parse().unwrap();
        NodeInfo::new(NodeName::new("n").unwrap(), address.clone(), address)
    }

    #[test]
    fn no_security_is_refused_off_loopback_and_the_error_says_what_to_set() {
        let mut config = SwimConfig::default();
        config.validate_for(&node("127.0.0.1:1")).unwrap();
        let refused = config.validate_for(&node("node-2:1")).unwrap_err();
        assert!(matches!(refused, SwimError::SecurityRequired { .. }));
        assert!(refused.to_string().contains("SharedSecret"));
        config.bind_addr = Some("0.0.0.0:1".parse().unwrap());
        assert!(config.validate_for(&node("127.0.0.1:1")).is_err());
        config.security = SwimSecurity::InsecureDev;
        config.validate_for(&node("node-2:1")).unwrap();
        assert!(config.validate_for(&node("0.0.0.0:1")).is_err());
    }

    #[test]
    fn a_secret_is_long_enough_and_never_printed() {
        assert!(SharedSecret::new("short").is_err());
        let secret = SharedSecret::new("correct horse battery").unwrap();
        let security = SwimSecurity::SharedSecret(secret);
        assert!(!format!("{security:?}").contains("horse"));
    }

    #[test]
    fn a_ping_timeout_that_leaves_relays_no_time_is_refused() {
        let config = SwimConfig {
            ping_timeout: Duration::from_millis(100),
            ..Default::default()
        };
        assert!(
            config
                .validate()
                .unwrap_err()
                .to_string()
                .contains("ping_timeout")
        );
    }
}
