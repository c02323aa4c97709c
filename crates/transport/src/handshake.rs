//! The handshake as pure functions: bytes in, bytes out, no socket and no clock.
//!
//! ```text
//! initiator                                   responder
//! Hello      versions, mode, lane, nonce  ->
//!            <-  Challenge  version, mode, nonce      | Refusal(version, authentication)
//! Claim      who I am, whom I expect, proofs ->
//!            <-  Welcome    who I am, proof           | Refusal(authentication, cluster, name)
//! ```
//!
//! A proof is an HMAC over a direction label and everything said so far, the prover's claim included;
//! so it covers both nonces, both names, clusters, the lane, the version and the mode. Fresh nonces
//! stop replay, the labels reflection, the expected name being handed on to another member. The
//! responder says who it is only after the initiator has proved membership.
//!
//! On QUIC, where the channel has proved who the initiator is, it may instead bring one request along with
//! a message of its own (`Early`) and open no lane: what is known of both sides is judged alike, and whoever
//! is refused there learns why by the handshake above.

mod messages;
mod session;

pub use session::SessionKeys;

use std::sync::Arc;

use bytes::Bytes;
use rivven_core_types::{
    Address, ClusterId, Entropy, HandshakeRefusal, Incarnation, Lane, NodeName, PeerIdentity,
};

use self::messages::{
    Claim, Early, HandshakeMessage, Hello, RefusalReply, Welcome, decode, encode,
};
use self::session::{Transcript, prove, verify};
use crate::config::{Security, SecurityMode};
use crate::error::HandshakeError;
use crate::secret::Held;

/// Least protocol version that this build speaks.
pub const MIN_VERSION: u8 = 1;
/// Greatest protocol version that this build speaks.
pub const MAX_VERSION: u8 = 1;

const INITIATOR: &[u8] = b"rivven transport 1 initiator";
const RESPONDER: &[u8] = b"rivven transport 1 responder";

/// Who this node is, as it tells a peer.
#[derive(Debug, Clone)]
pub struct LocalIdentity {
    /// Its name.
    pub name: NodeName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Its cluster; `None` while it is blank.
    pub cluster: Option<ClusterId>,
    /// Where peers reach it over QUIC, if they do.
    pub quic: Option<Address>,
}

/// What a build can do with the frames of a peer. Told in the handshake, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities(u32);

impl Abilities {
    const ZSTD: u32 = 1;

    /// What this build can do.
    pub const fn of_this_build() -> Self {
        Self(if cfg!(feature = "compression") {
            Self::ZSTD
        } else {
            0
        })
    }

    /// Whether it reads bodies compressed with zstd.
    pub const fn reads_zstd(self) -> bool {
        self.0 & Self::ZSTD != 0
    }
}

/// What the channel below has proved about the peer before the first message: its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenPeer {
    /// The node that the certificate is for.
    pub name: NodeName,
    /// The cluster id that it is for, if it names one.
    pub cluster: Option<ClusterId>,
}

/// What a finished handshake has settled.
#[derive(Debug)]
pub struct Established {
    /// The other side.
    pub peer: PeerIdentity,
    /// The lane of the connection.
    pub lane: Lane,
    /// The version both speak.
    pub version: u8,
    /// Keys of the frame seals; `None` in insecure mode.
    pub keys: Option<SessionKeys>,
    /// What the other side can do.
    pub abilities: Abilities,
    /// Where the other side is reached over QUIC, if it is the responder and says so.
    pub quic: Option<Address>,
}

/// What the initiator does next.
#[derive(Debug)]
pub enum InitiatorStep {
    /// Send these bytes as a handshake frame and wait for the next one.
    Send(Bytes),
    /// Done.
    Done(Box<Established>),
}

/// The message before a request that comes along with it; see the head of this module.
pub fn early_claim(
    local: &LocalIdentity,
    expected: &NodeName,
    lane: Lane,
) -> Result<Bytes, HandshakeError> {
    let claim = claim_of(local, Some(expected.clone()));
    let version = MAX_VERSION;
    encode(&HandshakeMessage::Early(Early {
        version,
        lane,
        claim,
    }))
}

/// What an initiator says of itself.
fn claim_of(local: &LocalIdentity, expected: Option<NodeName>) -> Claim {
    Claim {
        name: local.name.clone(),
        incarnation: local.incarnation,
        cluster: local.cluster,
        expected,
        abilities: Abilities::of_this_build().0,
        quic: None,
    }
}

