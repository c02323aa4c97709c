//! What runs while the cluster is harmed: our own producers and consumers, which tell the checker of
//! everything that they do and see.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::check::{AppendLog, LogReport, Stamp};
use crate::failure::{Doing, Failure};
use crate::flights::InputRecord;
use crate::kafka::{
    KafkaClient, Producer, ProducerOptions, Progress, ReadPartition, Tail, TopicInfo, read_all,
};
use crate::wait;

/// How often a producer is given records, and acknowledgements are looked at.
const TICK: Duration = Duration::from_millis(20);
/// The pause of a consumer after an error.
const ERROR_PAUSE: Duration = Duration::from_millis(50);
/// Size of a record, in bytes.
const RECORD_BYTES: usize = 120;
/// Producers, each with an id of its own.
const PRODUCERS: u32 = 2;
/// The consumer that reads everything at the end.
const FINAL_CONSUMER: u32 = u32::MAX;
/// How long a partition may acknowledge nothing before a producer gives up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(240);

/// What all clients of one topic have told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) log: AppendLog,
    pub(super) acked: usize,
    /// Highest acknowledged offset of each partition.
    pub(super) highest: BTreeMap<u32, i64>,
    /// The longest that a record has waited for its acknowledgement since this was last reset.
    pub(super) longest_wait: Duration,
    /// Why consumers had to look for a leader again, and how often.
    pub(super) setbacks: BTreeMap<String, usize>,
}

/// What is seen of one topic, shared by its clients.
#[derive(Debug, Clone, Default)]
pub(super) struct Shared(Arc<Mutex<Seen>>);

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An acknowledgement.
    pub(super) fn acked(&self, stamp: Stamp, partition: u32, offset: Option<i64>, took: Duration) {
        let mut seen = self.lock();
        seen.log.acked(stamp, offset);
        seen.acked += 1;
        seen.longest_wait = seen.longest_wait.max(took);
        if let Some(offset) = offset {
            let highest = seen.highest.entry(partition).or_insert(offset);
            *highest = offset.max(*highest);
        }
    }

    /// The longest wait for an acknowledgement since the last call.
    pub(super) fn take_longest_wait(&self) -> Duration {
        std::mem::take(&mut self.lock().longest_wait)
    }

    /// Reads everything once more and judges all that was seen.
    pub(super) async fn finish(
        self,
        client: &KafkaClient,
        topic: &str,
        limit: Duration,
    ) -> Result<(LogReport, Vec<ReadPartition>), Failure> {
        let highest = self.lock().highest.clone();
        let read = read_all(client, topic, &highest, limit).await?;
        let mut seen = self.lock();
        for partition in &read {
            let index = partition.id.index.get();
            seen.log.seek(FINAL_CONSUMER, index, 0);
            for record in &partition.records {
                let stamp = Stamp::decode(record.value.as_bytes());
                seen.log.polled(FINAL_CONSUMER, index, record.offset, stamp);
            }
            seen.log.complete(index);
        }
        let log = std::mem::take(&mut seen.log);
        drop(seen);
        Ok((log.finish(), read))
    }
}

/// Producers and consumers at work.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) seen: Shared,
    stop: watch::Sender<bool>,
    producers: JoinSet<Result<(), Failure>>,
    consumers: JoinSet<Result<(), Failure>>,
}

impl Workload {
    /// Starts writing `rate` records per second to all partitions of a topic, and reading them.
    pub(super) async fn start(
        client: &KafkaClient,
        topic: &TopicInfo,
        rate: u64,
    ) -> Result<Self, Failure> {
        let seen = Shared::default();
        let (stop, stopped) = watch::channel(false);
        let (mut producers, mut consumers) = (JoinSet::new(), JoinSet::new());
        let partitions = u32::try_from(topic.partitions.len()).unwrap_or(1);
        for id in 0..PRODUCERS {
            let options = ProducerOptions {
                give_up_after: GIVE_UP_AFTER,
                ..ProducerOptions::default()
            };
            let producer = Producer::start(client, topic, &options).await?;
            let feed = Feed {
                producer,
                id,
                partitions,
                rate: (rate / u64::from(PRODUCERS)).max(1),
                seen: seen.clone(),
            };
            producers.spawn(feed.run(stopped.clone()));
        }
        for partition in 0..partitions {
            let tail = Tail::new(client.clone(), &topic.name, partition, 0);
            consumers.spawn(follow(tail, partition, seen.clone(), stopped.clone()));
        }
        Ok(Self {
            seen,
            stop,
            producers,
            consumers,
        })
    }

