//! Framed, pipelined, authenticated RPC between cluster nodes, over plain TCP.
//!
//! Three lanes per peer (`control`, `rpc`, `bulk`), each a TCP connection of its own, so that a Raft
//! heartbeat never waits behind a snapshot. Each side dials for its own calls: there is no
//! simultaneous open to settle. Calls are pipelined and matched by correlation id; answers may come
//! out of order. Peers prove with a challenge-response that they share a secret, and every frame
//! after that carries a truncated HMAC with an implied counter; or [`Security::InsecureDev`] is asked
//! for by name.
//!
//! It is not an encrypted transport: a shared secret authenticates and protects integrity, and
//! proves membership of the cluster, not which member. It resends nothing by itself: an [`RpcError`]
//! says whether the request may have been executed, and the caller decides.
//!
//! The frame codec and the handshake are pure functions; the TCP driver is behind feature `tokio`.
//!
//! # Invariants
//! - No byte is allocated on a peer's word: a frame's length is checked from its 24-byte header, and
//!   buffers grow as bytes arrive.
//! - A correlation id is used once per connection, so that a late answer can only be dropped.
//! - Every queue, wait and connection count has a bound in [`TransportLimits`].
//! - A listener tells an unauthenticated stranger its protocol version and security mode, and no more.
//!
//! # Sources
//! RFC 2104 (HMAC); ISO/IEC 9798-4 (mutual challenge-response); AWS Architecture Blog, "Exponential
//! Backoff and Jitter".
//!
//! ```
//! use rivven_transport::{Secret, Security};
//!
//! let secret = Secret::new("an example secret of 32 bytes ok")?;
//! let security = Security::SharedSecret(secret);
//! assert!(!format!("{security:?}").contains("example"));
//! # Ok::<(), rivven_transport::TransportError>(())
//! ```
//!
//! [`RpcError`]: rivven_core_types::RpcError

mod answer;
mod config;
#[cfg(feature = "tokio")]
mod driver;
mod error;
mod frame;
mod handshake;
#[cfg(feature = "quic")]
mod quic;
mod secret;
#[cfg(feature = "tls")]
mod tls;

pub use answer::{FailedAnswer, decode_answer, encode_failure};
pub use config::{Security, SecurityMode, TransportConfig, TransportLimits};
#[cfg(feature = "tokio")]
pub use driver::{Transport, TransportRuntimes, describe_metrics};
pub use error::{FrameError, HandshakeError, TransportError};
pub use frame::{
    Frame, FrameDecoder, FrameEncoder, FrameHeader, FrameSeal, FrameType, GROWTH_STEP_BYTES,
    HEADER_BYTES, SEAL_BYTES, WriteBatch, lane_limit,
};
pub use handshake::{
    Established, Initiator, InitiatorStep, LocalIdentity, MAX_VERSION, MIN_VERSION, ProvenPeer,
    Responder, ResponderStep, SessionKeys,
};
#[cfg(feature = "quic")]
pub use quic::{Congestion, QuicConfig, QuicTransport};
pub use secret::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, Secret};
#[cfg(feature = "tls")]
pub use tls::{
    CertificateAuthority, CertificateIdentity, ClusterName, IssuedCertificate, TlsConfig, TlsFiles,
};
