//! The body of a datagram: one message, and news for as much as fits.

use crate::codec::{Reader, put_varint};
use crate::event::DropReason;
use crate::member::MemberState;
use crate::profile::{Endpoint, MemberId, Profile};

/// Parts of the table that are compared with each other: see `sync.rs`.
pub(crate) const BUCKETS: usize = 256;
/// Longest payload of a user event, in bytes.
pub const MAX_EVENT_BYTES: usize = 512;
/// Most accusers named with a suspicion.
pub(crate) const MAX_ACCUSERS: usize = 4;
/// The sender does not know the receiver: "who are you?"
const FLAG_INTRODUCE: u8 = 0x80;

const STATE_BITS: u8 = 0b0000_0011;
const TAG_FULL: u8 = 0b0000_0100;
const TAG_EVENT: u8 = 0b0000_1000;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    /// "Are you there?"
    Ping { seq: u32, digest: u32 },
    /// "I am", to the ping of that number.
    Ack { seq: u32, digest: u32 },
    /// "Ask that member for me."
    PingReq { seq: u32, target: Endpoint },
    /// "It answered me", to the request of that number.
    IndirectAck { seq: u32 },
    /// "I am here, but it did not answer me": Lifeguard's negative acknowledgement.
    Nack { seq: u32 },
    /// News alone.
    Gossip { digest: u32 },
    /// "Who are you, and whom do you know?" The only message that needs no receiver. It carries no
    /// news, so that replaying it changes nothing.
    Join,
    /// The answer to a join: news, bound to the one who asked.
    Welcome { digest: u32 },
    /// "This is how my table sums up": [`BUCKETS`] sums of four bytes.
    SyncRequest { sums: &'a [u8] },
    /// "In these buckets we differ; here is what I hold, tell me what you hold": one bit per bucket.
    SyncRows { buckets: &'a [u8] },
}

impl<'a> Message<'a> {
    pub(crate) fn put(&self, out: &mut Vec<u8>, introduce: bool) {
        let flag = if introduce { FLAG_INTRODUCE } else { 0 };
        let mut head = |kind: u8| out.push(kind | flag);
        match self {
            Self::Ping { seq, digest } => {
                head(0);
                out.extend_from_slice(&seq.to_be_bytes());
                out.extend_from_slice(&digest.to_be_bytes());
            }
            Self::Ack { seq, digest } => {
                head(1);
                out.extend_from_slice(&seq.to_be_bytes());
                out.extend_from_slice(&digest.to_be_bytes());
            }
            Self::PingReq { seq, target } => {
                head(2);
                out.extend_from_slice(&seq.to_be_bytes());
                out.extend_from_slice(&target.id.0.to_be_bytes());
                put_varint(out, target.boot_id);
            }
            Self::IndirectAck { seq } => {
                head(3);
                out.extend_from_slice(&seq.to_be_bytes());
            }
            Self::Nack { seq } => {
                head(4);
                out.extend_from_slice(&seq.to_be_bytes());
            }
            Self::Gossip { digest } => {
                head(5);
                out.extend_from_slice(&digest.to_be_bytes());
            }
            Self::Join => head(6),
            Self::Welcome { digest } => {
                head(7);
                out.extend_from_slice(&digest.to_be_bytes());
            }
            Self::SyncRequest { sums } => {
                head(8);
                out.extend_from_slice(sums);
            }
            Self::SyncRows { buckets } => {
                head(9);
                out.extend_from_slice(buckets);
            }
        }
    }

    /// The message, whether the sender asks who the receiver is, and the news behind it.
    pub(crate) fn read(body: &'a [u8]) -> Result<(Self, bool, Reader<'a>), DropReason> {
        let mut reader = Reader(body);
        let head = reader.u8()?;
        let message = match head & !FLAG_INTRODUCE {
            0 => Self::Ping {
                seq: reader.u32()?,
                digest: reader.u32()?,
            },
            1 => Self::Ack {
                seq: reader.u32()?,
                digest: reader.u32()?,
            },
            2 => Self::PingReq {
                seq: reader.u32()?,
                target: read_endpoint(&mut reader)?,
            },
            3 => Self::IndirectAck { seq: reader.u32()? },
            4 => Self::Nack { seq: reader.u32()? },
            5 => Self::Gossip {
                digest: reader.u32()?,
            },
            6 => Self::Join,
            7 => Self::Welcome {
                digest: reader.u32()?,
            },
            8 => Self::SyncRequest {
                sums: reader.take(BUCKETS * 4)?,
            },
            9 => Self::SyncRows {
                buckets: reader.take(BUCKETS / 8)?,
            },
            _ => return Err(DropReason::Malformed),
        };
        Ok((message, head & FLAG_INTRODUCE != 0, reader))
    }
}

fn read_endpoint(reader: &mut Reader<'_>) -> Result<Endpoint, DropReason> {
    Ok(Endpoint {
        id: MemberId(reader.u64()?),
        boot_id: reader.varint()?,
    })
}

/// Who suspects a member: the first few, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accusers {
    ids: [MemberId; MAX_ACCUSERS],
    count: u8,
}

impl Default for Accusers {
    fn default() -> Self {
        Self {
            ids: [MemberId(0); MAX_ACCUSERS],
            count: 0,
        }
    }
}

impl Accusers {
    pub(crate) fn one(id: MemberId) -> Self {
        let mut one = Self::default();
        one.add(id);
        one
    }

