//! Closed-loop clients: each sends its next request when the last one is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rivven_core_types::{NodeName, PeerRpc, RpcKind};
use rivven_raft_store::KvCommand;
use rivven_tests::Failure;
use rivven_transport::Transport;

use crate::cluster::request;

/// Bytes of a command, key and value together.
const COMMAND_BYTES: usize = 256;
/// Different keys, so that the state stays small.
const KEYS: u64 = 10_000;
const DEADLINE: Duration = Duration::from_secs(10);

/// The command with this number.
pub(crate) fn command(number: u64) -> Result<Bytes, Failure> {
    let key = (number % KEYS).to_le_bytes().to_vec();
    let mut value = vec![b'v'; COMMAND_BYTES - key.len()];
    for (place, byte) in value.iter_mut().zip(number.to_le_bytes()) {
        *place = byte;
    }
    let command = KvCommand::put(key, value).encode();
    command.map_err(|e| Failure::new(e.to_string()))
}

pub(crate) fn key(number: u64) -> Bytes {
    Bytes::copy_from_slice(&(number % KEYS).to_le_bytes())
}

/// What the clients of one run have seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Latencies in microseconds, sorted.
    micros: Vec<u64>,
    pub(crate) errors: u64,
    wall: Duration,
}

impl Seen {
    pub(crate) fn per_second(&self) -> f64 {
        let count = u32::try_from(self.micros.len()).unwrap_or(u32::MAX);
        f64::from(count) / self.wall.as_secs_f64().max(1e-9)
    }

    /// A quantile in milliseconds, by its percent.
    pub(crate) fn millis(&self, percent: usize) -> f64 {
        let last = self.micros.len().saturating_sub(1);
        let at = self
            .micros
            .get((self.micros.len() * percent / 100).min(last));
        at.map_or(0.0, |micros| {
            f64::from(u32::try_from(*micros).unwrap_or(u32::MAX)) / 1000.0
        })
    }
}

/// What the clients do.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) transport: Transport2,
    pub(crate) targets: Vec<NodeName>,
    pub(crate) kind: RpcKind,
    pub(crate) clients: usize,
    pub(crate) time: Duration,
    /// At most so many requests in all, however long it takes.
    pub(crate) requests: u64,
    /// A fixed rate instead of as fast as can be, per client.
    pub(crate) pace: Option<Duration>,
    /// Ends it earlier.
    pub(crate) stop: Arc<AtomicBool>,
}

/// A transport that can be printed.
#[derive(Clone)]
pub(crate) struct Transport2(pub(crate) Transport);

impl std::fmt::Debug for Transport2 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transport")
    }
}

impl Load {
    pub(crate) async fn run(&self) -> Result<Seen, Failure> {
        let issued = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..self.clients {
            let this = self.clone();
            let issued = Arc::clone(&issued);
            clients.spawn(async move { this.client(number, started, &issued).await });
        }
        let mut seen = Seen::default();
        while let Some(ended) = clients.join_next().await {
            let (micros, errors) = ended.map_err(|e| Failure::new(e.to_string()))??;
            seen.micros.extend(micros);
            seen.errors += errors;
        }
        seen.wall = started.elapsed();
        seen.micros.sort_unstable();
        Ok(seen)
    }

    async fn client(
        &self,
        number: usize,
        started: Instant,
        issued: &AtomicU64,
    ) -> Result<(Vec<u64>, u64), Failure> {
        let Some(target) = self.targets.get(number % self.targets.len().max(1)) else {
            return Err(Failure::new("no target"));
        };
        let (mut micros, mut errors) = (Vec::new(), 0);
        while started.elapsed() < self.time && !self.stop.load(Ordering::Relaxed) {
            let number = issued.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                break;
            }
            let body = if self.kind == RpcKind::PROPOSE {
                command(number)?
            } else {
                key(number)
            };
            let sent = Instant::now();
            let answer = self
                .transport
                .0
                .call(target, request(self.kind, body, DEADLINE));
            match answer.await {
                Ok(_) => micros.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX)),
                Err(_) => errors += 1,
            }
            if let Some(pace) = self.pace {
                // sleep-ok: the load has a rate
                tokio::time::sleep_until((sent + pace).into()).await;
            }
        }
        Ok((micros, errors))
    }
}
