//! The matrix: every API at every advertised version, with every answer and every error that the
//! broker can give, is encoded and read back by the client side of `kafka-protocol`; and the rules of
//! which code may appear where.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::{
    BatchBuilder, BrokerId, LeaderEpoch, ProducerEpoch, ProducerId, RecordBatch,
};
use uuid::Uuid;

use super::fake::{EPOCH, FakeBroker, LEADER, TOPIC, TOPIC_ID, answer, batch, call};
use crate::api::ApiKey;
use crate::{BrokerError, CurrentLeader};

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// All errors: without a leader, with one that is listed, with one that is not.
pub(super) fn errors() -> Vec<BrokerError> {
    let stranger = CurrentLeader {
        broker: BrokerId::new(99),
        epoch: LeaderEpoch::new(1),
    };
    [None, Some(LEADER), Some(stranger)]
        .into_iter()
        .flat_map(BrokerError::all)
        .collect()
}

pub(super) fn produce_to(name: &str, index: i32, records: Bytes, acks: i16) -> kp::ProduceRequest {
    let partition = kp::produce_request::PartitionProduceData::default()
        .with_index(index)
        .with_records(Some(records));
    let topic = kp::produce_request::TopicProduceData::default()
        .with_name(text(name).into())
        .with_partition_data(vec![partition]);
    kp::ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(1000)
        .with_topic_data(vec![topic])
}

pub(super) fn produce(value: &str, acks: i16) -> kp::ProduceRequest {
    produce_to(TOPIC, 0, batch(value).bytes().clone(), acks)
}

pub(super) fn fetch(version: i16, offset: i64, max_wait_ms: i32) -> kp::FetchRequest {
    let partition = kp::fetch_request::FetchPartition::default()
        .with_fetch_offset(offset)
        .with_partition_max_bytes(1 << 20);
    let mut topic = kp::fetch_request::FetchTopic::default().with_partitions(vec![partition]);
    if version >= 13 {
        topic.topic_id = Uuid::from_bytes(TOPIC_ID);
    } else {
        topic.topic = text(TOPIC).into();
    }
    kp::FetchRequest::default()
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_topics(vec![topic])
}

#[tokio::test]
async fn api_versions_advertises_what_is_decoded_and_nothing_else() {
    for version in ApiKey::ApiVersions.versions() {
        let request = kp::ApiVersionsRequest::default();
        let response = call(&FakeBroker::new(), version, &request).await;
        assert_eq!(response.error_code, 0);
        let got: Vec<_> = response
            .api_keys
            .iter()
            .map(|api| (api.api_key, api.min_version..=api.max_version))
            .collect();
        let want = ApiKey::ALL.map(|api| (api.key(), api.versions()));
        assert_eq!(got, want);
    }
}

#[tokio::test]
async fn produce_answers_success_at_every_version() {
    for version in ApiKey::Produce.versions() {
        let broker = FakeBroker::new();
        for (offset, acks) in [(0, -1), (1, 1)] {
            let response = call(&broker, version, &produce("v", acks)).await;
            assert_eq!(response.responses[0].name.as_str(), TOPIC);
            let partition = &response.responses[0].partition_responses[0];
            assert_eq!((partition.error_code, partition.base_offset), (0, offset));
            assert_eq!(
                partition.log_append_time_ms,
                if acks == 1 { 77 } else { -1 }
            );
            assert_eq!(
                partition.log_start_offset,
                if version >= 5 { 0 } else { -1 }
            );
        }
    }
}

#[tokio::test]
async fn produce_answers_every_error_at_every_version_and_never_with_a_deadly_code() {
    let broker = FakeBroker::new();
    for version in ApiKey::Produce.versions() {
        for error in errors() {
            broker.fail(Some(error));
            let response = call(&broker, version, &produce("v", -1)).await;
            let partition = &response.responses[0].partition_responses[0];
            assert_eq!(partition.error_code, error.produce_code());
            // Each of these makes librdkafka fail the delivery although a retry would succeed.
            assert!(
                ![74, 75, 13, -1, 89, 5].contains(&partition.error_code),
                "{error}"
            );
            assert_eq!(partition.base_offset, -1);
            assert_eq!(partition.error_message.is_some(), version >= 8);
            let hinted = version >= 10 && error.current_leader() == Some(LEADER);
            assert_eq!(
                partition.current_leader.leader_id.0,
                if hinted { 2 } else { -1 }
            );
            assert_eq!(
                partition.current_leader.leader_epoch,
                if hinted { 6 } else { -1 }
            );
            let hosts: Vec<_> = response
                .node_endpoints
                .iter()
                .map(|n| n.host.as_str())
                .collect();
            assert_eq!(hosts, if hinted { vec!["broker-2"] } else { vec![] });
        }
    }
}

