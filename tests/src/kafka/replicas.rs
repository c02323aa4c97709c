//! Where replicas and leaders are to be: the requests of an operator's tools.

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, BrokerId, CreatePartitionsRequest, ElectLeadersRequest,
    ListPartitionReassignmentsRequest,
};

use super::client::{KafkaClient, REQUEST_TIMEOUT_MS, topic_name};
use super::error::ClientError;

const CREATE_PARTITIONS_VERSION: i16 = 3;
const ELECT_LEADERS_VERSION: i16 = 2;
const ALTER_REASSIGNMENTS_VERSION: i16 = 1;
const LIST_REASSIGNMENTS_VERSION: i16 = 0;

/// A partition on its way to other replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reassigning {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub index: i32,
    /// The brokers that get a replica.
    pub adding: Vec<i32>,
    /// The brokers that give theirs up.
    pub removing: Vec<i32>,
}

impl KafkaClient {
    /// Moves a partition to these brokers; `None` cancels.
    pub async fn reassign(
        &self,
        topic: &str,
        index: i32,
        target: Option<&[i32]>,
    ) -> Result<(), ClientError> {
        let ids = |brokers: &[i32]| brokers.iter().map(|id| BrokerId(*id)).collect();
        let partition = ReassignablePartition::default()
            .with_partition_index(index)
            .with_replicas(target.map(ids));
        let wanted = ReassignableTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(vec![partition]);
        let request = AlterPartitionReassignmentsRequest::default()
            .with_timeout_ms(REQUEST_TIMEOUT_MS)
            .with_topics(vec![wanted]);
        self.ask(&request, ALTER_REASSIGNMENTS_VERSION, |response| {
            ClientError::check(response.error_code, || "reassigning".to_owned())?;
            let topic = response.responses.first();
            let result = topic.and_then(|topic| topic.partitions.first());
            let result = result.ok_or_else(|| ClientError::malformed("no partition"))?;
            let what = || format!("reassigning {index}: {:?}", result.error_message);
            ClientError::check(result.error_code, what)
        })
        .await
    }

    /// The reassignments under way.
    pub async fn reassignments(&self) -> Result<Vec<Reassigning>, ClientError> {
        let request = ListPartitionReassignmentsRequest::default()
            .with_timeout_ms(REQUEST_TIMEOUT_MS)
            .with_topics(None);
        self.ask(&request, LIST_REASSIGNMENTS_VERSION, |response| {
            ClientError::check(response.error_code, || "listing reassignments".to_owned())?;
            let topics = response.topics.iter();
            let all = topics.flat_map(|topic| {
                topic.partitions.iter().map(|partition| {
                    let ids = |ids: &[BrokerId]| ids.iter().map(|id| id.0).collect();
                    Reassigning {
                        topic: topic.name.to_string(),
                        index: partition.partition_index,
                        adding: ids(&partition.adding_replicas),
                        removing: ids(&partition.removing_replicas),
                    }
                })
            });
            Ok(all.collect())
        })
        .await
    }

    /// Adds partitions to a topic until it has `total`.
    pub async fn create_partitions(&self, topic: &str, total: i32) -> Result<(), ClientError> {
        let wanted = CreatePartitionsTopic::default()
            .with_name(topic_name(topic))
            .with_count(total)
            .with_assignments(None);
        let request = CreatePartitionsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(REQUEST_TIMEOUT_MS);
        self.ask(&request, CREATE_PARTITIONS_VERSION, |response| {
            let result = response.results.first();
            let result = result.ok_or_else(|| ClientError::malformed("no topic"))?;
            let what = || format!("adding partitions: {:?}", result.error_message);
            ClientError::check(result.error_code, what)
        })
        .await
    }

    /// Has the first replica of a partition lead it.
    pub async fn elect_preferred(&self, topic: &str, index: i32) -> Result<(), ClientError> {
        let wanted = TopicPartitions::default()
            .with_topic(topic_name(topic))
            .with_partitions(vec![index]);
        let request = ElectLeadersRequest::default()
            .with_election_type(0)
            .with_topic_partitions(Some(vec![wanted]))
            .with_timeout_ms(REQUEST_TIMEOUT_MS);
        self.ask(&request, ELECT_LEADERS_VERSION, |response| {
            ClientError::check(response.error_code, || "electing".to_owned())?;
            let topic = response.replica_election_results.first();
            let result = topic.and_then(|topic| topic.partition_result.first());
            let result = result.ok_or_else(|| ClientError::malformed("no partition"))?;
            let what = || format!("electing {index}: {:?}", result.error_message);
            ClientError::check(result.error_code, what)
        })
        .await
    }
}
