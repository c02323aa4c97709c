//! What is fuzzed.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rivven_core_types::test_util::SeededEntropy;
use rivven_core_types::{
    CommittedEntry, Lane, LogIndex, MonoTime, Rng, StateMachine, Term, split_batches,
};
use rivven_metadata::{Command, MetadataStateMachine};
use rivven_swim::{Detector, DropReason, Event, Input, Output};
use rivven_transport::{FrameDecoder, Initiator, ProvenPeer, Responder, Security};

use super::samples;
use crate::failure::{Doing, Failure};

/// Longest payload of a frame here, in bytes.
pub(super) const MAX_PAYLOAD: usize = 1 << 20;
/// Inputs that one detector or state machine is given before it is replaced.
const LIFE: u64 = 1_000;

/// A decoder with its state: whether an input decodes.
pub(super) type Decode = Box<dyn FnMut(&[u8]) -> bool>;
/// Puts right, in a changed input, what a decoder checks first.
pub(super) type Repair = fn(&mut Rng, &mut [u8]);

/// One decoder.
#[derive(Debug)]
pub struct Target {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it reads.
    pub about: &'static str,
    pub(super) samples: fn() -> Result<Vec<Vec<u8>>, Failure>,
    pub(super) repair: Repair,
    pub(super) decoder: fn() -> Result<Decode, Failure>,
}

/// All of them.
pub const fn targets() -> [Target; 9] {
    const fn leave(_: &mut Rng, _: &mut [u8]) {}
    [
        Target {
            name: "frame",
            about: "transport frames, in pieces",
            samples: samples::frames,
            repair: leave,
            decoder: || Ok(Box::new(frame)),
        },
        Target {
            name: "handshake",
            about: "handshake messages of both sides",
            samples: samples::handshakes,
            repair: leave,
            decoder: handshake,
        },
        Target {
            name: "swim",
            about: "SWIM datagrams, to a detector",
            samples: samples::datagrams,
            repair: |rng, input| {
                if rng.below(2) == 0 {
                    samples::reseal_datagram(input);
                }
            },
            decoder: swim,
        },
        Target {
            name: "raft",
            about: "Raft messages, entries and memberships",
            samples: samples::raft,
            repair: leave,
            decoder: || {
                Ok(Box::new(|input| {
                    let (kind, bytes) = input.split_first().unwrap_or((&0, &[]));
                    rivven_raft_store::fuzzing::decodes(*kind, bytes)
                }))
            },
        },
        Target {
            name: "command",
            about: "metadata commands, applied to a state machine",
            samples: samples::commands,
            repair: leave,
            decoder: command,
        },
        Target {
            name: "snapshot",
            about: "images of the metadata, restored",
            samples: samples::images,
            repair: leave,
            decoder: || {
                let machine = MetadataStateMachine::new(Arc::new(|_| ()));
                Ok(Box::new(move |mut input| {
                    let restored = machine.restore(&mut input);
                    restored.is_ok_and(|state| state.hash() == state.hash())
                }))
            },
        },
        Target {
            name: "batch",
            about: "record batches and their records",
            samples: samples::batches,
            repair: put_checksum_right,
            decoder: || Ok(Box::new(batch)),
        },
        Target {
            name: "kafka",
            about: "Kafka requests of all kinds and versions",
            samples: samples::requests,
            repair: leave,
            decoder: || {
                Ok(Box::new(|input| {
                    rivven_kafka::fuzzing::decodes(Bytes::copy_from_slice(input))
                }))
            },
        },
        Target {
            name: "config",
            about: "configuration files",
            samples: samples::configs,
            repair: leave,
            decoder: || {
                Ok(Box::new(|input| {
                    let text = std::str::from_utf8(input).unwrap_or_default();
                    rivven_node::config::parse(text, Path::new("fuzz.yaml")).is_ok()
                }))
            },
        },
    ]
}

/// Frames come in pieces: what is decoded must not depend on where they are cut.
fn frame(input: &[u8]) -> bool {
    let mut whole = BytesMut::from(input);
    let mut decoder = FrameDecoder::new(1, MAX_PAYLOAD, None);
    let at_once = decoder.decode(&mut whole);
    let (first, rest) = input.split_at(input.len() / 2);
    let mut buffer = BytesMut::from(first);
    let mut decoder = FrameDecoder::new(1, MAX_PAYLOAD, None);
    let mut in_pieces = decoder.decode(&mut buffer);
    if matches!(in_pieces, Ok(None)) {
        buffer.extend_from_slice(rest);
        in_pieces = decoder.decode(&mut buffer);
    }
    assert_eq!(at_once, in_pieces, "a frame depends on how it is cut");
    matches!(at_once, Ok(Some(_)))
}

