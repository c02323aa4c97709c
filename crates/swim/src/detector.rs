//! The protocol: takes the time and an input, appends outputs. Here: datagrams and evidence. The clock
//! side (probes, suspicions, seeds, leaving) is in `probe.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rivven_core_types::{Address, MonoTime, NodeInfo, NodeName, Rng, planted};

use crate::config::SwimConfig;
use crate::envelope::{Endpoint, Envelope, Opened, ReplayWindows};
use crate::error::SwimError;
use crate::event::{DropReason, Event, Output};
use crate::member::{Member, MemberState, MembershipView};
use crate::message::{BODY_OVERHEAD_BYTES, Body, Message, Update, update_bytes};
use crate::probe::{Leaving, Probe, Relay};
use crate::table::{Evidence, Table, binary_digits, is_told};

/// How far ahead of what is held an incarnation may be when it does not come from the member itself:
/// far more than anybody refutes, far less than what would use the numbers up.
const MAX_INCARNATION_JUMP: u64 = 1 << 20;
/// Greatest incarnation at all.
const MAX_INCARNATION: u64 = 1 << 48;
/// Join requests answered per period: they are the one thing that a stranger's capture can trigger.
const MAX_JOIN_ANSWERS_PER_PERIOD: u32 = 64;
/// Datagrams in the answer to one join request.
const MAX_WELCOME_DATAGRAMS: usize = 16;
/// Most seeds.
pub(crate) const MAX_SEEDS: usize = 64;

/// What happens to a detector.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input<'a> {
    /// A datagram came in.
    Datagram {
        /// Whence; answers go there.
        from: SocketAddr,
        /// The whole datagram.
        payload: &'a [u8],
    },
    /// [`Detector::poll_timeout`] has passed.
    Timeout,
    /// Ask these seeds now, and whenever this node is alone. At most 64; more are ignored.
    Join(Vec<Address>),
    /// Tell the others that this node goes; [`Event::LeaveFinished`] follows.
    Leave,
}

/// SWIM for one node: a state machine without sockets, clock or random source.
///
/// Equal seeds and equal inputs at equal times give equal outputs.
#[derive(Debug)]
pub struct Detector {
    pub(crate) config: SwimConfig,
    pub(crate) local: NodeInfo,
    pub(crate) me: Evidence,
    me_since: MonoTime,
    me_bytes: usize,
    pub(crate) table: Table,
    envelope: Envelope,
    windows: ReplayWindows,
    pub(crate) rng: Rng,
    pub(crate) order: Vec<NodeName>,
    pub(crate) next_tick: MonoTime,
    pub(crate) probe: Option<Probe>,
    pub(crate) relays: BTreeMap<u64, Relay>,
    pub(crate) next_probe_seq: u64,
    pub(crate) seeds: Vec<Address>,
    pub(crate) join_at: Option<MonoTime>,
    pub(crate) join_pause: Duration,
    pub(crate) next_dead_probe: MonoTime,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) join_answers_left: u32,
    contacted: bool,
    version: u64,
    superseded_by: Option<u64>,
}

