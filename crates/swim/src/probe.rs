//! The clock side of the detector: probes, suspicions, tombstones, seeds, leaving.

use std::time::Duration;

use rivven_core_types::{Address, MonoTime, NodeName};

use crate::detector::{Detector, MAX_SEEDS};
use crate::envelope::Endpoint;
use crate::event::{DropReason, Event, Output, ProbeOutcome};
use crate::member::MemberState;
use crate::message::Message;
use crate::table::Evidence;

/// Most indirect probes that this node carries for others at once.
const MAX_RELAYS: usize = 256;
/// How often a departure is told.
const LEAVE_ROUNDS: u32 = 3;
/// To how many members a departure is told each time; they tell the others.
const LEAVE_FANOUT: usize = 32;
/// A tick that comes later than this after its time, or than a period, means that this process stood
/// still: its missing answers are its own fault.
const PAUSE_TOLERANCE: Duration = Duration::from_millis(200);

/// The probe of this period.
#[derive(Debug)]
pub(crate) struct Probe {
    seq: u64,
    target: Endpoint,
    /// When others are asked; `None` once they are.
    ask_others_at: Option<MonoTime>,
    outcome: ProbeOutcome,
}

/// A probe carried for another member.
#[derive(Debug)]
pub(crate) struct Relay {
    origin: Endpoint,
    origin_addr: Address,
    origin_seq: u64,
    target: Endpoint,
    until: MonoTime,
}

/// A departure under way.
#[derive(Debug)]
pub(crate) struct Leaving {
    rounds_left: u32,
    next: MonoTime,
}

impl Detector {
    /// When [`crate::Input::Timeout`] is next due.
    pub fn poll_timeout(&self) -> MonoTime {
        let ask = self.probe.as_ref().and_then(|probe| probe.ask_others_at);
        let leave = self.leaving.as_ref().map(|leaving| leaving.next);
        let suspicion = self.table.next_suspicion_end();
        let others = [ask, leave, suspicion, self.join_at];
        let others = others.into_iter().flatten();
        others.fold(self.next_tick, MonoTime::min)
    }

    pub(crate) fn timeout(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        // First, since it may prolong what would end below.
        self.detect_pause(now, out);
        self.ask_others(now, out);
        for name in self.table.overdue_suspects(now) {
            self.accuse(now, &name, MemberState::Dead, out);
        }
        self.continue_leaving(now, out);
        self.ask_seeds_while_alone(now, out);
        if now >= self.next_tick {
            let next = self.next_tick + self.config.ping_interval;
            self.next_tick = next.max(now + self.config.ping_interval / 2);
            self.tick(now, out);
        }
    }

    fn detect_pause(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        let gap = now.since(self.next_tick);
        if gap <= self.config.ping_interval.max(PAUSE_TOLERANCE) {
            return;
        }
        self.table.prolong_suspicions(gap);
        self.probe = None;
        self.next_tick = now;
        out.push(Output::Event(Event::Paused));
    }

    fn tick(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        self.finish_probe(now, out);
        self.relays.retain(|_, relay| relay.until > now);
        self.refill_join_answers();
        for name in self.table.take_expired(now) {
            self.bump_version();
            out.push(Output::Event(Event::MemberForgotten { name }));
        }
        if self.me.state == MemberState::Left {
            return;
        }
        self.start_probe(now, out);
        if now >= self.next_dead_probe {
            self.next_dead_probe = now + self.config.dead_probe_interval;
            self.reach_for_the_lost(now, out);
        }
    }

    fn finish_probe(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        let Some(probe) = self.probe.take() else {
            return;
        };
        let outcome = probe.outcome;
        out.push(Output::Event(Event::ProbeFinished { outcome }));
        let same_life = |held: Evidence| held.boot_id == probe.target.boot_id;
        let entry = self.table.get(&probe.target.name);
        if outcome == ProbeOutcome::Failed && entry.is_some_and(|entry| same_life(entry.held)) {
            self.accuse(now, &probe.target.name, MemberState::Suspect, out);
        }
    }

