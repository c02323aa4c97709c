//! The envelope of every datagram.
//!
//! `version 1 | flags 1 | key 1 | cluster 4 | sender 8 | sender boot v | sequence v | receiver boot v |
//! body | tag`, integers big-endian, `v` a variable-length one. The tag covers all before it and the
//! receiver's id, which is not sent: 16 bytes of HMAC-SHA256, or without authentication 4 bytes of a
//! checksum, which tells accidents alone.

use bytes::Bytes;
use rivven_core_types::planted;

use crate::codec::{Reader, put_varint};
use crate::config::{SwimConfig, SwimSecurity};
use crate::error::SwimError;
use crate::event::DropReason;
use crate::keyring::{KeyIds, Keyring};
use crate::mac::TAG_BYTES;
use crate::profile::{Endpoint, MemberId};

/// Longest datagram, in bytes: fits the least MTU of IPv6 (1,280) less its headers and UDP's.
pub const MAX_SWIM_DATAGRAM_BYTES: usize = 1_200;

const VERSION: u8 = 2;
const FLAG_AUTHENTICATED: u8 = 1;
/// For whoever gets it: a join request, which is sent before the receiver is known.
const FLAG_UNBOUND: u8 = 2;
/// Bytes of the fixed part.
const PREFIX_BYTES: usize = 15;
const CHECKSUM_BYTES: usize = 4;
const NOBODY: MemberId = MemberId(0);

/// An envelope whose tag holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened<'a> {
    pub(crate) sender: Endpoint,
    pub(crate) sequence: u64,
    /// `None` in a join request alone.
    pub(crate) receiver_boot: Option<u64>,
    /// The key that the sender used: it can open answers under it.
    pub(crate) key: u8,
    pub(crate) body: &'a [u8],
}

/// For whom a datagram is, and under which key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Binding {
    pub(crate) receiver: Option<Endpoint>,
    pub(crate) key: u8,
}

impl Binding {
    const fn receiver_id(&self) -> MemberId {
        match self.receiver {
            Some(receiver) => receiver.id,
            None => NOBODY,
        }
    }
}

/// Seals and opens datagrams for one node.
#[derive(Debug)]
pub(crate) struct Envelope {
    pub(crate) ring: Option<Keyring>,
    cluster: u32,
    local: Endpoint,
    next_sequence: u64,
    /// Kept between datagrams, so that only the finished ones are allocated.
    scratch: Vec<u8>,
}

impl Envelope {
    pub(crate) fn new(config: &SwimConfig, local: Endpoint) -> Result<Self, SwimError> {
        let ring = match &config.security {
            SwimSecurity::SharedSecret(secret) => Some(Keyring::new(secret, config.cluster)?),
            SwimSecurity::Unconfigured | SwimSecurity::InsecureDev => None,
        };
        Ok(Self {
            ring,
            cluster: config.cluster.short(),
            local,
            next_sequence: 1,
            scratch: Vec::new(),
        })
    }

    /// The keys that peers may use.
    pub(crate) fn keys(&self) -> KeyIds {
        self.ring.as_ref().map(Keyring::ids).unwrap_or_default()
    }

    /// The key for a peer that holds `theirs`.
    pub(crate) fn key_for(&self, theirs: KeyIds) -> u8 {
        self.ring.as_ref().map_or(0, |ring| ring.common(theirs))
    }

    /// Longest datagram before its tag.
    pub(crate) const fn body_end(&self) -> usize {
        MAX_SWIM_DATAGRAM_BYTES - TAG_BYTES
    }