impl Detector {
    /// A detector for `local` that knows nobody yet. `config.boot_id` must be set. The seed decides
    /// all random choices.
    ///
    /// # Errors
    /// [`SwimError::InvalidConfig`], [`SwimError::SecurityRequired`], [`SwimError::UnusableAddress`].
    pub fn new(
        local: NodeInfo,
        config: SwimConfig,
        seed: u64,
        now: MonoTime,
    ) -> Result<Self, SwimError> {
        config.validate_for(&local)?;
        let boot_id = config
            .boot_id
            .ok_or_else(|| SwimError::config("boot_id", "the core needs one: it has no clock"))?;
        let endpoint = Endpoint {
            name: local.name.clone(),
            boot_id,
        };
        let mut rng = Rng::new(seed);
        // A random phase keeps nodes that start together from probing together.
        let interval = u64::try_from(config.ping_interval.as_micros()).unwrap_or(u64::MAX);
        let phase = Duration::from_micros(rng.below(interval));
        Ok(Self {
            me: Evidence {
                boot_id,
                incarnation: 0,
                state: MemberState::Alive,
            },
            me_since: now,
            me_bytes: update_bytes(&local),
            table: Table::new(config.tombstone_ttl),
            envelope: Envelope::new(&config, endpoint),
            windows: ReplayWindows::default(),
            // Numbers that start at random are never mistaken for those of another node or life.
            next_probe_seq: rng.next_u64() >> 1,
            rng,
            order: Vec::new(),
            next_tick: now + phase,
            probe: None,
            relays: BTreeMap::new(),
            seeds: Vec::new(),
            join_at: None,
            join_pause: config.seed_retry_min,
            next_dead_probe: now + config.dead_probe_interval,
            leaving: None,
            join_answers_left: MAX_JOIN_ANSWERS_PER_PERIOD,
            contacted: false,
            version: 1,
            superseded_by: None,
            local,
            config,
        })
    }

    /// Handles one input at `now`, which never goes back, and appends what follows from it.
    pub fn handle(&mut self, now: MonoTime, input: Input<'_>, out: &mut Vec<Output>) {
        match input {
            Input::Datagram { from, payload } => {
                if let Err(reason) = self.datagram(now, from, payload, out) {
                    out.push(Output::Event(Event::Dropped { reason }));
                }
            }
            Input::Timeout => self.timeout(now, out),
            Input::Join(seeds) => self.join(now, seeds, out),
            Input::Leave => self.leave(now, out),
        }
    }

    /// Grows with every change of what [`Detector::view`] shows.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The membership as it stands.
    pub fn view(&self) -> MembershipView {
        let local = Member {
            info: self.local.clone(),
            state: self.me.state,
            boot_id: self.me.boot_id,
            incarnation: self.me.incarnation,
            since: self.me_since,
        };
        let others = self.table.iter().map(|(_, entry)| Member {
            info: entry.info.clone(),
            state: entry.held.state,
            boot_id: entry.held.boot_id,
            incarnation: entry.held.incarnation,
            since: entry.since,
        });
        let mut members: Vec<Member> = others.chain([local]).collect();
        members.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        MembershipView {
            version: self.version,
            local: self.local.name.clone(),
            members,
            superseded_by: self.superseded_by,
        }
    }

    /// What is believed of one member, this node included.
    pub fn state_of(&self, name: &NodeName) -> Option<MemberState> {
        if *name == self.local.name {
            return Some(self.me.state);
        }
        self.table.get(name).map(|entry| entry.held.state)
    }

    /// How long a member suspected now has to refute: `multiplier * digits(live) * ping_interval`. The
    /// accusation has to reach it and the refutation has to come back, each in O(log N) periods.
    pub fn suspicion_window(&self) -> Duration {
        let factor = self.config.suspicion_multiplier * binary_digits(self.table.live() + 1);
        self.config.ping_interval.saturating_mul(factor)
    }

    fn datagram(
        &mut self,
        now: MonoTime,
        from: SocketAddr,
        payload: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let opened = self.envelope.open(payload)?;
        let Opened {
            sender,
            sequence,
            receiver,
            body,
        } = opened;
        if sender.name == self.local.name {
            if sender.boot_id > self.me.boot_id {
                self.supersede(sender.boot_id, out);
            }
            return Err(DropReason::OwnDatagram);
        }
        let from = &Address::from(from);
        let Some(receiver) = receiver else {
            return self.join_request(now, &sender, from, body, out);
        };
        if receiver.name != self.local.name {
            return Err(DropReason::NotForThisNode);
        }
        if receiver.boot_id != self.me.boot_id {
            // The sender holds another life of this node: tell it of this one.
            self.send(now, &sender, from, Message::Gossip, &[], out);
            return Err(DropReason::StaleReceiver);
        }
        let known = self.table.get(&sender.name).map(|e| e.held.boot_id);
        if known.max(self.windows.boot_id(&sender.name)) > Some(sender.boot_id) {
            // Tell it what is held of it, or it would never learn that its boot id went back.
            self.send(now, &sender, from, Message::Gossip, &[&sender.name], out);
            return Err(DropReason::StaleSender);
        }
        self.accept_sequence(&sender, sequence)?;
        let body = Body::decode(body)?;
        for update in body.updates {
            self.admit(now, update, &sender.name, out);
        }
        self.table.heard(now, &sender.name, sender.boot_id);
        if !self.contacted {
            self.contacted = true;
            out.push(Output::Event(Event::Contacted));
        }
        self.message(now, &sender, from, body.message, out)
    }

