//! Joining, finding back together after a partition, and leaving.

use std::collections::BTreeSet;

use bytes::Bytes;
use rivven_core_types::{Address, MonoTime, planted};

use crate::config::SharedSecret;
use crate::detector::Detector;
use crate::envelope::Binding;
use crate::error::SwimError;
use crate::event::{DropReason, Event, Output};
use crate::letter::{Letter, Mail};
use crate::message::Message;
use crate::micros::Micros;
use crate::outbox::Class;
use crate::probe::is_at;
use crate::profile::{Destination, Endpoint, MAX_METADATA_BYTES, MemberId, Profile};
use crate::registry::Slot;

/// Most seeds that [`crate::Membership::join`] takes.
pub const MAX_SEEDS: usize = 64;
/// Periods of silence before this node believes that it is not itself that is cut off.
pub(crate) const MAX_SILENT_PERIODS: u64 = 10;
/// Rounds in which a departure is told, half a period apart, unless enough have acknowledged it.
const LEAVE_ROUNDS: u32 = 12;
/// Members told of the departure in each round; they tell the others.
const LEAVE_FANOUT: usize = 8;
/// Acknowledgements that make a departure known.
const LEAVE_ACKS: usize = 3;

/// A departure under way.
#[derive(Debug)]
pub(crate) struct Leaving {
    rounds_left: u32,
    pub(crate) next: Micros,
    acknowledged: BTreeSet<MemberId>,
}

impl Detector {
    pub(crate) fn join(&mut self, now: Micros, seeds: Vec<Address>, out: &mut Vec<Output>) {
        let own = self.me.profile.info.cluster_addr.clone();
        self.seeds = seeds;
        self.seeds.retain(|seed| *seed != own);
        self.seeds.sort();
        self.seeds.dedup();
        self.seeds.truncate(MAX_SEEDS);
        self.contacted = false;
        self.join_pause = self.config.seed_retry_min;
        self.ask_seeds(now, out);
    }

    fn ask_seeds(&mut self, now: Micros, out: &mut Vec<Output>) {
        for seed in self.seeds.clone() {
            self.send_join(now, &seed, out);
        }
        // Jitter keeps a cluster that starts at once from asking one seed in step.
        let pause = Micros::from(self.join_pause);
        let jitter = Micros(self.rng.below(pause.0 / 4 + 1));
        self.join_at = (!self.seeds.is_empty()).then(|| now + pause + jitter);
    }

    pub(crate) fn ask_seeds_while_alone(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.join_at.is_none_or(|at| at > now) {
            return;
        }
        if self.me.left {
            self.join_at = None;
        } else if self.table.live() > 0 {
            self.join_pause = self.config.seed_retry_min;
            self.join_at = Some(now + Micros::from(self.config.seed_retry_max));
        } else {
            let doubled = self.join_pause.saturating_mul(2);
            self.join_pause = doubled.min(self.config.seed_retry_max);
            self.ask_seeds(now, out);
        }
    }

    /// Asks whoever is at `seed` who it is: once under each key, as it is not known which one it holds.
    fn send_join(&mut self, now: Micros, seed: &Address, out: &mut Vec<Output>) {
        let keys = self.envelope.keys();
        let mut keys = keys.as_slice().to_vec();
        if keys.is_empty() {
            keys.push(0);
        }
        for key in keys {
            let letter = Letter {
                to: Destination::from(seed),
                binding: Binding {
                    receiver: None,
                    key,
                },
                about: None,
                introduce: false,
                ask_introduction: false,
                refute: false,
            };
            self.send(now, &letter, Message::Join, out);
        }
    }