/// What the responder does next.
#[derive(Debug)]
pub enum ResponderStep {
    /// Send these bytes as a handshake frame and wait for the next one.
    Send(Bytes),
    /// Send these bytes, and the handshake is done.
    Done(Bytes, Box<Established>),
    /// Send these bytes and close the connection.
    Refuse(Bytes, HandshakeRefusal),
    /// Send nothing: one request follows, and its answer ends it.
    Early(Box<Established>),
}

fn nonce(entropy: &dyn Entropy) -> [u8; 32] {
    let mut nonce = [0; 32];
    entropy.fill(&mut nonce);
    nonce
}

const AUTHENTICATION: HandshakeError = HandshakeError::Refused(HandshakeRefusal::Authentication);

/// The side that dials.
#[derive(Debug)]
pub struct Initiator {
    local: LocalIdentity,
    security: Security,
    proven: Option<ProvenPeer>,
    expected: Option<NodeName>,
    lane: Lane,
    transcript: Transcript,
    /// The agreed version and our claim, once the challenge has been answered.
    answered: Option<u8>,
}

impl Initiator {
    /// Starts a handshake for `lane`; the returned bytes are the first frame. `expected` is the name
    /// that must answer, if it is known; `proven` what the channel says about the peer.
    pub fn start(
        local: LocalIdentity,
        security: Security,
        proven: Option<ProvenPeer>,
        expected: Option<NodeName>,
        lane: Lane,
        entropy: &dyn Entropy,
    ) -> Result<(Self, Bytes), HandshakeError> {
        let hello = encode(&HandshakeMessage::Hello(Hello {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            mode: security.mode(),
            lane,
            nonce: nonce(entropy),
        }))?;
        let mut transcript = Transcript::default();
        transcript.add(&hello);
        let initiator = Self {
            local,
            security,
            proven,
            expected,
            lane,
            transcript,
            answered: None,
        };
        Ok((initiator, hello))
    }

    /// Takes the responder's next message.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<InitiatorStep, HandshakeError> {
        match (decode(bytes)?, self.answered) {
            (HandshakeMessage::Challenge { version, mode, .. }, None) => {
                self.transcript.add(bytes);
                self.claim(version, mode).map(InitiatorStep::Send)
            }
            (HandshakeMessage::Welcome(welcome), Some(version)) => self.finish(&welcome, version),
            (HandshakeMessage::Refusal(refusal), _) => Err(self.refused(refusal)),
            (
                HandshakeMessage::Hello(_)
                | HandshakeMessage::Claim { .. }
                | HandshakeMessage::Challenge { .. }
                | HandshakeMessage::Welcome(_)
                | HandshakeMessage::Early(_),
                _,
            ) => Err(HandshakeError::Unexpected),
        }
    }

    fn claim(&mut self, version: u8, mode: SecurityMode) -> Result<Bytes, HandshakeError> {
        // A listener in insecure mode must not talk a node that has a secret out of using it.
        if mode != self.security.mode() {
            return Err(AUTHENTICATION);
        }
        if !(MIN_VERSION..=MAX_VERSION).contains(&version) {
            return Err(HandshakeError::Refused(HandshakeRefusal::Version {
                our_min: MIN_VERSION,
                our_max: MAX_VERSION,
                peer_min: version,
                peer_max: version,
            }));
        }
        let claim = claim_of(&self.local, self.expected.clone());
        self.transcript.add_message(&claim)?;
        let proofs = secret(&self.security).map_or_else(Vec::new, |held| {
            let candidates = held.candidates();
            candidates
                .map(|secret| prove(secret, INITIATOR, &self.transcript))
                .collect()
        });
        self.answered = Some(version);
        encode(&HandshakeMessage::Claim { claim, proofs })
    }

    fn finish(&mut self, welcome: &Welcome, version: u8) -> Result<InitiatorStep, HandshakeError> {
        self.transcript.add_message(&welcome.claim)?;
        let keys = match (secret(&self.security), &welcome.proof) {
            (None, None) => None,
            (Some(held), Some(proof)) => {
                let known = held
                    .candidates()
                    .find(|secret| verify(secret, RESPONDER, &self.transcript, proof))
                    .ok_or(AUTHENTICATION)?;
                Some(SessionKeys::derive(known, &self.transcript))
            }
            (None, Some(_)) | (Some(_), None) => return Err(AUTHENTICATION),
        };
        let peer = identity(&welcome.claim);
        check_proven(&self.security, self.proven.as_ref(), &peer)?;
        check_cluster(self.local.cluster, peer.cluster)?;
        check_name(self.expected.as_ref(), &peer.name)?;
        Ok(InitiatorStep::Done(Box::new(Established {
            peer,
            lane: self.lane,
            version,
            keys,
            abilities: Abilities(welcome.claim.abilities),
            quic: welcome.claim.quic.clone(),
        })))
    }

    /// The responder's refusal, seen from this side.
    fn refused(&self, refusal: RefusalReply) -> HandshakeError {
        HandshakeError::Refused(match refusal {
            RefusalReply::Authentication => HandshakeRefusal::Authentication,
            RefusalReply::Version { min, max } => HandshakeRefusal::Version {
                our_min: MIN_VERSION,
                our_max: MAX_VERSION,
                peer_min: min,
                peer_max: max,
            },
            RefusalReply::ForeignCluster { theirs } => match self.local.cluster {
                Some(ours) => HandshakeRefusal::ForeignCluster { ours, theirs },
                None => return HandshakeError::Unexpected,
            },
            RefusalReply::UntrustedPeer { reason } => HandshakeRefusal::UntrustedPeer { reason },
            RefusalReply::WrongNode { found } => match self.expected.clone() {
                Some(expected) => HandshakeRefusal::WrongNode { expected, found },
                None => return HandshakeError::Unexpected,
            },
        })
    }
}