fn handshake() -> Result<Decode, Failure> {
    let entropy = SeededEntropy::new(1);
    let (a, b) = (samples::identity("a")?, samples::identity("b")?);
    let valid = samples::handshakes()?;
    let part = |at: usize| valid.get(at).and_then(|sample| sample.get(1..));
    let (hello, challenge) = part(0)
        .zip(part(1))
        .ok_or_else(|| Failure::new("no samples"))?;
    let (hello, challenge) = (hello.to_vec(), challenge.to_vec());
    Ok(Box::new(move |input| {
        let (stage, bytes) = input.split_first().unwrap_or((&0, &[]));
        let stage = stage % 5;
        if matches!(stage, 0 | 1 | 4) {
            let proven = (stage == 4).then(|| ProvenPeer {
                name: a.name.clone(),
                cluster: a.cluster,
            });
            let mut responder = Responder::new(b.clone(), Security::InsecureDev, proven);
            if stage == 1 {
                drop(responder.receive(&hello, &entropy));
            }
            return responder.receive(bytes, &entropy).is_ok();
        }
        let (name, security) = (a.clone(), Security::InsecureDev);
        let started = Initiator::start(name, security, None, None, Lane::Rpc, &entropy);
        let Ok((mut initiator, _)) = started else {
            return false;
        };
        if stage == 3 {
            drop(initiator.receive(&challenge));
        }
        initiator.receive(bytes).is_ok()
    }))
}

fn swim() -> Result<Decode, Failure> {
    let mut detector: Detector = samples::detector("b", 7_100, 7_100)?;
    let mut inputs = 0;
    let from = ([127, 0, 0, 1], 7_000).into();
    Ok(Box::new(move |payload| {
        inputs += 1;
        if inputs % LIFE == 0
            && let Ok(fresh) = samples::detector("b", 7_100, inputs)
        {
            detector = fresh;
        }
        let mut out = Vec::new();
        let now = MonoTime::default();
        detector.handle(now, Input::Datagram { from, payload }, &mut out);
        // Whatever is dropped for another reason has been read.
        let unread = |output: &Output| {
            let Output::Event(Event::Dropped { reason }) = output else {
                return false;
            };
            [
                DropReason::Malformed,
                DropReason::ForeignCluster,
                DropReason::Unauthenticated,
                DropReason::NotForThisNode,
            ]
            .contains(reason)
        };
        !out.iter().any(unread)
    }))
}

fn command() -> Result<Decode, Failure> {
    let fresh = samples::metadata()?;
    let mut machine = fresh.clone();
    let mut index = 100;
    Ok(Box::new(move |input| {
        index += 1;
        if index % LIFE == 0 {
            machine = fresh.clone();
        }
        let applied = machine.apply(&[CommittedEntry {
            index: LogIndex::new(index),
            term: Term::new(1),
            command: Bytes::copy_from_slice(input),
        }]);
        let understood = Command::decode(input).is_ok();
        match applied {
            Ok(results) => assert!(
                understood && results.len() == 1 && results.iter().all(|r| !r.is_empty()),
                "a command without a result"
            ),
            Err(stop) => assert!(!understood, "stopped at a command it understands: {stop}"),
        }
        understood
    }))
}

/// Where the checksum of a batch is and what it covers (message format 2).
const CRC_AT: usize = 17;
const CRC_FROM: usize = 21;

fn put_checksum_right(rng: &mut Rng, input: &mut [u8]) {
    if rng.below(2) == 0 {
        return;
    }
    let sum = crc32c::crc32c(input.get(CRC_FROM..).unwrap_or_default());
    if let Some(place) = input.get_mut(CRC_AT..CRC_FROM) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

fn batch(input: &[u8]) -> bool {
    let Ok(batches) = split_batches(Bytes::copy_from_slice(input)) else {
        return false;
    };
    for batch in &batches {
        let valid = batch.verify_records().is_ok();
        let read = batch.records().filter_map(Result::ok).count();
        let count = usize::try_from(batch.record_count()).unwrap_or(usize::MAX);
        assert!(!valid || read == count, "a valid batch with other records");
    }
    true
}

/// The first of all targets with this name.
pub(super) fn find(name: &str) -> Result<Target, Failure> {
    let found = targets().into_iter().find(|target| target.name == name);
    let names = || targets().map(|target| target.name).join(", ");
    found
        .ok_or_else(|| format!("there are {}", names()))
        .doing(|| format!("no target {name:?}"))
}
