//! A raw TCP client against the real server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::fake::{FakeBroker, batch, decode, encode};
use super::handlers::{fetch, produce, produce_to};
use crate::{BrokerError, KafkaConfig, KafkaError, KafkaServer};

/// How long a test waits for what must come.
const DEADLINE: Duration = Duration::from_secs(10);

async fn serve(config: KafkaConfig) -> (Arc<FakeBroker>, KafkaServer) {
    let broker = FakeBroker::new();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let served = Arc::new(Arc::clone(&broker));
    let server = KafkaServer::bind(any, config, served).await.unwrap();
    (broker, server)
}

struct Client(TcpStream);

impl Client {
    async fn connect(server: &KafkaServer) -> Self {
        Self(TcpStream::connect(server.local_addr()).await.unwrap())
    }

    async fn send_bytes(&mut self, frame: &[u8]) {
        let length = i32::try_from(frame.len()).unwrap();
        let bytes = [&length.to_be_bytes(), frame].concat();
        self.0.write_all(&bytes).await.unwrap();
    }

    async fn send<M: Request>(&mut self, version: i16, correlation: i32, message: &M) {
        self.send_bytes(&encode(version, correlation, message))
            .await;
    }

    async fn read_frame(&mut self) -> Bytes {
        let read = async {
            let length = usize::try_from(self.0.read_i32().await.unwrap()).unwrap();
            let mut frame = vec![0; length];
            self.0.read_exact(&mut frame).await.unwrap();
            Bytes::from(frame)
        };
        timeout(DEADLINE, read).await.unwrap()
    }

    async fn receive<M: Request>(&mut self, version: i16, correlation: i32) -> M::Response {
        decode::<M>(version, correlation, self.read_frame().await)
    }

    /// Whether the server closes without another byte.
    async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = timeout(DEADLINE, self.0.read(&mut byte)).await.unwrap();
        // A reset is a close as well: there may have been bytes that the server did not read.
        read.map_or(true, |count| count == 0)
    }
}

#[tokio::test]
async fn what_is_produced_is_fetched() {
    let (broker, server) = serve(KafkaConfig::default()).await;
    let mut client = Client::connect(&server).await;
    client.send(9, 1, &produce("hello", -1)).await;
    let response = client.receive::<kp::ProduceRequest>(9, 1).await;
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 0);
    client.send(16, 2, &fetch(16, 0, 0)).await;
    let response = client.receive::<kp::FetchRequest>(16, 2).await;
    let records = response.responses[0].partitions[0].records.clone().unwrap();
    let stored = rivven_core_types::split_batches(records).unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!(broker.values(0), ["hello"]);
    server.shutdown().await;
}

#[tokio::test]
async fn a_batch_of_greatest_length_passes_both_ways() {
    let (_broker, server) = serve(KafkaConfig::default()).await;
    let mut client = Client::connect(&server).await;
    let big = "x".repeat(1024 * 1024 - 100);
    client.send(9, 1, &produce(&big, -1)).await;
    let response = client.receive::<kp::ProduceRequest>(9, 1).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
    client.send(12, 2, &fetch(12, 0, 0)).await;
    let response = client.receive::<kp::FetchRequest>(12, 2).await;
    let records = response.responses[0].partitions[0].records.clone().unwrap();
    assert_eq!(records.len(), batch(&big).bytes().len());
}

#[tokio::test]
async fn a_fetch_waits_for_records_and_gets_them_when_they_come() {
    let (_broker, server) = serve(KafkaConfig::default()).await;
    let mut reader = Client::connect(&server).await;
    reader.send(12, 1, &fetch(12, 0, 30_000)).await;
    let mut writer = Client::connect(&server).await;
    writer.send(9, 1, &produce("late", 1)).await;
    let response = reader.receive::<kp::FetchRequest>(12, 1).await;
    assert_eq!(response.responses[0].partitions[0].high_watermark, 1);
    let records = response.responses[0].partitions[0].records.clone().unwrap();
    assert!(!records.is_empty());
}

#[tokio::test]
async fn a_fetch_without_records_is_answered_when_its_wait_is_over() {
    let (_broker, server) = serve(KafkaConfig::default()).await;
    let mut client = Client::connect(&server).await;
    let start = std::time::Instant::now();
    client.send(12, 1, &fetch(12, 0, 100)).await;
    let response = client.receive::<kp::FetchRequest>(12, 1).await;
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert_eq!(
        response.responses[0].partitions[0].records,
        Some(Bytes::new())
    );
}

