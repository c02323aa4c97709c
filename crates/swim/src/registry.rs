//! Who is called what, once per process: names, addresses and metadata are held here a single time
//! however many detectors of the process know the member.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::codec::Reader;
use crate::event::DropReason;
use crate::profile::{MemberId, Profile};

/// A member's place in the tables of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    /// Stands for the node itself, which is in no table.
    pub(crate) const ME: Self = Self(u32::MAX);

    pub(crate) fn index(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A member's id is a hash already.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

#[derive(Debug, Default)]
struct Known {
    id: Option<MemberId>,
    /// How many tables hold the member.
    holders: u32,
    /// The profile that came last; whoever learns the same one shares it.
    latest: Option<Arc<Profile>>,
}

#[derive(Debug, Default)]
struct Inner {
    index: HashMap<MemberId, Slot, BuildHasherDefault<IdHasher>>,
    known: Vec<Known>,
    free: Vec<Slot>,
}

/// The members that the detectors of this process know. A detector makes one for itself; those that
/// are simulated together share one.
#[derive(Debug, Default)]
pub struct Registry(Mutex<Inner>);

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No code that can panic runs under the lock in a way that leaves it inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, id: MemberId) -> Option<Slot> {
        self.lock().index.get(&id).copied()
    }

    /// The slot of the profile's member, held once more.
    pub(crate) fn acquire(&self, profile: &Arc<Profile>) -> Slot {
        let mut inner = self.lock();
        let id = profile.id();
        let slot = inner.index.get(&id).copied().unwrap_or_else(|| {
            let fresh = Slot(u32::try_from(inner.known.len()).unwrap_or(u32::MAX));
            let slot = inner.free.pop().unwrap_or(fresh);
            if slot == fresh {
                inner.known.push(Known::default());
            }
            inner.index.insert(id, slot);
            slot
        });
        if let Some(known) = inner.known.get_mut(slot.index()) {
            known.id = Some(id);
            known.holders += 1;
            known.latest = Some(Arc::clone(profile));
        }
        slot
    }

    /// Lets go of a slot; the last one frees it.
    pub(crate) fn release(&self, slot: Slot) {
        let mut inner = self.lock();
        let Some(known) = inner.known.get_mut(slot.index()) else {
            return;
        };
        known.holders = known.holders.saturating_sub(1);
        if known.holders == 0 {
            let gone = std::mem::take(known);
            if let Some(id) = gone.id {
                inner.index.remove(&id);
                inner.free.push(slot);
            }
        }
    }

    /// The profile of these bytes: the one that is held already, if it is the same.
    pub(crate) fn intern(&self, encoded: &[u8]) -> Result<Arc<Profile>, DropReason> {
        let name = Profile::peek_name(Reader(encoded))?;
        let id = MemberId::of(&name);
        {
            let inner = self.lock();
            let slot = inner.index.get(&id);
            let known = slot.and_then(|slot| inner.known.get(slot.index()));
            let latest = known.and_then(|known| known.latest.as_ref());
            if let Some(latest) = latest.filter(|latest| latest.encoded() == encoded) {
                return Ok(Arc::clone(latest));
            }
        }
        let profile = Arc::new(Profile::decode(encoded)?);
        let mut inner = self.lock();
        let slot = inner.index.get(&id).copied();
        let known = slot.and_then(|slot| inner.known.get_mut(slot.index()));
        if let Some(known) = known {
            known.latest = Some(Arc::clone(&profile));
        }
        Ok(profile)
    }
}
