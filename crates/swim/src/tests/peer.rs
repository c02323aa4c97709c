//! A peer that says whatever a test wants, properly sealed, to one detector under test.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{MonoTime, NodeInfo, NodeName};

use crate::detector::Detector;
use crate::envelope::{Binding, Envelope};
use crate::message::{Accusers, Message, News, Update, put_event};
use crate::profile::{Destination, Endpoint, MemberId, Profile};
use crate::{
    DropReason, Event, Input, MemberState, Output, SharedSecret, SwimConfig, SwimSecurity,
};

pub(super) const SECRET: &str = "a shared secret of some length";

pub(super) fn secret() -> SwimSecurity {
    SwimSecurity::SharedSecret(SharedSecret::new(SECRET).unwrap())
}

pub(super) fn name(node: u16) -> NodeName {
    NodeName::new(format!("node-{node:03}")).unwrap()
}

pub(super) fn addr(node: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 10_000 + node))
}

pub(super) fn info(node: u16) -> NodeInfo {
    NodeInfo::new(name(node), addr(node).into(), addr(node).into())
}

pub(super) fn config(boot_id: u64) -> SwimConfig {
    SwimConfig {
        security: secret(),
        boot_id: Some(boot_id),
        ..Default::default()
    }
}

pub(super) fn at(millis: u64) -> MonoTime {
    MonoTime::from_origin(Duration::from_millis(millis))
}

pub(super) fn endpoint(node: u16, boot_id: u64) -> Endpoint {
    Endpoint {
        id: MemberId::of(&name(node)),
        boot_id,
    }
}

/// Node 0, life 7, which has not been told of anybody.
pub(super) fn detector() -> Detector {
    Detector::new(info(0), config(7), 1, at(0)).unwrap()
}

/// What a peer says of a member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    pub(super) node: u16,
    pub(super) boot_id: u64,
    pub(super) incarnation: u32,
    pub(super) state: MemberState,
    pub(super) version: u32,
    pub(super) accuser: Option<u16>,
    /// Whether the profile goes with it.
    pub(super) full: bool,
}

/// With the profile.
pub(super) fn says(node: u16, boot_id: u64, incarnation: u32, state: MemberState) -> Claim {
    Claim {
        node,
        boot_id,
        incarnation,
        state,
        version: 0,
        accuser: None,
        full: true,
    }
}

/// Without the profile.
pub(super) fn hints(node: u16, boot_id: u64, incarnation: u32, state: MemberState) -> Claim {
    Claim {
        full: false,
        ..says(node, boot_id, incarnation, state)
    }
}

pub(super) fn accuses(accuser: u16, node: u16, incarnation: u32) -> Claim {
    Claim {
        accuser: Some(accuser),
        ..hints(node, 1, incarnation, MemberState::Suspect)
    }
}

/// A piece of evidence that was read.
pub(super) type Heard = (MemberId, u64, u32, MemberState);

/// What a datagram said.
#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) kind: u8,
    pub(super) seq: u32,
    pub(super) heard: Vec<Heard>,
    pub(super) profiles: usize,
}

pub(super) const PING: u8 = 0;
pub(super) const ACK: u8 = 1;
pub(super) const PING_REQ: u8 = 2;
pub(super) const NACK: u8 = 4;

pub(super) struct Peer {
    pub(super) node: u16,
    pub(super) boot_id: u64,
    pub(super) envelope: Envelope,
}

impl Peer {
    pub(super) fn new(node: u16, boot_id: u64) -> Self {
        Self::with_config(node, &config(boot_id))
    }

    pub(super) fn with_config(node: u16, config: &SwimConfig) -> Self {
        let boot_id = config.boot_id.unwrap();
        Self {
            node,
            boot_id,
            envelope: Envelope::new(config, endpoint(node, boot_id)).unwrap(),
        }
    }

    fn profile(&self, claim: &Claim) -> Profile {
        let keys = self.envelope.keys();
        let metadata = Bytes::new();
        Profile::new(
            info(claim.node),
            claim.boot_id,
            claim.version,
            keys,
            metadata,
        )
        .unwrap()
    }

    pub(super) fn put(&self, bytes: &mut Vec<u8>, claim: &Claim) {
        let profile = self.profile(claim);
        let accusers = claim.accuser.map(|node| MemberId::of(&name(node)));
        let update = Update {
            about: profile.endpoint,
            incarnation: claim.incarnation,
            state: claim.state,
            version: claim.version,
            accusers: accusers.map(Accusers::one).unwrap_or_default(),
            age_secs: 0,
            profile: claim.full.then(|| profile.encoded()),
        };
        update.put(bytes);
    }

