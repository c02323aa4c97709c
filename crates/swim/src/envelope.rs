//! The envelope of every datagram, and the window that tells a replay.
//!
//! `version 1 | mode 1 | cluster 8 | sender name 1+n | sender boot 8 | sequence 8 | receiver name 1+n |
//! receiver boot 8 | body | tag 16 (mode 1 only)`, integers big-endian. The tag is HMAC-SHA256 over all
//! before it, truncated to 128 bits as RFC 2104 section 5 allows.

use std::collections::BTreeMap;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use rivven_core_types::limits::MAX_DATAGRAM_BYTES;
use rivven_core_types::{InvalidId, NodeName};
use sha2::Sha256;

use crate::config::{ClusterTag, SwimConfig, SwimSecurity};
use crate::event::DropReason;

const VERSION: u8 = 1;
const MODE_INSECURE: u8 = 0;
const MODE_HMAC: u8 = 1;
const TAG_BYTES: usize = 16;
/// Bytes before the sender's name.
const PREFIX_BYTES: usize = 10;
/// Domain separation: the shared secret may serve other protocols too.
const KEY_CONTEXT: &[u8] = b"rivven-swim/1";

/// One life of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) name: NodeName,
    pub(crate) boot_id: u64,
}

/// An envelope whose tag holds.
#[derive(Debug)]
pub(crate) struct Opened<'a> {
    pub(crate) sender: Endpoint,
    pub(crate) sequence: u64,
    /// `None` in a join request alone.
    pub(crate) receiver: Option<Endpoint>,
    pub(crate) body: &'a [u8],
}

/// Seals and opens datagrams for one node.
pub(crate) struct Envelope {
    key: Option<Hmac<Sha256>>,
    cluster: ClusterTag,
    local: Endpoint,
    next_sequence: u64,
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let authenticated = self.key.is_some();
        f.debug_struct("Envelope")
            .field("authenticated", &authenticated)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

impl Envelope {
    pub(crate) fn new(config: &SwimConfig, local: Endpoint) -> Self {
        let key = match &config.security {
            SwimSecurity::SharedSecret(secret) => Some(derive_key(secret.as_bytes())),
            SwimSecurity::Unconfigured | SwimSecurity::InsecureDev => None,
        };
        Self {
            key,
            cluster: config.cluster,
            local,
            next_sequence: 1,
        }
    }

    /// Bytes left for a body to `receiver`.
    pub(crate) fn body_budget(&self, receiver: Option<&Endpoint>) -> usize {
        let names = self.local.name.as_str().len()
            + receiver.map_or(0, |receiver| receiver.name.as_str().len());
        MAX_DATAGRAM_BYTES - PREFIX_BYTES - 1 - 8 - 8 - 1 - 8 - TAG_BYTES - names
    }

    /// Wraps `body` for `receiver`, under the next sequence number.
    pub(crate) fn seal(&mut self, receiver: Option<&Endpoint>, body: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(MAX_DATAGRAM_BYTES);
        let mode = if self.key.is_some() {
            MODE_HMAC
        } else {
            MODE_INSECURE
        };
        out.extend_from_slice(&[VERSION, mode]);
        out.extend_from_slice(&self.cluster.get().to_be_bytes());
        put_name(&mut out, Some(&self.local.name));
        out.extend_from_slice(&self.local.boot_id.to_be_bytes());
        out.extend_from_slice(&self.next_sequence.to_be_bytes());
        self.next_sequence += 1;
        put_name(&mut out, receiver.map(|receiver| &receiver.name));
        let receiver_boot = receiver.map_or(0, |receiver| receiver.boot_id);
        out.extend_from_slice(&receiver_boot.to_be_bytes());
        out.extend_from_slice(body);
        if let Some(key) = &self.key {
            let tag = key.clone().chain_update(&out).finalize().into_bytes();
            out.extend(tag.iter().take(TAG_BYTES));
        }
        Bytes::from(out)
    }

    /// Checks length, version, cluster, mode and tag, in this order, and only then reads on.
    pub(crate) fn open<'a>(&self, datagram: &'a [u8]) -> Result<Opened<'a>, DropReason> {
        if datagram.len() > MAX_DATAGRAM_BYTES || datagram.len() < PREFIX_BYTES {
            return Err(DropReason::Malformed);
        }
        let mut reader = Reader(datagram);
        if reader.u8()? != VERSION {
            return Err(DropReason::Malformed);
        }
        let mode = reader.u8()?;
        if reader.u64()? != self.cluster.get() {
            return Err(DropReason::ForeignCluster);
        }
        match (&self.key, mode) {
            (None, MODE_INSECURE) => {}
            (Some(key), MODE_HMAC) => {
                let signed = datagram
                    .len()
                    .checked_sub(TAG_BYTES)
                    .and_then(|at| datagram.split_at_checked(at));
                let (signed, tag) = signed.ok_or(DropReason::Malformed)?;
                let mac = key.clone().chain_update(signed);
                mac.verify_truncated_left(tag)
                    .map_err(|_| DropReason::Unauthenticated)?;
                reader = Reader(signed.get(PREFIX_BYTES..).ok_or(DropReason::Malformed)?);
            }
            _ => return Err(DropReason::Unauthenticated),
        }
        let sender = reader.name()?.ok_or(DropReason::Malformed)?;
        let sender_boot = reader.u64()?;
        let sequence = reader.u64()?;
        let receiver = reader.name()?;
        let receiver_boot = reader.u64()?;
        Ok(Opened {
            sender: Endpoint {
                name: sender,
                boot_id: sender_boot,
            },
            sequence,
            receiver: receiver.map(|name| Endpoint {
                name,
                boot_id: receiver_boot,
            }),
            body: reader.0,
        })
    }
}