#[tokio::test]
async fn acks_0_gets_no_response_and_a_failed_one_a_closed_connection() {
    let (broker, server) = serve(KafkaConfig::default()).await;
    let mut client = Client::connect(&server).await;
    client.send(9, 1, &produce("silent", 0)).await;
    client.send(9, 2, &produce("loud", 1)).await;
    // The first response is that of the second request.
    let response = client.receive::<kp::ProduceRequest>(9, 2).await;
    assert_eq!(response.responses[0].partition_responses[0].base_offset, 1);
    assert_eq!(broker.values(0), ["silent", "loud"]);
    broker.fail(Some(BrokerError::NotLeader { leader: None }));
    client.send(9, 3, &produce("lost", 0)).await;
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn pipelined_requests_are_appended_in_order_and_answered_in_order() {
    let (broker, server) = serve(KafkaConfig::default()).await;
    let mut client = Client::connect(&server).await;
    // The long poll holds back the answers behind it, but not the appends behind it, which end it.
    client.send(12, 100, &fetch(12, 0, 60_000)).await;
    for correlation in 0..50 {
        let value = correlation.to_string();
        client.send(9, correlation, &produce(&value, -1)).await;
    }
    let first = client.receive::<kp::FetchRequest>(12, 100).await;
    assert_eq!(first.responses[0].partitions[0].error_code, 0);
    for correlation in 0..50 {
        let response = client.receive::<kp::ProduceRequest>(9, correlation).await;
        let partition = &response.responses[0].partition_responses[0];
        assert_eq!(partition.base_offset, i64::from(correlation));
    }
    let want: Vec<_> = (0..50).map(|value: i32| value.to_string()).collect();
    assert_eq!(broker.values(0), want);
}

#[tokio::test]
async fn requests_in_flight_are_bounded() {
    let config = KafkaConfig {
        max_in_flight: 3,
        shutdown_grace: Duration::from_millis(50),
        ..KafkaConfig::default()
    };
    let (broker, server) = serve(config).await;
    broker.never_answer();
    let mut client = Client::connect(&server).await;
    for correlation in 0..10 {
        client.send(9, correlation, &produce("v", -1)).await;
    }
    broker.appended(3).await;
    // A second connection is served meanwhile; by then the first would have read on.
    let mut other = Client::connect(&server).await;
    other.send(3, 1, &kp::ApiVersionsRequest::default()).await;
    other.receive::<kp::ApiVersionsRequest>(3, 1).await;
    assert_eq!(broker.values(0).len(), 3);
    // Nor does a broker that hangs hold up the shutdown.
    timeout(DEADLINE, server.shutdown()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_version_of_api_versions_is_answered_as_version_0() {
    let (_broker, server) = serve(KafkaConfig::default()).await;
    let mut client = Client::connect(&server).await;
    // Version 99 with a header that nobody can read.
    client
        .send_bytes(&[0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0xff])
        .await;
    let response = client.receive::<kp::ApiVersionsRequest>(0, 5).await;
    assert_eq!(response.error_code, 35);
    assert_eq!(response.api_keys.len(), crate::api::ApiKey::ALL.len());
    client.send(3, 6, &kp::ApiVersionsRequest::default()).await;
    let response = client.receive::<kp::ApiVersionsRequest>(3, 6).await;
    assert_eq!(response.error_code, 0);
}

#[tokio::test]
async fn bad_requests_close_their_connection_and_no_other() {
    let (_broker, server) = serve(KafkaConfig::default()).await;
    let mut good = Client::connect(&server).await;
    let unknown_api = [0, 99, 0, 0, 0, 0, 0, 1, 0xff, 0xff].to_vec();
    let unknown_version = [0, 0, 0, 2, 0, 0, 0, 1, 0xff, 0xff].to_vec();
    let huge_array = [0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff].to_vec();
    let mut trailing = encode(12, 1, &fetch(12, 0, 0)).to_vec();
    trailing.push(0);
    for frame in [unknown_api, unknown_version, huge_array, trailing] {
        let mut client = Client::connect(&server).await;
        // What came before is still answered.
        client.send(9, 1, &produce("before", 1)).await;
        client.send_bytes(&frame).await;
        client.receive::<kp::ProduceRequest>(9, 1).await;
        assert!(client.is_closed().await, "{frame:?}");
    }
    for length in [i32::MAX, -1, 3, 100_000_000] {
        let mut client = Client::connect(&server).await;
        client.0.write_all(&length.to_be_bytes()).await.unwrap();
        assert!(client.is_closed().await, "{length}");
    }
    good.send(9, 1, &produce("after", 1)).await;
    good.receive::<kp::ProduceRequest>(9, 1).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_not_one_that_long_polls() {
    let config = KafkaConfig {
        idle_timeout: Duration::from_millis(50),
        ..KafkaConfig::default()
    };
    let (_broker, server) = serve(config).await;
    let mut idle = Client::connect(&server).await;
    let mut polling = Client::connect(&server).await;
    polling.send(12, 1, &fetch(12, 0, 300)).await;
    assert!(idle.is_closed().await);
    polling.receive::<kp::FetchRequest>(12, 1).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    let config = KafkaConfig {
        max_connections_per_source: 1,
        ..KafkaConfig::default()
    };
    let (_broker, server) = serve(config).await;
    let mut first = Client::connect(&server).await;
    first.send(9, 1, &produce("v", 1)).await;
    first.receive::<kp::ProduceRequest>(9, 1).await;
    assert!(Client::connect(&server).await.is_closed().await);
    drop(first);
    let served = async {
        loop {
            let mut next = Client::connect(&server).await;
            let request = encode(9, 1, &produce("v", 1));
            let frame = [
                &i32::try_from(request.len()).unwrap().to_be_bytes(),
                request.as_ref(),
            ];
            if next.0.write_all(&frame.concat()).await.is_ok() && next.0.read_i32().await.is_ok() {
                return;
            }
        }
    };
    timeout(DEADLINE, served).await.unwrap();
}

#[tokio::test]
async fn an_occupied_address_is_named() {
    let (broker, server) = serve(KafkaConfig::default()).await;
    let taken = server.local_addr();
    let second = KafkaServer::bind(taken, KafkaConfig::default(), Arc::new(broker)).await;
    assert!(matches!(second, Err(KafkaError::AddressInUse { addr }) if addr == taken));
}

#[tokio::test]
async fn a_shutdown_answers_what_is_in_flight_and_frees_the_port() {
    let (broker, server) = serve(KafkaConfig::default()).await;
    let addr = server.local_addr();
    let mut client = Client::connect(&server).await;
    client.send(9, 1, &produce("v", 1)).await;
    broker.appended(1).await;
    client.send(12, 2, &fetch(12, 1, 200)).await;
    // The answer of the first shows that the connection has been served.
    client.receive::<kp::ProduceRequest>(9, 1).await;
    timeout(DEADLINE, server.shutdown()).await.unwrap();
    // Either the fetch was read before the stop and is answered, or the connection just ends.
    let mut rest = Vec::new();
    timeout(DEADLINE, client.0.read_to_end(&mut rest))
        .await
        .unwrap()
        .ok();
    if !rest.is_empty() {
        let mut rest = Bytes::from(rest);
        assert_eq!(usize::try_from(rest.get_i32()).unwrap(), rest.len());
        decode::<kp::FetchRequest>(12, 2, rest);
    }
    let config = KafkaConfig::default();
    assert!(
        KafkaServer::bind(addr, config, Arc::new(broker))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn each_partition_of_a_request_is_answered_in_its_place() {
    let (broker, server) = serve(KafkaConfig::default()).await;
    let mut client = Client::connect(&server).await;
    let mut request = produce("zero", -1);
    let one = produce_to(super::fake::TOPIC, 1, batch("one").bytes().clone(), -1);
    let missing = produce_to("nope", 0, batch("none").bytes().clone(), -1);
    request.topic_data.extend(missing.topic_data);
    request.topic_data.extend(one.topic_data);
    client.send(10, 1, &request).await;
    let response = client.receive::<kp::ProduceRequest>(10, 1).await;
    let codes: Vec<_> = response
        .responses
        .iter()
        .map(|topic| topic.partition_responses[0].error_code)
        .collect();
    assert_eq!(codes, [0, 3, 0]);
    assert_eq!(
        (broker.values(0), broker.values(1)),
        (vec!["zero".to_owned()], vec!["one".to_owned()])
    );
}

#[test]
fn the_configuration_is_checked() {
    assert!(KafkaConfig::default().validate().is_ok());
    let bad = [
        KafkaConfig {
            max_frame_bytes: 1024 * 1024,
            ..KafkaConfig::default()
        },
        KafkaConfig {
            max_frame_bytes: 1 << 33,
            ..KafkaConfig::default()
        },
        KafkaConfig {
            request_memory_bytes: 1 << 20,
            ..KafkaConfig::default()
        },
        KafkaConfig {
            max_in_flight: 0,
            ..KafkaConfig::default()
        },
        KafkaConfig {
            max_connections: 0,
            ..KafkaConfig::default()
        },
        KafkaConfig {
            max_connections_per_source: 0,
            ..KafkaConfig::default()
        },
        KafkaConfig {
            max_fetch_bytes: 1,
            ..KafkaConfig::default()
        },
        KafkaConfig {
            idle_timeout: Duration::ZERO,
            ..KafkaConfig::default()
        },
    ];
    for config in bad {
        assert!(matches!(config.validate(), Err(KafkaError::Config { .. })));
    }
}
