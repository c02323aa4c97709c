//! The matrix, continued: what an operator asks for. Every version, every error, every odd request.

use std::collections::BTreeMap;

use kafka_protocol::messages as kp;
use rivven_core_types::{BrokerId, Durability, LogConfig, PartitionId, TopicId};
use uuid::Uuid;

use super::fake::{FakeBroker, TOPIC, TOPIC_ID, call, cluster, topic};
use super::handlers::{errors, text};
use crate::api::ApiKey;
use crate::{BrokerError, Reassigning};

const KIND_TOPIC: i8 = 2;

#[tokio::test]
async fn topics_are_deleted_by_name_and_by_id() {
    let broker = FakeBroker::new();
    for version in ApiKey::DeleteTopics.versions() {
        let request = if version >= 6 {
            let by = |name: Option<&str>, id: [u8; 16]| {
                kp::delete_topics_request::DeleteTopicState::default()
                    .with_name(name.map(|name| text(name).into()))
                    .with_topic_id(Uuid::from_bytes(id))
            };
            kp::DeleteTopicsRequest::default().with_topics(vec![
                by(Some(TOPIC), [0; 16]),
                by(None, TOPIC_ID),
                by(Some("nope"), [0; 16]),
                by(None, [9; 16]),
                by(Some(TOPIC), TOPIC_ID),
            ])
        } else {
            let names = [TOPIC, "nope"].map(|name| text(name).into());
            kp::DeleteTopicsRequest::default().with_topic_names(names.to_vec())
        };
        broker.fail(None);
        let response = call(&broker, version, &request).await;
        let codes: Vec<i16> = response.responses.iter().map(|r| r.error_code).collect();
        let wanted: &[i16] = if version >= 6 {
            &[0, 0, 3, 100, 42]
        } else {
            &[0, 3]
        };
        assert_eq!(codes, wanted, "version {version}");
        let deleted = broker.taken();
        assert_eq!(deleted[0], format!("delete {TOPIC}"));
        assert_eq!(deleted.len(), if version >= 6 { 2 } else { 1 });
        if version >= 6 {
            // Whichever way it was named, the answer says both.
            let by_id = &response.responses[1];
            assert_eq!(by_id.name.as_ref().unwrap().as_str(), TOPIC);
            assert_eq!(response.responses[0].topic_id.as_bytes(), &TOPIC_ID);
        }
        for error in errors() {
            broker.fail(Some(error));
            let response = call(&broker, version, &request).await;
            assert_eq!(response.responses[0].error_code, error.code());
            let message = response.responses[0].error_message.as_deref();
            assert_eq!(message, (version >= 5).then_some("no"));
        }
        broker.taken();
    }
}

#[tokio::test]
async fn records_are_deleted_below_an_offset_or_all_that_are_committed() {
    let broker = FakeBroker::new();
    for version in ApiKey::DeleteRecords.versions() {
        let of = |name: &str, partitions: &[(i32, i64)]| {
            let partition = |(index, offset): &(i32, i64)| {
                kp::delete_records_request::DeleteRecordsPartition::default()
                    .with_partition_index(*index)
                    .with_offset(*offset)
            };
            kp::delete_records_request::DeleteRecordsTopic::default()
                .with_name(text(name).into())
                .with_partitions(partitions.iter().map(partition).collect())
        };
        let request = kp::DeleteRecordsRequest::default().with_topics(vec![
            of(TOPIC, &[(0, 7), (1, -1), (0, -2), (5, 1), (-1, 1)]),
            of("nope", &[(0, 1)]),
        ]);
        broker.fail(None);
        let response = call(&broker, version, &request).await;
        let answers: Vec<_> = response
            .topics
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|p| (p.partition_index, p.low_watermark, p.error_code))
            .collect();
        let wanted = [
            (0, 7, 0),
            (1, 99, 0),
            (0, -1, 1),
            (5, -1, 3),
            (-1, -1, 3),
            (0, -1, 3),
        ];
        assert_eq!(answers, wanted, "version {version}");
        for error in errors() {
            broker.fail(Some(error));
            let response = call(&broker, version, &request).await;
            let first = &response.topics[0].partitions[0];
            assert_eq!((first.low_watermark, first.error_code), (-1, error.code()));
        }
    }
}

#[tokio::test]
async fn configurations_are_shown_with_their_source() {
    let broker = FakeBroker::new();
    let mut settings = crate::TopicSettings {
        min_isr: 2,
        durability: Durability::Replicated,
        log: LogConfig::default(),
    };
    settings.log.retention_ms = Some(60_000);
    let mut info = (*topic(TOPIC, TOPIC_ID, Some(1))).clone();
    info.settings = settings;
    broker.set_cluster(cluster(vec![info.into()]));
    let of = |kind: i8, name: &str, keys: Option<&[&str]>| {
        kp::describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(kind)
            .with_resource_name(text(name))
            .with_configuration_keys(keys.map(|keys| keys.iter().map(|key| text(key)).collect()))
    };
    for version in ApiKey::DescribeConfigs.versions() {
        let request = kp::DescribeConfigsRequest::default()
            .with_resources(vec![
                of(KIND_TOPIC, TOPIC, None),
                of(KIND_TOPIC, TOPIC, Some(&["retention.ms", "no.such"])),
                of(KIND_TOPIC, "nope", None),
                of(4, "1", None),
                of(7, "x", None),
            ])
            .with_include_synonyms(true)
            .with_include_documentation(version >= 3);
        let response = call(&broker, version, &request).await;
        let codes: Vec<i16> = response.results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [0, 0, 3, 0, 42]);
        let all = &response.results[0].configs;
        let value = |name: &str| {
            let found = all.iter().find(|config| config.name.as_str() == name);
            let found = found.unwrap_or_else(|| panic!("{name} is not shown"));
            let value = found.value.as_ref().unwrap().to_string();
            (value, found.config_source, found.read_only)
        };
        assert_eq!(value("min.insync.replicas"), ("2".into(), 5, false));
        assert_eq!(value("durability"), ("replicated".into(), 1, false));
        assert_eq!(value("retention.ms"), ("60000".into(), 1, false));
        assert_eq!(value("retention.bytes"), ("-1".into(), 5, false));
        assert_eq!(value("cleanup.policy"), ("delete".into(), 5, true));
        let explained = all[0].documentation.as_ref().is_some_and(|d| !d.is_empty());
        assert_eq!(explained, version >= 3);
        assert_eq!(all[0].synonyms.len(), 1);
        assert_eq!(response.results[1].configs.len(), 1);
    }
}

