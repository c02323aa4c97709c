//! The protocol: takes the time and an input, appends outputs. Here: its state, and datagrams in and
//! out. Evidence is in `evidence.rs`, probes in `probe.rs`, joining, healing and leaving in
//! `contact.rs`, anti-entropy in `sync.rs`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{Address, MonoTime, NodeInfo, NodeName, Rng};

use crate::check::Checks;
use crate::config::SwimConfig;
use crate::contact::Leaving;
use crate::envelope::{Envelope, Opened};
use crate::error::SwimError;
use crate::event::{DropReason, Event, Output};
use crate::letter::{MAX_COURTESIES_PER_PERIOD, MAX_STALE_ANSWERS_PER_PERIOD, Mail};
use crate::member::{Member, MemberState, MembershipView};
use crate::message::{Accusers, Message, News, Update};
use crate::micros::Micros;
use crate::outbox::{Class, Outbox};
use crate::probe::{Probe, Relays, RoundTrip};
use crate::profile::{Endpoint, MemberId, Profile};
use crate::registry::{Registry, Slot};
use crate::replay::Windows;
use crate::sync::Comparison;
use crate::table::{Table, binary_digits};
use crate::user_event::UserEvents;

/// Pieces of news taken from one datagram; more do not fit.
const MAX_NEWS_PER_DATAGRAM: usize = 128;
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
    /// The member answered over a stream what [`Output::StreamProbe`] asked.
    StreamAnswer {
        /// The number of the request.
        seq: u32,
    },
    /// Ask these seeds now, and whenever this node is alone. At most 64; more are ignored.
    Join(Vec<Address>),
    /// Replace this node's metadata, of at most 512 bytes; more is refused with an event.
    SetMetadata(Bytes),
    /// Tell all members this, of at most 512 bytes; see [`Event::User`].
    Broadcast(Bytes),
    /// Tell the others that this node goes; [`Event::LeaveFinished`] follows.
    Leave,
}

/// Spans of the configuration in the core's unit.
#[derive(Debug)]
pub(crate) struct Timing {
    pub(crate) interval: Micros,
    pub(crate) timeout: Micros,
    pub(crate) tombstone_ttl: Micros,
}

/// This node as it is told.
#[derive(Debug)]
pub(crate) struct Me {
    pub(crate) profile: Arc<Profile>,
    pub(crate) incarnation: u32,
    pub(crate) left: bool,
    pub(crate) since: Micros,
}

impl Me {
    pub(crate) fn id(&self) -> MemberId {
        self.profile.id()
    }

    pub(crate) fn boot_id(&self) -> u64 {
        self.profile.boot_id()
    }

    const fn state(&self) -> MemberState {
        if self.left {
            MemberState::Left
        } else {
            MemberState::Alive
        }
    }

    pub(crate) fn update(&self, full: bool) -> Update<'_> {
        Update {
            about: self.profile.endpoint,
            incarnation: self.incarnation,
            state: self.state(),
            version: self.profile.version,
            accusers: Accusers::default(),
            age_secs: 0,
            profile: full.then(|| self.profile.encoded()),
        }
    }
}

