//! The keys that authenticate datagrams, and their rotation.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::codec::Reader;
use crate::config::{ClusterTag, MAX_SECRETS, SharedSecret};
use crate::error::SwimError;
use crate::event::DropReason;
use crate::micros::Micros;
use crate::profile::MemberId;

/// Bytes of a tag: HMAC-SHA256 truncated to 128 bits, half the output (RFC 2104, section 5).
pub(crate) const TAG_BYTES: usize = 16;
/// How long a removed key still opens datagrams: those that are under way, and those of members that
/// have not yet heard that it is gone.
const REMOVED_KEY_GRACE: Micros = Micros(10_000_000);
/// Domain separation: the shared secret may serve other protocols too.
const KEY_CONTEXT: &[u8] = b"rivven-swim/2";
const KEY_ID_CONTEXT: &[u8] = b"rivven-swim/2 key id";

/// Which keys a member holds: it can open what is sealed with any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KeyIds {
    ids: [u8; MAX_SECRETS],
    count: u8,
}

impl KeyIds {
    pub(crate) fn as_slice(&self) -> &[u8] {
        self.ids.get(..usize::from(self.count)).unwrap_or_default()
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DropReason> {
        let count = usize::from(reader.u8()?);
        if count > MAX_SECRETS {
            return Err(DropReason::Malformed);
        }
        Ok(reader.take(count)?.iter().copied().collect())
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.count);
        out.extend_from_slice(self.as_slice());
    }
}

/// At most [`MAX_SECRETS`]; more are ignored.
impl FromIterator<u8> for KeyIds {
    fn from_iter<I: IntoIterator<Item = u8>>(ids: I) -> Self {
        let mut all = Self::default();
        for (place, id) in all.ids.iter_mut().zip(ids) {
            *place = id;
            all.count += 1;
        }
        all
    }
}

struct Key {
    id: u8,
    mac: Hmac<Sha256>,
    /// Until when it still opens, once removed.
    removed_until: Option<Micros>,
}

/// The keys of one node, the primary one first. Never printed.
pub(crate) struct Keyring {
    cluster: ClusterTag,
    keys: Vec<Key>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<u8> = self.keys.iter().map(|key| key.id).collect();
        f.debug_struct("Keyring")
            .field("ids", &ids)
            .finish_non_exhaustive()
    }
}

impl Keyring {
    pub(crate) fn new(secret: &SharedSecret, cluster: ClusterTag) -> Self {
        let keys = secret.candidates().map(|bytes| Key::derive(bytes, cluster));
        Self {
            cluster,
            keys: keys.collect(),
        }
    }

    /// The keys that peers may use, the primary one first.
    pub(crate) fn ids(&self) -> KeyIds {
        let held = self.keys.iter().filter(|key| key.removed_until.is_none());
        held.map(|key| key.id).collect()
    }

    /// The key for a peer that holds `theirs`: the first of ours that it can open. With nothing in
    /// common the primary one: the peer is about to be told of it.
    pub(crate) fn common(&self, theirs: KeyIds) -> u8 {
        let mut ours = self.keys.iter().filter(|key| key.removed_until.is_none());
        let primary = self.keys.first().map_or(0, |key| key.id);
        ours.find(|key| theirs.as_slice().contains(&key.id))
            .map_or(primary, |key| key.id)
    }

    /// Accepts a further key from now on; it is not used for sending yet.
    pub(crate) fn install(&mut self, secret: &[u8]) -> Result<u8, SwimError> {
        let key = Key::derive(secret, self.cluster);
        let id = key.id;
        if let Some(held) = self.keys.iter_mut().find(|held| held.id == id) {
            held.removed_until = None;
            return Ok(id);
        }
        if self.keys.len() >= MAX_SECRETS {
            let reason = format!("{MAX_SECRETS} keys are held: remove one first");
            return Err(SwimError::config("security", reason));
        }
        self.keys.push(key);
        Ok(id)
    }

    /// Sends with this key from now on.
    pub(crate) fn promote(&mut self, id: u8) -> Result<(), SwimError> {
        let held = |key: &Key| key.id == id && key.removed_until.is_none();
        let Some(at) = self.keys.iter().position(held) else {
            return Err(SwimError::UnknownKey { id });
        };
        let key = self.keys.remove(at);
        self.keys.insert(0, key);
        Ok(())
    }

    /// Stops offering this key, and soon stops taking it.
    pub(crate) fn remove(&mut self, id: u8, now: Micros) -> Result<(), SwimError> {
        if self.keys.first().is_some_and(|primary| primary.id == id) {
            return Err(SwimError::PrimaryKey { id });
        }
        let held = self.keys.iter_mut().find(|key| key.id == id);
        let key = held.ok_or(SwimError::UnknownKey { id })?;
        key.removed_until = Some(now + REMOVED_KEY_GRACE);
        Ok(())
    }

    /// Forgets keys whose grace is over.
    pub(crate) fn expire(&mut self, now: Micros) {
        self.keys
            .retain(|key| key.removed_until.is_none_or(|until| until > now));
    }

    /// The tag of `signed` for that receiver; `None` without such a key.
    pub(crate) fn tag(&self, id: u8, signed: &[u8], receiver: MemberId) -> Option<[u8; TAG_BYTES]> {
        let key = self.keys.iter().find(|key| key.id == id)?;
        let mac = key.mac.clone().chain_update(signed);
        let mac = mac.chain_update(receiver.0.to_be_bytes());
        let tag: [u8; 32] = mac.finalize().into_bytes().into();
        tag.first_chunk::<TAG_BYTES>().copied()
    }

    /// Whether the tag is right under a key of that number, in constant time. Two keys may share a
    /// number: each is tried.
    pub(crate) fn verify(&self, id: u8, signed: &[u8], receiver: MemberId, tag: &[u8]) -> bool {
        self.keys.iter().filter(|key| key.id == id).any(|key| {
            let mac = key.mac.clone().chain_update(signed);
            let mac = mac.chain_update(receiver.0.to_be_bytes());
            mac.verify_truncated_left(tag).is_ok()
        })
    }
}

impl Key {
    fn derive(secret: &[u8], cluster: ClusterTag) -> Self {
        let derived = keyed(secret)
            .chain_update(KEY_CONTEXT)
            .chain_update(cluster.get().to_be_bytes())
            .finalize();
        let mac = keyed(&derived.into_bytes());
        let number: [u8; 32] = mac
            .clone()
            .chain_update(KEY_ID_CONTEXT)
            .finalize()
            .into_bytes()
            .into();
        Self {
            // Zero stands for "no key".
            id: number[0].max(1),
            mac,
            removed_until: None,
        }
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length")
}