fn change(
    name: &str,
    changes: &[(&str, i8, Option<&str>)],
) -> kp::incremental_alter_configs_request::AlterConfigsResource {
    let change = |(key, operation, value): &(&str, i8, Option<&str>)| {
        kp::incremental_alter_configs_request::AlterableConfig::default()
            .with_name(text(key))
            .with_config_operation(*operation)
            .with_value(value.map(text))
    };
    kp::incremental_alter_configs_request::AlterConfigsResource::default()
        .with_resource_type(KIND_TOPIC)
        .with_resource_name(text(name))
        .with_configs(changes.iter().map(change).collect())
}

#[tokio::test]
async fn configurations_change_one_by_one() {
    for version in ApiKey::IncrementalAlterConfigs.versions() {
        let broker = FakeBroker::new();
        let good = change(
            TOPIC,
            &[
                ("retention.ms", 0, Some("5000")),
                ("retention.bytes", 1, None),
                ("min.insync.replicas", 1, None),
            ],
        );
        let request = |resource, validate| {
            kp::IncrementalAlterConfigsRequest::default()
                .with_resources(vec![resource])
                .with_validate_only(validate)
        };
        let code = async |resource: kp::incremental_alter_configs_request::AlterConfigsResource| {
            let response = call(&broker, version, &request(resource, false)).await;
            let answer = &response.responses[0];
            assert_eq!(answer.error_code != 0, answer.error_message.is_some());
            answer.error_code
        };
        let checked = call(&broker, version, &request(good.clone(), true)).await;
        assert_eq!(checked.responses[0].error_code, 0);
        assert!(broker.altered().is_empty());
        assert_eq!(code(good.clone()).await, 0);
        let [altered] = broker.altered().try_into().unwrap();
        assert_eq!(altered.retention_ms, Some(Some(5_000)));
        assert_eq!(altered.retention_bytes, Some(None));
        assert_eq!((altered.min_isr, altered.segment_ms), (Some(2), None));
        for (bad, wanted) in [
            (change("nope", &[]), 3),
            (change(TOPIC, &[("retention.ms", 0, None)]), 42),
            (change(TOPIC, &[("retention.ms", 0, Some("soon"))]), 40),
            (change(TOPIC, &[("retention.ms", 2, Some("1"))]), 40),
            (change(TOPIC, &[("min.insync.replicas", 0, Some("4"))]), 40),
            (change(TOPIC, &[("no.such", 0, Some("4"))]), 40),
            (change(TOPIC, &[]).with_resource_type(4), 42),
        ] {
            assert_eq!(code(bad).await, wanted);
        }
        // What counts is how many replicas the first partition is to have. What is set already may be said
        // again, also where it has fewer by now.
        let shrinking = Reassigning {
            replicas: [1, 2, 9].map(BrokerId::new).to_vec(),
            adding: Vec::new(),
            removing: [2, 9].map(BrokerId::new).to_vec(),
        };
        let first = PartitionId::new(TopicId::from_bytes(TOPIC_ID), 0);
        broker.set_reassignments(BTreeMap::from([(first, shrinking)]));
        let mut info = (*topic(TOPIC, TOPIC_ID, Some(1))).clone();
        info.settings.min_isr = 3;
        broker.set_cluster(cluster(vec![info.into()]));
        for (value, wanted) in [("1", 0), ("2", 40), ("3", 0), ("4", 40)] {
            let set = change(TOPIC, &[("min.insync.replicas", 0, Some(value))]);
            let request = request(set, true);
            let response = call(&broker, version, &request).await;
            assert_eq!(response.responses[0].error_code, wanted, "{value}");
        }
        broker.set_reassignments(BTreeMap::new());
        let twice = kp::IncrementalAlterConfigsRequest::default()
            .with_resources(vec![good.clone(), good.clone()]);
        let response = call(&broker, version, &twice).await;
        assert!(response.responses.iter().all(|r| r.error_code == 42));
        assert_eq!(broker.altered().len(), 1);
        for error in errors() {
            broker.fail(Some(error));
            assert_eq!(code(good.clone()).await, error.code());
        }
    }
}

#[tokio::test]
async fn an_operator_is_answered_even_if_the_cluster_is_not() {
    let broker = FakeBroker::new();
    broker.fail(Some(BrokerError::TimedOut));
    let request = kp::DeleteTopicsRequest::default().with_topic_names(vec![text(TOPIC).into()]);
    let response = call(&broker, 3, &request).await;
    assert_eq!(
        response.responses[0].error_code,
        BrokerError::TimedOut.code()
    );
}