    /// Answers a join request with who this node is. Nothing is learnt from the request but its number, and
    /// the answer is one small datagram: a capture of it is worth nothing, and that once. What this node knows of others goes to
    /// whoever asks for it under this node's boot id, which only the one who joins has now learnt.
    pub(crate) fn join_request(
        &mut self,
        now: Micros,
        mail: &Mail,
        body: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let (message, _, news) = Message::read(body)?;
        if message != Message::Join || !news.is_empty() {
            return Err(DropReason::Malformed);
        }
        let left = self.courtesies_left.checked_sub(1);
        self.courtesies_left = left.ok_or(DropReason::Overloaded)?;
        let mut letter = self.answer(mail);
        letter.introduce = true;
        let digest = self.table.digest();
        self.send(now, &letter, Message::Welcome { digest }, out);
        Ok(())
    }

    /// Asks one dead member and one seed that is no live member: the way back after a partition that
    /// outlasted the suspicions. A dead member hears what is held of it, and refutes.
    pub(crate) fn reach_for_the_lost(&mut self, now: Micros, out: &mut Vec<Output>) {
        if planted("swim.gives-up-the-lost") {
            return;
        }
        if let Some(slot) = self.table.random_dead(&mut self.rng) {
            self.ping(now, slot, out);
        }
        let lost = |seed: &&Address| {
            let mut members = self.table.iter();
            !members
                .any(|(_, profile, row)| row.state.is_live() && is_at(&profile.destination, seed))
        };
        let seeds: Vec<Address> = self.seeds.iter().filter(lost).cloned().collect();
        let at = self.rng.below(seeds.len() as u64);
        let at = usize::try_from(at).unwrap_or(0);
        if let Some(seed) = seeds.get(at) {
            self.send_join(now, seed, out);
        }
    }

    pub(crate) fn leave(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.me.left {
            return;
        }
        self.me.left = true;
        self.me.since = now;
        self.probe = None;
        self.tell_about_me(now, Class::Leave);
        self.leaving = Some(Leaving {
            rounds_left: LEAVE_ROUNDS,
            next: now,
            acknowledged: BTreeSet::new(),
        });
        self.continue_leaving(now, out);
    }

    pub(crate) fn note_leave_ack(&mut self, sender: Endpoint) {
        if let Some(leaving) = &mut self.leaving
            && leaving.acknowledged.len() < LEAVE_ACKS
        {
            leaving.acknowledged.insert(sender.id);
        }
    }

    pub(crate) fn continue_leaving(&mut self, now: Micros, out: &mut Vec<Output>) {
        let live = self.table.live();
        let Some(leaving) = self.leaving.as_mut().filter(|l| l.next <= now) else {
            return;
        };
        let known = leaving.acknowledged.len() >= LEAVE_ACKS.min(live);
        if known || leaving.rounds_left == 0 {
            let acknowledged = leaving.acknowledged.len();
            self.leaving = None;
            out.push(Output::Event(Event::LeaveFinished { acknowledged }));
            return;
        }
        leaving.rounds_left -= 1;
        leaving.next = now + Micros(self.timing.interval.0 / 2);
        // Every datagram of this node says first that it has left.
        self.outbox.push(Slot::ME, Class::Leave);
        let mut told = BTreeSet::new();
        for _ in 0..LEAVE_FANOUT.min(live) {
            let found = self.table.random(&mut self.rng, |slot, _, row| {
                row.state.is_live() && !told.contains(&slot)
            });
            if let Some(slot) = found {
                told.insert(slot);
                self.ping(now, slot, out);
            }
        }
    }

    pub(crate) fn set_metadata(&mut self, now: Micros, metadata: Bytes, out: &mut Vec<Output>) {
        if metadata.len() > MAX_METADATA_BYTES {
            let reason = DropReason::Overloaded;
            return out.push(Output::Event(Event::Dropped { reason }));
        }
        self.rebuild_profile(now, metadata, out);
    }

