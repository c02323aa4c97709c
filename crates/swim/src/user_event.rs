//! Small messages of the application, told to every member once.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::detector::Detector;
use crate::event::{DropReason, Event, Output};
use crate::message::{MAX_EVENT_BYTES, put_event};
use crate::profile::{Endpoint, MemberId};
use crate::registry::Slot;
use crate::replay::Window;

/// Events that are being told at once; a further one pushes out the oldest.
const MAX_PENDING: usize = 64;

#[derive(Debug)]
struct Pending {
    origin: Endpoint,
    seq: u32,
    payload: Bytes,
    told: u16,
}

/// The events under way, and which were seen.
#[derive(Debug, Default)]
pub(crate) struct UserEvents {
    pending: VecDeque<Pending>,
    /// Of members alone: forgotten with them, never before, or their events would go round again.
    seen: BTreeMap<MemberId, Window>,
    next_seq: u32,
}

impl UserEvents {
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn tell(&mut self, origin: Endpoint, seq: u32, payload: Bytes) {
        if self.pending.len() >= MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back(Pending {
            origin,
            seq,
            payload,
            told: 0,
        });
    }

    /// Whether the event is new.
    fn note(&mut self, origin: Endpoint, seq: u32) -> bool {
        let window = self.seen.entry(origin.id).or_default();
        if origin.boot_id < window.boot_id {
            return false;
        }
        if origin.boot_id > window.boot_id {
            *window = Window::of_life(origin.boot_id);
        }
        // The first number is 1, as the window begins at zero.
        window.note(u64::from(seq))
    }

    /// A member is forgotten, and with it which of its events were seen.
    pub(crate) fn forget(&mut self, id: MemberId) {
        self.seen.remove(&id);
    }

    /// Appends the least told events that fit.
    pub(crate) fn pick(&mut self, limit: u16, bytes: &mut Vec<u8>, end: usize) {
        let mut order: Vec<&mut Pending> = self.pending.iter_mut().collect();
        order.sort_by_key(|pending| pending.told);
        for pending in order {
            let mark = bytes.len();
            put_event(bytes, pending.origin, pending.seq, &pending.payload);
            if bytes.len() > end {
                bytes.truncate(mark);
            } else {
                pending.told += 1;
            }
        }
        self.pending.retain(|pending| pending.told < limit);
    }
}

impl Detector {
    pub(crate) fn broadcast(&mut self, payload: Bytes, out: &mut Vec<Output>) {
        if payload.len() > MAX_EVENT_BYTES {
            let reason = DropReason::Overloaded;
            return out.push(Output::Event(Event::Dropped { reason }));
        }
        self.events.next_seq = self.events.next_seq.saturating_add(1);
        let (origin, seq) = (self.me.profile.endpoint, self.events.next_seq);
        self.events.tell(origin, seq, payload);
    }

    /// Takes an event in, once, and tells it on.
    pub(crate) fn admit_event(
        &mut self,
        origin: Endpoint,
        seq: u32,
        payload: &[u8],
        out: &mut Vec<Output>,
    ) {
        // From somebody not known yet it is not taken, so that it can be taken when it comes again.
        let slot: Option<Slot> = self.table.find(origin.id);
        let Some((profile, _)) = slot.and_then(|slot| self.table.get(slot)) else {
            return;
        };
        let name = profile.info.name.clone();
        if !self.events.note(origin, seq) {
            return;
        }
        let payload = Bytes::copy_from_slice(payload);
        self.events.tell(origin, seq, payload.clone());
        out.push(Output::Event(Event::User {
            origin: name,
            payload,
        }));
    }
}
