//! SWIM membership and failure detection (Das, Gupta, Motivala: "SWIM", DSN 2002).
//!
//! [`Detector`] is the protocol, free of sockets, clocks and random sources: it takes the time and an
//! [`Input`] and appends [`Output`]s. [`Membership`] (feature `tokio`) drives one over UDP.
//!
//! It is a hint for whoever asks "is that node there?", never a proof: safety rests on epochs, not on
//! this crate.
//!
//! # Invariants
//! - Evidence about a member is ordered by (boot id, incarnation, state): what is held only ever
//!   grows, therefore gossip may arrive in any order, twice, or from before a restart.
//! - Only the member itself raises its incarnation; that is how it refutes a suspicion.
//! - Nothing of a datagram is decoded before its MAC, its receiver and its sequence are checked. A
//!   datagram is bound to one life of one receiver, so that a capture is worthless elsewhere and after
//!   a restart of the receiver. The one unbound message, the join request, changes no state.
//! - A member is dead for an observer only after a whole suspicion window in which that observer, or
//!   the one that it believes, could have heard a refutation.
//!
//! # Example
//! ```
//! # #[cfg(feature = "tokio")]
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use rivven_core_types::{NodeInfo, NodeName};
//! use rivven_swim::{Membership, SwimConfig};
//!
//! let local_node = NodeInfo::new(
//!     NodeName::new("node-1")?,
//!     "127.0.0.1:9092".parse()?,
//!     "127.0.0.1:9093".parse()?,
//! );
//! let (_shutdown, shutdown_rx) = tokio::sync::watch::channel(false);
//! let config = SwimConfig {
//!     ping_interval: Duration::from_millis(100),
//!     ping_timeout: Duration::from_millis(50),
//!     indirect_probes: 3,
//!     suspicion_multiplier: 3,
//!     ..Default::default()
//! };
//! let seeds = vec!["127.0.0.1:9193".to_owned()];
//! let membership = Membership::new(local_node, config, shutdown_rx).await?;
//! membership.join(&seeds).await?;
//! for member in membership.members() {
//!     println!("{} is {}", member.info.name, member.state);
//! }
//! # Ok(())
//! # }
//! ```

mod check;
mod codec;
mod config;
mod contact;
mod detector;
mod envelope;
mod error;
mod event;
mod evidence;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod keyring;
mod letter;
mod mac;
mod member;
mod message;
mod micros;
mod outbox;
mod probe;
mod profile;
mod registry;
mod replay;
mod ring;
mod round;
mod suspicion;
mod sync;
mod table;
mod user_event;

#[cfg(feature = "tokio")]
mod driver;
#[cfg(feature = "tokio")]
mod event_log;
#[cfg(feature = "tokio")]
mod membership;
#[cfg(feature = "tokio")]
mod resolver;
#[cfg(feature = "tokio")]
mod state_file;
#[cfg(feature = "tokio")]
mod telemetry;
#[cfg(feature = "tokio")]
mod udp;

#[cfg(any(test, feature = "sim"))]
#[expect(
    clippy::expect_used,
    clippy::as_conversions,
    reason = "a simulation stops at its own mistakes"
)]
pub mod sim;

#[cfg(test)]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one kind of output and passes over the rest"
)]
mod tests;

pub use config::{ClusterTag, MIN_SECRET_BYTES, SharedSecret, SwimConfig, SwimSecurity};
pub use contact::MAX_SEEDS;
pub use detector::{Detector, Input};
pub use envelope::MAX_SWIM_DATAGRAM_BYTES;
pub use error::SwimError;
pub use event::{DropReason, Event, Output, ProbeOutcome};
pub use member::{Change, Member, MemberState, MembershipView};
pub use message::MAX_EVENT_BYTES;
pub use profile::{Destination, MAX_METADATA_BYTES};
pub use registry::Registry;

#[cfg(feature = "tokio")]
pub use event_log::{Delivery, EventStream};
#[cfg(feature = "tokio")]
pub use membership::{Membership, StreamProbe, SwimPorts};
#[cfg(feature = "tokio")]
pub use udp::UdpDatagram;
