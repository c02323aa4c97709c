//! Runs a detector over a socket and a clock: one task, which owns both.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{Address, Clock, Datagram, MonoTime};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::config::SharedSecret;
use crate::contact::MAX_SEEDS;
use crate::detector::{Detector, Input};
use crate::envelope::MAX_SWIM_DATAGRAM_BYTES;
use crate::error::SwimError;
use crate::event::{Event, Output};
use crate::event_log::{EventLog, EventStream};
use crate::member::MembershipView;
use crate::membership::StreamProbe;
use crate::profile::Destination;
use crate::resolver::Resolver;
use crate::state_file::SavedState;
use crate::telemetry;

/// Pause after a failed receive, so that a broken socket does not spin.
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(5);
/// Most joins that wait at once.
const MAX_JOIN_WAITERS: usize = 64;
/// Datagrams taken from the socket in one go, before timers and outputs have their turn.
const MAX_BATCH: usize = 64;
/// Stream probes under way at once; a further one is not made.
const MAX_STREAM_PROBES: usize = 16;
/// Pause between two writes of the peers' addresses.
const SAVE_PAUSE: Duration = Duration::from_secs(10);

/// What the handle asks of the driver.
#[derive(Debug)]
pub(crate) enum Command {
    Join {
        seeds: Vec<Address>,
        contacted: oneshot::Sender<()>,
    },
    Leave {
        done: oneshot::Sender<()>,
    },
    SetMetadata(Bytes),
    Broadcast(Bytes),
    Install {
        secret: SharedSecret,
        done: oneshot::Sender<Result<u8, SwimError>>,
    },
    Use {
        key: u8,
        done: oneshot::Sender<Result<(), SwimError>>,
    },
    Remove {
        key: u8,
        done: oneshot::Sender<Result<(), SwimError>>,
    },
    Replace {
        secret: SharedSecret,
        done: oneshot::Sender<Result<(), SwimError>>,
    },
    Subscribe {
        done: oneshot::Sender<EventStream>,
    },
}

/// Where and when the peers' addresses were saved.
#[derive(Debug)]
pub(crate) struct Saving {
    pub(crate) path: PathBuf,
    pub(crate) boot_id: u64,
    pub(crate) saved: Vec<Address>,
    pub(crate) next: MonoTime,
}

/// The task's state.
pub(crate) struct Driver {
    pub(crate) detector: Detector,
    pub(crate) datagram: Arc<dyn Datagram>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) resolver: Resolver,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) shutdown: watch::Receiver<bool>,
    pub(crate) view: watch::Sender<Arc<MembershipView>>,
    pub(crate) join_waiters: Vec<oneshot::Sender<()>>,
    pub(crate) leave_waiters: Vec<oneshot::Sender<()>>,
    pub(crate) log: EventLog,
    /// Events since the log was last written.
    pub(crate) events: Vec<Event>,
    pub(crate) stream: Option<Arc<dyn StreamProbe>>,
    pub(crate) stream_timeout: Duration,
    /// Each brings the number of a probe that was answered.
    pub(crate) stream_probes: JoinSet<Option<u32>>,
    pub(crate) saving: Option<Saving>,
}

