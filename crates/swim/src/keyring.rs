//! The keys that authenticate datagrams, and their rotation.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::codec::Reader;
use crate::config::{ClusterTag, MAX_SECRETS, SharedSecret};
use crate::error::SwimError;
use crate::event::DropReason;
use crate::mac::{MacKey, TAG_BYTES};
use crate::micros::Micros;
use crate::profile::MemberId;

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
    mac: MacKey,
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
    pub(crate) fn new(secret: &SharedSecret, cluster: ClusterTag) -> Result<Self, SwimError> {
        let keys = derive(secret, cluster)?;
        Ok(Self { cluster, keys })
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
        ours.find(|key| theirs.as_slice().contains(&key.id))
            .map_or_else(|| self.primary(), |key| key.id)
    }

    /// Accepts a further key from now on; it is not used for sending yet.
    pub(crate) fn install(&mut self, secret: &[u8]) -> Result<u8, SwimError> {
        let key = Key::derive(secret, self.cluster);
        let id = key.id;
        if let Some(held) = self.keys.iter_mut().find(|held| held.id == id) {
            if !held.mac.is(&key.mac) {
                return Err(collision(id));
            }
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

    /// Holds the keys of these secrets from now on, the first one for sending, and lets go of all
    /// others as [`Keyring::remove`] does. On an error nothing has changed.
    pub(crate) fn replace(&mut self, secret: &SharedSecret, now: Micros) -> Result<(), SwimError> {
        let wanted = derive(secret, self.cluster)?;
        let before = std::mem::replace(&mut self.keys, wanted);
        for mut key in before {
            let stays = self.keys.iter().any(|held| held.mac.is(&key.mac));
            // Those that went last are the ones that may still be under way.
            if !stays && self.keys.len() < MAX_SECRETS {
                let until = now + REMOVED_KEY_GRACE;
                key.removed_until = Some(key.removed_until.unwrap_or(until));
                self.keys.push(key);
            }
        }
        Ok(())
    }

    /// The key for sending.
    pub(crate) fn primary(&self) -> u8 {
        self.keys.first().map_or(0, |key| key.id)
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
        Some(key.mac.tag(signed, receiver.0))
    }

    /// Whether the tag is right under a key of that number, in constant time. Two keys may share a
    /// number: each is tried.
    pub(crate) fn verify(
        &self,
        id: u8,
        signed: &[u8],
        receiver: MemberId,
        tag: &[u8; TAG_BYTES],
    ) -> bool {
        let mut keys = self.keys.iter().filter(|key| key.id == id);
        keys.any(|key| key.mac.verify(signed, receiver.0, tag))
    }
}

/// The keys of some secrets. Peers tell keys apart by their numbers, so that two keys of one ring must
/// not share one: the wrong one would be used for sending.
fn derive(secret: &SharedSecret, cluster: ClusterTag) -> Result<Vec<Key>, SwimError> {
    let mut keys: Vec<Key> = Vec::new();
    for bytes in secret.candidates() {
        let key = Key::derive(bytes, cluster);
        match keys.iter().find(|held| held.id == key.id) {
            None => keys.push(key),
            // The same secret given twice is one.
            Some(held) if held.mac.is(&key.mac) => {}
            Some(_) => return Err(collision(key.id)),
        }
    }
    Ok(keys)
}

/// One pair of secrets in 255 cannot be held together.
fn collision(id: u8) -> SwimError {
    let reason = format!(
        "two different secrets have the key number {id}: they cannot be held together, draw another secret"
    );
    SwimError::config("security", reason)
}

impl Key {
    fn derive(secret: &[u8], cluster: ClusterTag) -> Self {
        let derived = keyed(secret)
            .chain_update(KEY_CONTEXT)
            .chain_update(cluster.get().to_be_bytes())
            .finalize();
        let derived: Zeroizing<[u8; 32]> = Zeroizing::new(derived.into_bytes().into());
        let number = keyed(derived.as_slice()).chain_update(KEY_ID_CONTEXT);
        let number: [u8; 32] = number.finalize().into_bytes().into();
        Self {
            // Zero stands for "no key".
            id: number[0].max(1),
            mac: MacKey::new(&derived),
            removed_until: None,
        }
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length")
}
