//! The built-in state machine: a small key-value map, so that a node is useful by itself.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rivven_core_types::wire::{self, WireError};
use rivven_core_types::{
    Admission, ApplyStop, CommittedEntry, FrozenState, RestoreError, StateMachine,
};
use serde::{Deserialize, Serialize};

/// Version byte of commands, results and images.
const VERSION: u8 = 1;
/// Longest key, in bytes.
pub const MAX_KV_KEY_BYTES: usize = 1024;
/// Longest value, in bytes.
pub const MAX_KV_VALUE_BYTES: usize = 1024 * 1024;
/// Most keys and values together, in bytes.
pub const MAX_KV_TOTAL_BYTES: usize = 256 * 1024 * 1024;
/// Longest encoded command or result, in bytes.
const MAX_MESSAGE_BYTES: usize = MAX_KV_KEY_BYTES + MAX_KV_VALUE_BYTES + 64;

/// A command to the built-in state machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvCommand {
    /// Sets a key.
    Put {
        /// The key.
        key: Bytes,
        /// The new value.
        value: Bytes,
    },
    /// Reads a key through the log.
    Get {
        /// The key.
        key: Bytes,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
    },
}

/// The answer to a [`KvCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum KvResult {
    /// The value before the command (put, delete) or at it (get).
    Value(Option<Bytes>),
    /// A bound was reached; the state is unchanged.
    TooLarge,
}

impl KvCommand {
    /// Sets `key` to `value`.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put {
            key: key.into(),
            value: value.into(),
        }
    }

    /// Reads `key` through the log.
    pub fn get(key: impl Into<Bytes>) -> Self {
        Self::Get { key: key.into() }
    }

    /// Removes `key`.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The command as Raft carries it.
    ///
    /// # Errors
    /// [`WireError::TooLong`] when key and value exceed the bounds.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        wire::encode(VERSION, self, MAX_MESSAGE_BYTES)
    }
}

impl KvResult {
    /// Decodes what a proposal answered.
    ///
    /// # Errors
    /// [`WireError`] when the bytes are not a result of the built-in state machine.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(VERSION, bytes, MAX_MESSAGE_BYTES)
    }

    fn encode(&self) -> Bytes {
        // Values are bounded on their way in; an empty answer decodes as an error.
        wire::encode(VERSION, self, MAX_MESSAGE_BYTES).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Default)]
struct Map {
    entries: Arc<BTreeMap<Bytes, Bytes>>,
    total_bytes: usize,
    hash: u64,
}