async fn produce_code(records: Bytes) -> i16 {
    let response = call(&FakeBroker::new(), 9, &produce_to(TOPIC, 0, records, -1)).await;
    response.responses[0].partition_responses[0].error_code
}

/// Sets attribute bits of a batch and makes the CRC right again.
fn with_attributes(batch: &RecordBatch, attributes: u16) -> Bytes {
    let mut bytes = batch.bytes().to_vec();
    bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
    let crc = crc(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

/// CRC-32C, bit by bit.
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))
        })
    })
}

#[tokio::test]
async fn produce_refuses_batches_that_lie_or_that_it_does_not_serve() {
    let good = batch("v");
    assert_eq!(produce_code(good.bytes().clone()).await, 0);
    assert_eq!(produce_code(with_attributes(&good, 0)).await, 0);
    for (codec, code) in [(1, 76), (2, 76), (3, 76), (4, 76), (7, 76)] {
        assert_eq!(produce_code(with_attributes(&good, codec)).await, code);
    }
    assert_eq!(
        produce_code(with_attributes(&good, 0x10)).await,
        48,
        "transactional"
    );
    assert_eq!(
        produce_code(with_attributes(&good, 0x20)).await,
        87,
        "control"
    );
    assert_eq!(
        produce_code(with_attributes(&good, 0x08)).await,
        32,
        "LogAppendTime"
    );
    assert_eq!(produce_code(Bytes::new()).await, 87, "no batch");
    let mut two = BytesMut::from(good.bytes().as_ref());
    two.extend_from_slice(good.bytes());
    assert_eq!(produce_code(two.freeze()).await, 87, "two batches");
    assert_eq!(
        produce_code(good.bytes().slice(..60)).await,
        87,
        "cut in the header"
    );
    assert_eq!(
        produce_code(good.bytes().slice(..65)).await,
        87,
        "cut in the records"
    );
    let mut flipped = good.bytes().to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    assert_eq!(produce_code(flipped.into()).await, 2, "CRC");
    let mut length = good.bytes().to_vec();
    length[8..12].copy_from_slice(&(2_i32 << 20).to_be_bytes());
    assert_eq!(produce_code(length.into()).await, 10, "too large");
    let mut old = vec![0u8; 30];
    old[16] = 1;
    assert_eq!(produce_code(old.into()).await, 43, "message set of magic 1");
    // A right CRC over records that contradict themselves.
    let mut lie = good.bytes().to_vec();
    lie[61] = 0x7e;
    assert_eq!(
        produce_code(with_attributes_of(lie)).await,
        87,
        "record length"
    );
    let pid = BatchBuilder::new(0).producer(ProducerId::new(5), ProducerEpoch::new(0), -1);
    let pid = pid.record(0, None, None).build().unwrap();
    assert_eq!(produce_code(pid.bytes().clone()).await, 87, "no sequence");
}

