//! A small Kafka client of our own: it records when and by whom each record was acknowledged, which
//! no library shows, and it is used only in tests and in the demo.

mod client;
mod connection;
mod consumer;
mod error;
mod partitioner;
mod producer;
mod replicas;
mod tail;
mod writer;

pub use client::{KafkaClient, PartitionInfo, TOPIC_ALREADY_EXISTS, TopicInfo};
pub use consumer::{ReadPartition, read_all};
pub use error::{ClientError, describe};
pub use partitioner::{murmur2, partition_of_key};
pub use producer::{Producer, ProducerOptions};
pub use replicas::Reassigning;
pub use tail::{Polled, ReadRecord, Tail};
pub use writer::{Ack, Progress};
