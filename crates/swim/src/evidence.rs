//! Evidence about members: what is believed, and what follows from it.

use std::sync::Arc;

use rivven_core_types::planted;

use crate::detector::Detector;
use crate::event::{DropReason, Event, Output};
use crate::member::MemberState;
use crate::message::{Accusers, Update};
use crate::micros::Micros;
use crate::outbox::Class;
use crate::profile::{Endpoint, Profile};
use crate::registry::Slot;
use crate::suspicion::Suspicion;
use crate::table::{Held, is_told};

/// How far ahead of what is held an incarnation may be when it does not come from the member itself:
/// far more than anybody refutes, far less than what would use the numbers up.
const MAX_INCARNATION_JUMP: u32 = 1 << 20;
/// Greatest incarnation at all.
const MAX_INCARNATION: u32 = u32::MAX - (MAX_INCARNATION_JUMP << 1);

/// What stands beside evidence that is taken over.
#[derive(Debug, Clone, Copy, Default)]
struct Beside {
    /// For a suspicion: the one to run.
    suspicion: Option<Suspicion>,
    /// For a tombstone: how old it is already.
    age: Micros,
}

impl Detector {
    /// Takes evidence in if it is greater than what is held: by (boot id, incarnation, state), so that
    /// it may arrive in any order and any number of times.
    pub(crate) fn admit(
        &mut self,
        now: Micros,
        update: &Update<'_>,
        by: Endpoint,
        out: &mut Vec<Output>,
    ) {
        let profile = match update
            .profile
            .map(|bytes| self.table.registry.intern(bytes))
        {
            Some(Ok(profile)) => Some(profile),
            Some(Err(reason)) => return drop_evidence(reason, out),
            None => None,
        };
        let about = profile.as_ref().map_or(update.about, |p| p.endpoint);
        if update.incarnation > MAX_INCARNATION || about.boot_id == 0 {
            return drop_evidence(DropReason::Implausible, out);
        }
        if about.id == self.me.id() {
            return self.admit_about_me(now, about, update, out);
        }
        match (self.table.find(about.id), profile) {
            (Some(slot), profile) => self.admit_known(now, slot, about, update, profile, by, out),
            (None, Some(profile)) => self.admit_new(now, profile, update, out),
            // Without a profile nothing can be held of a member; comparing tables brings it.
            (None, None) => {}
        }
    }