fn derive_key(secret: &[u8]) -> Hmac<Sha256> {
    let keyed = |key: &[u8]| {
        <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length")
    };
    let derived = keyed(secret).chain_update(KEY_CONTEXT).finalize();
    keyed(&derived.into_bytes())
}

fn put_name(out: &mut Vec<u8>, name: Option<&NodeName>) {
    let text = name.map_or("", NodeName::as_str);
    // Names have at most 128 bytes, so that the length always fits.
    out.push(u8::try_from(text.len()).unwrap_or(0));
    out.extend_from_slice(text.as_bytes());
}

/// Takes pieces off the front of a datagram.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DropReason> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(DropReason::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DropReason> {
        let byte = self.take(1)?;
        byte.first().copied().ok_or(DropReason::Malformed)
    }

    fn u64(&mut self) -> Result<u64, DropReason> {
        let bytes = self.take(8)?;
        let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| DropReason::Malformed)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn name(&mut self) -> Result<Option<NodeName>, DropReason> {
        let length = usize::from(self.u8()?);
        if length == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| DropReason::Malformed)?;
        let name = NodeName::new(text).map_err(|_: InvalidId| DropReason::Malformed)?;
        Ok(Some(name))
    }
}

/// The sequence numbers seen of one life of one sender: the highest, and which of the 63 below it
/// (RFC 4303 section 3.4.3). UDP reorders, so that "only ever upwards" would drop good datagrams.
#[derive(Debug, Clone, Copy)]
struct ReplayWindow {
    boot_id: u64,
    highest: u64,
    /// Bit i: `highest - i` was seen.
    seen: u64,
}

impl ReplayWindow {
    const fn accept(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            let ahead = sequence - self.highest;
            self.seen = if ahead < 64 {
                self.seen << ahead | 1
            } else {
                1
            };
            self.highest = sequence;
            return true;
        }
        let behind = self.highest - sequence;
        if behind >= 64 || self.seen >> behind & 1 == 1 {
            return false;
        }
        self.seen |= 1 << behind;
        true
    }
}

/// The windows of all senders heard in this life; bounded.
#[derive(Debug, Default)]
pub(crate) struct ReplayWindows {
    windows: BTreeMap<NodeName, ReplayWindow>,
}

impl ReplayWindows {
    /// The newest life of `name` that was heard.
    pub(crate) fn boot_id(&self, name: &NodeName) -> Option<u64> {
        self.windows.get(name).map(|window| window.boot_id)
    }

    pub(crate) fn len(&self) -> usize {
        self.windows.len()
    }

    /// Forgets one sender for which `keep` does not ask.
    pub(crate) fn evict_one(&mut self, keep: impl Fn(&NodeName) -> bool) {
        let victim = self.windows.keys().find(|name| !keep(name)).cloned();
        if let Some(victim) = victim {
            self.windows.remove(&victim);
        }
    }

    /// Takes note of a datagram; an error if it is a replay or of an earlier life.
    pub(crate) fn accept(&mut self, sender: &Endpoint, sequence: u64) -> Result<(), DropReason> {
        let fresh = ReplayWindow {
            boot_id: sender.boot_id,
            highest: sequence,
            seen: 1,
        };
        let Some(window) = self.windows.get_mut(&sender.name) else {
            self.windows.insert(sender.name.clone(), fresh);
            return Ok(());
        };
        if sender.boot_id < window.boot_id {
            return Err(DropReason::StaleSender);
        }
        if sender.boot_id > window.boot_id {
            *window = fresh;
            return Ok(());
        }
        if window.accept(sequence) {
            Ok(())
        } else {
            Err(DropReason::Replayed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_takes_each_number_once_in_any_order() {
        let mut windows = ReplayWindows::default();
        let sender = Endpoint {
            name: NodeName::new("a").unwrap(),
            boot_id: 1,
        };
        for sequence in [5, 3, 4, 70, 69, 8] {
            assert_eq!(windows.accept(&sender, sequence), Ok(()), "{sequence}");
        }
        for sequence in [5, 3, 70, 69, 8, 6] {
            let outcome = windows.accept(&sender, sequence);
            assert_eq!(outcome, Err(DropReason::Replayed), "{sequence}");
        }
        let next_life = Endpoint {
            boot_id: 2,
            ..sender.clone()
        };
        assert_eq!(windows.accept(&next_life, 1), Ok(()));
        assert_eq!(windows.accept(&sender, 99), Err(DropReason::StaleSender));
    }
}
