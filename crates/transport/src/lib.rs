//! Framed, pipelined, authenticated RPC between cluster nodes, over TCP, TLS or QUIC.
//!
//! Three lanes per peer (`control`, `rpc`, `bulk`), each a TCP connection or a QUIC stream of its own, so
//! that a Raft heartbeat never waits behind a snapshot. Each side dials for its own calls: there is no
//! simultaneous open to settle. Calls are pipelined and matched by correlation id; answers may come
//! out of order. How peers prove themselves is one enum, [`Security`]: certificates on both sides of TLS
//! 1.3 (feature `tls`); or a challenge-response with a shared secret, after which every frame carries a
//! truncated HMAC with an implied counter; or [`Security::InsecureDev`], asked for by name.
//!
//! A shared secret authenticates and protects integrity; it does not encrypt, and it proves membership of
//! the cluster, not which member. Nothing is resent by itself: an [`RpcError`] says whether the request may
//! have been executed, and the caller decides.
//!
//! The frame codec and the handshake are pure functions; the driver is behind feature `tokio`.
//!
//! # Invariants
//! - No byte is allocated on a peer's word: a frame's length is checked from its 24-byte header, and
//!   buffers grow as bytes arrive. Memory for a body in parts is taken when a member announces it, within
//!   the budgets below, and given back at the deadline of its call if the parts do not come.
//! - A correlation id is used once per connection, so that a late answer can only be dropped.
//! - A body of more than 64 KiB goes in parts, and other frames go between them, except that on the
//!   control lane requests of one kind keep their order; the memory for all of it is taken from the
//!   budgets of the connection and of the node before its first part is read.
//! - Every queue, wait and connection count has a bound in [`TransportLimits`].
//! - A node that shuts down says so (GOAWAY) and up to which call it will answer: what came later was not
//!   run, and the caller is told so.
//! - A listener tells an unauthenticated stranger its protocol version and security mode, and no more.
//!
//! With feature `test-util` there is also a network in memory behind the same ports, seeded and able to lose,
//! delay, double, reorder and cut: `MemoryNetwork`.
//!
//! # Sources
//! RFC 8446 (TLS 1.3), RFC 9000 (QUIC); RFC 2104 (HMAC); ISO/IEC 9798-4 (mutual challenge-response); AWS Architecture Blog, "Exponential
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
#[cfg(feature = "tokio")]
mod compression;
mod config;
#[cfg(feature = "tokio")]
mod driver;
mod error;
mod frame;
mod handshake;
#[cfg(feature = "test-util")]
mod memory_network;
#[cfg(feature = "quic")]
mod quic;
mod secret;
#[cfg(feature = "tls")]
mod tls;

pub use answer::{FailedAnswer, decode_answer, encode_failure};
#[cfg(feature = "tokio")]
pub use compression::{COMPRESS_FROM_BYTES, MAX_COMPRESSION_RATIO};
pub use config::{Compression, Security, SecurityMode, TransportConfig, TransportLimits};
#[cfg(feature = "tokio")]
pub use driver::{Transport, TransportRuntimes, describe_metrics};
pub use error::{FrameError, HandshakeError, TransportError};
pub use frame::{
    Assembler, Frame, FrameDecoder, FrameEncoder, FrameHeader, FrameSeal, FrameType,
    GROWTH_STEP_BYTES, HEADER_BYTES, MAX_OPEN_BODIES, MAX_SLICES, PART_BYTES, SEAL_BYTES,
    WriteBatch, lane_limit,
};
pub use handshake::{
    Abilities, Established, Initiator, InitiatorStep, LocalIdentity, MAX_VERSION, MIN_VERSION,
    ProvenPeer, Responder, ResponderStep, SessionKeys, early_claim,
};
#[cfg(feature = "test-util")]
pub use memory_network::{
    MemoryDatagram, MemoryEvent, MemoryHost, MemoryNetwork, MemoryObserver, Traffic, Weather,
};
#[cfg(feature = "quic")]
pub use quic::{Congestion, QuicConfig, QuicListen, QuicTransport};
pub use secret::{MAX_SECRET_BYTES, MIN_SECRET_BYTES, Secret};
#[cfg(feature = "tls")]
pub use tls::{
    CertificateAuthority, CertificateIdentity, ClusterName, IssuedCertificate, TlsConfig, TlsFiles,
};