    pub(crate) fn as_slice(&self) -> &[MemberId] {
        self.ids.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Whether it is new and there was room.
    pub(crate) fn add(&mut self, id: MemberId) -> bool {
        if self.as_slice().contains(&id) {
            return false;
        }
        let Some(place) = self.ids.get_mut(usize::from(self.count)) else {
            return false;
        };
        *place = id;
        self.count += 1;
        true
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.push(self.count);
        for id in self.as_slice() {
            out.extend_from_slice(&id.0.to_be_bytes());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DropReason> {
        let mut accusers = Self::default();
        let count = usize::from(reader.u8()?);
        if count > MAX_ACCUSERS {
            return Err(DropReason::Malformed);
        }
        for _ in 0..count {
            if !accusers.add(MemberId(reader.u64()?)) {
                return Err(DropReason::Malformed);
            }
        }
        Ok(accusers)
    }
}

/// Evidence about one member, as it travels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Update<'a> {
    pub(crate) about: Endpoint,
    pub(crate) incarnation: u32,
    pub(crate) state: MemberState,
    /// The version of the profile; with an alive member, or beside the profile itself.
    pub(crate) version: u32,
    /// Who suspects it; only with a suspicion.
    pub(crate) accusers: Accusers,
    /// How long it has been dead or gone, so that a tombstone expires everywhere instead of being
    /// handed round for ever.
    pub(crate) age_secs: u32,
    /// The encoded profile, in the full form.
    pub(crate) profile: Option<&'a [u8]>,
}

/// A piece of news.
#[derive(Debug, Clone, Copy)]
pub(crate) enum News<'a> {
    Member(Update<'a>),
    Event {
        origin: Endpoint,
        seq: u32,
        payload: &'a [u8],
    },
}

const fn state_bits(state: MemberState) -> u8 {
    match state {
        MemberState::Alive => 0,
        MemberState::Suspect => 1,
        MemberState::Dead => 2,
        MemberState::Left => 3,
    }
}

impl Update<'_> {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        let full = if self.profile.is_some() { TAG_FULL } else { 0 };
        out.push(state_bits(self.state) | full);
        if self.profile.is_none() {
            out.extend_from_slice(&self.about.id.0.to_be_bytes());
            put_varint(out, self.about.boot_id);
        }
        put_varint(out, u64::from(self.incarnation));
        match self.state {
            MemberState::Alive if self.profile.is_none() => {
                put_varint(out, u64::from(self.version));
            }
            MemberState::Alive => {}
            MemberState::Suspect => self.accusers.put(out),
            MemberState::Dead | MemberState::Left => put_varint(out, u64::from(self.age_secs)),
        }
        out.extend_from_slice(self.profile.unwrap_or_default());
    }
}

/// Appends a user event.
pub(crate) fn put_event(out: &mut Vec<u8>, origin: Endpoint, seq: u32, payload: &[u8]) {
    out.push(TAG_EVENT);
    out.extend_from_slice(&origin.id.0.to_be_bytes());
    put_varint(out, origin.boot_id);
    put_varint(out, u64::from(seq));
    put_varint(out, payload.len() as u64);
    out.extend_from_slice(payload);
}

impl<'a> News<'a> {
    /// The next piece; `None` at the end.
    pub(crate) fn read(reader: &mut Reader<'a>) -> Result<Option<Self>, DropReason> {
        if reader.is_empty() {
            return Ok(None);
        }
        let tag = reader.u8()?;
        if tag & !(STATE_BITS | TAG_FULL | TAG_EVENT) != 0 {
            return Err(DropReason::Malformed);
        }
        if tag & TAG_EVENT != 0 {
            return read_event(reader, tag).map(Some);
        }
        let state = match tag & STATE_BITS {
            0 => MemberState::Alive,
            1 => MemberState::Suspect,
            2 => MemberState::Dead,
            _ => MemberState::Left,
        };
        let full = tag & TAG_FULL != 0;
        let mut update = Update {
            about: Endpoint {
                id: MemberId(0),
                boot_id: 0,
            },
            incarnation: 0,
            state,
            version: 0,
            accusers: Accusers::default(),
            age_secs: 0,
            profile: None,
        };
        if !full {
            update.about = read_endpoint(reader)?;
        }
        update.incarnation = reader.varint32()?;
        match state {
            MemberState::Alive if !full => update.version = reader.varint32()?,
            MemberState::Alive => {}
            MemberState::Suspect => update.accusers = Accusers::read(reader)?,
            MemberState::Dead | MemberState::Left => update.age_secs = reader.varint32()?,
        }
        if full {
            update.profile = Some(Profile::skip(reader)?);
        }
        Ok(Some(Self::Member(update)))
    }
}

fn read_event<'a>(reader: &mut Reader<'a>, tag: u8) -> Result<News<'a>, DropReason> {
    if tag != TAG_EVENT {
        return Err(DropReason::Malformed);
    }
    let origin = read_endpoint(reader)?;
    let seq = reader.varint32()?;
    let length = usize::try_from(reader.varint()?).map_err(|_| DropReason::Malformed)?;
    if length > MAX_EVENT_BYTES {
        return Err(DropReason::Malformed);
    }
    let payload = reader.take(length)?;
    Ok(News::Event {
        origin,
        seq,
        payload,
    })
}
