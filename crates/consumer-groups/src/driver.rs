//! Runs the coordinator on tokio: hands requests in, proposes what comes out, batch by batch.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{BoxFuture, Clock, MonoTime, ProposeError, Proposer, RaftGroupId, limits};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use crate::command::{Batch, MAX_OPS, decode_results};
use crate::coordinator::{
    GroupConfig, GroupCoordinator, Proposal, Request, Response, Ticket, TopicCatalog, View,
};
use crate::error::GroupError;
use crate::ids::{GroupId, MemberId};
use crate::machine::GroupsWatch;
use crate::state::{Group, GroupPhase};

/// Shortest time from one proposal to the next: under load what comes meanwhile goes together, which
/// bounds the proposals at 250 a second, whatever a commit takes. A coordinator that was idle proposes at once.
const PROPOSAL_INTERVAL: Duration = Duration::from_millis(4);
/// Most proposals under way. One may wait for a slow disk or peer: what comes meanwhile waits for its own
/// commit, and not for the outcome of that one and for the next commit after it.
const MAX_UNDER_WAY: usize = 4;
/// About how many bytes of operations go into one proposal.
const MAX_BATCH_BYTES: usize = 1024 * 1024;
/// How long a proposal may take.
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(5);
/// Shortest time between two looks at the timers.
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// What a coordinator needs of its surroundings.
#[derive(Clone)]
pub struct GroupPorts {
    /// Commits to Raft group 1, on this node.
    pub proposer: Arc<dyn Proposer>,
    /// The newest state that this node has applied.
    pub state: GroupsWatch,
    /// The topics of the cluster.
    pub topics: Arc<dyn TopicCatalog>,
    /// The clocks.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for GroupPorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GroupPorts")
    }
}

/// The group coordinator of a node, idle unless the node leads the groups. Clones share it.
#[derive(Debug, Clone)]
pub struct ConsumerCoordinator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    core: Mutex<Core>,
    ports: GroupPorts,
    /// There is something to propose.
    wake: Notify,
    /// Something is due earlier than the timers' loop sleeps.
    earlier: Notify,
}

#[derive(Debug)]
struct Core {
    coordinator: GroupCoordinator,
    tickets: BTreeMap<Ticket, Asked>,
    /// How many of the tickets are joins of each member.
    joining: BTreeMap<(GroupId, MemberId), usize>,
    issued: u64,
    /// Until when the timers' loop sleeps; `None` until it is woken.
    sleeps_until: Option<MonoTime>,
}

/// Who waits for an answer.
#[derive(Debug)]
struct Asked {
    sender: oneshot::Sender<Response>,
    /// The group that it joins by the consumer protocol and as whom, if that is what it asked for.
    joins: Option<(GroupId, MemberId)>,
}

impl Core {
    fn deliver(&mut self) {
        for (ticket, response) in self.coordinator.take_replies() {
            let Some(asked) = self.tickets.remove(&ticket) else {
                continue;
            };
            let joins_again = asked.joins.as_ref().is_some_and(|joins| self.joined(joins));
            // An error means that the client is gone, unless it has come back and waits for an answer.
            if let (Err(Response::Heartbeat(Ok(answer))), Some((group, _)), false) =
                (asked.sender.send(response), asked.joins, joins_again)
            {
                self.coordinator.unheard(group, &answer);
            }
        }
    }

    /// A join is answered. Whether another one of the same member waits.
    fn joined(&mut self, joins: &(GroupId, MemberId)) -> bool {
        match self.joining.get_mut(joins) {
            Some(waiting) if *waiting > 1 => {
                *waiting -= 1;
                true
            }
            _ => {
                self.joining.remove(joins);
                false
            }
        }
    }
}