fn with_attributes_of(mut bytes: Vec<u8>) -> Bytes {
    let crc = crc(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes.into()
}

#[tokio::test]
async fn produce_refuses_unknown_partitions_acks_and_transactions_for_each_partition() {
    for version in ApiKey::Produce.versions() {
        let code = async |request: kp::ProduceRequest| {
            let response = call(&FakeBroker::new(), version, &request).await;
            response.responses[0].partition_responses[0].error_code
        };
        let records = batch("v").bytes().clone();
        assert_eq!(code(produce_to("nope", 0, records.clone(), -1)).await, 3);
        assert_eq!(code(produce_to(TOPIC, 2, records.clone(), -1)).await, 3);
        assert_eq!(code(produce_to(TOPIC, -1, records, -1)).await, 3);
        assert_eq!(code(produce("v", 2)).await, 21);
        let transactional = produce("v", -1).with_transactional_id(Some(text("tx").into()));
        assert_eq!(code(transactional).await, 53);
    }
}

#[tokio::test]
async fn acks_0_is_never_answered_and_closes_the_connection_when_it_fails() {
    let broker = FakeBroker::new();
    let done = answer(&broker, 9, &produce("v", 0)).await;
    assert!(done.frame.is_none() && !done.close);
    broker.fail(Some(BrokerError::NotLeader { leader: None }));
    let failed = answer(&broker, 9, &produce("v", 0)).await;
    assert!(failed.frame.is_none() && failed.close);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_never_answers_is_answered_for() {
    let broker = FakeBroker::new();
    broker.never_answer();
    let response = call(&broker, 9, &produce("v", -1)).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 7);
}

#[tokio::test]
async fn fetch_answers_success_at_every_version() {
    for version in ApiKey::Fetch.versions() {
        let broker = FakeBroker::new();
        call(&broker, 9, &produce("v", 1)).await;
        let response = call(&broker, version, &fetch(version, 0, 0)).await;
        assert_eq!((response.error_code, response.session_id), (0, 0));
        let topic = &response.responses[0];
        if version >= 13 {
            assert_eq!(topic.topic_id.as_bytes(), &TOPIC_ID);
        } else {
            assert_eq!(topic.topic.as_str(), TOPIC);
        }
        let partition = &topic.partitions[0];
        assert_eq!((partition.error_code, partition.high_watermark), (0, 1));
        assert_eq!(partition.last_stable_offset, 1);
        let stored = batch("v").restamped(rivven_core_types::Offset::ZERO, EPOCH);
        assert_eq!(partition.records.as_ref(), Some(stored.bytes()));
        let end = call(&broker, version, &fetch(version, 1, 0)).await;
        assert_eq!(end.responses[0].partitions[0].records, Some(Bytes::new()));
    }
}

#[tokio::test]
async fn fetch_answers_every_error_at_every_version_with_codes_that_clients_retry() {
    let broker = FakeBroker::new();
    for version in ApiKey::Fetch.versions() {
        for error in errors() {
            broker.fail(Some(error));
            let response = call(&broker, version, &fetch(version, 0, 10_000)).await;
            let partition = &response.responses[0].partitions[0];
            let code = partition.error_code;
            assert_eq!(code, error.fetch_code(version >= 13));
            assert!(
                [1, 3, 6, 56, 74, 75, 100].contains(&code),
                "{error}: {code}"
            );
            assert_eq!(code == 1, error == BrokerError::OffsetOutOfRange);
            assert_eq!(partition.high_watermark, -1);
            let hinted = error.current_leader() == Some(LEADER);
            let leader = if version >= 12 && hinted { 2 } else { -1 };
            assert_eq!(partition.current_leader.leader_id.0, leader);
            let hosts: Vec<_> = response
                .node_endpoints
                .iter()
                .map(|n| n.host.as_str())
                .collect();
            assert_eq!(
                hosts,
                if version >= 16 && hinted {
                    vec!["broker-2"]
                } else {
                    vec![]
                }
            );
        }
    }
}

#[tokio::test]
async fn fetch_refuses_unknown_topics_by_name_with_3_and_by_id_with_100_without_waiting() {
    for version in ApiKey::Fetch.versions() {
        let mut request = fetch(version, 0, i32::MAX);
        let mut strange = request.topics[0].clone();
        if version >= 13 {
            strange.topic_id = Uuid::from_bytes([9; 16]);
        } else {
            strange.topic = text("nope").into();
        }
        request.topics[0].partitions[0].partition = 7;
        request.topics.push(strange);
        request.topics.push(fetch(version, -5, 0).topics.remove(0));
        request.topics.push(fetch(version, 0, 0).topics.remove(0));
        let broker = FakeBroker::new();
        let answered = call(&broker, version, &request);
        let response = tokio::time::timeout(Duration::from_secs(5), answered)
            .await
            .unwrap();
        let codes: Vec<_> = response
            .responses
            .iter()
            .map(|topic| topic.partitions[0].error_code)
            .collect();
        assert_eq!(codes, [3, if version >= 13 { 100 } else { 3 }, 1, 0]);
    }
}

#[tokio::test]
async fn fetch_sessions_are_declined_so_that_the_client_sends_full_requests() {
    for version in 7..=*ApiKey::Fetch.versions().end() {
        let broker = FakeBroker::new();
        for (epoch, code) in [(-1, 0), (0, 0), (1, 70)] {
            let request = fetch(version, 0, 0).with_session_epoch(epoch);
            let response = call(&broker, version, &request).await;
            assert_eq!((response.error_code, response.session_id), (code, 0));
        }
    }
}

fn list(timestamp: i64) -> kp::ListOffsetsRequest {
    let partition = |index| {
        kp::list_offsets_request::ListOffsetsPartition::default()
            .with_partition_index(index)
            .with_timestamp(timestamp)
    };
    let topic = kp::list_offsets_request::ListOffsetsTopic::default()
        .with_name(text(TOPIC).into())
        .with_partitions(vec![partition(0), partition(5)]);
    kp::ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_topics(vec![topic])
}

#[tokio::test]
async fn list_offsets_answers_every_query_at_every_version() {
    let broker = FakeBroker::new();
    for version in ApiKey::ListOffsets.versions() {
        for (timestamp, first, want) in [
            (-2, 1, (0, -1)),
            (-1, 1, (0, -1)),
            (-3, 7, (3, 30)),
            (-4, 8, (0, -1)),
            (-5, 9, (-1, -1)),
            (20, 1, (1, 20)),
            (5_000, 1, (-1, -1)),
            (-6, i16::MAX, (-1, -1)),
        ] {
            let response = call(&broker, version, &list(timestamp)).await;
            let [known, unknown] = response.topics[0].partitions.as_slice() else {
                panic!("{response:?}");
            };
            if version >= first {
                assert_eq!(known.error_code, 0);
                assert_eq!((known.offset, known.timestamp), want);
                let epoch = if version >= 4 && want.0 >= 0 {
                    EPOCH.get()
                } else {
                    -1
                };
                assert_eq!(known.leader_epoch, epoch);
            } else {
                assert_eq!(known.error_code, 35);
            }
            assert_eq!(unknown.error_code, 3);
        }
    }
}

#[tokio::test]
async fn list_offsets_answers_every_error_at_every_version() {
    let broker = FakeBroker::new();
    for version in ApiKey::ListOffsets.versions() {
        for error in errors() {
            broker.fail(Some(error));
            let response = call(&broker, version, &list(-1)).await;
            let code = response.topics[0].partitions[0].error_code;
            assert_eq!(code, error.list_offsets_code(version));
            assert!(code != 78 || version >= 5);
            assert!(![74, 75].contains(&code) || version >= 4);
        }
    }
}

fn epoch_ends(asked: i32) -> kp::OffsetForLeaderEpochRequest {
    use kp::offset_for_leader_epoch_request as request;
    let partition = |index| {
        request::OffsetForLeaderPartition::default()
            .with_partition(index)
            .with_current_leader_epoch(EPOCH.get())
            .with_leader_epoch(asked)
    };
    let topic = request::OffsetForLeaderTopic::default()
        .with_topic(text(TOPIC).into())
        .with_partitions(vec![partition(0), partition(5)]);
    kp::OffsetForLeaderEpochRequest::default()
        .with_replica_id((-1).into())
        .with_topics(vec![topic])
}

#[tokio::test]
async fn offset_for_leader_epoch_answers_at_every_version() {
    let broker = FakeBroker::new();
    for version in ApiKey::OffsetForLeaderEpoch.versions() {
        broker.fail(None);
        for (asked, want) in [
            (EPOCH.get(), (EPOCH.get(), 0)),
            (EPOCH.get() - 1, (-1, -1)),
            (-1, (-1, -1)),
        ] {
            let mut request = epoch_ends(asked);
            if version < 3 {
                request.replica_id = kp::OffsetForLeaderEpochRequest::default().replica_id;
            }
            let response = call(&broker, version, &request).await;
            let [known, unknown] = response.topics[0].partitions.as_slice() else {
                panic!("{response:?}");
            };
            assert_eq!(known.error_code, 0);
            assert_eq!((known.leader_epoch, known.end_offset), want);
            assert_eq!(unknown.error_code, 3);
            assert_eq!((unknown.leader_epoch, unknown.end_offset), (-1, -1));
            for error in errors() {
                broker.fail(Some(error));
                let response = call(&broker, version, &request).await;
                let code = response.topics[0].partitions[0].error_code;
                let want = if asked < 0 {
                    0
                } else {
                    error.fetch_code(false)
                };
                assert_eq!(code, want);
            }
            broker.fail(None);
        }
    }
}

#[tokio::test]
async fn init_producer_id_fails_with_loading_and_refuses_transactions_for_good() {
    let broker = FakeBroker::new();
    for version in ApiKey::InitProducerId.versions() {
        broker.fail(None);
        let request = kp::InitProducerIdRequest::default().with_transactional_id(None);
        let response = call(&broker, version, &request).await;
        assert_eq!((response.error_code, response.producer_id.0), (0, 1000));
        assert_eq!(response.producer_epoch, 0);
        for error in errors() {
            broker.fail(Some(error));
            let response = call(&broker, version, &request).await;
            assert_eq!((response.error_code, response.producer_id.0), (14, -1));
        }
        let request = request.with_transactional_id(Some(text("tx").into()));
        assert_eq!(call(&broker, version, &request).await.error_code, 53);
    }
}