    /// A datagram for life `receiver_boot` of node 0, with this peer alive and `claims`.
    pub(super) fn datagram(
        &mut self,
        receiver_boot: u64,
        message: Message<'_>,
        claims: &[Claim],
    ) -> Vec<u8> {
        let me = says(self.node, self.boot_id, 0, MemberState::Alive);
        let all: Vec<Claim> = std::iter::once(me).chain(claims.iter().copied()).collect();
        self.sealed(endpoint(0, receiver_boot), message, &all)
    }

    pub(super) fn sealed(
        &mut self,
        receiver: Endpoint,
        message: Message<'_>,
        claims: &[Claim],
    ) -> Vec<u8> {
        let binding = Binding {
            receiver: Some(receiver),
            key: self.envelope.key_for(self.envelope.keys()),
        };
        let mut bytes = self.envelope.begin(&binding);
        message.put(&mut bytes, false);
        for claim in claims {
            self.put(&mut bytes, claim);
        }
        self.envelope.seal(bytes, &binding).to_vec()
    }

    pub(super) fn event(&mut self, origin: Endpoint, seq: u32, payload: &[u8]) -> Vec<u8> {
        let binding = Binding {
            receiver: Some(endpoint(0, 7)),
            key: self.envelope.key_for(self.envelope.keys()),
        };
        let mut bytes = self.envelope.begin(&binding);
        Message::Gossip { digest: 0 }.put(&mut bytes, false);
        put_event(&mut bytes, origin, seq, payload);
        self.envelope.seal(bytes, &binding).to_vec()
    }

    /// Decodes what was sent to this peer.
    pub(super) fn read(&self, payload: &[u8]) -> Body {
        let opened = self.envelope.open(payload).unwrap();
        let (message, _, mut news) = Message::read(opened.body).unwrap();
        let (kind, seq) = match message {
            Message::Ping { seq, .. } => (PING, seq),
            Message::Ack { seq, .. } => (ACK, seq),
            Message::PingReq { seq, .. } => (PING_REQ, seq),
            Message::Nack { seq } => (NACK, seq),
            _ => (u8::MAX, 0),
        };
        let mut body = Body {
            kind,
            seq,
            heard: Vec::new(),
            profiles: 0,
        };
        while let Some(piece) = News::read(&mut news).unwrap() {
            if let News::Member(update) = piece {
                let decoded = update.profile.map(|bytes| Profile::decode(bytes).unwrap());
                body.profiles += usize::from(decoded.is_some());
                let about = decoded.map_or(update.about, |profile| profile.endpoint);
                let heard = (about.id, about.boot_id, update.incarnation, update.state);
                body.heard.push(heard);
            }
        }
        body
    }

    /// What `out` holds for this peer.
    pub(super) fn received(&self, out: &[Output]) -> Vec<Body> {
        let mine = Destination::Socket(addr(self.node));
        let sent = out.iter().filter_map(|output| match output {
            Output::Send { to, payload } if *to == mine => Some(self.read(payload)),
            _ => None,
        });
        sent.collect()
    }
}

pub(super) fn give(
    detector: &mut Detector,
    now: MonoTime,
    node: u16,
    payload: &[u8],
) -> Vec<Output> {
    let mut out = Vec::new();
    let from = addr(node);
    detector.handle(now, Input::Datagram { from, payload }, &mut out);
    out
}

pub(super) fn gossip(
    detector: &mut Detector,
    now: MonoTime,
    peer: &mut Peer,
    claims: &[Claim],
) -> Vec<Output> {
    let digest = detector.table.digest();
    let datagram = peer.datagram(7, Message::Gossip { digest }, claims);
    give(detector, now, peer.node, &datagram)
}

pub(super) fn dropped(out: &[Output]) -> Option<DropReason> {
    out.iter().find_map(|output| match output {
        Output::Event(Event::Dropped { reason }) => Some(*reason),
        _ => None,
    })
}

pub(super) fn is_silent(out: &[Output]) -> bool {
    let sends = |output: &Output| matches!(output, Output::Send { .. });
    !out.iter().any(sends)
}

/// Runs the detector's own timers until `end`; what it put out, and when.
pub(super) fn run(detector: &mut Detector, end: MonoTime) -> Vec<(MonoTime, Output)> {
    let mut all = Vec::new();
    while detector.poll_timeout() <= end {
        let now = detector.poll_timeout();
        let mut out = Vec::new();
        detector.handle(now, Input::Timeout, &mut out);
        all.extend(out.into_iter().map(|output| (now, output)));
    }
    all
}

/// What is held of a node.
pub(super) fn held(detector: &Detector, node: u16) -> Option<(u64, u64, MemberState)> {
    let view = detector.view();
    let member = view.get(&name(node))?;
    Some((member.boot_id, member.incarnation, member.state))
}
