//! The writer of one partition: batches with sequence numbers (KIP-98), up to five requests in flight,
//! and everything that is not acknowledged sent again, in order, after any failure.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kafka_protocol::messages::ProduceRequest;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use rivven_core_types::{BatchBuilder, ProducerEpoch, ProducerId};
use tokio::sync::mpsc;

use super::client::{KafkaClient, topic_name};
use super::connection::{ANSWER_TIMEOUT, Connection, Frames, Writing, decode};
use super::error::{ClientError, describe};
use super::producer::ProducerOptions;
use crate::failure::{Doing, Failure};
use crate::wait;

const PRODUCE_VERSION: i16 = 9;
/// Requests in flight per partition: as many as a broker remembers of a producer.
const MAX_IN_FLIGHT: usize = 5;
/// Time-out in produce requests.
const REQUEST_TIMEOUT_MS: i32 = 10_000;
/// The pause after the first failure; it doubles up to the longest, which is short because it adds to
/// the failover times that are measured here.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// The code of a batch that is in the log already.
const DUPLICATE_SEQUENCE_NUMBER: i16 = 46;

/// An acknowledged record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    /// Its place in the input.
    pub number: usize,
    /// Its partition.
    pub partition: u32,
    /// Its offset; `None` if the broker only said that it was there already.
    pub offset: Option<i64>,
    /// The broker that acknowledged it.
    pub broker: i32,
    /// When it was queued.
    pub queued: Instant,
    /// When the acknowledgement arrived.
    pub at: Instant,
}

/// What the writers of a producer have achieved.
#[derive(Debug, Default)]
pub struct Progress(Mutex<Achieved>);

#[derive(Debug, Default)]
struct Achieved {
    acks: Vec<Ack>,
    /// By partition: the broker, and how many requests it has not answered.
    in_flight: BTreeMap<u32, (i32, usize)>,
    setbacks: BTreeMap<String, usize>,
}

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Achieved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many records are acknowledged.
    pub fn acked(&self) -> usize {
        self.lock().acks.len()
    }

    /// Every acknowledgement, in the order of arrival.
    pub fn acks(&self) -> Vec<Ack> {
        self.lock().acks.clone()
    }

    /// The acknowledgements that arrived since this was called last; they are not kept.
    pub fn take_acks(&self) -> Vec<Ack> {
        std::mem::take(&mut self.lock().acks)
    }

    /// Requests that `broker`, or any broker, has not answered yet.
    pub fn in_flight(&self, broker: Option<i32>) -> usize {
        let achieved = self.lock();
        let to = achieved
            .in_flight
            .values()
            .filter(|(to, _)| broker.is_none_or(|b| b == *to));
        to.map(|(_, count)| count).sum()
    }

    /// The first acknowledgement in a partition after `since` that came from a broker other than `not`.
    pub fn first_ack_after(&self, partition: u32, since: Instant, not: i32) -> Option<Ack> {
        let achieved = self.lock();
        let mut acks = achieved.acks.iter();
        acks.find(|ack| ack.partition == partition && ack.at > since && ack.broker != not)
            .copied()
    }

    /// Why requests had to be repeated, and how often.
    pub fn setbacks(&self) -> BTreeMap<String, usize> {
        self.lock().setbacks.clone()
    }

    /// The highest acknowledged offset of each partition.
    pub fn highest_offsets(&self) -> BTreeMap<u32, i64> {
        let mut highest = BTreeMap::new();
        for ack in &self.lock().acks {
            if let Some(offset) = ack.offset {
                let known = highest.entry(ack.partition).or_insert(offset);
                *known = offset.max(*known);
            }
        }
        highest
    }
}

/// A record that waits to be sent.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) number: usize,
    pub(super) key: Option<String>,
    pub(super) value: String,
    pub(super) at: Instant,
}

/// What a writer needs to know.
#[derive(Debug)]
pub(super) struct WriterOptions {
    pub(super) client: KafkaClient,
    pub(super) topic: String,
    pub(super) partition: u32,
    pub(super) producer: (i64, i16),
    pub(super) behaviour: ProducerOptions,
}

#[derive(Debug)]
struct Batch {
    bytes: Bytes,
    /// Number and time of each record.
    records: Vec<(usize, Instant)>,
}

