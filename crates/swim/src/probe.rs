//! The clock side of the detector: probes, relayed probes, this node's own health.

use std::collections::BTreeMap;

use crate::contact::MAX_SILENT_PERIODS;
use crate::detector::Detector;
use crate::event::{DropReason, Event, Output, ProbeOutcome};
use crate::letter::{Letter, Mail};
use crate::member::MemberState;
use crate::message::Message;
use crate::micros::Micros;
use crate::profile::{Destination, Endpoint};
use crate::registry::Slot;

/// Most indirect probes that this node carries for others at once.
const MAX_RELAYS: usize = 256;
/// Least time for a direct answer before others are asked, however fast answers are in general.
const MIN_DIRECT_TIMEOUT: Micros = Micros(10_000);
/// Waves of requests to relays, each with another direct ping: with a share p of datagrams lost, all
/// ways fail with (1 - (1-p)^2)^3 * (1 - (1-p)^4)^(2k) instead of (1 - (1-p)^2) * (1 - (1-p)^4)^k.
const WAVES: u8 = 2;
/// Candidates drawn for each relay, to find one in another rack.
const DRAWS_PER_RELAY: usize = 4;
/// Greatest local health multiplier (Lifeguard, section IV-A).
const MAX_HEALTH: u32 = 8;
/// A tick that comes later than this after its time, or than a period, means that this process stood
/// still: its missing answers are its own fault.
const PAUSE_TOLERANCE: Micros = Micros(200_000);

/// The probe of this period.
#[derive(Debug)]
pub(crate) struct Probe {
    seq: u32,
    slot: Slot,
    target: Endpoint,
    sent_at: Micros,
    waves: u8,
    next_at: Micros,
    fail_at: Micros,
    /// Relays asked, and how many of them answered that they got no answer either.
    asked: Vec<Slot>,
    nacks: usize,
}

impl Probe {
    pub(crate) fn next_step(&self) -> Micros {
        self.next_at.min(self.fail_at)
    }
}

/// A probe carried for another member.
#[derive(Debug)]
struct Relay {
    origin: Letter,
    origin_seq: u32,
    target: Endpoint,
    /// When the origin is told that there is no answer; `None` once it is.
    nack_at: Option<Micros>,
    until: Micros,
}

/// The probes carried for others, by their own numbers.
#[derive(Debug)]
pub(crate) struct Relays {
    carried: BTreeMap<u32, Relay>,
    due: Micros,
}

impl Default for Relays {
    fn default() -> Self {
        Self {
            carried: BTreeMap::new(),
            due: Micros::NEVER,
        }
    }
}

impl Relays {
    pub(crate) const fn next_due(&self) -> Micros {
        self.due
    }

    fn reckon(&mut self) {
        let dues = self.carried.values().map(|r| r.nack_at.unwrap_or(r.until));
        self.due = dues.min().unwrap_or(Micros::NEVER);
    }
}

/// How long answers take: a smoothed mean and deviation (RFC 6298, section 2).
#[derive(Debug, Default)]
pub(crate) struct RoundTrip {
    smoothed: Option<(Micros, Micros)>,
}

impl RoundTrip {
    fn sample(&mut self, took: Micros) {
        let (mean, deviation) = match self.smoothed {
            None => (took, Micros(took.0 / 2)),
            Some((mean, deviation)) => {
                let off = (mean - took).max(took - mean);
                let deviation = Micros((3 * deviation.0 + off.0) / 4);
                (Micros((7 * mean.0 + took.0) / 8), deviation)
            }
        };
        self.smoothed = Some((mean, deviation));
    }

    /// How long to wait for a direct answer before others are asked.
    fn patience(&self, configured: Micros) -> Micros {
        let Some((mean, deviation)) = self.smoothed else {
            return configured;
        };
        let usual = mean + deviation.times(4);
        usual.max(MIN_DIRECT_TIMEOUT).min(configured)
    }
}

