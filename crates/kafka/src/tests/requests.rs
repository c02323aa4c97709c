//! Every request that the client side of `kafka-protocol` encodes, at every advertised version, is
//! decoded to the same content.

use bytes::Bytes;
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::{Request, StrBytes};
use uuid::Uuid;

use super::fake::{encode, open};
use crate::api::ApiKey;
use crate::requests::{
    ApiVersionsRequest, CreateTopicsRequest, FetchRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, ProduceRequest,
};
use crate::wire::Reader;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn reader<M: Request>(version: i16, message: &M) -> Reader {
    let (call, rest) = open(&encode(version, 1, message));
    call.open(rest).unwrap()
}

#[test]
fn api_versions() {
    for version in ApiKey::ApiVersions.versions() {
        let mut sent = kp::ApiVersionsRequest::default();
        if version >= 3 {
            sent = sent
                .with_client_software_name(text("librdkafka"))
                .with_client_software_version(text("2.16"));
        }
        let got = ApiVersionsRequest::decode(&mut reader(version, &sent), version).unwrap();
        assert_eq!(got.client_software_name, sent.client_software_name);
        assert_eq!(got.client_software_version, sent.client_software_version);
    }
}

#[test]
fn metadata() {
    for version in ApiKey::Metadata.versions() {
        let topic = |name: Option<&'static str>, id: u8| {
            kp::metadata_request::MetadataRequestTopic::default()
                .with_name(name.map(|name| text(name).into()))
                .with_topic_id(Uuid::from_bytes([if version >= 10 { id } else { 0 }; 16]))
        };
        let mut topics = vec![topic(Some("a"), 0), topic(Some("b"), 2)];
        if version >= 10 {
            topics.push(topic(None, 3));
        }
        let sent = kp::MetadataRequest::default()
            .with_topics(Some(topics.clone()))
            .with_allow_auto_topic_creation(version < 4 || version % 2 == 0)
            .with_include_cluster_authorized_operations((8..=10).contains(&version))
            .with_include_topic_authorized_operations(version >= 8);
        let got = MetadataRequest::decode(&mut reader(version, &sent), version).unwrap();
        let got_topics = got.topics.unwrap();
        assert_eq!(got_topics.len(), topics.len());
        for (got, sent) in got_topics.iter().zip(&topics) {
            assert_eq!(got.name, sent.name.clone().map(StrBytes::from));
            assert_eq!(&got.id, sent.topic_id.as_bytes());
        }
        assert_eq!(
            got.allow_auto_topic_creation,
            sent.allow_auto_topic_creation
        );
        assert_eq!(
            (
                got.include_cluster_authorized_operations,
                got.include_topic_authorized_operations
            ),
            ((8..=10).contains(&version), version >= 8)
        );
    }
}

#[test]
fn metadata_of_all_topics_is_an_empty_list_in_version_0_and_null_after_it() {
    for version in ApiKey::Metadata.versions() {
        let decode = |topics| {
            let sent = kp::MetadataRequest::default().with_topics(topics);
            MetadataRequest::decode(&mut reader(version, &sent), version).map(|r| r.topics)
        };
        if version == 0 {
            assert_eq!(decode(Some(vec![])), Ok(None));
            assert!(decode(None).is_err());
        } else {
            assert_eq!(decode(None), Ok(None));
            assert_eq!(decode(Some(vec![])), Ok(Some(vec![])));
        }
    }
}

