//! Datagrams out: to whom, with which news.

use std::net::SocketAddr;

use crate::detector::Detector;
use crate::envelope::Binding;
use crate::event::{DropReason, Output};
use crate::member::MemberState;
use crate::message::{Message, Update};
use crate::micros::Micros;
use crate::outbox::Written;
use crate::profile::{Destination, Endpoint};
use crate::registry::Slot;
use crate::table::{Table, binary_digits};

/// Answers per period that a stranger's capture or a confused peer can trigger: to join requests, to
/// datagrams for an earlier life, to those who ask who this node is.
pub(crate) const MAX_COURTESIES_PER_PERIOD: u32 = 256;
/// Those of them, per period, that concern a life that is over, of this node or of the sender: whoever has
/// captured many such datagrams must not keep others from joining with them.
pub(crate) const MAX_STALE_ANSWERS_PER_PERIOD: u32 = 16;
/// Pauses between two rounds of urgent news, as parts of a period.
const GOSSIP_ROUNDS_PER_PERIOD: u64 = 4;
/// Members told in one round of urgent news.
const GOSSIP_FANOUT: usize = 3;

/// Whence a datagram came, for the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mail {
    pub(crate) from: SocketAddr,
    pub(crate) sender: Endpoint,
    pub(crate) key: u8,
    /// Where the table held the sender when the datagram came; evidence beside it may have moved that.
    pub(crate) slot: Option<Slot>,
}

/// A datagram to be written.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) to: Destination,
    pub(crate) binding: Binding,
    /// Whose state the receiver hears first, if it is not simply alive.
    pub(crate) about: Option<Slot>,
    /// This node's profile goes with it.
    pub(crate) introduce: bool,
    /// The receiver is asked for its own.
    pub(crate) ask_introduction: bool,
    /// This node's state goes with it.
    pub(crate) refute: bool,
}

impl Detector {
    /// How often a piece of news is told: in proportion to log N, as in section 4.1 of the SWIM paper,
    /// and three times its natural logarithm at the least, so that at most about 1 in N^2 misses it.
    fn retransmissions(&self) -> u16 {
        u16::try_from(2 * binary_digits(self.table.live() + 1) + 1).unwrap_or(u16::MAX)
    }

    /// A letter to a member where the table says that it is; what the receiver must refute comes first:
    /// the "buddy" of the Lifeguard paper.
    pub(crate) fn letter(&self, slot: Slot) -> Option<Letter> {
        let (profile, _) = self.table.get(slot)?;
        Some(Letter {
            to: profile.destination.clone(),
            binding: Binding {
                receiver: Some(profile.endpoint),
                key: self.envelope.key_for(profile.keys),
            },
            about: Some(slot),
            introduce: false,
            ask_introduction: false,
            refute: false,
        })
    }

    /// A letter back to where a datagram came from.
    pub(crate) fn answer(&self, mail: &Mail) -> Letter {
        let there = mail.slot.and_then(|slot| self.table.get(slot));
        let unmoved = there.is_some_and(|(profile, _)| profile.id() == mail.sender.id);
        let slot = if unmoved {
            mail.slot
        } else {
            self.table.find(mail.sender.id)
        };
        let held = slot.and_then(|slot| self.table.get(slot));
        let known = held.filter(|(profile, _)| profile.boot_id() == mail.sender.boot_id);
        Letter {
            to: Destination::Socket(mail.from),
            binding: Binding {
                receiver: Some(mail.sender),
                key: known.map_or(mail.key, |(profile, _)| self.envelope.key_for(profile.keys)),
            },
            about: slot,
            introduce: false,
            ask_introduction: known.is_none(),
            refute: self.missed_refutation,
        }
    }

    pub(crate) fn reply(
        &mut self,
        now: Micros,
        mail: &Mail,
        message: Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let letter = self.answer(mail);
        self.send(now, &letter, message, out);
    }

    /// Introduces this node to whoever sent a datagram; bounded, as a capture may have triggered it.
    pub(crate) fn courteously(
        &mut self,
        now: Micros,
        mail: &Mail,
        about: Option<Slot>,
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let left = self.courtesies_left.checked_sub(1);
        self.courtesies_left = left.ok_or(DropReason::Overloaded)?;
        let mut letter = self.answer(mail);
        letter.introduce = true;
        letter.about = about.or(letter.about);
        let digest = self.table.digest();
        self.send(now, &letter, Message::Gossip { digest }, out);
        Ok(())
    }

    /// The same for a datagram to or from a life that is over.
    pub(crate) fn answer_stale(
        &mut self,
        now: Micros,
        mail: &Mail,
        about: Option<Slot>,
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let left = self.stale_answers_left.checked_sub(1);
        self.stale_answers_left = left.ok_or(DropReason::Overloaded)?;
        self.courteously(now, mail, about, out)
    }

