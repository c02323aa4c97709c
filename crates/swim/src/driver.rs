//! Runs a detector over a socket and a clock: one task, which owns both.

use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::limits::MAX_DATAGRAM_BYTES;
use rivven_core_types::{Address, Clock, Datagram};
use tokio::sync::{mpsc, oneshot, watch};

use crate::detector::{Detector, Input};
use crate::event::{Event, Output};
use crate::member::MembershipView;
use crate::resolver::Resolver;
use crate::telemetry;

/// Pause after a failed receive, so that a broken socket does not spin.
const RECEIVE_ERROR_PAUSE: Duration = Duration::from_millis(5);
/// Most joins that wait at once.
const MAX_JOIN_WAITERS: usize = 64;

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
}

impl Driver {
    /// Runs until shutdown, until this node has left, or until no handle is left.
    pub(crate) async fn run(mut self) {
        // One byte more than allowed: an overlong datagram shows as such instead of being cut.
        let mut buffer = [0u8; MAX_DATAGRAM_BYTES + 1];
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
                resolved = self.resolver.next() => self.resolver.store(self.clock.now(), resolved),
                received = self.datagram.recv_from(&mut buffer) => match received {
                    Ok((length, from)) => {
                        let payload = buffer.get(..length).unwrap_or_default();
                        let input = Input::Datagram { from, payload };
                        self.detector.handle(self.clock.now(), input, &mut out);
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

    fn command(&mut self, command: Command, out: &mut Vec<Output>) {
        let now = self.clock.now();
        match command {
            Command::Join { seeds, contacted } => {
                self.join_waiters.retain(|waiter| !waiter.is_closed());
                self.join_waiters.truncate(MAX_JOIN_WAITERS - 1);
                self.join_waiters.push(contacted);
                // Names that are known by the time they are needed save the first retry.
                for seed in &seeds {
                    drop(self.resolver.addresses(now, seed));
                }
                self.detector.handle(now, Input::Join(seeds), out);
            }
            Command::Leave { done } => {
                self.leave_waiters.push(done);
                self.detector.handle(now, Input::Leave, out);
            }
        }
    }

    /// Sends and records; whether this node has now left.
    async fn perform(&mut self, out: &mut Vec<Output>) -> bool {
        let mut left = false;
        for output in out.drain(..) {
            match output {
                Output::Send { to, payload } => {
                    let now = self.clock.now();
                    for address in self.resolver.addresses(now, &to) {
                        if let Err(error) = self.datagram.send_to(&payload, address).await {
                            tracing::debug!(%address, %error, "cannot send");
                        }
                    }
                }
                Output::Event(event) => {
                    telemetry::record(&event);
                    match event {
                        Event::LeaveFinished => left = true,
                        Event::Contacted => {
                            for waiter in self.join_waiters.drain(..) {
                                let _gone = waiter.send(());
                            }
                        }
                        Event::MemberChanged { .. }
                        | Event::MemberForgotten { .. }
                        | Event::ProbeFinished { .. }
                        | Event::Suspected { .. }
                        | Event::Refuted { .. }
                        | Event::Superseded { .. }
                        | Event::Paused
                        | Event::Dropped { .. } => {}
                    }
                }
            }
        }
        left
    }

    fn publish(&self) {
        if self.view.borrow().version != self.detector.version() {
            let view = self.detector.view();
            telemetry::record_members(&view);
            self.view.send_replace(Arc::new(view));
        }
    }
}

/// Waits for the signal. A sender that is gone will never give it.
async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    if shutdown.wait_for(|stop| *stop).await.is_err() {
        std::future::pending().await
    }
}
