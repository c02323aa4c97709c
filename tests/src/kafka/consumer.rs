//! Reading everything back.

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_core_types::PartitionId;

use super::client::KafkaClient;
use super::error::ClientError;
use super::tail::{ReadRecord, Tail};
use crate::failure::Failure;
use crate::wait;

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
            tail: Tail::new(client.clone(), topic, index, 0),
            end: -1,
            records: Vec::new(),
        };
        wait::until(
            &format!("{topic}-{index} is read up to {end}"),
            limit,
            async || {
                let error = match reading.advance(end).await {
                    Ok(()) => return Ok(Ok(())),
                    Err(error) => error,
                };
                let failure = Failure::new(format!("at offset {}: {error}", reading.tail.next()));
                if error.is_retriable() {
                    Err(failure)
                } else {
                    Ok(Err(failure))
                }
            },
        )
        .await??;
        let (id, Reading { end, records, .. }) = (partition.id, reading);
        all.push(ReadPartition { id, end, records });
    }
    Ok(all)
}

struct Reading {
    tail: Tail,
    end: i64,
    records: Vec<ReadRecord>,
}

impl Reading {
    /// Reads on until the high watermark, which must be at least `wanted`.
    async fn advance(&mut self, wanted: i64) -> Result<(), ClientError> {
        loop {
            let before = self.tail.next();
            let polled = self.tail.poll().await?;
            self.end = polled.high_watermark;
            for (record, due) in polled.records.into_iter().zip(before..) {
                if record.offset != due {
                    let text = format!("offset {} instead of {due}", record.offset);
                    return Err(ClientError::Malformed(text));
                }
                self.records.push(record);
            }
            if self.tail.next() >= self.end {
                break;
            }
        }
        if self.end >= wanted {
            return Ok(());
        }
        let text = format!("the high watermark is {}, not yet {wanted}", self.end);
        Err(ClientError::Connection(text))
    }
}