    fn accept_sequence(&mut self, sender: &Endpoint, sequence: u64) -> Result<(), DropReason> {
        let limit = self.config.max_members.saturating_mul(2);
        if self.windows.boot_id(&sender.name).is_none() && self.windows.len() >= limit {
            let table = &self.table;
            self.windows.evict_one(|name| table.get(name).is_some());
            if self.windows.len() >= limit {
                return Err(DropReason::Overloaded);
            }
        }
        self.windows.accept(sender, sequence)
    }

    fn message(
        &mut self,
        now: MonoTime,
        sender: &Endpoint,
        from: &Address,
        message: Message,
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let reply = |this: &mut Self, message, first: &[&NodeName], out: &mut Vec<Output>| {
            this.send(now, sender, from, message, first, out);
        };
        match message {
            Message::Ping { seq } => {
                reply(self, Message::Ack { seq }, &[&sender.name], out);
                Ok(())
            }
            Message::Ack { seq } => {
                self.acknowledged(now, sender, seq, out);
                Ok(())
            }
            Message::PingReq {
                seq,
                target,
                target_boot,
            } => {
                let target = Endpoint {
                    name: target,
                    boot_id: target_boot,
                };
                self.relay(now, sender, from.clone(), seq, &target, out)
            }
            Message::IndirectAck { seq, target } => {
                self.indirectly_acknowledged(seq, &target);
                Ok(())
            }
            Message::Gossip => Ok(()),
            // Welcome came because the sender does not know this node yet; a join request has no
            // receiver, so that a bound one is no message of this protocol.
            Message::Welcome => {
                reply(self, Message::Gossip, &[], out);
                Ok(())
            }
            Message::Join => Err(DropReason::Malformed),
        }
    }

    /// Answers a join request with the whole table. Nothing is learnt from the request.
    fn join_request(
        &mut self,
        now: MonoTime,
        sender: &Endpoint,
        from: &Address,
        body: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let body = Body::decode(body)?;
        if body.message != Message::Join || !body.updates.is_empty() {
            return Err(DropReason::Malformed);
        }
        let left = self.join_answers_left.checked_sub(1);
        self.join_answers_left = left.ok_or(DropReason::Overloaded)?;
        let about = [&sender.name];
        self.send(now, sender, from, Message::Welcome, &about, out);
        let budget = self.update_budget(Some(sender));
        for _ in 1..self.table.datagrams(budget).min(MAX_WELCOME_DATAGRAMS) {
            self.send(now, sender, from, Message::Gossip, &[], out);
        }
        Ok(())
    }