    /// Begins a datagram: the caller appends the body, to at most [`Envelope::body_end`] bytes in all,
    /// and hands the bytes to [`Envelope::seal`].
    pub(crate) fn begin(&mut self, binding: &Binding) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.scratch);
        out.clear();
        let mut flags = 0;
        if self.ring.is_some() {
            flags |= FLAG_AUTHENTICATED;
        }
        if binding.receiver.is_none() {
            flags |= FLAG_UNBOUND;
        }
        out.extend_from_slice(&[VERSION, flags, binding.key]);
        out.extend_from_slice(&self.cluster.to_be_bytes());
        out.extend_from_slice(&self.local.id.0.to_be_bytes());
        put_varint(&mut out, self.local.boot_id);
        put_varint(&mut out, self.next_sequence);
        self.next_sequence += 1;
        put_varint(&mut out, binding.receiver.map_or(0, |r| r.boot_id));
        out
    }

    pub(crate) fn seal(&mut self, mut out: Vec<u8>, binding: &Binding) -> Bytes {
        let receiver = binding.receiver_id();
        match &self.ring {
            Some(ring) => {
                // Without such a key the tag is missing and nobody takes the datagram: it cannot
                // happen, as callers ask for a key that is held.
                let tag = ring.tag(binding.key, &out, receiver);
                out.extend_from_slice(tag.as_ref().map_or(&[], <[u8; TAG_BYTES]>::as_slice));
            }
            None => {
                let sum = checksum(&out, receiver);
                out.extend_from_slice(&sum.to_be_bytes());
            }
        }
        let sealed = Bytes::copy_from_slice(&out);
        self.scratch = out;
        sealed
    }

    /// Checks length, version, cluster and tag, in this order, and only then reads on.
    pub(crate) fn open<'a>(&self, datagram: &'a [u8]) -> Result<Opened<'a>, DropReason> {
        if datagram.len() > MAX_SWIM_DATAGRAM_BYTES || datagram.len() < PREFIX_BYTES {
            return Err(DropReason::Malformed);
        }
        let mut reader = Reader(datagram);
        if reader.u8()? != VERSION {
            return Err(DropReason::Malformed);
        }
        let flags = reader.u8()?;
        let key = reader.u8()?;
        if reader.u32()? != self.cluster {
            return Err(DropReason::ForeignCluster);
        }
        let bound = flags & FLAG_UNBOUND == 0;
        let receiver = if bound { self.local.id } else { NOBODY };
        let authenticated = flags & FLAG_AUTHENTICATED != 0;
        let signed = match &self.ring {
            Some(ring) if authenticated => {
                let (signed, tag) = split_tag::<TAG_BYTES>(datagram)?;
                let holds = ring.verify(key, signed, receiver, tag);
                if !holds && !planted("swim.takes-wrong-tags") {
                    return Err(DropReason::Unauthenticated);
                }
                signed
            }
            None if !authenticated => {
                let (signed, sum) = split_tag::<CHECKSUM_BYTES>(datagram)?;
                if checksum(signed, receiver).to_be_bytes() != *sum {
                    return Err(DropReason::NotForThisNode);
                }
                signed
            }
            _ => return Err(DropReason::Unauthenticated),
        };
        if flags & !(FLAG_AUTHENTICATED | FLAG_UNBOUND) != 0 {
            return Err(DropReason::Malformed);
        }
        let mut reader = Reader(signed.get(PREFIX_BYTES - 8..).unwrap_or_default());
        let id = MemberId(reader.u64()?);
        let boot_id = reader.varint()?;
        let sequence = reader.varint()?;
        let receiver_boot = reader.varint()?;
        if boot_id == 0 || (receiver_boot == 0) == bound {
            return Err(DropReason::Malformed);
        }
        Ok(Opened {
            sender: Endpoint { id, boot_id },
            sequence,
            receiver_boot: bound.then_some(receiver_boot),
            key,
            body: reader.0,
        })
    }
}

fn split_tag<const N: usize>(datagram: &[u8]) -> Result<(&[u8], &[u8; N]), DropReason> {
    datagram.split_last_chunk().ok_or(DropReason::Malformed)
}

/// Puts the checksum of an unauthenticated datagram right, for a fuzzer that has changed it: without it
/// nothing behind the checksum would ever be read.
#[cfg(feature = "fuzzing")]
pub(crate) fn reseal(receiver: MemberId, datagram: &mut [u8]) {
    let bound = datagram
        .get(1)
        .is_some_and(|flags| flags & FLAG_UNBOUND == 0);
    let Some(end) = datagram.len().checked_sub(CHECKSUM_BYTES) else {
        return;
    };
    let (signed, sum) = datagram.split_at_mut(end);
    let receiver = if bound { receiver } else { NOBODY };
    sum.copy_from_slice(&checksum(signed, receiver).to_be_bytes());
}

/// FNV-1a over the bytes and the receiver, folded to 32 bits: notices a datagram that came to another
/// node after addresses were exchanged. No protection against anybody.
fn checksum(signed: &[u8], receiver: MemberId) -> u32 {
    let hash = crate::config::fnv1a_from(crate::config::fnv1a(signed), &receiver.0.to_be_bytes());
    let [a, b, c, d, e, f, g, h] = hash.to_be_bytes();
    u32::from_be_bytes([a ^ e, b ^ f, c ^ g, d ^ h])
}
