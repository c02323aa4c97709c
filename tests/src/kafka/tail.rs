//! A consumer of one partition that follows its leader.

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use rivven_core_types::{BatchError, RecordBatch};

use super::client::{KafkaClient, PartitionInfo, topic_name};
use super::connection::Connection;
use super::error::ClientError;

const FETCH_VERSION: i16 = 12;
const MAX_BYTES: i32 = 4 << 20;
const MAX_WAIT_MS: i32 = 200;

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Option<String>,
    /// Its value.
    pub value: String,
}

/// What one fetch gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Polled {
    /// The records, as the broker ordered them.
    pub records: Vec<ReadRecord>,
    /// The high watermark, as the broker named it.
    pub high_watermark: i64,
}

/// Reads one partition, at its leader.
#[derive(Debug)]
pub struct Tail {
    client: KafkaClient,
    topic: String,
    index: u32,
    next: i64,
    /// To the broker that was last known to lead.
    connection: Option<Connection>,
}

impl Tail {
    /// A consumer of a partition that begins at `offset`.
    pub fn new(client: KafkaClient, topic: &str, index: u32, offset: i64) -> Self {
        Self {
            client,
            topic: topic.to_owned(),
            index,
            next: offset,
            connection: None,
        }
    }

    /// The offset that it asks for next.
    pub const fn next(&self) -> i64 {
        self.next
    }

    /// One fetch; waits for a record for at most 200 ms. After an error the next call looks for the
    /// leader anew. The records are what the broker sent from the wanted offset on: whether they
    /// continue where the last ended is for the caller to judge.
    pub async fn poll(&mut self) -> Result<Polled, ClientError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let polled = self.fetch(&mut connection).await?;
        self.connection = Some(connection);
        Ok(polled)
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let info = self.client.metadata(&self.topic).await?;
        let is_this = |partition: &&PartitionInfo| partition.id.index.get() == self.index;
        let leader = info
            .partitions
            .iter()
            .find(is_this)
            .and_then(|partition| partition.leader);
        let no_leader = || ClientError::Connection("no leader".to_owned());
        let (_, address) = leader.ok_or_else(no_leader)?;
        Connection::open(address).await
    }

    async fn fetch(&mut self, connection: &mut Connection) -> Result<Polled, ClientError> {
        let index = i32::try_from(self.index).map_err(ClientError::malformed)?;
        let partition = FetchPartition::default()
            .with_partition(index)
            .with_fetch_offset(self.next)
            .with_partition_max_bytes(MAX_BYTES);
        let wanted = FetchTopic::default()
            .with_topic(topic_name(&self.topic))
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_max_wait_ms(MAX_WAIT_MS)
            .with_min_bytes(1)
            .with_max_bytes(MAX_BYTES)
            .with_session_epoch(-1)
            .with_topics(vec![wanted]);
        let response = connection.call(&request, FETCH_VERSION).await?;
        ClientError::check(response.error_code, || "fetch".to_owned())?;
        let answer = response.responses.into_iter().next();
        let answer = answer.and_then(|topic| topic.partitions.into_iter().next());
        let answer = answer.ok_or_else(|| ClientError::malformed("no partition"))?;
        ClientError::check(answer.error_code, || {
            format!("fetch of {}-{index}", self.topic)
        })?;
        let records = self.take(answer.records.unwrap_or_default())?;
        let high_watermark = answer.high_watermark;
        // A new leader may know less of the high watermark than its predecessor, and then serves nothing.
        if let Some(last) = records.last().filter(|last| last.offset >= high_watermark) {
            let last = last.offset;
            let text =
                format!("offset {last} was served above the high watermark {high_watermark}");
            return Err(ClientError::Malformed(text));
        }
        Ok(Polled {
            records,
            high_watermark,
        })
    }

    /// The records from the wanted offset on.
    fn take(&mut self, mut bytes: Bytes) -> Result<Vec<ReadRecord>, ClientError> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let batch = match RecordBatch::split_from(&mut bytes) {
                Ok(batch) => batch,
                // A broker may cut the last batch off at the byte limit.
                Err(BatchError::Truncated { .. }) => break,
                Err(error) => return Err(ClientError::malformed(error)),
            };
            for record in batch.records() {
                let record = record.map_err(ClientError::malformed)?;
                if record.offset < self.next {
                    continue;
                }
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                self.next = record.offset.saturating_add(1);
                records.push(ReadRecord {
                    offset: record.offset,
                    key: record.key.map(text),
                    value: record.value.map(text).unwrap_or_default(),
                });
            }
        }
        Ok(records)
    }
}