    /// Takes evidence in if it is greater than what is held.
    fn admit(&mut self, now: MonoTime, update: Update, by: &NodeName, out: &mut Vec<Output>) {
        if update.incarnation > MAX_INCARNATION || update.info.cluster_addr.is_unspecified() {
            return drop_evidence(DropReason::Implausible, out);
        }
        if update.info.name == self.local.name {
            return self.admit_about_self(now, &update, out);
        }
        let mut offered = Evidence {
            boot_id: update.boot_id,
            incarnation: update.incarnation,
            state: update.state,
        };
        let mut info = update.info;
        let age = Duration::from_secs(u64::from(update.age_secs));
        if let Some(entry) = self.table.get(&info.name) {
            let held = entry.held;
            if held.boot_id == offered.boot_id {
                if *by != info.name && offered.incarnation > held.incarnation + MAX_INCARNATION_JUMP
                {
                    return drop_evidence(DropReason::Implausible, out);
                }
                if offered.state == MemberState::Dead && self.heard_lately(now, &info.name) {
                    offered.state = MemberState::Suspect;
                }
                if offered.incarnation == held.incarnation {
                    // Only the member says where it is, and with a new incarnation.
                    info = entry.info.clone();
                }
            }
            if offered <= held {
                return;
            }
        } else if !offered.state.is_live() && !is_told(age, self.config.tombstone_ttl) {
            return;
        } else if !self.make_room(out) {
            return drop_evidence(DropReason::Overloaded, out);
        }
        self.set(now, info, offered, age, out);
    }

    /// Whether the member itself was heard within a whole round of probes. Such a member is not dead
    /// because somebody says so: it gets its window to refute. Otherwise the first contact after a
    /// partition would make each side believe what the other wrongly held of it.
    fn heard_lately(&self, now: MonoTime, name: &NodeName) -> bool {
        let Some(entry) = self.table.get(name).filter(|entry| entry.is_live()) else {
            return false;
        };
        let rounds = u32::try_from(2 * (self.table.live() + 1)).unwrap_or(u32::MAX);
        let round = self.config.ping_interval.saturating_mul(rounds);
        let horizon = round.max(self.suspicion_window());
        entry.heard_at.is_some_and(|at| now.since(at) < horizon)
    }

    fn make_room(&mut self, out: &mut Vec<Output>) -> bool {
        if self.table.len() + 1 < self.config.max_members {
            return true;
        }
        let Some(name) = self.table.evict_tombstone() else {
            return false;
        };
        self.version += 1;
        out.push(Output::Event(Event::MemberForgotten { name }));
        true
    }

    /// Stores evidence, starts what follows from it, and tells the driver.
    pub(crate) fn set(
        &mut self,
        now: MonoTime,
        info: NodeInfo,
        held: Evidence,
        age: Duration,
        out: &mut Vec<Output>,
    ) {
        let name = info.name.clone();
        let was = self.table.get(&name).map(|entry| entry.held);
        let remaining = if held.state.is_live() {
            self.suspicion_window()
        } else {
            self.config.tombstone_ttl.saturating_sub(age)
        };
        self.table.put(now, info, held, now + remaining);
        self.version += 1;
        if held.state.is_live() && !was.is_some_and(|was| was.state.is_live()) {
            // A newcomer takes a random place in the round, as in section 4.3 of the SWIM paper.
            self.order.retain(|other| *other != name);
            let at = self.rng.below(self.order.len() as u64 + 1);
            self.order
                .insert(usize::try_from(at).unwrap_or(0), name.clone());
        }
        let changed = was.is_none_or(|was| was.state != held.state || was.boot_id != held.boot_id);
        if changed {
            if held.state == MemberState::Suspect {
                let name = name.clone();
                out.push(Output::Event(Event::Suspected { name }));
            }
            out.push(Output::Event(Event::MemberChanged {
                name,
                state: held.state,
                boot_id: held.boot_id,
                incarnation: held.incarnation,
            }));
        }
    }

    /// Others say something of this node: refute what is wrong.
    fn admit_about_self(&mut self, now: MonoTime, update: &Update, out: &mut Vec<Output>) {
        if update.boot_id > self.me.boot_id {
            return self.supersede(update.boot_id, out);
        }
        let doubted =
            update.state != MemberState::Alive && update.incarnation >= self.me.incarnation;
        // Only this node raises its incarnation. A greater one is from an earlier process that was
        // given the same boot id, and must be overtaken.
        let behind = update.incarnation > self.me.incarnation;
        if update.boot_id < self.me.boot_id
            || self.me.state == MemberState::Left
            || !(doubted || behind)
        {
            return;
        }
        if update.incarnation > self.me.incarnation + MAX_INCARNATION_JUMP {
            return drop_evidence(DropReason::Implausible, out);
        }
        if !planted("swim.does-not-refute") {
            self.me.incarnation = update.incarnation + 1;
        }
        self.version += 1;
        out.push(Output::Event(Event::Refuted {
            incarnation: self.me.incarnation,
        }));
        self.push_to_some(now, self.config.indirect_probes.max(1), out);
    }