    /// Raises what is held of a member to `state`, at its present life and incarnation.
    fn accuse(
        &mut self,
        now: MonoTime,
        name: &NodeName,
        state: MemberState,
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.table.get(name) else {
            return;
        };
        let accused = Evidence {
            state,
            ..entry.held
        };
        if accused <= entry.held {
            return;
        }
        let info = entry.info.clone();
        self.set(now, info, accused, Duration::ZERO, out);
        // The accused hears it first, so that it has the whole window to refute; its answer brings the
        // refutation here at once.
        let seq = self.take_probe_seq();
        self.send_to_member(now, name, Message::Ping { seq }, &[], out);
    }

    /// Takes the next live member of the round; a new round is shuffled when one is through
    /// (section 4.3 of the SWIM paper: bounds the time until a member is probed to 2N - 1 periods).
    fn start_probe(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        if self.order.is_empty() {
            self.order = self.table.live_names(None);
            self.rng.shuffle(&mut self.order);
        }
        let mut target = None;
        while let Some(name) = self.order.pop() {
            let entry = self.table.get(&name).filter(|entry| entry.is_live());
            if let Some(entry) = entry {
                target = Some(Endpoint {
                    boot_id: entry.held.boot_id,
                    name,
                });
                break;
            }
        }
        let Some(target) = target else {
            return;
        };
        let seq = self.take_probe_seq();
        // Kept before it is sent, so that no answer can overtake it.
        self.probe = Some(Probe {
            seq,
            target: target.clone(),
            ask_others_at: Some(now + self.config.ping_timeout),
            outcome: ProbeOutcome::Failed,
        });
        self.send_to_member(now, &target.name, Message::Ping { seq }, &[], out);
    }

    const fn take_probe_seq(&mut self) -> u64 {
        self.next_probe_seq = self.next_probe_seq.wrapping_add(1);
        self.next_probe_seq
    }

    fn ask_others(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        let Some(probe) = &mut self.probe else {
            return;
        };
        if probe.ask_others_at.is_none_or(|at| at > now) {
            return;
        }
        probe.ask_others_at = None;
        let (seq, target) = (probe.seq, probe.target.clone());
        let mut relays = self.table.live_names(Some(&target.name));
        self.rng.shuffle(&mut relays);
        for relay in relays.into_iter().take(self.config.indirect_probes) {
            let message = Message::PingReq {
                seq,
                target: target.name.clone(),
                target_boot: target.boot_id,
            };
            self.send_to_member(now, &relay, message, &[&target.name], out);
        }
    }

    /// An answer counts for the probe (or the relayed probe) of that number, from the life that was
    /// asked; any other is too late. It does not end a suspicion: only the evidence beside it can.
    pub(crate) fn acknowledged(
        &mut self,
        now: MonoTime,
        sender: &Endpoint,
        seq: u64,
        out: &mut Vec<Output>,
    ) {
        let probe = self.probe.as_mut();
        if let Some(probe) = probe.filter(|p| p.seq == seq && p.target == *sender) {
            probe.ask_others_at = None;
            probe.outcome = ProbeOutcome::Direct;
            return;
        }
        if self.relays.get(&seq).is_none_or(|r| r.target != *sender) {
            return;
        }
        if let Some(relay) = self.relays.remove(&seq).filter(|relay| relay.until > now) {
            let message = Message::IndirectAck {
                seq: relay.origin_seq,
                target: sender.name.clone(),
            };
            let about = [&sender.name];
            self.send(now, &relay.origin, &relay.origin_addr, message, &about, out);
        }
    }

    pub(crate) fn indirectly_acknowledged(&mut self, seq: u64, target: &NodeName) {
        let probe = self.probe.as_mut();
        let probe = probe.filter(|probe| probe.seq == seq && probe.target.name == *target);
        // A direct answer that came as well says more.
        if let Some(probe) = probe.filter(|probe| probe.outcome == ProbeOutcome::Failed) {
            probe.outcome = ProbeOutcome::Indirect;
        }
    }