    /// Fails if a client has given up.
    pub(super) fn check(&mut self) -> Result<(), Failure> {
        for clients in [&mut self.producers, &mut self.consumers] {
            if let Some(ended) = clients.try_join_next() {
                ended.doing(|| "a client died".to_owned())??;
                return Err(Failure::new("a client ended early"));
            }
        }
        Ok(())
    }

    /// Ends all clients; the producers only once everything is acknowledged.
    pub(super) async fn stop(mut self) -> Result<Shared, Failure> {
        self.stop.send_replace(true);
        for clients in [&mut self.producers, &mut self.consumers] {
            while let Some(ended) = clients.join_next().await {
                ended.doing(|| "a client died".to_owned())??;
            }
        }
        Ok(self.seen)
    }
}

struct Feed {
    producer: Producer,
    id: u32,
    partitions: u32,
    rate: u64,
    seen: Shared,
}

impl Feed {
    async fn run(mut self, stopped: watch::Receiver<bool>) -> Result<(), Failure> {
        let progress = self.producer.progress();
        let (done, ended) = watch::channel(false);
        let mut telling = JoinSet::new();
        telling.spawn(tell_acks(progress, self.id, self.seen.clone(), ended));
        let (started, mut sent) = (Instant::now(), 0u64);
        while !*stopped.borrow() {
            let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let due = self.rate.saturating_mul(elapsed) / 1_000;
            // After an outage it goes on at its pace instead of making up for what it missed.
            sent = sent.max(due.saturating_sub(self.rate));
            while sent < due {
                self.send().await?;
                sent += 1;
            }
            wait::pause(TICK).await;
        }
        self.producer.finish().await?;
        done.send_replace(true);
        while let Some(ended) = telling.join_next().await {
            ended.doing(|| "the teller of acknowledgements".to_owned())?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), Failure> {
        // Records without keys go to the partitions in turn, by their number.
        let stamp = {
            let mut seen = self.seen.lock();
            let partition = seen.log.sent_by(self.id) % self.partitions;
            seen.log.send(self.id, partition)
        };
        let record = InputRecord {
            key: None,
            value: stamp.encode(RECORD_BYTES),
        };
        let number = usize::try_from(stamp.number).unwrap_or(usize::MAX);
        self.producer.send(number, &record).await
    }
}

/// Tells the checker of acknowledgements until everything is acknowledged.
async fn tell_acks(
    progress: Arc<Progress>,
    producer: u32,
    seen: Shared,
    mut ended: watch::Receiver<bool>,
) {
    loop {
        let is_last = *ended.borrow_and_update();
        for ack in progress.take_acks() {
            let number = u32::try_from(ack.number).unwrap_or(u32::MAX);
            let stamp = Stamp { producer, number };
            seen.acked(stamp, ack.partition, ack.offset, ack.at - ack.queued);
        }
        if is_last {
            return;
        }
        wait::pause(TICK).await;
    }
}

/// Reads a partition until told to stop.
async fn follow(
    mut tail: Tail,
    partition: u32,
    seen: Shared,
    stopped: watch::Receiver<bool>,
) -> Result<(), Failure> {
    const CONSUMER: u32 = 0;
    seen.lock().log.seek(CONSUMER, partition, 0);
    while !*stopped.borrow() {
        match tail.poll().await {
            Ok(polled) => {
                let mut seen = seen.lock();
                for record in polled.records {
                    let stamp = Stamp::decode(record.value.as_bytes());
                    seen.log.polled(CONSUMER, partition, record.offset, stamp);
                }
            }
            Err(error) if error.is_retriable() => {
                *seen.lock().setbacks.entry(error.to_string()).or_default() += 1;
                wait::pause(ERROR_PAUSE).await;
            }
            Err(error) => {
                let next = tail.next();
                return Err(Failure::new(format!(
                    "the consumer of partition {partition} at offset {next}: {error}"
                )));
            }
        }
    }
    Ok(())
}