    pub(crate) const fn refill_courtesies(&mut self) {
        self.courtesies_left = MAX_COURTESIES_PER_PERIOD;
        self.stale_answers_left = MAX_STALE_ANSWERS_PER_PERIOD;
    }

    pub(crate) fn send_to_member(
        &mut self,
        now: Micros,
        slot: Slot,
        message: Message<'_>,
        out: &mut Vec<Output>,
    ) {
        if let Some(letter) = self.letter(slot) {
            self.send(now, &letter, message, out);
        }
    }

    /// Writes and seals one datagram: the message, and news for as much as fits.
    pub(crate) fn send(
        &mut self,
        now: Micros,
        letter: &Letter,
        message: Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let mut bytes = self.envelope.begin(&letter.binding);
        let end = self.envelope.body_end();
        message.put(&mut bytes, letter.ask_introduction);
        if letter.introduce {
            put_update(&mut bytes, end, &self.me.update(true));
        } else if letter.refute {
            put_update(&mut bytes, end, &self.me.update(false));
        }
        if letter.binding.receiver.is_some() {
            self.put_news(now, &mut bytes, end, letter.about);
        }
        let payload = self.envelope.seal(bytes, &letter.binding);
        let to = letter.to.clone();
        out.push(Output::Send { to, payload });
    }

    fn put_news(&mut self, now: Micros, bytes: &mut Vec<u8>, end: usize, about: Option<Slot>) {
        let table = &self.table;
        let ttl = self.timing.tombstone_ttl;
        if let Some(update) = about.and_then(|slot| update_of(table, slot, now, ttl, false))
            && update.state != MemberState::Alive
        {
            put_update(bytes, end, &update);
        }
        if !self.outbox.is_empty() {
            // Profiles and events wait behind urgent news, but never starve: a part is theirs.
            let waiting = self.outbox.has_patient() || self.events.has_pending();
            let spare = end.saturating_sub(bytes.len()) / 6;
            let urgent_end = if waiting { end - spare } else { end };
            let limit = self.retransmissions();
            let me = &self.me;
            self.outbox.set_urgent_until(limit.div_ceil(2));
            self.outbox.pick(limit, |slot, class| {
                let update = if slot == Slot::ME {
                    Some(me.update(class.is_full()))
                } else {
                    update_of(table, slot, now, ttl, class.is_full())
                };
                let end = if class.is_urgent() { urgent_end } else { end };
                match update {
                    None => Written::Obsolete,
                    Some(update) if put_update(bytes, end, &update) => Written::Yes,
                    Some(_) => Written::NoRoom,
                }
            });
        }
        if self.events.has_pending() {
            let limit = self.retransmissions();
            self.events.pick(limit, bytes, end);
        }
    }

    /// Tells urgent news to a few members at once instead of with the next ping: a death is known
    /// everywhere within some round trips, not within log N periods.
    pub(crate) fn spread_urgent(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.gossip_at > now || !self.outbox.has_urgent() || self.table.live() == 0 {
            return;
        }
        self.gossip_at = now + Micros(self.timing.interval.0 / GOSSIP_ROUNDS_PER_PERIOD);
        let mut told = [Slot::ME; GOSSIP_FANOUT];
        for at in 0..GOSSIP_FANOUT.min(self.table.live()) {
            let found = self.table.random(&mut self.rng, |slot, _, row| {
                row.state.is_live() && !told.contains(&slot)
            });
            let Some(slot) = found else {
                return;
            };
            if let Some(place) = told.get_mut(at) {
                *place = slot;
            }
            let digest = self.table.digest();
            self.send_to_member(now, slot, Message::Gossip { digest }, out);
        }
    }
}

/// What is held of a member, as it travels; `None` if nothing is, or an old tombstone.
pub(crate) fn update_of(
    table: &Table,
    slot: Slot,
    now: Micros,
    tombstone_ttl: Micros,
    full: bool,
) -> Option<Update<'_>> {
    let (profile, row) = table.get(slot)?;
    let mut age = Micros(0);
    if let Some(expires_at) = table.grave(slot) {
        age = tombstone_ttl - (expires_at - now);
        if !crate::table::is_told(age, tombstone_ttl) {
            return None;
        }
    }
    Some(Update {
        about: profile.endpoint,
        incarnation: row.incarnation,
        state: row.state,
        version: profile.version,
        accusers: table
            .suspicion(slot)
            .map(|s| s.accusers)
            .unwrap_or_default(),
        // Rounded up, so that a tombstone never gets younger on its way.
        age_secs: u32::try_from(age.0.div_ceil(1_000_000)).unwrap_or(u32::MAX),
        profile: full.then(|| profile.encoded()),
    })
}

/// Appends an update if it fits; whether it did.
pub(crate) fn put_update(bytes: &mut Vec<u8>, end: usize, update: &Update<'_>) -> bool {
    let mark = bytes.len();
    update.put(bytes);
    if bytes.len() > end {
        bytes.truncate(mark);
        return false;
    }
    true
}