impl Driver {
    /// Runs until shutdown, until this node has left, or until no handle is left.
    pub(crate) async fn run(mut self) {
        // One byte more than allowed: an overlong datagram shows as such instead of being cut.
        let mut buffer = [0u8; MAX_SWIM_DATAGRAM_BYTES + 1];
        let mut out = Vec::new();
        let mut left = false;
        while !left {
            // Before each wait, so that no flood of datagrams holds up the protocol's clock.
            let now = self.clock.now();
            if self.detector.poll_timeout() <= now {
                self.detector.handle(now, Input::Timeout, &mut out);
            }
            left = self.perform(&mut out).await;
            self.publish();
            self.save_peers(now);
            if left {
                break;
            }
            let wait = self.detector.poll_timeout().since(self.clock.now());
            // In this order, so that a run of the simulator repeats itself; the protocol's time is
            // served at the head of each round.
            tokio::select! {
                biased;
                () = stopped(&mut self.shutdown) => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.command(command, &mut out),
                    None => break,
                },
                resolved = self.resolver.next() => {
                    self.resolver.store(self.clock.now(), resolved);
                }
                Some(answered) = self.stream_probes.join_next(), if !self.stream_probes.is_empty() => {
                    if let Ok(Some(seq)) = answered {
                        let now = self.clock.now();
                        self.detector.handle(now, Input::StreamAnswer { seq }, &mut out);
                    }
                }
                received = self.datagram.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => {
                        self.datagram_in(from, buffer.get(..length), &mut out);
                        self.drain_socket(&mut buffer, &mut out).await;
                    }
                    Err(error) => {
                        telemetry::record_receive_error();
                        tracing::debug!(%error, "cannot receive");
                        tokio::time::sleep(RECEIVE_ERROR_PAUSE).await;
                    }
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
        for waiter in self.leave_waiters.drain(..).filter(|_| left) {
            // Whoever asked may have gone.
            let _gone = waiter.send(());
        }
    }

    fn datagram_in(
        &mut self,
        from: std::net::SocketAddr,
        payload: Option<&[u8]>,
        out: &mut Vec<Output>,
    ) {
        let payload = payload.unwrap_or_default();
        let input = Input::Datagram { from, payload };
        self.detector.handle(self.clock.now(), input, out);
    }

    /// Takes what else has come in, up to a bound: a wake of the task for each would cost more than
    /// the datagram.
    async fn drain_socket(&mut self, buffer: &mut [u8], out: &mut Vec<Output>) {
        for _ in 1..MAX_BATCH {
            let received = tokio::select! {
                biased;
                received = self.datagram.recv_from(buffer) => received,
                () = std::future::ready(()) => return,
            };
            let Ok((length, from)) = received else {
                return;
            };
            self.datagram_in(from, buffer.get(..length), out);
        }
    }

    fn command(&mut self, command: Command, out: &mut Vec<Output>) {
        let now = self.clock.now();
        match command {
            Command::Join { seeds, contacted } => {
                self.join_waiters.retain(|waiter| !waiter.is_closed());
                self.join_waiters.truncate(MAX_JOIN_WAITERS - 1);
                self.join_waiters.push(contacted);
                // Names that are known by the time they are needed save the first retry.
                for seed in &seeds {
                    if matches!(Destination::from(seed), Destination::Name(_)) {
                        drop(self.resolver.addresses(now, seed));
                    }
                }
                self.detector.handle(now, Input::Join(seeds), out);
            }
            Command::Leave { done } => {
                self.leave_waiters.push(done);
                self.detector.handle(now, Input::Leave, out);
            }
            Command::SetMetadata(metadata) => {
                self.detector.handle(now, Input::SetMetadata(metadata), out);
            }
            Command::Broadcast(payload) => {
                self.detector.handle(now, Input::Broadcast(payload), out);
            }
            // Whoever asked may have gone; what was asked is done all the same.
            Command::Install { secret, done } => {
                let _gone = done.send(self.detector.install_secret(now, &secret, out));
            }
            Command::Use { key, done } => {
                let _gone = done.send(self.detector.use_key(now, key, out));
            }
            Command::Remove { key, done } => {
                let _gone = done.send(self.detector.remove_key(now, key, out));
            }
            Command::Replace { secret, done } => {
                let _gone = done.send(self.detector.replace_secrets(now, &secret, out));
            }
            Command::Subscribe { done } => {
                let _gone = done.send(self.log.reader());
            }
        }
    }

    /// Sends and records; whether this node has now left.
    async fn perform(&mut self, out: &mut Vec<Output>) -> bool {
        let mut left = false;
        for output in out.drain(..) {
            match output {
                Output::Send { to, payload } => match to {
                    Destination::Socket(address) => {
                        send(self.datagram.as_ref(), &payload, address).await;
                    }
                    Destination::Name(name) => {
                        let now = self.clock.now();
                        for address in self.resolver.addresses(now, &name) {
                            send(self.datagram.as_ref(), &payload, address).await;
                        }
                    }
                },
                Output::StreamProbe {
                    seq,
                    member,
                    boot_id,
                    to,
                } => {
                    let Some(stream) = &self.stream else {
                        continue;
                    };
                    if self.stream_probes.len() < MAX_STREAM_PROBES {
                        let answer = stream.probe(member, boot_id, to);
                        let answer = tokio::time::timeout(self.stream_timeout, answer);
                        self.stream_probes
                            .spawn(async move { (answer.await == Ok(true)).then_some(seq) });
                    }
                }
                Output::Event(event) => {
                    telemetry::record(&event);
                    left |= matches!(event, Event::LeaveFinished { .. });
                    if event == Event::Contacted {
                        for waiter in self.join_waiters.drain(..) {
                            let _gone = waiter.send(());
                        }
                    }
                    if !matches!(event, Event::ProbeFinished { .. } | Event::Dropped { .. }) {
                        self.events.push(event);
                    }
                }
            }
        }
        left
    }

    fn publish(&mut self) {
        let changed = self.view.borrow().version != self.detector.version();
        if changed {
            let view = Arc::new(self.detector.view());
            telemetry::record_members(&view);
            telemetry::record_health(self.detector.health());
            telemetry::record_keys(self.detector.members_without_primary_key());
            self.view.send_replace(view);
        }
        if !self.events.is_empty() {
            let view = Arc::clone(&self.view.borrow());
            self.log.append(self.events.drain(..), &view);
        }
    }

    /// Keeps where the others are for the next life. Losing it costs that life a detour over its seeds,
    /// so that a failure is only reported.
    fn save_peers(&mut self, now: MonoTime) {
        let Some(saving) = self.saving.as_mut().filter(|saving| saving.next <= now) else {
            return;
        };
        saving.next = now + SAVE_PAUSE;
        let view = Arc::clone(&self.view.borrow());
        let others = view.live().filter(|member| member.info.name != view.local);
        let peers: Vec<Address> = others
            .map(|member| member.info.cluster_addr.clone())
            .take(MAX_SEEDS)
            .collect();
        if peers.is_empty() || peers == saving.saved {
            return;
        }
        saving.saved.clone_from(&peers);
        let (path, boot_id) = (saving.path.clone(), saving.boot_id);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = (SavedState { boot_id, peers }).store(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot save the peers");
            }
        });
    }
}

async fn send(socket: &dyn Datagram, payload: &[u8], address: std::net::SocketAddr) {
    if let Err(error) = socket.send_to(payload, address).await {
        tracing::debug!(%address, %error, "cannot send");
    }
}

/// Waits for the signal. A sender that is gone will never give it.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}