/// The side that accepted the connection.
#[derive(Debug)]
pub struct Responder {
    local: LocalIdentity,
    security: Security,
    proven: Option<ProvenPeer>,
    transcript: Transcript,
    /// The agreed version and the lane, once the challenge is out.
    challenged: Option<(u8, Lane)>,
}

impl Responder {
    /// Waits for an initiator's first message; `proven` is what the channel says about it.
    pub fn new(local: LocalIdentity, security: Security, proven: Option<ProvenPeer>) -> Self {
        Self {
            local,
            security,
            proven,
            transcript: Transcript::default(),
            challenged: None,
        }
    }

    /// Takes the initiator's next message.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        entropy: &dyn Entropy,
    ) -> Result<ResponderStep, HandshakeError> {
        match (decode(bytes)?, self.challenged) {
            (HandshakeMessage::Hello(hello), None) => {
                self.transcript.add(bytes);
                self.challenge(&hello, entropy)
            }
            (HandshakeMessage::Claim { claim, proofs }, Some((version, lane))) => {
                self.judge(&claim, &proofs, version, lane)
            }
            (HandshakeMessage::Early(early), None) => self.judge_early(early),
            (
                HandshakeMessage::Hello(_)
                | HandshakeMessage::Early(_)
                | HandshakeMessage::Claim { .. }
                | HandshakeMessage::Challenge { .. }
                | HandshakeMessage::Welcome(_)
                | HandshakeMessage::Refusal(_),
                _,
            ) => Err(HandshakeError::Unexpected),
        }
    }

    /// Nothing of it is proved by the message itself, so it counts only where the channel has proved it.
    fn judge_early(&self, early: Early) -> Result<ResponderStep, HandshakeError> {
        let Early {
            version,
            lane,
            claim,
        } = early;
        if self.proven.is_none() || !(MIN_VERSION..=MAX_VERSION).contains(&version) {
            return Err(HandshakeError::Unexpected);
        }
        let peer = identity(&claim);
        check_proven(&self.security, self.proven.as_ref(), &peer)?;
        check_cluster(self.local.cluster, peer.cluster)?;
        check_name(claim.expected.as_ref(), &self.local.name)?;
        Ok(ResponderStep::Early(Box::new(Established {
            peer,
            lane,
            version,
            keys: None,
            abilities: Abilities(claim.abilities),
            quic: None,
        })))
    }

    fn challenge(
        &mut self,
        hello: &Hello,
        entropy: &dyn Entropy,
    ) -> Result<ResponderStep, HandshakeError> {
        let version = MAX_VERSION.min(hello.max_version);
        if version < MIN_VERSION.max(hello.min_version) {
            let reply = RefusalReply::Version {
                min: MIN_VERSION,
                max: MAX_VERSION,
            };
            return refuse(
                reply,
                HandshakeRefusal::Version {
                    our_min: MIN_VERSION,
                    our_max: MAX_VERSION,
                    peer_min: hello.min_version,
                    peer_max: hello.max_version,
                },
            );
        }
        if hello.mode != self.security.mode() {
            return refuse(
                RefusalReply::Authentication,
                HandshakeRefusal::Authentication,
            );
        }
        let challenge = encode(&HandshakeMessage::Challenge {
            version,
            mode: self.security.mode(),
            nonce: nonce(entropy),
        })?;
        self.transcript.add(&challenge);
        self.challenged = Some((version, hello.lane));
        Ok(ResponderStep::Send(challenge))
    }

    fn judge(
        &mut self,
        claim: &Claim,
        proofs: &[[u8; 32]],
        version: u8,
        lane: Lane,
    ) -> Result<ResponderStep, HandshakeError> {
        self.transcript.add_message(claim)?;
        let held = secret(&self.security);
        let known = match &held {
            None => None,
            Some(held) => {
                let known = held.candidates().find(|secret| {
                    let proofs = proofs.iter().take(MAX_PROOFS);
                    proofs
                        .into_iter()
                        .any(|proof| verify(secret, INITIATOR, &self.transcript, proof))
                });
                if known.is_none() {
                    return refuse(
                        RefusalReply::Authentication,
                        HandshakeRefusal::Authentication,
                    );
                }
                known
            }
        };
        let peer = identity(claim);
        if let Err(HandshakeError::Refused(refusal)) =
            check_proven(&self.security, self.proven.as_ref(), &peer)
        {
            let reply = match &refusal {
                HandshakeRefusal::UntrustedPeer { reason } => RefusalReply::UntrustedPeer {
                    reason: reason.clone(),
                },
                _ => RefusalReply::Authentication,
            };
            return refuse(reply, refusal);
        }
        if let Err(HandshakeError::Refused(refusal)) =
            check_cluster(self.local.cluster, peer.cluster)
            && let HandshakeRefusal::ForeignCluster { ours, .. } = refusal
        {
            return refuse(RefusalReply::ForeignCluster { theirs: ours }, refusal);
        }
        if let Some(expected) = claim.expected.clone().filter(|n| *n != self.local.name) {
            let found = self.local.name.clone();
            let reply = RefusalReply::WrongNode {
                found: found.clone(),
            };
            return refuse(reply, HandshakeRefusal::WrongNode { expected, found });
        }
        let ours = Claim {
            quic: self.local.quic.clone(),
            ..claim_of(&self.local, None)
        };
        self.transcript.add_message(&ours)?;
        let proof = known.map(|secret| prove(secret, RESPONDER, &self.transcript));
        let keys = known.map(|secret| SessionKeys::derive(secret, &self.transcript).swapped());
        let welcome = encode(&HandshakeMessage::Welcome(Welcome { claim: ours, proof }))?;
        let established = Established {
            peer,
            lane,
            version,
            keys,
            abilities: Abilities(claim.abilities),
            quic: None,
        };
        Ok(ResponderStep::Done(welcome, Box::new(established)))
    }
}

