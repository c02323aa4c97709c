//! What the kernel of a plain machine cannot do to a connection: delay it, stall it, break it; and
//! delay, lose, double and reorder datagrams. A process of its own in front of a node's cluster port,
//! steered by lines on its standard input; it ends with that.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rivven_core_types::Rng;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure::{Doing, Failure};

/// Bytes that are taken from a connection at a time.
const CHUNK_BYTES: usize = 16 << 10;
/// Chunks that a slow connection holds.
const MAX_CHUNKS: usize = 256;
/// Datagrams that wait at once.
const MAX_DATAGRAMS: usize = 4_096;
/// Peers whose datagrams are told apart.
const MAX_PEERS: usize = 256;
const MAX_DATAGRAM_BYTES: usize = 65_536;

/// What is done to what passes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mischief {
    /// Everything is late by this and up to as much again, in ms.
    pub(super) delay_ms: u64,
    /// Nothing passes.
    pub(super) stalls: bool,
    /// Of a hundred datagrams so many are lost.
    pub(super) loss_percent: u64,
    /// So many come twice.
    pub(super) twice_percent: u64,
    /// So many come late, behind others.
    pub(super) late_percent: u64,
    /// Raised to break all connections.
    pub(super) resets: u64,
}

impl Mischief {
    fn encode(self) -> String {
        format!(
            "{} {} {} {} {} {}\n",
            self.delay_ms,
            u8::from(self.stalls),
            self.loss_percent,
            self.twice_percent,
            self.late_percent,
            self.resets
        )
    }

    fn decode(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().map(|word| word.parse::<u64>().ok());
        let mut word = || words.next().flatten();
        Some(Self {
            delay_ms: word()?,
            stalls: word()? != 0,
            loss_percent: word()?,
            twice_percent: word()?,
            late_percent: word()?,
            resets: word()?,
        })
    }
}

/// A proxy in a process of its own; ends when dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    child: Child,
    stdin: ChildStdin,
    resets: u64,
}

impl Proxy {
    /// Starts this program again as a proxy from `listen` to `target`, behind `prefix`.
    pub(super) fn start(
        program: &Path,
        prefix: &[std::ffi::OsString],
        listen: SocketAddr,
        target: SocketAddr,
        seed: u64,
    ) -> Result<Self, Failure> {
        let mut command = match prefix.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("--proxy").arg(listen.to_string());
        command.arg(target.to_string()).arg(seed.to_string());
        let what = || format!("the proxy at {listen}");
        let mut child = command.stdin(Stdio::piped()).spawn().doing(what)?;
        let stdin = child.stdin.take();
        let stdin = stdin.ok_or_else(|| Failure::new("a proxy without standard input"))?;
        Ok(Self {
            child,
            stdin,
            resets: 0,
        })
    }

    /// From now on it does this.
    pub(super) fn set(&mut self, mischief: Mischief) -> Result<(), Failure> {
        let line = Mischief {
            resets: self.resets,
            ..mischief
        };
        let told = self.stdin.write_all(line.encode().as_bytes());
        told.doing(|| "steering a proxy".to_owned())
    }