    /// Takes datagrams under a further secret from now on, and tells everybody so: its key's number.
    /// The first step of a rotation; [`Detector::use_key`] is the second, [`Detector::remove_key`] the
    /// third, each on all nodes before the next.
    ///
    /// # Errors
    /// [`SwimError::NoKeys`], or [`SwimError::InvalidConfig`] when 8 keys are held.
    pub fn install_secret(
        &mut self,
        now: MonoTime,
        secret: &SharedSecret,
        out: &mut Vec<Output>,
    ) -> Result<u8, SwimError> {
        let ring = self.envelope.ring.as_mut().ok_or(SwimError::NoKeys)?;
        let mut installed = 0;
        for bytes in secret.candidates().take(1) {
            installed = ring.install(bytes)?;
        }
        self.tell_keys(now.into(), out);
        Ok(installed)
    }

    /// Prefers this key for sending from now on, to all who hold it.
    ///
    /// # Errors
    /// [`SwimError::NoKeys`], [`SwimError::UnknownKey`].
    pub fn use_key(
        &mut self,
        now: MonoTime,
        key: u8,
        out: &mut Vec<Output>,
    ) -> Result<(), SwimError> {
        let ring = self.envelope.ring.as_mut().ok_or(SwimError::NoKeys)?;
        ring.promote(key)?;
        self.tell_keys(now.into(), out);
        Ok(())
    }

    /// Offers this key no longer; for ten seconds more it opens what is under way.
    ///
    /// # Errors
    /// [`SwimError::NoKeys`], [`SwimError::UnknownKey`], [`SwimError::PrimaryKey`].
    pub fn remove_key(
        &mut self,
        now: MonoTime,
        key: u8,
        out: &mut Vec<Output>,
    ) -> Result<(), SwimError> {
        let ring = self.envelope.ring.as_mut().ok_or(SwimError::NoKeys)?;
        ring.remove(key, now.into())?;
        self.tell_keys(now.into(), out);
        Ok(())
    }

    /// Holds these secrets from now on: the first one for sending to all who hold it, the others for
    /// those who do not. All other keys go as by [`Detector::remove_key`].
    ///
    /// # Errors
    /// [`SwimError::NoKeys`], or [`SwimError::InvalidConfig`] for secrets that cannot be held together:
    /// nothing has changed.
    pub fn replace_secrets(
        &mut self,
        now: MonoTime,
        secret: &SharedSecret,
        out: &mut Vec<Output>,
    ) -> Result<(), SwimError> {
        let ring = self.envelope.ring.as_mut().ok_or(SwimError::NoKeys)?;
        ring.replace(secret, now.into())?;
        self.tell_keys(now.into(), out);
        Ok(())
    }

    /// How many live members do not hold the key that this node prefers: while there are any, the key
    /// before it must not go.
    pub fn members_without_primary_key(&self) -> usize {
        let Some(ring) = &self.envelope.ring else {
            return 0;
        };
        let primary = ring.primary();
        let lacks = |profile: &Profile| !profile.keys.as_slice().contains(&primary);
        let members = self.table.iter();
        members
            .filter(|(_, profile, row)| row.state.is_live() && lacks(profile))
            .count()
    }

    fn tell_keys(&mut self, now: Micros, out: &mut Vec<Output>) {
        let metadata = self.me.profile.metadata.clone();
        self.rebuild_profile(now, metadata, out);
    }

    /// Tells everybody a new version of this node's profile, with the keys that it holds now.
    pub(crate) fn rebuild_profile(&mut self, now: Micros, metadata: Bytes, out: &mut Vec<Output>) {
        let held = &self.me.profile;
        let info = (*held.info).clone();
        let version = held.version.saturating_add(1);
        let keys = self.envelope.keys();
        match Profile::new(info, held.boot_id(), version, keys, metadata) {
            Ok(profile) => {
                self.me.profile = std::sync::Arc::new(profile);
                self.tell_about_me(now, Class::Profile);
            }
            Err(_) => out.push(Output::Event(Event::Dropped {
                reason: DropReason::Overloaded,
            })),
        }
    }
}