/// SWIM for one node: a state machine without sockets, clock or random source.
///
/// Equal seeds and equal inputs at equal times give equal outputs.
#[derive(Debug)]
pub struct Detector {
    pub(crate) config: SwimConfig,
    pub(crate) timing: Timing,
    pub(crate) me: Me,
    pub(crate) table: Table,
    pub(crate) envelope: Envelope,
    pub(crate) windows: Windows,
    pub(crate) rng: Rng,
    pub(crate) outbox: Outbox,
    pub(crate) events: UserEvents,
    pub(crate) next_tick: Micros,
    pub(crate) probe: Option<Probe>,
    pub(crate) checks: Checks,
    pub(crate) relays: Relays,
    pub(crate) next_probe_seq: u32,
    pub(crate) round_trip: RoundTrip,
    /// Lifeguard's local health multiplier, 0 (well) to 8.
    pub(crate) health: u32,
    /// When an authenticated datagram last came.
    pub(crate) heard_at: Micros,
    pub(crate) gossip_at: Micros,
    pub(crate) comparison: Comparison,
    pub(crate) seeds: Vec<Address>,
    pub(crate) join_at: Option<Micros>,
    pub(crate) join_pause: Duration,
    pub(crate) next_dead_probe: Micros,
    pub(crate) leaving: Option<Leaving>,
    pub(crate) courtesies_left: u32,
    pub(crate) stale_answers_left: u32,
    pub(crate) contacted: bool,
    pub(crate) version: u64,
    pub(crate) superseded_by: Option<u64>,
    /// The datagram at hand doubts this node although it has refuted that.
    pub(crate) missed_refutation: bool,
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
        Self::sharing(local, config, seed, now, Arc::default())
    }

    /// The same, holding what it knows of others together with the other detectors of `registry`.
    ///
    /// # Errors
    /// As [`Detector::new`].
    pub fn sharing(
        local: NodeInfo,
        config: SwimConfig,
        seed: u64,
        now: MonoTime,
        registry: Arc<Registry>,
    ) -> Result<Self, SwimError> {
        config.validate_for(&local)?;
        let boot_id = config
            .boot_id
            .ok_or_else(|| SwimError::config("boot_id", "the core needs one: it has no clock"))?;
        let now = Micros::from(now);
        let endpoint = Endpoint {
            id: MemberId::of(&local.name),
            boot_id,
        };
        let envelope = Envelope::new(&config, endpoint)?;
        let metadata = config.metadata.clone();
        let profile = Arc::new(Profile::new(local, boot_id, 0, envelope.keys(), metadata)?);
        let mut rng = Rng::new(seed);
        let interval = Micros::from(config.ping_interval);
        // A random phase keeps nodes that start together from probing together.
        let phase = Micros(rng.below(interval.0));
        let mut table = Table::new(registry, interval);
        table.set_own(&profile, 0, false);
        Ok(Self {
            timing: Timing {
                interval,
                timeout: Micros::from(config.ping_timeout),
                tombstone_ttl: Micros::from(config.tombstone_ttl),
            },
            me: Me {
                profile,
                incarnation: 0,
                left: false,
                since: now,
            },
            table,
            envelope,
            windows: Windows::new(config.max_members),
            // Numbers that start at random are not mistaken for those of an earlier life.
            next_probe_seq: u32::try_from(rng.next_u64() >> 32).unwrap_or(0),
            outbox: Outbox::default(),
            events: UserEvents::default(),
            next_tick: now + phase,
            probe: None,
            checks: Checks::default(),
            relays: Relays::default(),
            round_trip: RoundTrip::default(),
            health: 0,
            heard_at: now,
            gossip_at: now,
            comparison: Comparison::default(),
            seeds: Vec::new(),
            join_at: None,
            join_pause: config.seed_retry_min,
            next_dead_probe: now + Micros::from(config.dead_probe_interval),
            leaving: None,
            courtesies_left: MAX_COURTESIES_PER_PERIOD,
            stale_answers_left: MAX_STALE_ANSWERS_PER_PERIOD,
            contacted: false,
            version: 1,
            superseded_by: None,
            missed_refutation: false,
            rng,
            config,
        })
    }

    /// Handles one input at `now`, which never goes back, and appends what follows from it.
    pub fn handle(&mut self, now: MonoTime, input: Input<'_>, out: &mut Vec<Output>) {
        let now = Micros::from(now);
        match input {
            Input::Datagram { from, payload } => {
                if let Err(reason) = self.datagram(now, from, payload, out) {
                    out.push(Output::Event(Event::Dropped { reason }));
                }
            }
            Input::Timeout => self.timeout(now, out),
            Input::StreamAnswer { seq } => self.stream_answer(now, seq, out),
            Input::Join(seeds) => self.join(now, seeds, out),
            Input::SetMetadata(metadata) => self.set_metadata(now, metadata, out),
            Input::Broadcast(payload) => self.broadcast(payload, out),
            Input::Leave => self.leave(now, out),
        }
        self.spread_urgent(now, out);
    }

    /// When [`Input::Timeout`] is next due.
    pub fn poll_timeout(&self) -> MonoTime {
        let gossip = if self.outbox.has_urgent() && self.table.live() > 0 {
            self.gossip_at
        } else {
            Micros::NEVER
        };
        let probe = self.probe.as_ref().map_or(Micros::NEVER, Probe::next_step);
        let leave = self.leaving.as_ref().map_or(Micros::NEVER, |l| l.next);
        let others = [
            gossip,
            probe,
            leave,
            self.relays.next_due(),
            self.table.next_deadline(),
            self.join_at.unwrap_or(Micros::NEVER),
        ];
        let next = others.into_iter().fold(self.next_tick, Micros::min);
        next.as_mono()
    }

    /// Grows with every change of what [`Detector::view`] shows.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// The membership as it stands.
    pub fn view(&self) -> MembershipView {
        let local = Member {
            info: Arc::clone(&self.me.profile.info),
            state: self.me.state(),
            boot_id: self.me.boot_id(),
            incarnation: u64::from(self.me.incarnation),
            metadata: self.me.profile.metadata.clone(),
            since: self.me.since.as_mono(),
        };
        let others = self.table.iter().map(|(_, profile, row)| Member {
            info: Arc::clone(&profile.info),
            state: row.state,
            boot_id: profile.boot_id(),
            incarnation: u64::from(row.incarnation),
            metadata: profile.metadata.clone(),
            since: row.since().as_mono(),
        });
        let mut members: Vec<Member> = others.chain([local]).collect();
        members.sort_by(|a, b| a.info.name.cmp(&b.info.name));
        MembershipView {
            version: self.version,
            local: self.me.profile.info.name.clone(),
            members,
            superseded_by: self.superseded_by,
        }
    }

    /// What is believed of one member, this node included.
    pub fn state_of(&self, name: &NodeName) -> Option<MemberState> {
        let id = MemberId::of(name);
        if id == self.me.id() {
            return Some(self.me.state());
        }
        let slot = self.table.find(id)?;
        self.table.get(slot).map(|(_, row)| row.state)
    }

    /// How many other members are alive or suspected.
    pub const fn live_others(&self) -> usize {
        self.table.live()
    }

    /// Lifeguard's local health multiplier: 0 is well; each point slows this node's probes, since its
    /// own failures are the likelier reason for missing answers.
    pub const fn health(&self) -> u32 {
        self.health
    }

    /// Knows these members from the start, for simulations that begin in the middle.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn meet(&mut self, others: &[Arc<Profile>]) {
        for profile in others.iter().filter(|profile| profile.id() != self.me.id()) {
            let held = crate::table::Held {
                profile: Arc::clone(profile),
                incarnation: 0,
                state: MemberState::Alive,
            };
            self.table.store(Micros(0), held);
        }
        self.version += 1;
    }

    /// How long a member suspected now has to refute at the least, once enough others suspect it too:
    /// `multiplier * max(4, log2 N) / 3 * ping_interval`. The accusation has to reach it and the
    /// refutation has to come back, each in O(log N) periods.
    pub fn suspicion_window(&self) -> Duration {
        self.suspicion_min().as_duration()
    }

    pub(crate) fn suspicion_min(&self) -> Micros {
        // The binary digits of N - 1 are log2 N, rounded up.
        let digits = u64::from(binary_digits(self.table.live())).max(4);
        let factor = u64::from(self.config.suspicion_multiplier) * digits;
        Micros(self.timing.interval.times(factor).0 / 3)
    }

    fn datagram(
        &mut self,
        now: Micros,
        from: SocketAddr,
        payload: &[u8],
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let opened = self.envelope.open(payload)?;
        let sender = opened.sender;
        if sender.id == self.me.id() {
            if sender.boot_id > self.me.boot_id() {
                self.supersede(sender.boot_id, out);
            }
            return Err(DropReason::OwnDatagram);
        }
        let mail = Mail {
            from,
            sender,
            key: opened.key,
            slot: self.table.find(sender.id),
        };
        // First of all, so that a capture that is sent again and again gets one answer and not as many
        // as are meant for those who join.
        self.accept(now, &mail, &opened, out)?;
        let Some(receiver_boot) = opened.receiver_boot else {
            return self.join_request(now, &mail, opened.body, out);
        };
        if receiver_boot != self.me.boot_id() {
            // The sender holds another life of this node: tell it of this one.
            self.answer_stale(now, &mail, None, out)?;
            return Err(DropReason::StaleReceiver);
        }
        self.heard_at = now;
        self.missed_refutation = false;
        let (message, introduce, news) = Message::read(opened.body)?;
        self.take_news(now, news, sender, out)?;
        if !self.contacted {
            self.contacted = true;
            self.outbox.push(Slot::ME, Class::Join);
            out.push(Output::Event(Event::Contacted));
        }
        if introduce {
            self.courteously(now, &mail, None, out)?;
        }
        self.message(now, &mail, message, out)
    }

    /// Whether the datagram is of the newest life of its sender, and new.
    fn accept(
        &mut self,
        now: Micros,
        mail: &Mail,
        opened: &Opened<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        let (sender, sequence) = (mail.sender, opened.sequence);
        let Some(slot) = mail.slot else {
            let known = self.windows.stranger_boot(sender.id);
            if known > Some(sender.boot_id) {
                return Err(DropReason::StaleSender);
            }
            return self.windows.accept_stranger(now, sender, sequence);
        };
        let held = self.table.get(slot).map(|(profile, _)| profile.boot_id());
        if held > Some(sender.boot_id) {
            // Tell it what is held of it, or it would never learn that its boot id went back. Of a life
            // that is over no window is kept: captures of it can only be counted.
            self.answer_stale(now, mail, Some(slot), out)?;
            return Err(DropReason::StaleSender);
        }
        let row = self.table.row_mut(slot).ok_or(DropReason::Overloaded)?;
        self.windows
            .accept_member(now, &mut row.window, sender, sequence)
    }

    fn take_news(
        &mut self,
        now: Micros,
        mut news: crate::codec::Reader<'_>,
        sender: Endpoint,
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        for _ in 0..MAX_NEWS_PER_DATAGRAM {
            match News::read(&mut news)? {
                None => return Ok(()),
                Some(News::Member(update)) => self.admit(now, &update, sender, out),
                Some(News::Event {
                    origin,
                    seq,
                    payload,
                }) => self.admit_event(origin, seq, payload, out),
            }
        }
        Err(DropReason::Malformed)
    }

    fn message(
        &mut self,
        now: Micros,
        mail: &Mail,
        message: Message<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), DropReason> {
        match message {
            Message::Ping { seq, digest } => {
                let ack = Message::Ack {
                    seq,
                    digest: self.table.digest(),
                };
                self.reply(now, mail, ack, out);
                self.compare(now, mail, digest, out);
                Ok(())
            }
            Message::Ack { seq, digest } => {
                self.acknowledged(now, mail.sender, seq, out);
                self.compare(now, mail, digest, out);
                Ok(())
            }
            Message::PingReq { seq, target } => self.relay(now, mail, seq, target, out),
            Message::IndirectAck { seq } => {
                self.indirectly_acknowledged(now, seq, out);
                Ok(())
            }
            Message::Nack { seq } => {
                self.negatively_acknowledged(seq);
                Ok(())
            }
            Message::Gossip { digest } => {
                self.compare(now, mail, digest, out);
                Ok(())
            }
            Message::Welcome { .. } => {
                self.request_sync(now, mail, out);
                Ok(())
            }
            Message::SyncRequest { sums } => self.answer_sync(now, mail, sums, out),
            Message::SyncRows { buckets } => self.finish_sync(now, mail, buckets, out),
            // A join request has no receiver: a bound one is no message of this protocol.
            Message::Join => Err(DropReason::Malformed),
        }
    }

    pub(crate) fn supersede(&mut self, boot_id: u64, out: &mut Vec<Output>) {
        if self.superseded_by < Some(boot_id) {
            self.superseded_by = Some(boot_id);
            self.version += 1;
            out.push(Output::Event(Event::Superseded { boot_id }));
        }
    }

    pub(crate) const fn take_probe_seq(&mut self) -> u32 {
        self.next_probe_seq = self.next_probe_seq.wrapping_add(1);
        self.next_probe_seq
    }
}