    /// Breaks all connections that pass through it.
    pub(super) fn reset(&mut self) -> Result<(), Failure> {
        self.resets += 1;
        self.set(Mischief::default())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Runs as a proxy until the standard input ends.
pub async fn run_proxy(listen: SocketAddr, target: SocketAddr, seed: u64) -> Result<(), Failure> {
    let what = || format!("the proxy at {listen}");
    let tcp = TcpListener::bind(listen).await.doing(what)?;
    let udp = UdpSocket::bind(listen).await.doing(what)?;
    let (sender, mischief) = watch::channel(Mischief::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(accept(tcp, target, mischief.clone()));
    let rng = Arc::new(Mutex::new(Rng::new(seed)));
    tasks.spawn(datagrams(Arc::new(udp), target, mischief, rng));
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let told = Mischief::decode(&line);
        let told = told.ok_or_else(|| Failure::new(format!("not a command: {line:?}")))?;
        sender.send_replace(told);
    }
    Ok(())
}

async fn accept(listener: TcpListener, target: SocketAddr, mischief: watch::Receiver<Mischief>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((near, _)) = listener.accept().await else {
            continue;
        };
        let mischief = mischief.clone();
        connections.spawn(async move {
            // While nothing passes, nobody answers either.
            let mut passes = mischief.clone();
            if passes.wait_for(|now| !now.stalls).await.is_err() {
                return;
            }
            let Ok(far) = TcpStream::connect(target).await else {
                return;
            };
            drop((near.set_nodelay(true), far.set_nodelay(true)));
            let (near, far) = (near.into_split(), far.into_split());
            let began = mischief.borrow().resets;
            let mut broken = mischief.clone();
            tokio::select! {
                _ = async { tokio::join!(pump(near.0, far.1, &mischief), pump(far.0, near.1, &mischief)) } => {}
                _ = broken.wait_for(|now| now.resets != began) => {}
            }
        });
    }
}

/// Copies one direction, each chunk when its time has come.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mischief: &watch::Receiver<Mischief>,
) {
    let (sender, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_CHUNKS);
    let read = async move {
        loop {
            let mut chunk = vec![0; CHUNK_BYTES];
            match from.read(&mut chunk).await {
                Ok(length) if length > 0 => chunk.truncate(length),
                _ => return,
            }
            let due = Instant::now() + Duration::from_millis(mischief.borrow().delay_ms);
            if sender.send((due, chunk)).await.is_err() {
                return;
            }
        }
    };
    let mut passes = mischief.clone();
    let write = async move {
        while let Some((due, chunk)) = chunks.recv().await {
            // sleep-ok: the delay is what the proxy is for.
            tokio::time::sleep_until(due).await;
            if passes.wait_for(|now| !now.stalls).await.is_err() {
                return;
            }
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        drop(to.shutdown().await);
    };
    tokio::join!(read, write);
}

/// Passes datagrams on, through a socket per peer so that answers find their way back.
async fn datagrams(
    near: Arc<UdpSocket>,
    target: SocketAddr,
    mischief: watch::Receiver<Mischief>,
    rng: Arc<Mutex<Rng>>,
) {
    let mut peers: BTreeMap<SocketAddr, Arc<UdpSocket>> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut waiting = JoinSet::new();
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        while waiting.try_join_next().is_some() {}
        let Ok((length, from)) = near.recv_from(&mut buffer).await else {
            continue;
        };
        let payload = buffer.get(..length).unwrap_or_default().to_vec();
        if !peers.contains_key(&from) {
            if peers.len() >= MAX_PEERS {
                // A restarted process comes from new ports: forget them all, they come back.
                peers.clear();
                tasks.abort_all();
            }
            let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
            let Ok(far) = UdpSocket::bind(unspecified).await else {
                continue;
            };
            let far = Arc::new(far);
            peers.insert(from, Arc::clone(&far));
            let (near, rng, mischief) = (Arc::clone(&near), Arc::clone(&rng), mischief.clone());
            tasks.spawn(async move {
                let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
                let mut waiting = JoinSet::new();
                loop {
                    while waiting.try_join_next().is_some() {}
                    // A port that nobody listens on is an error of the next call only.
                    let Ok((length, _)) = far.recv_from(&mut buffer).await else {
                        continue;
                    };
                    let payload = buffer.get(..length).unwrap_or_default().to_vec();
                    let now = *mischief.borrow();
                    pass(&mut waiting, &near, from, &payload, &now, &rng);
                }
            });
        }
        if let Some(far) = peers.get(&from) {
            let now = *mischief.borrow();
            pass(&mut waiting, far, target, &payload, &now, &rng);
        }
    }
}

fn pass(
    waiting: &mut JoinSet<()>,
    through: &Arc<UdpSocket>,
    to: SocketAddr,
    payload: &[u8],
    mischief: &Mischief,
    rng: &Mutex<Rng>,
) {
    let mut rng = rng.lock().unwrap_or_else(PoisonError::into_inner);
    let mut happens = |percent: u64| rng.below(100) < percent;
    if mischief.stalls || happens(mischief.loss_percent) || waiting.len() >= MAX_DATAGRAMS {
        return;
    }
    let copies = 1 + u64::from(happens(mischief.twice_percent));
    let is_late = happens(mischief.late_percent);
    for copy in 0..copies {
        let jitter = rng.below(mischief.delay_ms + 1);
        let late = u64::from(is_late) * (5 + rng.below(60)) + copy * rng.below(200);
        let delay = Duration::from_millis(mischief.delay_ms + jitter + late);
        let (through, payload) = (Arc::clone(through), payload.to_vec());
        waiting.spawn(async move {
            // sleep-ok: the delay is what the proxy is for.
            tokio::time::sleep(delay).await;
            drop(through.send_to(&payload, to).await);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_they_were_written() {
        let all = Mischief {
            delay_ms: 40,
            stalls: true,
            loss_percent: 1,
            twice_percent: 2,
            late_percent: 3,
            resets: 4,
        };
        for mischief in [all, Mischief::default()] {
            assert_eq!(Mischief::decode(&mischief.encode()), Some(mischief));
        }
        assert_eq!(Mischief::decode("1 2"), None);
        assert_eq!(Mischief::decode("1 2 x 4 5 6"), None);
    }
}
