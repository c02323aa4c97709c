//! The matrix, continued: creation of topics and metadata.

use std::time::Duration;

use kafka_protocol::messages as kp;
use rivven_core_types::{BrokerId, Durability};
use uuid::Uuid;

use super::fake::{FakeBroker, TOPIC, TOPIC_ID, call, cluster, topic};
use super::handlers::{errors, text};
use crate::BrokerError;
use crate::api::ApiKey;

fn create(name: &str, partitions: i32, factor: i16) -> kp::create_topics_request::CreatableTopic {
    kp::create_topics_request::CreatableTopic::default()
        .with_name(text(name).into())
        .with_num_partitions(partitions)
        .with_replication_factor(factor)
}

fn configured(name: &str, key: &str, value: &str) -> kp::create_topics_request::CreatableTopic {
    let config = kp::create_topics_request::CreatableTopicConfig::default();
    create(name, -1, -1).with_configs(vec![
        config.with_name(text(key)).with_value(Some(text(value))),
    ])
}

fn assigned(name: &str, replicas: &[(i32, &[i32])]) -> kp::create_topics_request::CreatableTopic {
    let assignment = |(index, brokers): &(i32, &[i32])| {
        kp::create_topics_request::CreatableReplicaAssignment::default()
            .with_partition_index(*index)
            .with_broker_ids(brokers.iter().map(|id| (*id).into()).collect())
    };
    create(name, -1, -1).with_assignments(replicas.iter().map(assignment).collect())
}

#[tokio::test]
async fn create_topics_checks_each_topic_and_asks_the_broker_for_the_good_ones() {
    let topics = vec![
        (create("good", 2, 1), 0),
        (create("default", -1, -1), 0),
        (configured("min", "min.insync.replicas", "2"), 0),
        (configured("durable", "durability", "replicated"), 0),
        (configured("short", "retention.ms", "1000"), 0),
        (assigned("placed", &[(1, &[2, 1]), (0, &[1, 2])]), 0),
        (create("a/b", 1, 1), 17),
        (create("twice", 1, 1), 42),
        (create("twice", 1, 1), 42),
        (create("zero", 0, 1), 37),
        (create("huge", 100_001, 1), 37),
        (create("none", 1, 0), 38),
        (create("wide", 1, 16), 38),
        (configured("strange", "flush.ms", "1"), 40),
        (configured("compact", "cleanup.policy", "compact"), 40),
        (configured("nonsense", "min.insync.replicas", "0"), 40),
        (configured("lazy", "durability", "maybe"), 40),
        (assigned("gap", &[(0, &[1]), (2, &[1])]), 39),
        (assigned("repeat", &[(0, &[1, 1])]), 39),
        (assigned("ragged", &[(0, &[1, 2]), (1, &[1])]), 39),
        (assigned("both", &[(0, &[1])]).with_num_partitions(1), 42),
    ];
    let (sent, codes): (Vec<_>, Vec<i16>) = topics.into_iter().unzip();
    for version in ApiKey::CreateTopics.versions() {
        let broker = FakeBroker::new();
        let request = kp::CreateTopicsRequest::default()
            .with_topics(sent.clone())
            .with_timeout_ms(500)
            .with_validate_only(true);
        let response = call(&broker, version, &request).await;
        for ((got, sent), code) in response.topics.iter().zip(&sent).zip(&codes) {
            assert_eq!((&got.name, got.error_code), (&sent.name, *code));
            assert_eq!(got.error_message.is_some(), *code != 0);
        }
        let good = &response.topics[0];
        assert_eq!(
            good.topic_id.as_bytes()[0],
            if version >= 7 { 9 } else { 0 }
        );
        let counts = (good.num_partitions, good.replication_factor);
        assert_eq!(counts, if version >= 5 { (2, 1) } else { (-1, -1) });
        let [asked] = broker.created().try_into().unwrap();
        assert!(asked.validate_only && asked.timeout == Duration::from_millis(500));
        let names: Vec<_> = asked
            .topics
            .iter()
            .map(|topic| topic.name.as_str())
            .collect();
        assert_eq!(
            names,
            ["good", "default", "min", "durable", "short", "placed"]
        );
        assert_eq!(
            (asked.topics[0].partitions, asked.topics[1].partitions),
            (Some(2), None)
        );
        assert_eq!(asked.topics[2].min_isr, Some(2));
        assert_eq!(asked.topics[3].durability, Some(Durability::Replicated));
        assert_eq!(asked.topics[4].log.retention_ms, Some(1_000));
        let id = BrokerId::new;
        assert_eq!(
            asked.topics[5].assignments,
            [[id(1), id(2)], [id(2), id(1)]]
        );
    }
}

#[tokio::test]
async fn create_topics_answers_every_error_at_every_version() {
    let broker = FakeBroker::new();
    for version in ApiKey::CreateTopics.versions() {
        for error in errors() {
            broker.fail(Some(error));
            let request = kp::CreateTopicsRequest::default().with_topics(vec![create("t", 1, 1)]);
            let response = call(&broker, version, &request).await;
            assert_eq!(response.topics[0].error_code, error.code());
            assert_eq!(response.topics[0].error_message.as_deref(), Some("no"));
        }
    }
}