#[test]
fn produce_slices_the_records_out_of_the_frame_without_a_copy() {
    for version in ApiKey::Produce.versions() {
        let partition = |index, records: Option<&'static [u8]>| {
            kp::produce_request::PartitionProduceData::default()
                .with_index(index)
                .with_records(records.map(Bytes::from_static))
        };
        let topic = kp::produce_request::TopicProduceData::default()
            .with_name(text("t").into())
            .with_partition_data(vec![partition(3, Some(b"records")), partition(-1, None)]);
        let sent = kp::ProduceRequest::default()
            .with_transactional_id(Some(text("tx").into()))
            .with_acks(-1)
            .with_timeout_ms(1234)
            .with_topic_data(vec![topic]);
        let frame = encode(version, 1, &sent);
        let (call, rest) = open(&frame);
        let got = ProduceRequest::decode(&mut call.open(rest).unwrap()).unwrap();
        assert_eq!(got.transactional_id.as_deref(), Some("tx"));
        assert_eq!((got.acks, got.timeout_ms), (-1, 1234));
        assert_eq!(got.topics[0].name.as_str(), "t");
        let [first, second] = got.topics[0].partitions.as_slice() else {
            panic!("{got:?}");
        };
        assert_eq!((first.index, second.index), (3, -1));
        assert_eq!(second.records, None);
        let records = first.records.clone().unwrap();
        assert_eq!(records, Bytes::from_static(b"records"));
        assert!(frame.as_ptr_range().contains(&records.as_ptr()));
    }
}

#[test]
fn fetch() {
    for version in ApiKey::Fetch.versions() {
        let since =
            |first: i16, value: i64, default: i64| if version >= first { value } else { default };
        let small = |value: i64| i32::try_from(value).unwrap();
        let mut topic = kp::fetch_request::FetchTopic::default().with_partitions(vec![
            kp::fetch_request::FetchPartition::default()
                .with_partition(4)
                .with_current_leader_epoch(small(since(9, 8, -1)))
                .with_fetch_offset(99)
                .with_last_fetched_epoch(small(since(12, 7, -1)))
                .with_log_start_offset(since(5, 3, -1))
                .with_partition_max_bytes(1 << 20),
        ]);
        let mut forgotten =
            kp::fetch_request::ForgottenTopic::default().with_partitions(vec![1, 2]);
        if version >= 13 {
            topic.topic_id = Uuid::from_bytes([1; 16]);
            forgotten.topic_id = Uuid::from_bytes([2; 16]);
        } else {
            topic.topic = text("t").into();
            forgotten.topic = text("gone").into();
        }
        let mut sent = kp::FetchRequest::default()
            .with_max_wait_ms(500)
            .with_min_bytes(1)
            .with_max_bytes(50)
            .with_isolation_level(1)
            .with_session_id(small(since(7, 6, 0)))
            .with_session_epoch(small(since(7, 5, -1)))
            .with_topics(vec![topic]);
        if version >= 7 {
            sent.forgotten_topics_data = vec![forgotten];
        }
        if version >= 11 {
            sent.rack_id = text("r");
        }
        if version >= 12 {
            sent.cluster_id = Some(text("c"));
        }
        if version >= 15 {
            sent.replica_state.replica_id = 11.into();
            sent.replica_state.replica_epoch = 12;
        } else {
            sent.replica_id = 11.into();
        }
        let got = FetchRequest::decode(&mut reader(version, &sent), version).unwrap();
        assert_eq!(got.cluster_id, sent.cluster_id);
        assert_eq!(got.replica, (11, since(15, 12, -1)));
        assert_eq!(
            (got.max_wait_ms, got.min_bytes, got.max_bytes),
            (500, 1, 50)
        );
        assert_eq!(got.isolation_level, 1);
        assert_eq!(
            (got.session_id, got.session_epoch),
            (sent.session_id, sent.session_epoch)
        );
        assert_eq!(got.rack, sent.rack_id);
        let (topic, want) = (&got.topics[0], &sent.topics[0]);
        assert_eq!(topic.name, StrBytes::from(want.topic.clone()));
        assert_eq!(&topic.id, want.topic_id.as_bytes());
        let (got_one, want) = (&topic.partitions[0], &want.partitions[0]);
        assert_eq!(
            (
                got_one.index,
                got_one.current_leader_epoch,
                got_one.fetch_offset
            ),
            (4, want.current_leader_epoch, 99)
        );
        assert_eq!(
            (
                got_one.last_fetched_epoch,
                got_one.log_start_offset,
                got_one.max_bytes
            ),
            (want.last_fetched_epoch, want.log_start_offset, 1 << 20)
        );
        assert_eq!(got.forgotten.len(), sent.forgotten_topics_data.len());
        for (got, want) in got.forgotten.iter().zip(&sent.forgotten_topics_data) {
            assert_eq!(got.name, StrBytes::from(want.topic.clone()));
            assert_eq!(&got.id, want.topic_id.as_bytes());
            assert_eq!(got.partitions, want.partitions);
        }
    }
}

