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
#[cfg(feature = "compare")]
use crate::etcd::Connections;
use crate::node::READ;

/// Bytes of a command, key and value together.
const COMMAND_BYTES: usize = 256;
/// Different keys, so that the state stays small.
const KEYS: u64 = 10_000;
const DEADLINE: Duration = Duration::from_secs(10);

fn key(number: u64) -> [u8; 8] {
    (number % KEYS).to_le_bytes()
}

fn value(number: u64) -> Vec<u8> {
    let mut value = vec![b'v'; COMMAND_BYTES - key(number).len()];
    for (place, byte) in value.iter_mut().zip(number.to_le_bytes()) {
        *place = byte;
    }
    value
}

/// The command with this number.
pub(crate) fn command(number: u64) -> Result<Bytes, Failure> {
    let command = KvCommand::put(key(number).to_vec(), value(number)).encode();
    command.map_err(|e| Failure::new(e.to_string()))
}

/// What a client asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    /// A command, durable on a majority when it is answered.
    Write,
    /// A linearizable read of one key.
    Read,
}

/// Whom a client asks.
#[derive(Clone)]
pub(crate) enum Target {
    Node(Transport, NodeName),
    #[cfg(feature = "compare")]
    Etcd(Connections),
}

impl Target {
    #[cfg_attr(
        not(feature = "compare"),
        allow(
            unused_variables,
            reason = "one connection to a node serves all clients"
        )
    )]
    async fn ask(&self, client: usize, number: u64, operation: Operation) -> Result<(), Failure> {
        match self {
            Self::Node(transport, name) => {
                let (kind, body) = match operation {
                    Operation::Write => (RpcKind::PROPOSE, command(number)?),
                    Operation::Read => (READ, Bytes::copy_from_slice(&key(number))),
                };
                let answer = transport.call(name, request(kind, body, DEADLINE)).await;
                answer.map(drop).map_err(|e| Failure::new(e.to_string()))
            }
            #[cfg(feature = "compare")]
            Self::Etcd(connections) => match operation {
                Operation::Write => connections.put(client, &key(number), &value(number)).await,
                Operation::Read => connections.get(client, &key(number)).await,
            },
        }
    }
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
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) targets: Vec<Target>,
    pub(crate) operation: Operation,
    pub(crate) clients: usize,
    pub(crate) time: Duration,
    /// At most so many requests in all, however long it takes.
    pub(crate) requests: u64,
    /// A fixed rate instead of as fast as can be, per client.
    pub(crate) pace: Option<Duration>,
    /// Ends it earlier.
    pub(crate) stop: Arc<AtomicBool>,
}

impl Load {
    pub(crate) async fn run(&self) -> Result<Seen, Failure> {
        let issued = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..self.clients {
            let this = self.clone();
            let issued = Arc::clone(&issued);
            clients.spawn(async move { this.client(client, started, &issued).await });
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
        client: usize,
        started: Instant,
        issued: &AtomicU64,
    ) -> Result<(Vec<u64>, u64), Failure> {
        let Some(target) = self.targets.get(client % self.targets.len().max(1)) else {
            return Err(Failure::new("no target"));
        };
        let (mut micros, mut errors) = (Vec::new(), 0);
        while started.elapsed() < self.time && !self.stop.load(Ordering::Relaxed) {
            let number = issued.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                break;
            }
            let sent = Instant::now();
            match target.ask(client, number, self.operation).await {
                Ok(()) => {
                    micros.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX))
                }
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
