//! The frame reader on an in-memory stream.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;

use crate::KafkaConfig;
use crate::frame_reader::{FrameReader, ReadError};

fn reader(
    config: KafkaConfig,
) -> (
    tokio::io::DuplexStream,
    FrameReader<tokio::io::DuplexStream>,
    Arc<Semaphore>,
) {
    let (client, server) = tokio::io::duplex(1 << 20);
    let memory = Arc::new(Semaphore::new(config.request_memory_bytes));
    let reader = FrameReader::new(server, Arc::new(config), Arc::clone(&memory));
    (client, reader, memory)
}

#[tokio::test]
async fn frames_are_split_and_their_memory_is_counted_while_they_live() {
    let config = KafkaConfig::default();
    let budget = config.request_memory_bytes;
    let (mut client, mut reader, memory) = reader(config);
    let big = vec![7u8; 100_000];
    client
        .write_all(&[0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])
        .await
        .unwrap();
    client.write_all(&100_000_i32.to_be_bytes()).await.unwrap();
    client.write_all(&big).await.unwrap();
    let first = reader.next(|| false).await.unwrap();
    assert_eq!(first.bytes.as_ref(), [1, 2, 3, 4, 5, 6, 7, 8]);
    let second = reader.next(|| false).await.unwrap();
    assert_eq!(second.bytes.as_ref(), big);
    assert_eq!(memory.available_permits(), budget - 8 - 100_000);
    drop((first, second));
    assert_eq!(memory.available_permits(), budget);
}

#[tokio::test]
async fn lengths_out_of_bounds_are_refused_without_memory() {
    for length in [i32::MAX, 100 << 20, (16 << 20) + 1, 7, 0, -1, i32::MIN] {
        let (mut client, mut reader, _memory) = reader(KafkaConfig::default());
        client.write_all(&length.to_be_bytes()).await.unwrap();
        let refused = reader.next(|| false).await.unwrap_err();
        assert!(matches!(refused, ReadError::Length { .. }), "{refused}");
        assert!(reader.capacity() < 100_000);
    }
}

#[tokio::test(start_paused = true)]
async fn a_promised_length_takes_memory_only_as_bytes_arrive_and_has_a_deadline() {
    let (mut client, mut reader, _memory) = reader(KafkaConfig::default());
    client
        .write_all(&(16_i32 << 20).to_be_bytes())
        .await
        .unwrap();
    client.write_all(&[0; 1000]).await.unwrap();
    let refused = reader.next(|| false).await.unwrap_err();
    assert!(matches!(refused, ReadError::Slow(_)), "{refused}");
    assert!(reader.capacity() < 100_000, "{}", reader.capacity());
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_idle_only_without_requests_in_flight() {
    let config = KafkaConfig {
        idle_timeout: Duration::from_secs(10),
        ..KafkaConfig::default()
    };
    let (_client, mut reader, _memory) = reader(config);
    let start = tokio::time::Instant::now();
    let busy = || start.elapsed() < Duration::from_secs(25);
    let refused = reader.next(busy).await.unwrap_err();
    assert!(matches!(refused, ReadError::Idle(_)), "{refused}");
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn a_frame_waits_for_memory_and_is_refused_when_none_comes() {
    let (mut client, mut reader, memory) = reader(KafkaConfig::default());
    client
        .write_all(&[0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8])
        .await
        .unwrap();
    let all = u32::try_from(memory.available_permits()).unwrap();
    let held = memory.acquire_many(all).await.unwrap();
    let refused = reader.next(|| false).await.unwrap_err();
    assert!(matches!(refused, ReadError::Memory), "{refused}");
    drop(held);
}
