//! The matrix, continued: where replicas and leaders are to be. Every version, every error, every odd
//! request.

use std::collections::BTreeMap;

use kafka_protocol::messages as kp;
use rivven_core_types::limits::MAX_PARTITIONS_PER_REQUEST;
use rivven_core_types::{BrokerId, PartitionId, TopicId};

use super::fake::{FakeBroker, TOPIC, TOPIC_ID, call, cluster, partition, topic};
use super::handlers::{errors, text};
use crate::api::ApiKey;
use crate::{BrokerError, Reassigning};

const PREFERRED: i8 = 0;
const UNCLEAN: i8 = 1;

fn election(
    version: i16,
    kind: i8,
    topics: Option<Vec<kp::elect_leaders_request::TopicPartitions>>,
) -> kp::ElectLeadersRequest {
    let request = kp::ElectLeadersRequest::default().with_topic_partitions(topics);
    if version >= 1 {
        request.with_election_type(kind)
    } else {
        request
    }
}

fn named(name: &str, partitions: Vec<i32>) -> kp::elect_leaders_request::TopicPartitions {
    kp::elect_leaders_request::TopicPartitions::default()
        .with_topic(text(name).into())
        .with_partitions(partitions)
}

fn codes(response: &kp::ElectLeadersResponse) -> Vec<(String, i32, i16)> {
    let topics = response.replica_election_results.iter();
    let results = topics.flat_map(|topic| {
        let name = topic.topic.to_string();
        let results = topic.partition_result.iter();
        results.map(move |r| (name.clone(), r.partition_id, r.error_code))
    });
    results.collect()
}

/// The replicas of every partition here are 1, 2 and 9: 1 is preferred.
#[tokio::test]
async fn elections_are_for_partitions_that_are_named_or_need_one() {
    let broker = FakeBroker::new();
    broker.set_cluster(cluster(vec![
        topic("led-by-its-first", [3; 16], Some(1)),
        topic("leaderless", [2; 16], None),
        topic(TOPIC, TOPIC_ID, Some(2)),
    ]));
    let of = |name: &str, partition, code| (name.to_owned(), partition, code);
    for version in ApiKey::ElectLeaders.versions() {
        broker.fail(None);
        let wish = || Some(vec![named(TOPIC, vec![1, 7]), named("nope", vec![0])]);
        let response = call(&broker, version, &election(version, PREFERRED, wish())).await;
        let wanted = [of(TOPIC, 1, 0), of(TOPIC, 7, 3), of("nope", 0, 3)];
        assert_eq!(codes(&response), wanted, "version {version}");
        assert_eq!(broker.taken(), ["prefer for 1"]);
        let response = call(&broker, version, &election(version, PREFERRED, None)).await;
        assert_eq!(codes(&response), [of(TOPIC, 0, 0), of(TOPIC, 1, 0)]);
        assert_eq!(broker.taken(), ["prefer for 0", "prefer for 1"]);
        if version >= 1 {
            let response = call(&broker, version, &election(version, UNCLEAN, wish())).await;
            assert_eq!(codes(&response), wanted);
            assert_eq!(broker.taken(), ["elect for 1"]);
            let response = call(&broker, version, &election(version, UNCLEAN, None)).await;
            let both = [of("leaderless", 0, 0), of("leaderless", 1, 0)];
            assert_eq!(codes(&response), both);
            assert_eq!(broker.taken(), ["elect for 0", "elect for 1"]);
            let response = call(&broker, version, &election(version, 2, wish())).await;
            assert_eq!((response.error_code, codes(&response).len()), (42, 0));
        }
        let many = vec![0; MAX_PARTITIONS_PER_REQUEST + 1];
        let many = election(version, PREFERRED, Some(vec![named(TOPIC, many)]));
        let response = call(&broker, version, &many).await;
        assert_eq!(response.error_code, if version >= 1 { 42 } else { 0 });
        assert!(codes(&response).is_empty() && broker.taken().is_empty());
        for kind in [PREFERRED, UNCLEAN]
            .into_iter()
            .take(usize::from(version > 0) + 1)
        {
            for error in errors() {
                broker.fail(Some(error));
                let response = call(&broker, version, &election(version, kind, wish())).await;
                let first = &response.replica_election_results[0].partition_result[0];
                assert_eq!(first.error_code, error.code());
                assert_eq!(first.error_message.as_deref(), Some("no"));
            }
        }
        broker.taken();
    }
}