/// Eight bytes at a time: each entry is hashed on every node, twice when it replaces another.
fn entry_hash(key: &[u8], value: &[u8]) -> u64 {
    const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |hash: u64, word: u64| {
        let product = (hash ^ word).wrapping_mul(MULTIPLIER);
        product ^ (product >> 32)
    };
    let absorb = |mut hash: u64, bytes: &[u8]| {
        // The length first: zeros that fill up the last word are no bytes of their own.
        hash = mix(hash, bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            hash = mix(hash, u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (place, byte) in last.iter_mut().zip(rest) {
            *place = *byte;
        }
        mix(hash, u64::from_le_bytes(last))
    };
    // The sum over entries needs the last bytes spread.
    mix(absorb(absorb(MULTIPLIER, key), value), 0)
}

impl Map {
    /// Clones the tree once after each freeze, and not otherwise.
    fn replace(&mut self, key: Bytes, value: Option<Bytes>) -> Option<Bytes> {
        let entries = Arc::make_mut(&mut self.entries);
        let old = match &value {
            Some(value) => entries.insert(key.clone(), value.clone()),
            None => entries.remove(&key),
        };
        if let Some(old) = &old {
            self.total_bytes -= key.len() + old.len();
            self.hash = self.hash.wrapping_sub(entry_hash(&key, old));
        }
        if let Some(value) = &value {
            self.total_bytes += key.len() + value.len();
            self.hash = self.hash.wrapping_add(entry_hash(&key, value));
        }
        old
    }

    fn run(&mut self, command: KvCommand) -> KvResult {
        match command {
            KvCommand::Get { key } => KvResult::Value(self.entries.get(&key).cloned()),
            KvCommand::Delete { key } => KvResult::Value(self.replace(key, None)),
            KvCommand::Put { key, value } => {
                let total = self.total_bytes + key.len() + value.len();
                if key.len() > MAX_KV_KEY_BYTES
                    || value.len() > MAX_KV_VALUE_BYTES
                    || total > MAX_KV_TOTAL_BYTES
                {
                    return KvResult::TooLarge;
                }
                KvResult::Value(self.replace(key, Some(value)))
            }
        }
    }
}

/// Reads the state of a [`KvStateMachine`] that Raft owns. Clones read the same state.
#[derive(Debug, Clone, Default)]
pub struct KvReader(Arc<Mutex<Map>>);

impl KvReader {
    fn lock(&self) -> MutexGuard<'_, Map> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local value of `key`, which may be stale; a linearizable read waits for
    /// [`crate::RaftHandle::read_barrier`] first.
    pub fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.lock().entries.get(key).cloned()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The built-in replicated key-value map, bounded by [`MAX_KV_TOTAL_BYTES`].
#[derive(Debug, Default)]
pub struct KvStateMachine {
    live: KvReader,
    restored: Option<Map>,
}

impl KvStateMachine {
    /// An empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader of this map, valid across snapshots and restarts of the Raft core.
    pub fn reader(&self) -> KvReader {
        self.live.clone()
    }
}

impl StateMachine for KvStateMachine {
    fn apply(&mut self, batch: &[CommittedEntry]) -> Result<Vec<Bytes>, ApplyStop> {
        let mut map = self.live.lock();
        let run = |entry: &CommittedEntry| {
            let stop = |reason: String| ApplyStop {
                index: entry.index,
                reason,
            };
            let command = decode_command(&entry.command).map_err(stop)?;
            Ok(map.run(command).encode())
        };
        batch.iter().map(run).collect()
    }

    fn admission(&self) -> Admission {
        |command| decode_command(command).map(drop)
    }

    fn freeze(&self) -> Arc<dyn FrozenState> {
        Arc::new(FrozenMap(Arc::clone(&self.live.lock().entries)))
    }

    fn restore(&self, image: &mut dyn Read) -> Result<Box<dyn StateMachine>, RestoreError> {
        let mut map = Map::default();
        let mut count = [0u8; 8];
        image.read_exact(&mut count)?;
        for _ in 0..u64::from_le_bytes(count) {
            let key = read_bytes(image, MAX_KV_KEY_BYTES)?;
            let value = read_bytes(image, MAX_KV_VALUE_BYTES)?;
            if map.replace(key, Some(value)).is_some() {
                return Err(RestoreError::Malformed("a key occurs twice".to_owned()));
            }
        }
        Ok(Box::new(Self {
            live: self.live.clone(),
            restored: Some(map),
        }))
    }

    fn installed(&mut self) {
        if let Some(map) = self.restored.take() {
            *self.live.lock() = map;
        }
    }

    fn hash(&self) -> u64 {
        self.restored
            .as_ref()
            .map_or_else(|| self.live.lock().hash, |map| map.hash)
    }
}

fn decode_command(bytes: &[u8]) -> Result<KvCommand, String> {
    wire::decode(VERSION, bytes, MAX_MESSAGE_BYTES).map_err(|e| e.to_string())
}

fn read_bytes(image: &mut dyn Read, max: usize) -> Result<Bytes, RestoreError> {
    let mut length = [0u8; 4];
    image.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
    if length > max {
        let text = format!("a key or value of {length} bytes; at most {max} are allowed");
        return Err(RestoreError::Malformed(text));
    }
    let mut bytes = vec![0; length];
    image.read_exact(&mut bytes)?;
    Ok(Bytes::from(bytes))
}

struct FrozenMap(Arc<BTreeMap<Bytes, Bytes>>);

impl FrozenState for FrozenMap {
    fn write_to(&self, sink: &mut dyn Write) -> io::Result<()> {
        sink.write_all(&(self.0.len() as u64).to_le_bytes())?;
        for bytes in self.0.iter().flat_map(|(key, value)| [key, value]) {
            let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            sink.write_all(&length.to_le_bytes())?;
            sink.write_all(bytes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_core_types::{LogIndex, Term};

    fn apply(machine: &mut KvStateMachine, command: &KvCommand) -> KvResult {
        let entry = CommittedEntry {
            index: LogIndex::new(1),
            term: Term::new(1),
            command: command.encode().unwrap(),
        };
        KvResult::decode(&machine.apply(&[entry]).unwrap()[0]).unwrap()
    }

    #[test]
    fn an_image_restores_the_same_state_and_hash() {
        let mut machine = KvStateMachine::new();
        for i in 0..100u32 {
            apply(
                &mut machine,
                &KvCommand::put(i.to_le_bytes().to_vec(), vec![7; 3]),
            );
        }
        apply(
            &mut machine,
            &KvCommand::delete(3u32.to_le_bytes().to_vec()),
        );
        let mut image = Vec::new();
        machine.freeze().write_to(&mut image).unwrap();
        let other = KvStateMachine::new();
        let mut restored = other.restore(&mut image.as_slice()).unwrap();
        restored.installed();
        assert_eq!(restored.hash(), machine.hash());
        assert_eq!(other.reader().len(), 99);
        assert!(other.restore(&mut &image[..image.len() - 1]).is_err());
    }

    #[test]
    fn a_command_beyond_the_limits_is_refused_and_one_not_understood_stops() {
        let mut machine = KvStateMachine::new();
        let before = machine.hash();
        let long = KvCommand::put(vec![0; MAX_KV_KEY_BYTES + 1], "v");
        assert_eq!(apply(&mut machine, &long), KvResult::TooLarge);
        let later = CommittedEntry {
            index: LogIndex::new(7),
            term: Term::new(1),
            command: Bytes::from_static(b"\xff\xff"),
        };
        assert!((machine.admission())(&later.command).is_err());
        assert_eq!(machine.apply(&[later]).unwrap_err().index, LogIndex::new(7));
        assert_eq!(machine.hash(), before);
    }
}