#[test]
fn list_offsets() {
    for version in ApiKey::ListOffsets.versions() {
        let epoch = if version >= 4 { 3 } else { -1 };
        let topic = kp::list_offsets_request::ListOffsetsTopic::default()
            .with_name(text("t").into())
            .with_partitions(vec![
                kp::list_offsets_request::ListOffsetsPartition::default()
                    .with_partition_index(2)
                    .with_current_leader_epoch(epoch)
                    .with_timestamp(-1),
            ]);
        let sent = kp::ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_isolation_level(i8::from(version >= 2))
            .with_timeout_ms(if version >= 10 { 500 } else { 0 })
            .with_topics(vec![topic]);
        let got = ListOffsetsRequest::decode(&mut reader(version, &sent), version).unwrap();
        assert_eq!(
            (got.replica_id, got.isolation_level),
            (-1, sent.isolation_level)
        );
        assert_eq!(got.timeout_ms, sent.timeout_ms);
        assert_eq!(got.topics[0].name.as_str(), "t");
        let one = &got.topics[0].partitions[0];
        assert_eq!(
            (one.index, one.current_leader_epoch, one.timestamp),
            (2, epoch, -1)
        );
    }
}

#[test]
fn init_producer_id() {
    for version in ApiKey::InitProducerId.versions() {
        let (id, epoch) = if version >= 3 { (9, 4) } else { (-1, -1) };
        let sent = kp::InitProducerIdRequest::default()
            .with_transactional_id((version % 2 == 0).then(|| text("tx").into()))
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(id.into())
            .with_producer_epoch(epoch);
        let got = InitProducerIdRequest::decode(&mut reader(version, &sent), version).unwrap();
        assert_eq!(got.transactional_id.is_some(), version % 2 == 0);
        assert_eq!(got.transaction_timeout_ms, 60_000);
        assert_eq!((got.producer_id, got.producer_epoch), (id, epoch));
    }
}

#[test]
fn create_topics() {
    for version in ApiKey::CreateTopics.versions() {
        let assignment = kp::create_topics_request::CreatableReplicaAssignment::default()
            .with_partition_index(0)
            .with_broker_ids(vec![1.into(), 2.into()]);
        let config = |name, value: Option<&'static str>| {
            kp::create_topics_request::CreatableTopicConfig::default()
                .with_name(text(name))
                .with_value(value.map(text))
        };
        let topic = kp::create_topics_request::CreatableTopic::default()
            .with_name(text("t").into())
            .with_num_partitions(-1)
            .with_replication_factor(3)
            .with_assignments(vec![assignment])
            .with_configs(vec![config("a", Some("b")), config("c", None)]);
        let sent = kp::CreateTopicsRequest::default()
            .with_topics(vec![topic])
            .with_timeout_ms(77)
            .with_validate_only(true);
        let got = CreateTopicsRequest::decode(&mut reader(version, &sent)).unwrap();
        assert_eq!((got.timeout_ms, got.validate_only), (77, true));
        let topic = &got.topics[0];
        assert_eq!(topic.name.as_str(), "t");
        assert_eq!((topic.num_partitions, topic.replication_factor), (-1, 3));
        assert_eq!(topic.assignments, [(0, vec![1, 2])]);
        assert_eq!(
            topic.configs,
            [(text("a"), Some(text("b"))), (text("c"), None)]
        );
    }
}

/// What librdkafka 2.16 sends for "all topics" has three bytes too many; Kafka lets them pass.
#[test]
fn metadata_of_all_topics_as_librdkafka_asks_for_it() {
    let body = Bytes::from_static(&[0, 0, 0, 0, 1, 0, 0]);
    let mut reader = Reader::new(body, true);
    let request = MetadataRequest::decode(&mut reader, 13).unwrap();
    assert_eq!(request.topics, None);
}