fn growth(
    name: &str,
    count: i32,
    assignments: Option<Vec<Vec<i32>>>,
) -> kp::create_partitions_request::CreatePartitionsTopic {
    let of = |brokers: Vec<i32>| {
        kp::create_partitions_request::CreatePartitionsAssignment::default()
            .with_broker_ids(brokers.into_iter().map(Into::into).collect())
    };
    kp::create_partitions_request::CreatePartitionsTopic::default()
        .with_name(text(name).into())
        .with_count(count)
        .with_assignments(assignments.map(|lists| lists.into_iter().map(of).collect()))
}

#[tokio::test]
async fn partitions_are_added_with_and_without_an_assignment() {
    for version in ApiKey::CreatePartitions.versions() {
        let broker = FakeBroker::new();
        broker.set_cluster(cluster(vec![
            topic(TOPIC, TOPIC_ID, Some(1)),
            topic("other", [2; 16], Some(1)),
        ]));
        let request = |topics, validate_only| {
            kp::CreatePartitionsRequest::default()
                .with_topics(topics)
                .with_timeout_ms(1_000)
                .with_validate_only(validate_only)
        };
        let codes = async |topics, validate_only| -> Vec<i16> {
            let response = call(&broker, version, &request(topics, validate_only)).await;
            let coded = response.results.iter().map(|r| {
                assert_eq!(r.error_code != 0, r.error_message.is_some());
                r.error_code
            });
            coded.collect()
        };
        let wish = || {
            let assignment = vec![vec![1, 2, 9], vec![9, 1, 2]];
            vec![growth(TOPIC, 4, Some(assignment)), growth("other", 9, None)]
        };
        assert_eq!(codes(wish(), false).await, [0, 0], "version {version}");
        let grown = [
            "grow orders to 4 on Some([[BrokerId(1), BrokerId(2), BrokerId(9)], \
             [BrokerId(9), BrokerId(1), BrokerId(2)]])",
            "grow other to 9 on None",
        ];
        assert_eq!(broker.taken(), grown);
        assert_eq!(codes(wish(), true).await, [0, 0]);
        assert!(broker.taken().iter().all(|wish| wish.starts_with("check ")));
        let odd = vec![
            growth("nope", 4, None),
            growth("other", -1, None),
            growth(TOPIC, 4, None),
            growth(TOPIC, 5, None),
        ];
        assert_eq!(codes(odd, false).await, [3, 37, 42, 42]);
        assert_eq!(broker.taken(), [""; 0]);
        let mixed = vec![growth("nope", 4, None), growth("other", 3, None)];
        assert_eq!(codes(mixed, false).await, [3, 0]);
        assert_eq!(broker.taken(), ["grow other to 3 on None"]);
        for error in errors() {
            broker.fail(Some(error));
            assert_eq!(codes(wish(), false).await, [error.code(); 2]);
        }
    }
}

fn moved(
    name: &str,
    targets: &[(i32, Option<&[i32]>)],
) -> kp::alter_partition_reassignments_request::ReassignableTopic {
    let of = |(index, brokers): &(i32, Option<&[i32]>)| {
        let brokers = brokers.map(|ids| ids.iter().map(|id| (*id).into()).collect());
        kp::alter_partition_reassignments_request::ReassignablePartition::default()
            .with_partition_index(*index)
            .with_replicas(brokers)
    };
    kp::alter_partition_reassignments_request::ReassignableTopic::default()
        .with_name(text(name).into())
        .with_partitions(targets.iter().map(of).collect())
}

