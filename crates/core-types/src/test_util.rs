//! Test doubles of the ports: an in-memory disk that can lose power, a clock moved by hand, seeded
//! entropy. The simulator builds on them. And the figures of the benches, the hunt for planted bugs.

mod figure;
pub mod golden;
#[cfg(feature = "planted")]
pub mod hunt;
mod mem_vfs;

pub use figure::{Figure, Target};
pub use mem_vfs::{DiskFault, MemVfs};

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::{Clock, MonoTime, UnixMillis};
use crate::entropy::{Entropy, Rng};

/// A clock that moves only when it is told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    nanos: AtomicU64,
    wall_offset: AtomicI64,
}

impl ManualClock {
    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.nanos.fetch_add(
            u64::try_from(by.as_nanos()).unwrap_or(u64::MAX),
            Ordering::SeqCst,
        );
    }

    /// Steps the wall clock alone, as a time server would.
    pub fn step_wall(&self, millis: i64) {
        self.wall_offset.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> MonoTime {
        MonoTime::from_origin(Duration::from_nanos(self.nanos.load(Ordering::SeqCst)))
    }

    fn wall(&self) -> UnixMillis {
        let millis = self.nanos.load(Ordering::SeqCst) / 1_000_000;
        let millis = i64::try_from(millis).unwrap_or(i64::MAX);
        UnixMillis(millis + self.wall_offset.load(Ordering::SeqCst))
    }
}

/// Entropy from a seed.
#[derive(Debug)]
pub struct SeededEntropy(Mutex<Rng>);

impl SeededEntropy {
    /// Equal seeds give equal sequences.
    pub fn new(seed: u64) -> Self {
        Self(Mutex::new(Rng::new(seed)))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, buffer: &mut [u8]) {
        let mut rng = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for chunk in buffer.chunks_mut(8) {
            let bytes = rng.next_u64().to_le_bytes();
            chunk
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = from);
        }
    }
}
