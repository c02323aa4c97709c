//! Reading everything back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::FetchRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use rivven_core_types::{BatchError, PartitionId, RecordBatch};

use super::client::{KafkaClient, PartitionInfo, topic_name};
use super::connection::Connection;
use super::error::ClientError;
use crate::failure::Failure;
use crate::wait;

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

/// Everything in a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadPartition {
    /// The partition.
    pub id: PartitionId,
    /// The high watermark up to which it was read.
    pub end: i64,
    /// The records, in the order of the log.
    pub records: Vec<ReadRecord>,
}

/// Reads all partitions of a topic from the start up to their high watermarks, waiting until these are
/// behind the offsets in `acknowledged` (by partition).
pub async fn read_all(
    client: &KafkaClient,
    topic: &str,
    acknowledged: &BTreeMap<u32, i64>,
    limit: Duration,
) -> Result<Vec<ReadPartition>, Failure> {
    let mut all = Vec::new();
    for partition in client.led_topic(topic, limit).await?.partitions {
        let index = partition.id.index.get();
        let end = acknowledged.get(&index).map_or(0, |offset| offset + 1);
        let mut reading = Reading {
            id: partition.id,
            end: -1,
            next: 0,
            records: Vec::new(),
        };
        wait::until(
            &format!("{topic}-{index} is read up to {end}"),
            limit,
            async || {
                let error = match reading.advance(client, topic, end).await {
                    Ok(()) => return Ok(Ok(())),
                    Err(error) => error,
                };
                let failure = Failure::new(format!("at offset {}: {error}", reading.next));
                if error.is_retriable() {
                    Err(failure)
                } else {
                    Ok(Err(failure))
                }
            },
        )
        .await??;
        let Reading {
            id, end, records, ..
        } = reading;
        all.push(ReadPartition { id, end, records });
    }
    Ok(all)
}

struct Reading {
    id: PartitionId,
    end: i64,
    next: i64,
    records: Vec<ReadRecord>,
}

impl Reading {
    /// Reads on at the leader until the high watermark, which must be at least `wanted`.
    async fn advance(
        &mut self,
        client: &KafkaClient,
        topic: &str,
        wanted: i64,
    ) -> Result<(), ClientError> {
        let info = client.metadata(topic).await?;
        let is_this = |partition: &&PartitionInfo| partition.id == self.id;
        let leader = info
            .partitions
            .iter()
            .find(is_this)
            .and_then(|partition| partition.leader);
        let no_leader = || ClientError::Connection("no leader".to_owned());
        let (_, address) = leader.ok_or_else(no_leader)?;
        let mut connection = Connection::open(address).await?;
        loop {
            self.fetch(&mut connection, topic).await?;
            if self.next >= self.end && self.end >= wanted {
                return Ok(());
            }
            if self.next >= self.end {
                let text = format!("the high watermark is {}, not yet {wanted}", self.end);
                return Err(ClientError::Connection(text));
            }
        }
    }

    async fn fetch(&mut self, connection: &mut Connection, topic: &str) -> Result<(), ClientError> {
        let index = i32::try_from(self.id.index.get()).map_err(ClientError::malformed)?;
        let partition = FetchPartition::default()
            .with_partition(index)
            .with_fetch_offset(self.next)
            .with_partition_max_bytes(MAX_BYTES);
        let wanted = FetchTopic::default()
            .with_topic(topic_name(topic))
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
        ClientError::check(answer.error_code, || format!("fetch of {topic}-{index}"))?;
        self.end = answer.high_watermark;
        self.take(answer.records.unwrap_or_default())
    }

    /// Takes over the records, which must continue the log without a gap.
    fn take(&mut self, mut bytes: Bytes) -> Result<(), ClientError> {
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
                if record.offset != self.next {
                    let text = format!("offset {} instead of {}", record.offset, self.next);
                    return Err(ClientError::Malformed(text));
                }
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                self.records.push(ReadRecord {
                    offset: record.offset,
                    key: record.key.map(text),
                    value: record.value.map(text).unwrap_or_default(),
                });
                self.next += 1;
            }
        }
        if self.next > self.end {
            let text = format!(
                "offset {} was served above the high watermark {}",
                self.next - 1,
                self.end
            );
            return Err(ClientError::Malformed(text));
        }
        Ok(())
    }
}