    fn admit_new(
        &mut self,
        now: Micros,
        profile: Arc<Profile>,
        update: &Update<'_>,
        out: &mut Vec<Output>,
    ) {
        let age = Micros(u64::from(update.age_secs)).times(1_000_000);
        let live = update.state.is_live();
        if !live && !is_told(age, self.timing.tombstone_ttl) {
            return;
        }
        if !self.make_room(out) {
            return drop_evidence(DropReason::Overloaded, out);
        }
        let beside = Beside {
            suspicion: self.suspicion(now, update.accusers),
            age,
        };
        let held = Held {
            profile,
            incarnation: update.incarnation,
            state: update.state,
        };
        self.set(now, held, beside, out);
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of one piece of evidence, of distinct types"
    )]
    fn admit_known(
        &mut self,
        now: Micros,
        slot: Slot,
        about: Endpoint,
        update: &Update<'_>,
        profile: Option<Arc<Profile>>,
        by: Endpoint,
        out: &mut Vec<Output>,
    ) {
        let Some((held_profile, row)) = self.table.get(slot) else {
            return;
        };
        let held = (row.incarnation, row.state);
        let collides = |p: &Arc<Profile>| p.info.name != held_profile.info.name;
        if profile.as_ref().is_some_and(collides) {
            return drop_evidence(DropReason::Implausible, out);
        }
        if about.boot_id != held_profile.boot_id() {
            // An earlier life is over; a later one is taken as a whole.
            if let Some(profile) = profile.filter(|p| p.boot_id() > held_profile.boot_id()) {
                self.admit_new_life(now, profile, update, out);
            }
            return;
        }
        if by.id != about.id && update.incarnation > row.incarnation + MAX_INCARNATION_JUMP {
            return drop_evidence(DropReason::Implausible, out);
        }
        // First, whatever becomes of the evidence beside it.
        if let Some(newer) = profile.filter(|p| p.version > held_profile.version) {
            self.renew_profile(now, slot, newer, out);
        }
        let mut offered = (update.incarnation, update.state);
        let mut suspicion = None;
        if offered == held && update.state == MemberState::Suspect {
            return self.confirm(now, slot, update.accusers);
        }
        if offered.1 == MemberState::Dead && offered > held && held.1.is_live() {
            match self.weigh_death(now, slot, offered.0) {
                Verdict::Believe => {}
                Verdict::Hasten(hastened) => return self.table.suspect(slot, hastened),
                Verdict::Ignore => return,
                Verdict::Suspect(hearsay) => {
                    offered.1 = MemberState::Suspect;
                    suspicion = Some(hearsay);
                }
            }
        }
        let risen =
            planted("swim.rises-from-the-dead") && offered.1 < held.1 && offered.0 == held.0;
        if offered <= held && !risen {
            return;
        }
        let Some((profile, _)) = self.table.get(slot) else {
            return;
        };
        let profile = Arc::clone(profile);
        let beside = Beside {
            suspicion: suspicion.or_else(|| self.suspicion(now, update.accusers)),
            age: Micros(u64::from(update.age_secs)).times(1_000_000),
        };
        let held = Held {
            profile,
            incarnation: offered.0,
            state: offered.1,
        };
        self.set(now, held, beside, out);
    }

    /// A restart shows at once, whatever is held of the life before.
    fn admit_new_life(
        &mut self,
        now: Micros,
        profile: Arc<Profile>,
        update: &Update<'_>,
        out: &mut Vec<Output>,
    ) {
        let beside = Beside {
            suspicion: self.suspicion(now, update.accusers),
            age: Micros(u64::from(update.age_secs)).times(1_000_000),
        };
        let held = Held {
            profile,
            incarnation: update.incarnation,
            state: update.state,
        };
        self.set(now, held, beside, out);
    }

    /// Somebody says that a member is dead which is alive or suspected here. It is believed once a
    /// suspicion has run here too; otherwise the member gets its window to refute. If not, the first
    /// contact after a partition would make each side believe what the other wrongly held of it.
    fn weigh_death(&self, now: Micros, slot: Slot, incarnation: u32) -> Verdict {
        let hearsay = Suspicion::by_hearsay(now, self.suspicion_min());
        let held = self.table.get(slot).map(|(_, row)| row.incarnation);
        match self.table.suspicion(slot) {
            Some(running) if held == Some(incarnation) => {
                if running.is_ripe(now) || planted("swim.believes-hearsay") {
                    Verdict::Believe
                } else if hearsay.deadline() < running.deadline() {
                    Verdict::Hasten(hearsay)
                } else {
                    Verdict::Ignore
                }
            }
            _ if planted("swim.believes-hearsay") => Verdict::Believe,
            _ => Verdict::Suspect(hearsay),
        }
    }

    /// Others suspect a member that is suspected here.
    fn confirm(&mut self, now: Micros, slot: Slot, accusers: Accusers) {
        let Some((profile, _)) = self.table.get(slot) else {
            return;
        };
        let accused = profile.id();
        let Some(mut suspicion) = self.table.suspicion(slot).copied() else {
            return;
        };
        let mut confirmed = false;
        for accuser in accusers.as_slice() {
            let counts = *accuser != accused
                && (*accuser == self.me.id() || self.table.find(*accuser).is_some());
            confirmed |= counts && suspicion.confirm(*accuser);
        }
        if confirmed {
            self.table.suspect(slot, suspicion);
            self.outbox.push(slot, Class::Suspect);
            self.comparison.changed(now);
        }
    }

    fn suspicion(&self, now: Micros, accusers: Accusers) -> Option<Suspicion> {
        let others = self.table.live().saturating_sub(1);
        Some(Suspicion::new(now, self.suspicion_min(), others, accusers))
    }

    fn make_room(&mut self, out: &mut Vec<Output>) -> bool {
        if self.table.len() + 1 < self.config.max_members {
            return true;
        }
        let Some(slot) = self.table.oldest_grave() else {
            return false;
        };
        self.forget(slot, out);
        true
    }

    /// Forgets a member and says so.
    pub(crate) fn forget(&mut self, slot: Slot, out: &mut Vec<Output>) {
        self.outbox.remove(slot);
        if let Some((profile, window)) = self.table.forget(slot) {
            self.windows.dismiss(window, profile.id());
            self.events.forget(profile.id());
            self.version += 1;
            let name = profile.info.name.clone();
            out.push(Output::Event(Event::MemberForgotten { name }));
        }
    }

    /// A member's profile changed, and nothing else.
    fn renew_profile(
        &mut self,
        now: Micros,
        slot: Slot,
        profile: Arc<Profile>,
        out: &mut Vec<Output>,
    ) {
        let suspicion = self.table.suspicion(slot).copied();
        let expires_at = self.table.grave(slot);
        let Some((incarnation, state)) = self
            .table
            .get(slot)
            .map(|(_, row)| (row.incarnation, row.state))
        else {
            return;
        };
        let name = profile.info.name.clone();
        self.table.store(
            now,
            Held {
                profile,
                incarnation,
                state,
            },
        );
        if let Some(suspicion) = suspicion {
            self.table.suspect(slot, suspicion);
        }
        if let Some(expires_at) = expires_at {
            self.table.bury(slot, expires_at);
        }
        self.version += 1;
        self.comparison.changed(now);
        self.outbox.push(slot, Class::Profile);
        out.push(Output::Event(Event::ProfileChanged { name }));
    }

    /// Stores evidence, starts what follows from it, tells others and the driver.
    fn set(&mut self, now: Micros, held: Held, beside: Beside, out: &mut Vec<Output>) {
        let before = self.table.find(held.profile.id());
        let before = before.and_then(|slot| self.table.get(slot));
        let before = before.map(|(profile, row)| (profile.endpoint.boot_id, row.state));
        let profile = Arc::clone(&held.profile);
        let (state, incarnation) = (held.state, held.incarnation);
        let slot = self.table.store(now, held);
        if before.is_none() {
            let window = self.windows.adopt(profile.id());
            if let Some(row) = self.table.row_mut(slot) {
                row.window = window;
            }
        }
        match (state, beside.suspicion) {
            (MemberState::Suspect, Some(suspicion)) => {
                self.table.suspect(slot, suspicion);
                self.consider_check(slot, &suspicion);
            }
            (MemberState::Dead | MemberState::Left, _) => {
                let remaining = self.timing.tombstone_ttl - beside.age;
                self.table.bury(slot, now + remaining);
            }
            _ => {}
        }
        self.version += 1;
        self.comparison.changed(now);
        let same_life = before.is_some_and(|(boot_id, _)| boot_id == profile.boot_id());
        let class = match state {
            MemberState::Alive | MemberState::Suspect if !same_life => Class::Join,
            MemberState::Alive => Class::Refuted,
            MemberState::Suspect => Class::Suspect,
            MemberState::Dead => Class::Gone,
            MemberState::Left => Class::Leave,
        };
        // News of a tombstone that came with the whole table is no news.
        if before.is_some() || state.is_live() {
            self.outbox.push(slot, class);
        }
        if before != Some((profile.boot_id(), state)) {
            let name = profile.info.name.clone();
            if state == MemberState::Suspect {
                let name = name.clone();
                out.push(Output::Event(Event::Suspected { name }));
            }
            out.push(Output::Event(Event::MemberChanged {
                name,
                state,
                boot_id: profile.boot_id(),
                incarnation: u64::from(incarnation),
            }));
        }
    }

    /// This node itself could not reach a member.
    pub(crate) fn accuse(&mut self, now: Micros, slot: Slot, out: &mut Vec<Output>) {
        let Some((profile, row)) = self.table.live_at(slot) else {
            return;
        };
        let accusers = Accusers::one(self.me.id());
        if row.state == MemberState::Suspect {
            self.confirm(now, slot, accusers);
        } else {
            let raised = u32::from(planted("swim.raises-anothers-incarnation"));
            let held = Held {
                profile: Arc::clone(profile),
                incarnation: row.incarnation + raised,
                state: MemberState::Suspect,
            };
            let suspicion = self.suspicion(now, accusers);
            let beside = Beside {
                suspicion,
                age: Micros(0),
            };
            self.set(now, held, beside, out);
        }
        // The accused hears it first, so that it has the whole window to refute; its answer brings the
        // refutation here at once.
        self.ping(now, slot, out);
    }

    /// Members whose suspicions have run out are dead; before that each is asked once more what it says
    /// to that, so that nobody dies for a refutation that got lost on its way here.
    pub(crate) fn end_suspicions(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.superseded_by.is_some() && self.table.overdue(now).is_some() {
            // Nobody tells a life that is over who has refuted what.
            let ttl = self.timing.tombstone_ttl;
            return self.table.put_off_suspicions(ttl);
        }
        while let Some(slot) = self.table.overdue(now) {
            let interval = self.timing.interval;
            if let Some(mut suspicion) = self.table.suspicion(slot).copied()
                && suspicion.warn(now, interval)
            {
                self.table.suspect(slot, suspicion);
                self.ping(now, slot, out);
                continue;
            }
            let Some((profile, row)) = self.table.get(slot) else {
                return;
            };
            let held = Held {
                profile: Arc::clone(profile),
                incarnation: row.incarnation,
                state: MemberState::Dead,
            };
            self.set(now, held, Beside::default(), out);
            // Whoever is dead only for lack of a refutation hears of it, and refutes now.
            self.ping(now, slot, out);
        }
    }

    /// Others say something of this node: refute what is wrong.
    fn admit_about_me(
        &mut self,
        now: Micros,
        about: Endpoint,
        update: &Update<'_>,
        out: &mut Vec<Output>,
    ) {
        if about.boot_id > self.me.boot_id() {
            return self.supersede(about.boot_id, out);
        }
        let doubted =
            update.state != MemberState::Alive && update.incarnation >= self.me.incarnation;
        // Only this node raises its incarnation. A greater one is from an earlier process that was
        // given the same boot id, and must be overtaken.
        let behind = update.incarnation > self.me.incarnation;
        if about.boot_id == self.me.boot_id() && update.state != MemberState::Alive && !doubted {
            // Refuted already, but the one who says it has missed that: the answer tells it again.
            self.missed_refutation = true;
        }
        if about.boot_id < self.me.boot_id() || self.me.left || !(doubted || behind) {
            return;
        }
        if update.incarnation > self.me.incarnation + MAX_INCARNATION_JUMP {
            return drop_evidence(DropReason::Implausible, out);
        }
        if !planted("swim.does-not-refute") {
            self.me.incarnation = update.incarnation + 1;
        }
        self.raise_health_score(1);
        self.tell_about_me(now, Class::Me);
        out.push(Output::Event(Event::Refuted {
            incarnation: u64::from(self.me.incarnation),
        }));
    }

    /// This node's own state changed: everybody hears of it.
    pub(crate) fn tell_about_me(&mut self, now: Micros, class: Class) {
        let me = &self.me;
        self.table.set_own(&me.profile, me.incarnation, me.left);
        self.version += 1;
        self.comparison.changed(now);
        self.outbox.push(Slot::ME, class);
    }
}

/// What becomes of another's word that a member is dead.
enum Verdict {
    Believe,
    Suspect(Suspicion),
    Hasten(Suspicion),
    Ignore,
}

fn drop_evidence(reason: DropReason, out: &mut Vec<Output>) {
    out.push(Output::Event(Event::Dropped { reason }));
}