impl Detector {
    pub(crate) fn timeout(&mut self, now: Micros, out: &mut Vec<Output>) {
        // First, since it may prolong what would end below.
        self.detect_pause(now, out);
        self.step_probe(now, out);
        self.step_relays(now, out);
        if self.is_deaf(now) {
            let interval = self.timing.interval;
            if self.table.overdue(now).is_some() {
                self.table.put_off_suspicions(interval);
            }
        }
        self.end_suspicions(now, out);
        self.continue_leaving(now, out);
        self.ask_seeds_while_alone(now, out);
        if now >= self.next_tick {
            let scaled = self.timing.interval.times(u64::from(1 + self.health));
            let next = self.next_tick + scaled;
            self.next_tick = next.max(now + Micros(self.timing.interval.0 / 2));
            self.tick(now, out);
        }
    }

    fn detect_pause(&mut self, now: Micros, out: &mut Vec<Output>) {
        let gap = now - self.next_tick;
        if gap <= self.timing.interval.max(PAUSE_TOLERANCE) {
            return;
        }
        self.table.put_off_suspicions(gap);
        self.probe = None;
        self.next_tick = now;
        self.heard_at = now;
        self.raise_health_score(2);
        out.push(Output::Event(Event::Paused));
    }

    /// Whether this node hears nobody although it should: then it is the likelier patient. Silence that
    /// lasts is believed in the end, or nobody would ever notice that all others died.
    fn is_deaf(&self, now: Micros) -> bool {
        let silence = now - self.heard_at;
        let interval = self.timing.interval;
        self.table.live() > 1
            && silence > interval.times(2)
            && silence < interval.times(MAX_SILENT_PERIODS)
    }

    fn tick(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.refill_courtesies();
        self.comparison.refill();
        if let Some(ring) = &mut self.envelope.ring {
            ring.expire(now);
        }
        while let Some(slot) = self.table.expired(now) {
            self.forget(slot, out);
        }
        // Nobody answers a life that is over: what it would conclude from that is wrong.
        if self.me.left || self.superseded_by.is_some() {
            self.probe = None;
            return;
        }
        self.start_probe(now, out);
        if now >= self.next_dead_probe {
            self.next_dead_probe = now + Micros::from(self.config.dead_probe_interval);
            self.reach_for_the_lost(now, out);
        }
    }

    fn start_probe(&mut self, now: Micros, out: &mut Vec<Output>) {
        // It has failed by now, or its answer came: a probe never outlasts its period.
        self.fail_probe(now, out);
        let checked = self.next_check();
        let Some(slot) = checked.or_else(|| self.table.next_turn(&mut self.rng)) else {
            return;
        };
        let Some((profile, _)) = self.table.get(slot) else {
            return;
        };
        let scale = u64::from(1 + self.health);
        let patience = self.round_trip.patience(self.timing.timeout).times(scale);
        let period_end = now + self.timing.interval.times(scale);
        let asks_at = now + patience;
        let fail_at = (asks_at + self.timing.timeout.times(scale)).min(period_end);
        let target = profile.endpoint;
        let seq = self.take_probe_seq();
        // Kept before it is sent, so that no answer can overtake it.
        self.probe = Some(Probe {
            seq,
            slot,
            target,
            sent_at: now,
            waves: 0,
            next_at: asks_at,
            fail_at,
            asked: Vec::new(),
            nacks: 0,
        });
        let digest = self.table.digest();
        self.send_to_member(now, slot, Message::Ping { seq, digest }, out);
    }

    /// Pings a member beside the round; the answer only matters for what it says.
    pub(crate) fn ping(&mut self, now: Micros, slot: Slot, out: &mut Vec<Output>) {
        let seq = self.take_probe_seq();
        let digest = self.table.digest();
        self.send_to_member(now, slot, Message::Ping { seq, digest }, out);
    }