#[tokio::test]
async fn replicas_are_moved_and_moves_cancelled() {
    for version in ApiKey::AlterPartitionReassignments.versions() {
        let broker = FakeBroker::new();
        let request = |topics| {
            let request = kp::AlterPartitionReassignmentsRequest::default()
                .with_timeout_ms(1_000)
                .with_topics(topics);
            if version >= 1 {
                request.with_allow_replication_factor_change(false)
            } else {
                request
            }
        };
        let codes = async |topics| -> Vec<i16> {
            let response = call(&broker, version, &request(topics)).await;
            assert_eq!(response.error_code, 0);
            assert_eq!(response.allow_replication_factor_change, version < 1);
            let partitions = response
                .responses
                .iter()
                .flat_map(|topic| &topic.partitions);
            let coded = partitions.map(|p| {
                assert_eq!(p.error_code != 0, p.error_message.is_some());
                p.error_code
            });
            coded.collect()
        };
        let wish = || vec![moved(TOPIC, &[(1, Some(&[9, 2, 1])), (0, None)])];
        assert_eq!(codes(wish()).await, [0, 0], "version {version}");
        // Whether the number of replicas may change is judged where the epoch is taken (KIP-860).
        let number = if version < 1 { ", however many" } else { "" };
        let asked = ["move 1 to Some([9, 2, 1])", "move 0 to None"];
        assert_eq!(broker.taken(), asked.map(|wish| wish.to_owned() + number));
        let odd = vec![
            moved("nope", &[(0, None)]),
            moved(TOPIC, &[(7, None), (-1, None), (0, Some(&[]))]),
        ];
        assert_eq!(codes(odd).await, [3, 3, 3, 39]);
        let odd = vec![moved(TOPIC, &[(0, Some(&[1, 1, 2]))])];
        assert_eq!(codes(odd).await, [39]);
        assert_eq!(broker.taken(), [""; 0]);
        let twice = vec![
            moved(TOPIC, &[(1, None), (0, None)]),
            moved(TOPIC, &[(1, None)]),
        ];
        assert_eq!(codes(twice).await, [42, 0, 42]);
        assert_eq!(broker.taken(), [format!("move 0 to None{number}")]);
        for error in errors() {
            broker.fail(Some(error));
            assert_eq!(codes(wish()).await, [error.code(); 2]);
        }
        broker.taken();
        let many = vec![(0, None); MAX_PARTITIONS_PER_REQUEST + 1];
        let response = call(&broker, version, &request(vec![moved(TOPIC, &many)])).await;
        assert_eq!((response.error_code, response.responses.len()), (42, 0));
        assert!(response.error_message.is_some() && broker.taken().is_empty());
    }
}

#[tokio::test]
async fn moves_under_way_are_listed_all_or_those_that_are_named() {
    let broker = FakeBroker::new();
    let ids = |ids: &[i32]| ids.iter().map(|id| BrokerId::new(*id)).collect();
    let reassigning = Reassigning {
        replicas: ids(&[1, 2, 9, 4]),
        adding: ids(&[4]),
        removing: ids(&[9]),
    };
    let deleted = PartitionId::new(TopicId::from_bytes([8; 16]), 0);
    let under_way = [partition(1), deleted].map(|id| (id, reassigning.clone()));
    broker.set_reassignments(BTreeMap::from(under_way));
    for version in ApiKey::ListPartitionReassignments.versions() {
        let listed = async |topics: Option<Vec<(&str, Vec<i32>)>>| -> Vec<(String, i32)> {
            let of = |(name, indexes): (&str, Vec<i32>)| {
                kp::list_partition_reassignments_request::ListPartitionReassignmentsTopics::default(
                )
                .with_name(text(name).into())
                .with_partition_indexes(indexes)
            };
            let topics = topics.map(|topics| topics.into_iter().map(of).collect());
            let request = kp::ListPartitionReassignmentsRequest::default().with_topics(topics);
            let response = call(&broker, version, &request).await;
            assert_eq!((response.error_code, response.error_message), (0, None));
            let partitions = response.topics.iter().flat_map(|topic| {
                let name = topic.name.to_string();
                topic.partitions.iter().map(move |p| {
                    let numbers =
                        |ids: &[kp::BrokerId]| -> Vec<i32> { ids.iter().map(|id| id.0).collect() };
                    assert_eq!(numbers(&p.replicas), [1, 2, 9, 4]);
                    assert_eq!(numbers(&p.adding_replicas), [4]);
                    assert_eq!(numbers(&p.removing_replicas), [9]);
                    (name.clone(), p.partition_index)
                })
            });
            partitions.collect()
        };
        let one = [(TOPIC.to_owned(), 1)];
        assert_eq!(listed(None).await, one);
        assert_eq!(
            listed(Some(vec![(TOPIC, vec![0, 1, 7]), ("nope", vec![0])])).await,
            one
        );
        assert_eq!(listed(Some(vec![(TOPIC, vec![0])])).await, []);
        assert_eq!(listed(Some(Vec::new())).await, []);
    }
}

/// Kafka's numbers for what only these requests are answered with.
#[test]
fn the_codes_are_those_of_kafka() {
    assert_eq!(BrokerError::PreferredLeaderNotAvailable.code(), 80);
    assert_eq!(BrokerError::ElectionNotNeeded.code(), 84);
    assert_eq!(BrokerError::NoReassignmentInProgress.code(), 85);
}