impl ConsumerCoordinator {
    /// A coordinator that does not lead yet. Its [`ConsumerCoordinator::run`] must be spawned.
    pub fn new(config: GroupConfig, ports: GroupPorts) -> Self {
        let core = Core {
            coordinator: GroupCoordinator::new(config),
            tickets: BTreeMap::new(),
            joining: BTreeMap::new(),
            issued: 0,
            sleeps_until: None,
        };
        Self {
            inner: Arc::new(Inner {
                core: Mutex::new(core),
                ports,
                wake: Notify::new(),
                earlier: Notify::new(),
            }),
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.inner
            .core
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of the core under the lock, with the newest state, and the answers that follow.
    fn step<T>(&self, step: impl FnOnce(&mut Core, View<'_>) -> T) -> T {
        let ports = &self.inner.ports;
        let mut core = self.core();
        // Taken under the lock, so that steps see states in order.
        let state = ports.state.current();
        let view = View {
            now: ports.clock.now(),
            state: &state,
            topics: ports.topics.as_ref(),
        };
        let outcome = step(&mut core, view);
        core.deliver();
        if core.coordinator.queued() > 0 {
            self.inner.wake.notify_one();
        }
        if let Some(next) = core.coordinator.next_tick()
            && core.sleeps_until.is_none_or(|until| next < until)
        {
            core.sleeps_until = Some(next);
            self.inner.earlier.notify_one();
        }
        outcome
    }

    /// Takes over: this node has been elected and has applied all that was committed before.
    pub fn lead(&self) {
        self.step(|core, view| core.coordinator.lead(view));
    }

    /// Steps down: whoever waits is refused with [`GroupError::NotCoordinator`].
    pub fn resign(&self) {
        self.step(|core, _| core.coordinator.resign());
    }

    /// Whether it answers requests.
    pub fn is_leading(&self) -> bool {
        self.core().coordinator.is_leading()
    }

    /// Answers a request, when it is due: a join may wait for the other members.
    /// The request is taken up before this returns, so that requests keep their order. Dropping the future
    /// takes nothing back but a join of the consumer protocol: a client that is gone before it hears that
    /// it has joined is fenced.
    pub fn call(&self, request: Request) -> impl Future<Output = Response> + Send + use<> {
        let refusal = request.refusal(GroupError::NotCoordinator);
        let (sender, receiver) = oneshot::channel();
        self.step(|core, view| {
            core.issued += 1;
            let ticket = Ticket(core.issued);
            let joins = request.joins();
            if let Some(joins) = &joins {
                *core.joining.entry(joins.clone()).or_insert(0) += 1;
            }
            core.tickets.insert(ticket, Asked { sender, joins });
            core.coordinator.request(view, ticket, request);
        });
        async move { receiver.await.unwrap_or(refusal) }
    }

    /// The state of a group as its members see it.
    pub fn phase(&self, group: &Group) -> GroupPhase {
        self.core().coordinator.phase(group)
    }

    /// Runs for ever; the caller aborts it at shutdown.
    pub async fn run(&self) {
        tokio::join!(self.run_timers(), self.run_proposals());
    }

    /// Sleeps until something is due; for good while this node does not lead.
    async fn run_timers(&self) {
        loop {
            let next = self.step(|core, view| {
                core.coordinator.tick(view);
                let next = core.coordinator.next_tick();
                core.sleeps_until = next;
                next.map(|next: MonoTime| next.since(view.now))
            });
            let Some(pause) = next else {
                self.inner.earlier.notified().await;
                continue;
            };
            tokio::select! {
                biased;
                () = self.inner.earlier.notified() => {}
                () = sleep(pause.max(MIN_PAUSE)) => {}
            }
        }
    }

    async fn run_proposals(&self) {
        let clock = Arc::clone(&self.inner.ports.clock);
        let mut under_way = UnderWay::default();
        let mut last: Option<MonoTime> = None;
        loop {
            let since = |last| PROPOSAL_INTERVAL.saturating_sub(clock.now().since(last));
            let early = last.map_or(Duration::ZERO, since);
            let room = under_way.proposals.len() < MAX_UNDER_WAY;
            if room && early.is_zero() {
                let batch = self.core().coordinator.take_batch(MAX_OPS, MAX_BATCH_BYTES);
                if !batch.is_empty() {
                    last = Some(clock.now());
                    under_way.push(self.propose(&batch), batch);
                    continue;
                }
            }
            tokio::select! {
                biased;
                (batch, outcome) = poll_fn(|cx| under_way.poll_next(cx)) => self.settle(batch, outcome),
                () = sleep(early), if room && !early.is_zero() => {}
                () = self.inner.wake.notified(), if room && early.is_zero() => {}
            }
        }
    }

    /// Proposes the operations when it is first polled.
    fn propose(&self, batch: &[Proposal]) -> BoxFuture<'static, Outcome> {
        let ports = &self.inner.ports;
        metrics::histogram!("rivven_groups_batch_operations").record(batch.len() as f64);
        let operations = batch.iter().map(|proposal| &proposal.op);
        let command = match Batch::encode_ops(ports.clock.wall(), operations) {
            Ok(command) => command,
            Err(error) => {
                tracing::error!(%error, "a change of a group is too long for the log");
                let refused = Err(too_large(&error));
                return Box::pin(std::future::ready(refused));
            }
        };
        let proposed = ports
            .proposer
            .propose(RaftGroupId::GROUPS, command, PROPOSAL_DEADLINE);
        let clock = Arc::clone(&ports.clock);
        Box::pin(async move {
            let started = clock.now();
            let outcome = timeout(PROPOSAL_DEADLINE * 2, proposed).await;
            let took = clock.now().since(started);
            metrics::histogram!("rivven_groups_proposal_seconds").record(took.as_secs_f64());
            match outcome {
                Ok(Ok(proposed)) => Ok(proposed.result),
                Ok(Err(error)) => Err(refusal(&error)),
                Err(_) => Err(GroupError::LoadInProgress),
            }
        })
    }

    fn settle(&self, batch: Vec<Proposal>, outcome: Outcome) {
        match outcome {
            Ok(results) => {
                let results = decode_results(&results).unwrap_or_else(|error| {
                    tracing::error!(%error, "unreadable results");
                    Vec::new()
                });
                for error in results.iter().filter_map(|r| r.as_ref().err()) {
                    metrics::counter!("rivven_groups_rejected_total",
                        "code" => error.code().to_string())
                    .increment(1);
                }
                self.step(|core, view| core.coordinator.applied(view, batch, results));
            }
            Err(error) => {
                tracing::debug!(%error, "a change of the groups was not committed");
                self.step(|core, view| core.coordinator.failed(view, batch, &error));
            }
        }
    }
}

/// The results of a batch, encoded, or why there are none.
type Outcome = Result<Bytes, GroupError>;

/// The batches that were proposed and not settled yet, in their order.
#[derive(Default)]
struct UnderWay {
    proposals: VecDeque<(Vec<Proposal>, Stage)>,
}

enum Stage {
    Waits(BoxFuture<'static, Outcome>),
    Done(Outcome),
}

impl UnderWay {
    fn push(&mut self, proposal: BoxFuture<'static, Outcome>, batch: Vec<Proposal>) {
        self.proposals.push_back((batch, Stage::Waits(proposal)));
    }

    /// The first batch, once its outcome is known. All are polled in their order, so that they come into the
    /// log in that order, and settled in it, so that the coordinator learns of nothing before its cause.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<(Vec<Proposal>, Outcome)> {
        for (_, stage) in &mut self.proposals {
            if let Stage::Waits(proposal) = stage
                && let Poll::Ready(outcome) = proposal.as_mut().poll(cx)
            {
                *stage = Stage::Done(outcome);
            }
        }
        match self.proposals.pop_front() {
            Some((batch, Stage::Done(outcome))) => Poll::Ready((batch, outcome)),
            first => {
                if let Some(first) = first {
                    self.proposals.push_front(first);
                }
                Poll::Pending
            }
        }
    }
}

fn refusal(error: &ProposeError) -> GroupError {
    match error {
        ProposeError::NotLeader { .. } => GroupError::NotCoordinator,
        ProposeError::TooLarge { length, max } => GroupError::TooLarge {
            length: *length,
            max: *max,
        },
        _ => GroupError::LoadInProgress,
    }
}

fn too_large(error: &rivven_core_types::wire::WireError) -> GroupError {
    let max = limits::MAX_COMMAND_BYTES;
    match error {
        rivven_core_types::wire::WireError::TooLong { length, max } => GroupError::TooLarge {
            length: *length,
            max: *max,
        },
        _ => GroupError::TooLarge { length: max, max },
    }
}
