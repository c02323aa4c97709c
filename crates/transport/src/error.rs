//! What can go wrong, outside of a single call (which fails with `RpcError`).

use std::net::SocketAddr;

use rivven_core_types::HandshakeRefusal;
use rivven_core_types::wire::WireError;

/// Why a transport could not be set up. Nothing changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// Another process listens on the address. Retriable once it has gone.
    #[error("cannot listen on {address}: the address is already in use")]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// The address cannot be bound: not an address of this host, or no permission.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A shared secret is too short to resist guessing, or absurdly long. Not retriable.
    #[error("a shared secret must have {min}..={max} bytes; this one has {length}")]
    SecretLength {
        /// Length found, in bytes.
        length: usize,
        /// Least length, in bytes.
        min: usize,
        /// Greatest length, in bytes.
        max: usize,
    },
    /// A certificate, a private key or a list of denied peers cannot be used; the text names the file
    /// and says why. Retriable once it is mended.
    #[error("{0}")]
    Certificate(String),
    /// A limit is outside its range. Not retriable.
    #[error("limit {name} is out of range: {requirement}")]
    Limit {
        /// The field of `TransportLimits`.
        name: &'static str,
        /// What it must satisfy.
        requirement: &'static str,
    },
}

/// Why received bytes are not an acceptable frame. The connection is closed: after a bad header the
/// boundary of the next frame is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The first two bytes are not the protocol's magic number.
    #[error("not this protocol: the magic number is {0:#06x}")]
    Magic(u16),
    /// The version byte differs from what the handshake agreed on.
    #[error("frame of version {found} on a connection of version {expected}")]
    Version {
        /// Version found.
        found: u8,
        /// Version agreed on.
        expected: u8,
    },
    /// An unknown frame type.
    #[error("unknown frame type {0}")]
    Type(u8),
    /// Flag bits that this version does not define, or a seal where none or one was agreed on.
    #[error("unacceptable flags {0:#06x}")]
    Flags(u16),
    /// The frame claims to be longer than allowed.
    #[error("frame of {length} bytes exceeds the limit of {max}")]
    TooLong {
        /// Length claimed, in bytes.
        length: usize,
        /// Greatest length allowed, in bytes.
        max: usize,
    },
    /// The authentication code is wrong: the frame was altered, replayed, dropped or reordered.
    #[error("the frame's authentication code is wrong: altered, replayed or out of order")]
    Seal,
    /// Parts of bodies that do not fit together.
    #[error("bodies in parts: {0}")]
    Parts(&'static str),
    /// A compressed body that is not what it says.
    #[error("compressed body: {0}")]
    Compression(&'static str),
}

impl FrameError {
    /// A stable lower-case name, for metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Magic(_) => "magic",
            Self::Version { .. } => "version",
            Self::Type(_) => "type",
            Self::Flags(_) => "flags",
            Self::TooLong { .. } => "too_long",
            Self::Seal => "seal",
            Self::Parts(_) => "parts",
            Self::Compression(_) => "compression",
        }
    }
}

/// Why a handshake ended without a session. The connection is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// One side refused the other; a person has to mend the configuration.
    #[error("{0}")]
    Refused(HandshakeRefusal),
    /// A message that is not the next one of the protocol.
    #[error("unexpected handshake message")]
    Unexpected,
    /// Not a handshake message.
    #[error("malformed handshake message: {0}")]
    Malformed(#[from] WireError),
    /// Bytes that are not a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The connection failed or was closed by the peer.
    #[error("connection lost during the handshake: {0}")]
    Io(String),
    /// Not finished within the handshake deadline.
    #[error("handshake not finished in time")]
    Timeout,
}

impl HandshakeError {
    /// A stable lower-case name, for metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Refused(HandshakeRefusal::Authentication) => "secret",
            Self::Refused(HandshakeRefusal::ForeignCluster { .. }) => "cluster",
            Self::Refused(HandshakeRefusal::WrongNode { .. }) => "node_name",
            Self::Refused(HandshakeRefusal::Version { .. }) => "version",
            Self::Refused(HandshakeRefusal::UntrustedPeer { .. }) => "tls",
            Self::Refused(_) => "refused",
            Self::Unexpected | Self::Malformed(_) => "malformed",
            Self::Frame(e) => e.name(),
            Self::Io(_) => "io",
            Self::Timeout => "timeout",
        }
    }
}
