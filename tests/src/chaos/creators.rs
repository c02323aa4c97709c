//! Clients that race to create topics: CreateTopics must be linearizable, whoever is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::check::{
    CreateOnce, CreateResult, History, Operation, Outcome, check_linearizable_by_key,
};
use crate::failure::{Doing, Failure};
use crate::kafka::{ClientError, KafkaClient, TOPIC_ALREADY_EXISTS};
use crate::wait;

/// From one race to the next.
const PERIOD: Duration = Duration::from_secs(2);
/// Races at most: topics stay.
const MAX_RACES: usize = 300;
/// How often a client that was refused asks again.
const ATTEMPTS: usize = 3;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(100);
/// Enough for histories of a few operations.
const MAX_STEPS: u64 = 1_000_000;
/// Refusals that are given before anything is changed: too few active brokers, and a bad request.
const HARMLESS: [i16; 2] = [38, 42];

type Histories = BTreeMap<String, History<CreateOnce>>;

/// Clients that race.
#[derive(Debug)]
pub(super) struct Creators {
    histories: Arc<Mutex<Histories>>,
    stop: watch::Sender<bool>,
    task: JoinSet<()>,
}

/// What the races showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Races {
    pub(super) topics: usize,
    pub(super) operations: usize,
    pub(super) unknown: usize,
    /// What is wrong, in words.
    pub(super) violation: Option<String>,
}

impl Creators {
    /// One client per broker; all ask for the same name at the same time.
    pub(super) fn start(brokers: Vec<SocketAddr>) -> Self {
        let histories = Arc::new(Mutex::new(Histories::new()));
        let (stop, stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(race(brokers, Arc::clone(&histories), stopped));
        Self {
            histories,
            stop,
            task,
        }
    }

    /// Ends the races and judges them.
    pub(super) async fn finish(mut self) -> Result<Races, Failure> {
        self.stop.send_replace(true);
        while let Some(ended) = self.task.join_next().await {
            ended.doing(|| "the clients that create topics".to_owned())?;
        }
        let histories = self.histories.lock();
        let histories = histories.unwrap_or_else(PoisonError::into_inner);
        let operations = || histories.values().flatten();
        let (outcome, key) = check_linearizable_by_key(&CreateOnce, &histories, MAX_STEPS);
        let violation = match outcome {
            Outcome::Linearizable { .. } => None,
            other => {
                let history = key.as_ref().and_then(|key| histories.get(key));
                Some(format!("{key:?}: {other:?} of {history:?}"))
            }
        };
        Ok(Races {
            topics: histories.len(),
            operations: operations().count(),
            unknown: operations().filter(|op| op.returned.is_none()).count(),
            violation,
        })
    }
}

async fn race(
    brokers: Vec<SocketAddr>,
    histories: Arc<Mutex<Histories>>,
    stopped: watch::Receiver<bool>,
) {
    let clock = Instant::now();
    for number in 0..MAX_RACES {
        let started = Instant::now();
        let topic = format!("race-{number}");
        let mut clients = JoinSet::new();
        for broker in &brokers {
            let (broker, topic, histories) = (*broker, topic.clone(), Arc::clone(&histories));
            clients.spawn(async move {
                for _ in 0..ATTEMPTS {
                    let (is_settled, operation) = ask(broker, &topic, clock).await;
                    if let Some(operation) = operation {
                        let mut all = histories.lock().unwrap_or_else(PoisonError::into_inner);
                        all.entry(topic.clone()).or_default().push(operation);
                    }
                    if is_settled {
                        return;
                    }
                    wait::pause(ATTEMPT_PAUSE).await;
                }
            });
        }
        while clients.join_next().await.is_some() {}
        while started.elapsed() < PERIOD {
            if *stopped.borrow() {
                return;
            }
            wait::pause(wait::POLL_INTERVAL).await;
        }
    }
}

/// Asks once. Returns whether there is an answer, and what goes into the history.
async fn ask(
    broker: SocketAddr,
    topic: &str,
    clock: Instant,
) -> (bool, Option<Operation<(), CreateResult>>) {
    let now = || u64::try_from(clock.elapsed().as_micros()).unwrap_or(u64::MAX);
    let called = now();
    let answer = match KafkaClient::try_create(broker, topic, 1, 3, 2).await {
        Ok(()) => Some(CreateResult::Created),
        Err(ClientError::Answered { code, .. }) if code == TOPIC_ALREADY_EXISTS => {
            Some(CreateResult::Exists)
        }
        Err(ClientError::Answered { code, .. }) if HARMLESS.contains(&code) => {
            return (false, None);
        }
        // Whatever else went wrong: perhaps it was created, now or later.
        Err(_) => None,
    };
    let returned = answer.map(|answer| (answer, now()));
    let operation = Operation {
        op: (),
        called,
        returned,
    };
    (answer.is_some(), Some(operation))
}