    fn supersede(&mut self, boot_id: u64, out: &mut Vec<Output>) {
        if self.superseded_by < Some(boot_id) {
            self.superseded_by = Some(boot_id);
            self.version += 1;
            out.push(Output::Event(Event::Superseded { boot_id }));
        }
    }

    /// Marks this node as gone.
    pub(crate) fn set_left(&mut self, now: MonoTime) {
        self.me.state = MemberState::Left;
        self.me_since = now;
        self.version += 1;
    }

    /// Notes a change of the view that is not a change of a member.
    pub(crate) const fn bump_version(&mut self) {
        self.version += 1;
    }

    /// Starts waiting for the first contact anew.
    pub(crate) const fn expect_contact(&mut self) {
        self.contacted = false;
    }

    pub(crate) const fn refill_join_answers(&mut self) {
        self.join_answers_left = MAX_JOIN_ANSWERS_PER_PERIOD;
    }

    fn update_budget(&self, receiver: Option<&Endpoint>) -> usize {
        let budget = self.envelope.body_budget(receiver);
        budget.saturating_sub(BODY_OVERHEAD_BYTES + self.me_bytes)
    }

    /// Sends evidence to `count` random live members.
    pub(crate) fn push_to_some(&mut self, now: MonoTime, count: usize, out: &mut Vec<Output>) {
        let mut names = self.table.live_names(None);
        self.rng.shuffle(&mut names);
        for name in names.into_iter().take(count) {
            self.send_to_member(now, &name, Message::Gossip, &[], out);
        }
    }

    /// Sends to a member where the table says that it is, with what is held of it and of `first`.
    pub(crate) fn send_to_member(
        &mut self,
        now: MonoTime,
        name: &NodeName,
        message: Message,
        first: &[&NodeName],
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.table.get(name) else {
            return;
        };
        let to = entry.info.cluster_addr.clone();
        let receiver = Endpoint {
            name: name.clone(),
            boot_id: entry.held.boot_id,
        };
        // What the receiver must refute comes first: the "buddy" of the Lifeguard paper.
        let mut about = vec![name];
        about.extend_from_slice(first);
        self.send(now, &receiver, &to, message, &about, out);
    }

    /// Sends to one life of one node: the message, this node's own state, and evidence.
    pub(crate) fn send(
        &mut self,
        now: MonoTime,
        receiver: &Endpoint,
        to: &Address,
        message: Message,
        first: &[&NodeName],
        out: &mut Vec<Output>,
    ) {
        let mut updates = vec![Update {
            info: self.local.clone(),
            state: self.me.state,
            boot_id: self.me.boot_id,
            incarnation: self.me.incarnation,
            age_secs: 0,
        }];
        let budget = self.update_budget(Some(receiver));
        updates.extend(self.table.select(now, first, budget));
        let body = Body { message, updates };
        if let Some(body) = body.encode() {
            let payload = self.envelope.seal(Some(receiver), &body);
            let to = to.clone();
            out.push(Output::Send { to, payload });
        }
    }

    /// Asks whoever is at `seed` who it is. Carries no evidence.
    pub(crate) fn send_join(&mut self, seed: Address, out: &mut Vec<Output>) {
        let body = Body {
            message: Message::Join,
            updates: Vec::new(),
        };
        if let Some(body) = body.encode() {
            let payload = self.envelope.seal(None, &body);
            out.push(Output::Send { to: seed, payload });
        }
    }
}

fn drop_evidence(reason: DropReason, out: &mut Vec<Output>) {
    out.push(Output::Event(Event::Dropped { reason }));
}