    /// Probes `target` for `origin`. Only a member that this node knows is probed: nobody can have it
    /// send to an address of his choice.
    pub(crate) fn relay(
        &mut self,
        now: MonoTime,
        origin: &Endpoint,
        origin_addr: Address,
        origin_seq: u64,
        target: &Endpoint,
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let entry = self.table.get(&target.name);
        if entry.is_none_or(|entry| entry.held.boot_id != target.boot_id) {
            return Ok(());
        }
        if self.relays.len() >= MAX_RELAYS {
            return Err(DropReason::Overloaded);
        }
        let seq = self.take_probe_seq();
        let relay = Relay {
            origin: origin.clone(),
            origin_addr,
            origin_seq,
            target: target.clone(),
            until: now + self.config.ping_interval,
        };
        self.relays.insert(seq, relay);
        self.send_to_member(now, &target.name, Message::Ping { seq }, &[], out);
        Ok(())
    }

    pub(crate) fn join(&mut self, now: MonoTime, seeds: Vec<Address>, out: &mut Vec<Output>) {
        self.seeds = seeds;
        self.seeds.retain(|seed| *seed != self.local.cluster_addr);
        self.seeds.sort();
        self.seeds.dedup();
        self.seeds.truncate(MAX_SEEDS);
        self.expect_contact();
        self.join_pause = self.config.seed_retry_min;
        self.ask_seeds(now, out);
    }

    fn ask_seeds(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        for seed in self.seeds.clone() {
            self.send_join(seed, out);
        }
        // Jitter keeps a cluster that starts at once from asking one seed in step.
        let pause = u64::try_from(self.join_pause.as_micros()).unwrap_or(u64::MAX);
        let jitter = Duration::from_micros(self.rng.below(pause / 4 + 1));
        self.join_at = (!self.seeds.is_empty()).then(|| now + self.join_pause + jitter);
    }

    fn ask_seeds_while_alone(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        if self.join_at.is_none_or(|at| at > now) {
            return;
        }
        if self.me.state == MemberState::Left {
            self.join_at = None;
        } else if self.table.live() > 0 {
            self.join_pause = self.config.seed_retry_min;
            self.join_at = Some(now + self.config.seed_retry_max);
        } else {
            let doubled = self.join_pause.saturating_mul(2);
            self.join_pause = doubled.min(self.config.seed_retry_max);
            self.ask_seeds(now, out);
        }
    }

    /// Asks one dead member and one seed that is no live member: the way back after a partition that
    /// outlasted the suspicions. A dead member hears what is held of it, and refutes.
    fn reach_for_the_lost(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        let is_dead = |state: MemberState| state == MemberState::Dead;
        let dead = self.table.iter().filter(|(_, e)| is_dead(e.held.state));
        let dead: Vec<NodeName> = dead.map(|(name, _)| name.clone()).collect();
        if let Some(name) = self.pick(&dead) {
            let seq = self.take_probe_seq();
            self.send_to_member(now, &name, Message::Ping { seq }, &[], out);
        }
        let live_at = |seed: &Address| {
            let mut live = self.table.iter().filter(|(_, entry)| entry.is_live());
            live.any(|(_, entry)| entry.info.cluster_addr == *seed)
        };
        let seeds = self.seeds.iter().filter(|seed| !live_at(seed));
        let seeds: Vec<Address> = seeds.cloned().collect();
        if let Some(seed) = self.pick(&seeds) {
            self.send_join(seed, out);
        }
    }

    fn pick<T: Clone>(&mut self, items: &[T]) -> Option<T> {
        let at = self.rng.below(items.len() as u64);
        items.get(usize::try_from(at).unwrap_or(0)).cloned()
    }

    pub(crate) fn leave(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        if self.me.state == MemberState::Left {
            return;
        }
        self.set_left(now);
        self.probe = None;
        self.leaving = Some(Leaving {
            rounds_left: LEAVE_ROUNDS,
            next: now,
        });
        self.continue_leaving(now, out);
    }

    fn continue_leaving(&mut self, now: MonoTime, out: &mut Vec<Output>) {
        let Some(leaving) = self.leaving.as_mut().filter(|l| l.next <= now) else {
            return;
        };
        if leaving.rounds_left == 0 || self.table.live() == 0 {
            self.leaving = None;
            out.push(Output::Event(Event::LeaveFinished));
            return;
        }
        leaving.rounds_left -= 1;
        leaving.next = now + self.config.ping_interval;
        self.push_to_some(now, LEAVE_FANOUT, out);
    }
}