/// A connection to the leader, and the requests that it has not answered.
struct Session {
    broker: i32,
    writing: Writing,
    frames: Frames,
    /// The correlation ids of the first batches of `unacked`, which were sent on this connection.
    sent: VecDeque<i32>,
}

/// Writes to one partition.
#[derive(Debug)]
pub(super) struct Writer {
    options: WriterOptions,
    queue: mpsc::Receiver<Queued>,
    progress: Arc<Progress>,
    /// Records of the next batch, and until when it waits for more.
    collecting: Vec<Queued>,
    linger_until: Option<tokio::time::Instant>,
    is_closed: bool,
    next_sequence: i32,
    /// Batches in order, sent or not.
    unacked: VecDeque<Batch>,
    last_success: Instant,
}

impl Writer {
    pub(super) fn new(
        options: WriterOptions,
        queue: mpsc::Receiver<Queued>,
        progress: Arc<Progress>,
    ) -> Self {
        Self {
            options,
            queue,
            progress,
            collecting: Vec::new(),
            linger_until: None,
            is_closed: false,
            next_sequence: 0,
            unacked: VecDeque::new(),
            last_success: Instant::now(),
        }
    }

    /// Runs until the queue is closed and everything is acknowledged.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            if self.unacked.is_empty() {
                self.collect().await?;
                self.last_success = Instant::now();
            }
            if self.unacked.is_empty() {
                return Ok(());
            }
            let started = self.last_success;
            let error = match self.write().await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            self.progress
                .lock()
                .in_flight
                .remove(&self.options.partition);
            let without_success = self.last_success.elapsed();
            let give_up = without_success > self.options.behaviour.give_up_after;
            if give_up || !error.is_retriable() {
                let text = format!(
                    "{}-{}: {error}; nothing was acknowledged for {:.1} s",
                    self.options.topic,
                    self.options.partition,
                    without_success.as_secs_f32()
                );
                return Err(Failure::new(text));
            }
            let reason = match &error {
                ClientError::Answered { code, .. } => describe(*code),
                ClientError::Connection(_) | ClientError::Malformed(_) => {
                    "connection lost".to_owned()
                }
            };
            *self.progress.lock().setbacks.entry(reason).or_default() += 1;
            if self.last_success > started {
                pause = FIRST_PAUSE;
            }
            wait::pause(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Waits for records and makes a batch of them; makes none if the queue is closed and empty. Can
    /// be cancelled at any time.
    async fn collect(&mut self) -> Result<(), Failure> {
        let behaviour = &self.options.behaviour;
        while !self.is_closed && self.collecting.len() < behaviour.max_batch_records {
            let next = match self.linger_until {
                None => Ok(self.queue.recv().await),
                Some(until) => tokio::time::timeout_at(until, self.queue.recv()).await,
            };
            match next {
                Ok(Some(queued)) => {
                    self.collecting.push(queued);
                    let until = tokio::time::Instant::now() + behaviour.linger;
                    self.linger_until.get_or_insert(until);
                }
                Ok(None) => self.is_closed = true,
                Err(_) => break,
            }
        }
        self.linger_until = None;
        if !self.collecting.is_empty() {
            let batch = self.build()?;
            self.unacked.push_back(batch);
        }
        Ok(())
    }

    fn build(&mut self) -> Result<Batch, Failure> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let now = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        let (id, epoch) = self.options.producer;
        let (id, epoch) = (ProducerId::new(id), ProducerEpoch::new(epoch));
        let mut builder = BatchBuilder::new(now).producer(id, epoch, self.next_sequence);
        let mut records = Vec::with_capacity(self.collecting.len());
        for queued in self.collecting.drain(..) {
            let key = queued.key.as_deref().map(str::as_bytes);
            builder = builder.record(now, key, Some(queued.value.as_bytes()));
            records.push((queued.number, queued.at));
        }
        let batch = builder.build().doing(|| "a batch".to_owned())?;
        // Sequences wrap from the largest i32 to 0 (KIP-98), which no run of tests reaches.
        self.next_sequence += i32::try_from(records.len()).unwrap_or(i32::MAX);
        Ok(Batch {
            bytes: batch.bytes().clone(),
            records,
        })
    }

    /// Sends and receives on one connection until everything is done or something fails.
    async fn write(&mut self) -> Result<(), ClientError> {
        let mut session = self.connect().await?;
        loop {
            while session.sent.len() < self.unacked.len().min(MAX_IN_FLIGHT) {
                self.send_next(&mut session).await?;
            }
            if self.unacked.is_empty() && self.is_closed {
                return Ok(());
            }
            let has_room = session.sent.len() < MAX_IN_FLIGHT && !self.is_closed;
            tokio::select! {
                frame = tokio::time::timeout(ANSWER_TIMEOUT, session.frames.next()),
                    if !session.sent.is_empty() =>
                {
                    let late = |_| ClientError::Connection("no answer in time".to_owned());
                    self.acknowledge(&mut session, frame.map_err(late)??)?;
                }
                collected = self.collect(), if has_room => {
                    collected.map_err(ClientError::malformed)?;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Session, ClientError> {
        let topic = self.options.client.metadata(&self.options.topic).await?;
        let index = self.options.partition;
        let partition = topic
            .partitions
            .iter()
            .find(|partition| partition.id.index.get() == index);
        let Some((broker, address)) = partition.and_then(|partition| partition.leader) else {
            let what = format!("the leader of {}-{index}", self.options.topic);
            return Err(ClientError::Answered {
                what,
                code: LEADER_NOT_AVAILABLE,
            });
        };
        let Connection { reading, writing } = Connection::open(address).await?;
        Ok(Session {
            broker,
            writing,
            frames: reading.into_frames(),
            sent: VecDeque::new(),
        })
    }

    async fn send_next(&self, session: &mut Session) -> Result<(), ClientError> {
        let Some(batch) = self.unacked.get(session.sent.len()) else {
            return Ok(());
        };
        let index = i32::try_from(self.options.partition).map_err(ClientError::malformed)?;
        let data = PartitionProduceData::default()
            .with_index(index)
            .with_records(Some(batch.bytes.clone()));
        let topic = TopicProduceData::default()
            .with_name(topic_name(&self.options.topic))
            .with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(REQUEST_TIMEOUT_MS)
            .with_topic_data(vec![topic]);
        let correlation = session.writing.send(&request, PRODUCE_VERSION).await?;
        session.sent.push_back(correlation);
        self.count_in_flight(session);
        Ok(())
    }

    fn count_in_flight(&self, session: &Session) {
        let counted = (session.broker, session.sent.len());
        self.progress
            .lock()
            .in_flight
            .insert(self.options.partition, counted);
    }

    fn acknowledge(&mut self, session: &mut Session, frame: Bytes) -> Result<(), ClientError> {
        let correlation = session.sent.pop_front();
        let correlation =
            correlation.ok_or_else(|| ClientError::malformed("an answer to nothing"))?;
        self.count_in_flight(session);
        let response = decode::<ProduceRequest>(frame, correlation, PRODUCE_VERSION)?;
        let topic = response.responses.into_iter().next();
        let answer = topic.and_then(|topic| topic.partition_responses.into_iter().next());
        let answer = answer.ok_or_else(|| ClientError::malformed("no partition"))?;
        let is_duplicate = answer.error_code == DUPLICATE_SEQUENCE_NUMBER;
        if !is_duplicate {
            ClientError::check(answer.error_code, || {
                format!("produce to {}", session.broker)
            })?;
        }
        let batch = self.unacked.pop_front();
        let batch = batch.ok_or_else(|| ClientError::malformed("an answer to nothing"))?;
        let at = Instant::now();
        self.last_success = at;
        let first = (!is_duplicate && answer.base_offset >= 0).then_some(answer.base_offset);
        let acks = batch
            .records
            .iter()
            .zip(0i64..)
            .map(|((number, queued), place)| Ack {
                number: *number,
                partition: self.options.partition,
                offset: first.map(|first| first + place),
                broker: session.broker,
                queued: *queued,
                at,
            });
        self.progress.lock().acks.extend(acks);
        Ok(())
    }
}

/// What a broker says of a partition without a leader.
const LEADER_NOT_AVAILABLE: i16 = 5;