fn asked(name: Option<&str>, id: [u8; 16]) -> kp::metadata_request::MetadataRequestTopic {
    kp::metadata_request::MetadataRequestTopic::default()
        .with_name(name.map(|name| text(name).into()))
        .with_topic_id(Uuid::from_bytes(id))
}

#[tokio::test]
async fn metadata_never_names_a_leader_that_it_does_not_list() {
    let broker = FakeBroker::new();
    broker.set_cluster(cluster(vec![
        topic("led", [1; 16], Some(2)),
        topic("leaderless", [2; 16], None),
        topic("removed", [3; 16], Some(9)),
    ]));
    for version in ApiKey::Metadata.versions() {
        let all = (version > 0).then_some(()).map_or(Some(vec![]), |()| None);
        let request = kp::MetadataRequest::default().with_topics(all);
        let response = call(&broker, version, &request).await;
        assert_eq!(response.brokers.len(), 2);
        assert_eq!(response.brokers[1].host.as_str(), "broker-2");
        assert_eq!(response.brokers[1].rack.is_some(), version >= 1);
        assert_eq!(response.cluster_id.is_some(), version >= 2);
        assert_eq!(response.controller_id.0, if version >= 1 { 1 } else { -1 });
        let leaders: Vec<_> = response
            .topics
            .iter()
            .map(|topic| {
                let partition = &topic.partitions[1];
                assert_eq!((topic.error_code, partition.partition_index), (0, 1));
                let name = topic.name.as_ref().unwrap().to_string();
                (name, partition.error_code, partition.leader_id.0)
            })
            .collect();
        let want = [("leaderless", 5, -1), ("led", 0, 2), ("removed", 5, -1)];
        assert_eq!(
            leaders,
            want.map(|(name, code, id)| (name.to_owned(), code, id))
        );
        let partition = &response.topics[1].partitions[0];
        assert_eq!(partition.replica_nodes, [1, 2, 9]);
        assert_eq!(partition.isr_nodes, [1, 2]);
        let offline: &[i32] = if version >= 5 { &[2, 9] } else { &[] };
        assert_eq!(partition.offline_replicas, offline);
        assert_eq!(partition.leader_epoch, if version >= 7 { 5 } else { -1 });
    }
}

#[tokio::test]
async fn metadata_answers_each_topic_once_by_name_and_by_id() {
    let broker = FakeBroker::new();
    for version in ApiKey::Metadata.versions() {
        let mut topics = vec![
            asked(Some(TOPIC), [0; 16]),
            asked(Some(TOPIC), [0; 16]),
            asked(Some("nope"), [0; 16]),
            asked(Some("a/b"), [0; 16]),
        ];
        if version >= 10 {
            topics.push(asked(None, TOPIC_ID));
            topics.push(asked(None, [9; 16]));
        }
        let request = kp::MetadataRequest::default().with_topics(Some(topics));
        let response = call(&broker, version, &request).await;
        let got: Vec<_> = response
            .topics
            .iter()
            .map(|topic| {
                (
                    topic.name.as_ref().map(|n| n.as_str().to_owned()),
                    topic.error_code,
                )
            })
            .collect();
        let name = |name: &str| Some(name.to_owned());
        let mut want = vec![(name(TOPIC), 0), (name("nope"), 3), (name("a/b"), 17)];
        match version {
            12.. => want.push((None, 100)),
            10.. => want.push((name(""), 42)),
            _ => {}
        }
        assert_eq!(got, want, "version {version}");
    }
    let none = kp::MetadataRequest::default().with_topics(Some(vec![]));
    assert!(call(&broker, 13, &none).await.topics.is_empty());
}

#[tokio::test]
async fn metadata_creates_topics_only_if_client_and_broker_agree() {
    for version in ApiKey::Metadata.versions() {
        let request = |allow| {
            kp::MetadataRequest::default()
                .with_topics(Some(vec![asked(Some("new"), [0; 16])]))
                .with_allow_auto_topic_creation(allow)
        };
        let broker = FakeBroker::new();
        assert_eq!(
            call(&broker, version, &request(true)).await.topics[0].error_code,
            3
        );
        broker.auto_create();
        if version >= 4 {
            assert_eq!(
                call(&broker, version, &request(false)).await.topics[0].error_code,
                3
            );
        }
        assert!(broker.created().is_empty());
        assert_eq!(
            call(&broker, version, &request(true)).await.topics[0].error_code,
            5
        );
        assert_eq!(broker.created()[0].topics[0].partitions, None);
        for error in errors() {
            broker.fail(Some(error));
            let code = call(&broker, version, &request(true)).await.topics[0].error_code;
            let again = error.is_retriable() || error == BrokerError::TopicExists;
            assert_eq!(code, if again { 5 } else { error.code() });
        }
    }
}
