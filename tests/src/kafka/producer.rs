//! An idempotent producer with acks=all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::client::{KafkaClient, TopicInfo};
use super::partitioner::partition_of_key;
use super::writer::{Progress, Queued, Writer, WriterOptions};
use crate::failure::{Doing, Failure};
use crate::flights::InputRecord;

/// Records that wait for one partition; a producer that is faster waits itself.
const MAX_QUEUED: usize = 16_384;
/// How long a cluster may take to give out a producer id.
const PRODUCER_ID_LIMIT: Duration = Duration::from_secs(60);

/// How a producer behaves.
#[derive(Debug, Clone)]
pub struct ProducerOptions {
    /// How long the first record of a batch waits for others.
    pub linger: Duration,
    /// Most records in one batch.
    pub max_batch_records: usize,
    /// How long a partition may acknowledge nothing before the producer gives up.
    pub give_up_after: Duration,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            max_batch_records: 500,
            give_up_after: Duration::from_secs(120),
        }
    }
}

/// Writes to all partitions of a topic; one connection and up to five requests in flight for each.
#[derive(Debug)]
pub struct Producer {
    queues: Vec<mpsc::Sender<Queued>>,
    writers: JoinSet<Result<(), Failure>>,
    progress: Arc<Progress>,
    sent: usize,
}

impl Producer {
    /// Gets a producer id and starts a writer per partition.
    pub async fn start(
        client: &KafkaClient,
        topic: &TopicInfo,
        options: &ProducerOptions,
    ) -> Result<Self, Failure> {
        let producer = client.init_producer_id(PRODUCER_ID_LIMIT).await?;
        let progress = Arc::new(Progress::default());
        let (mut queues, mut writers) = (Vec::new(), JoinSet::new());
        for partition in &topic.partitions {
            let (sender, queue) = mpsc::channel(MAX_QUEUED);
            let options = WriterOptions {
                client: client.clone(),
                topic: topic.name.clone(),
                partition: partition.id.index.get(),
                producer,
                behaviour: options.clone(),
            };
            let writer = Writer::new(options, queue, Arc::clone(&progress));
            writers.spawn(writer.run());
            queues.push(sender);
        }
        Ok(Self {
            queues,
            writers,
            progress,
            sent: 0,
        })
    }

    /// Queues a record; `number` is its place in the input and names it in [`Progress`]. A record
    /// without a key goes to the partitions in turn.
    pub async fn send(&mut self, number: usize, record: &InputRecord) -> Result<(), Failure> {
        let partitions = u32::try_from(self.queues.len()).unwrap_or(u32::MAX);
        let partition = match &record.key {
            Some(key) => usize::try_from(partition_of_key(key.as_bytes(), partitions)).unwrap_or(0),
            None => number % self.queues.len().max(1),
        };
        let queue = self.queues.get(partition);
        let queue = queue.ok_or_else(|| Failure::new("the topic has no partitions"))?;
        let queued = Queued {
            number,
            key: record.key.clone(),
            value: record.value.clone(),
            at: Instant::now(),
        };
        if queue.send(queued).await.is_ok() {
            self.sent += 1;
            return Ok(());
        }
        // The writer has given up; it knows why.
        while let Some(ended) = self.writers.join_next().await {
            ended.doing(|| "a writer".to_owned())??;
        }
        Err(Failure::new("a writer ended early"))
    }

    /// How many records were queued.
    pub const fn sent(&self) -> usize {
        self.sent
    }

    /// What was acknowledged and what is in flight.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Waits until every record is acknowledged.
    pub async fn finish(mut self) -> Result<Arc<Progress>, Failure> {
        self.queues.clear();
        while let Some(ended) = self.writers.join_next().await {
            ended.doing(|| "a writer".to_owned())??;
        }
        Ok(self.progress)
    }
}