    fn step_probe(&mut self, now: Micros, out: &mut Vec<Output>) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        if probe.fail_at <= now {
            return self.fail_probe(now, out);
        }
        if probe.next_at > now {
            return;
        }
        probe.waves += 1;
        probe.next_at = if probe.waves < WAVES {
            now + Micros((probe.fail_at - now).0 / 2)
        } else {
            Micros::NEVER
        };
        let (seq, slot, target) = (probe.seq, probe.slot, probe.target);
        if probe.waves == 1
            && self.config.stream_fallback
            && let Some((profile, _)) = self.table.get(slot)
        {
            out.push(Output::StreamProbe {
                seq,
                member: profile.info.name.clone(),
                boot_id: target.boot_id,
                to: profile.destination.clone(),
            });
        }
        let digest = self.table.digest();
        self.send_to_member(now, slot, Message::Ping { seq, digest }, out);
        for relay in self.choose_relays(slot) {
            self.send_to_member(now, relay, Message::PingReq { seq, target }, out);
            if let Some(probe) = &mut self.probe {
                probe.asked.push(relay);
            }
        }
    }

    /// Relays for the running probe: alive, not asked before, and if possible each in another rack, so
    /// that no broken switch makes all of them fail alike.
    pub(crate) fn choose_relays(&mut self, target: Slot) -> Vec<Slot> {
        let asked = self.probe.as_ref().map(|p| p.asked.as_slice());
        let asked = asked.unwrap_or_default();
        let mut chosen: Vec<Slot> = Vec::new();
        let mut racks: Vec<u64> = Vec::new();
        for _ in 0..self.config.indirect_probes {
            let mut best = None;
            for _ in 0..DRAWS_PER_RELAY {
                let drawn = self.table.random(&mut self.rng, |slot, _, row| {
                    row.state == MemberState::Alive
                        && slot != target
                        && !asked.contains(&slot)
                        && !chosen.contains(&slot)
                });
                let Some(drawn) = drawn else {
                    return chosen;
                };
                let rack = self.table.get(drawn).map_or(0, |(profile, _)| profile.rack);
                best = Some((drawn, rack));
                if rack == 0 || !racks.contains(&rack) {
                    break;
                }
            }
            if let Some((slot, rack)) = best {
                chosen.push(slot);
                racks.push(rack);
            }
        }
        chosen
    }

    fn fail_probe(&mut self, now: Micros, out: &mut Vec<Output>) {
        let Some(probe) = self.probe.take() else {
            return;
        };
        let outcome = ProbeOutcome::Failed;
        out.push(Output::Event(Event::ProbeFinished { outcome }));
        // Relays that answer "neither do I hear it" show that this node is well; their silence that it
        // is not (Lifeguard, section IV-A). Without relays there is nothing to tell the two apart.
        let silent = probe.asked.len().saturating_sub(probe.nacks);
        if probe.asked.is_empty() || 2 * silent > probe.asked.len() {
            self.raise_health_score(1);
        }
        let heard_nobody = !probe.asked.is_empty() && self.heard_at <= probe.sent_at;
        let silence = now - self.heard_at;
        let patient = silence < self.timing.interval.times(MAX_SILENT_PERIODS);
        if heard_nobody && patient {
            out.push(Output::Event(Event::Deaf));
            return;
        }
        let held = self.table.live_at(probe.slot);
        if held.is_some_and(|(profile, _)| profile.endpoint == probe.target) {
            self.accuse(now, probe.slot, out);
        }
    }

    /// An answer counts for the probe (or the relayed probe) of that number, from the life that was
    /// asked; any other is too late. It does not end a suspicion: only the evidence beside it can.
    pub(crate) fn acknowledged(
        &mut self,
        now: Micros,
        sender: Endpoint,
        seq: u32,
        out: &mut Vec<Output>,
    ) {
        self.note_leave_ack(sender);
        let probe = self.probe.as_ref();
        if let Some(probe) = probe.filter(|p| p.seq == seq && p.target == sender) {
            // Also when it was asked twice: too long a time at worst delays asking others.
            self.round_trip.sample(now - probe.sent_at);
            return self.probe_succeeded(ProbeOutcome::Direct, out);
        }
        let carried = &mut self.relays.carried;
        if carried.get(&seq).is_none_or(|r| r.target != sender) {
            return;
        }
        if let Some(relay) = carried.remove(&seq).filter(|relay| relay.until > now) {
            let seq = relay.origin_seq;
            self.send(now, &relay.origin, Message::IndirectAck { seq }, out);
        }
        self.relays.reckon();
    }

    fn probe_succeeded(&mut self, outcome: ProbeOutcome, out: &mut Vec<Output>) {
        self.probe = None;
        self.health = self.health.saturating_sub(1);
        out.push(Output::Event(Event::ProbeFinished { outcome }));
    }

    pub(crate) fn indirectly_acknowledged(&mut self, now: Micros, seq: u32, out: &mut Vec<Output>) {
        let probe = self.probe.as_ref();
        if probe.is_some_and(|probe| probe.seq == seq && probe.fail_at > now) {
            self.probe_succeeded(ProbeOutcome::Indirect, out);
        }
    }

    pub(crate) fn negatively_acknowledged(&mut self, seq: u32) {
        if let Some(probe) = self.probe.as_mut().filter(|probe| probe.seq == seq) {
            probe.nacks += 1;
        }
    }

    /// The member answered over a stream: it is there, and only its datagrams do not get through.
    pub(crate) fn stream_answer(&mut self, now: Micros, seq: u32, out: &mut Vec<Output>) {
        let probe = self.probe.as_ref();
        if probe.is_some_and(|probe| probe.seq == seq && probe.fail_at > now) {
            self.probe_succeeded(ProbeOutcome::Stream, out);
        }
    }

    /// Probes `target` for the sender. Only a member that this node knows is probed: nobody can have it
    /// send to an address of his choice.
    pub(crate) fn relay(
        &mut self,
        now: Micros,
        mail: &Mail,
        origin_seq: u32,
        target: Endpoint,
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let slot = self.table.find(target.id);
        let known = |slot: &Slot| {
            let held = self.table.get(*slot);
            held.is_some_and(|(profile, _)| profile.endpoint == target)
        };
        let Some(slot) = slot.filter(known) else {
            // This node is well, it only cannot help.
            self.reply(now, mail, Message::Nack { seq: origin_seq }, out);
            return Ok(());
        };
        if self.relays.carried.len() >= MAX_RELAYS {
            return Err(DropReason::Overloaded);
        }
        let seq = self.take_probe_seq();
        // Told before the origin gives up, at four fifths of a timeout (as in Lifeguard).
        let patience = Micros(self.timing.timeout.0 / 10 * 4);
        let mut origin = self.answer(mail);
        origin.about = Some(slot);
        let relay = Relay {
            origin,
            origin_seq,
            target,
            nack_at: Some(now + patience),
            until: now + self.timing.interval,
        };
        self.relays.carried.insert(seq, relay);
        self.relays.reckon();
        let digest = self.table.digest();
        self.send_to_member(now, slot, Message::Ping { seq, digest }, out);
        Ok(())
    }

    fn step_relays(&mut self, now: Micros, out: &mut Vec<Output>) {
        if self.relays.due > now {
            return;
        }
        let mut nacks: Vec<(Letter, u32)> = Vec::new();
        self.relays.carried.retain(|_, relay| {
            if relay.nack_at.is_some_and(|at| at <= now) {
                relay.nack_at = None;
                nacks.push((relay.origin.clone(), relay.origin_seq));
            }
            relay.until > now
        });
        self.relays.reckon();
        for (origin, seq) in nacks {
            self.send(now, &origin, Message::Nack { seq }, out);
        }
    }

    /// This node has reason to doubt itself.
    pub(crate) fn raise_health_score(&mut self, by: u32) {
        self.health = (self.health + by).min(MAX_HEALTH);
    }
}

/// Whether two destinations are the same place.
pub(crate) fn is_at(destination: &Destination, address: &rivven_core_types::Address) -> bool {
    *destination == Destination::from(address)
}