/// An initiator offers one proof per secret that it knows.
const MAX_PROOFS: usize = 2;

fn refuse(reply: RefusalReply, refusal: HandshakeRefusal) -> Result<ResponderStep, HandshakeError> {
    let bytes = encode(&HandshakeMessage::Refusal(reply))?;
    Ok(ResponderStep::Refuse(bytes, refusal))
}

/// The secrets of a mode that has some, as they are now.
fn secret(security: &Security) -> Option<Arc<Held>> {
    match security {
        Security::SharedSecret(secret) => Some(secret.held()),
        #[cfg(feature = "tls")]
        Security::MutualTls(_) => None,
        Security::InsecureDev => None,
    }
}

/// A peer is who its certificate says, and nobody else whatever it says itself.
fn check_proven(
    security: &Security,
    proven: Option<&ProvenPeer>,
    peer: &PeerIdentity,
) -> Result<(), HandshakeError> {
    let Some(proven) = proven else {
        return match security.mode() {
            SecurityMode::MutualTls => Err(AUTHENTICATION),
            SecurityMode::InsecureDev | SecurityMode::SharedSecret => Ok(()),
        };
    };
    let reason = if proven.name != peer.name {
        format!(
            "its certificate is for node {}, it says that it is {}",
            proven.name, peer.name
        )
    } else if let (Some(certified), Some(claimed)) = (proven.cluster, peer.cluster)
        && certified != claimed
    {
        format!("its certificate is for cluster {certified}, it says that it belongs to {claimed}")
    } else {
        return Ok(());
    };
    Err(HandshakeError::Refused(HandshakeRefusal::UntrustedPeer {
        reason,
    }))
}

fn identity(claim: &Claim) -> PeerIdentity {
    PeerIdentity {
        name: claim.name.clone(),
        incarnation: claim.incarnation,
        cluster: claim.cluster,
    }
}

fn check_cluster(ours: Option<ClusterId>, theirs: Option<ClusterId>) -> Result<(), HandshakeError> {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            let refusal = HandshakeRefusal::ForeignCluster { ours, theirs };
            Err(HandshakeError::Refused(refusal))
        }
        _ => Ok(()),
    }
}

fn check_name(expected: Option<&NodeName>, found: &NodeName) -> Result<(), HandshakeError> {
    match expected {
        Some(expected) if expected != found => {
            let refusal = HandshakeRefusal::WrongNode {
                expected: expected.clone(),
                found: found.clone(),
            };
            Err(HandshakeError::Refused(refusal))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
