//! Metadata, topics and producer ids: the calls that any broker answers.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::{
    MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    CreateTopicsRequest, FindCoordinatorRequest, InitProducerIdRequest, MetadataRequest,
    MetadataResponse, TopicName,
};
use kafka_protocol::protocol::{Request, StrBytes};
use rivven_core_types::{PartitionId, TopicId};

use super::connection::Connection;
use super::error::ClientError;
use crate::failure::Failure;
use crate::wait;

const FIND_COORDINATOR_VERSION: i16 = 3;
const METADATA_VERSION: i16 = 12;
const CREATE_TOPICS_VERSION: i16 = 5;
const INIT_PRODUCER_ID_VERSION: i16 = 4;
/// Time-out within requests that the cluster has to agree on.
pub(super) const REQUEST_TIMEOUT_MS: i32 = 10_000;
/// The code of a topic that exists already.
pub const TOPIC_ALREADY_EXISTS: i16 = 36;

/// A topic, as a broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: TopicId,
    /// Its partitions, by index.
    pub partitions: Vec<PartitionInfo>,
}

/// A partition, as a broker describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionInfo {
    /// The partition.
    pub id: PartitionId,
    /// The broker that leads it and where it is, unless there is none.
    pub leader: Option<(i32, SocketAddr)>,
    /// The brokers that hold it.
    pub replicas: Vec<i32>,
    /// The brokers that are in sync.
    pub isr: Vec<i32>,
}

/// Calls whichever broker answers.
#[derive(Debug, Clone)]
pub struct KafkaClient {
    bootstrap: Vec<SocketAddr>,
}

impl KafkaClient {
    /// A client of the cluster whose brokers listen at these addresses.
    pub const fn new(bootstrap: Vec<SocketAddr>) -> Self {
        Self { bootstrap }
    }

    /// Asks one broker after the other until one answers without an error.
    pub(super) async fn ask<R: Request, T>(
        &self,
        request: &R,
        version: i16,
        read: impl Fn(R::Response) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let mut last = ClientError::Connection("no broker is known".to_owned());
        for address in &self.bootstrap {
            let asked = async {
                let mut connection = Connection::open(*address).await?;
                read(connection.call(request, version).await?)
            };
            match asked.await {
                Ok(answer) => return Ok(answer),
                // What a broker says tells more than that another one is gone.
                Err(ClientError::Connection(_)) if !matches!(last, ClientError::Connection(_)) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// [`Self::ask`] until a deadline; an error that cannot be retried ends it at once.
    async fn insist<R: Request, T>(
        &self,
        what: &str,
        limit: Duration,
        request: &R,
        version: i16,
        read: impl Fn(R::Response) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        let asked = wait::until(what, limit, async || {
            match self.ask(request, version, &read).await {
                Ok(answer) => Ok(Ok(answer)),
                Err(error) if error.is_retriable() => Err(Failure::new(error.to_string())),
                Err(error) => Ok(Err(Failure::new(format!("{what}: {error}")))),
            }
        });
        asked.await?
    }

    /// One look at a topic.
    pub async fn metadata(&self, topic: &str) -> Result<TopicInfo, ClientError> {
        let wanted = MetadataRequestTopic::default().with_name(Some(topic_name(topic)));
        let request = MetadataRequest::default()
            .with_topics(Some(vec![wanted]))
            .with_allow_auto_topic_creation(false);
        self.ask(&request, METADATA_VERSION, |response| {
            read_metadata(topic, response)
        })
        .await
    }

    /// Waits until a topic is known and all its partitions have leaders.
    pub async fn led_topic(&self, topic: &str, limit: Duration) -> Result<TopicInfo, Failure> {
        let what = format!("all partitions of {topic} have leaders");
        wait::until(&what, limit, async || {
            let info = self
                .metadata(topic)
                .await
                .map_err(|e| Failure::new(e.to_string()))?;
            if info
                .partitions
                .iter()
                .all(|partition| partition.leader.is_some())
            {
                return Ok(info);
            }
            Err(Failure::new(format!("{info:?}")))
        })
        .await
    }

    /// Creates a topic, or finds it there, and waits until all its partitions have leaders.
    pub async fn create_topic(
        &self,
        topic: &str,
        partitions: i32,
        replicas: i16,
        min_isr: i32,
        limit: Duration,
    ) -> Result<TopicInfo, Failure> {
        let request = create_request(topic, partitions, replicas, min_isr);
        let what = format!("creating {topic}");
        self.insist(&what, limit, &request, CREATE_TOPICS_VERSION, |response| {
            let result = response.topics.into_iter().next();
            let result = result.ok_or_else(|| ClientError::malformed("no topic"))?;
            if result.error_code == TOPIC_ALREADY_EXISTS {
                return Ok(());
            }
            let message = result.error_message.unwrap_or_default();
            ClientError::check(result.error_code, || {
                format!("creating {topic} ({message})")
            })
        })
        .await?;
        self.led_topic(topic, limit).await
    }

    /// One attempt to create a topic, at one broker; `TOPIC_ALREADY_EXISTS` is an error here. Its fate is
    /// unknown after a lost connection or a time-out.
    pub async fn try_create(
        address: SocketAddr,
        topic: &str,
        partitions: i32,
        replicas: i16,
        min_isr: i32,
    ) -> Result<(), ClientError> {
        let request = create_request(topic, partitions, replicas, min_isr);
        let mut connection = Connection::open(address).await?;
        let response = connection.call(&request, CREATE_TOPICS_VERSION).await?;
        let result = response.topics.into_iter().next();
        let result = result.ok_or_else(|| ClientError::malformed("no topic"))?;
        ClientError::check(result.error_code, || format!("creating {topic}"))
    }

    /// The broker that coordinates the consumer groups.
    pub async fn group_coordinator(&self, limit: Duration) -> Result<(i32, SocketAddr), Failure> {
        let request = FindCoordinatorRequest::default().with_key(StrBytes::from_static_str("any"));
        let what = "finding the group coordinator";
        self.insist(
            what,
            limit,
            &request,
            FIND_COORDINATOR_VERSION,
            |response| {
                ClientError::check(response.error_code, || what.to_owned())?;
                let ip: IpAddr = response.host.parse().map_err(ClientError::malformed)?;
                let port = u16::try_from(response.port).map_err(ClientError::malformed)?;
                Ok((response.node_id.0, SocketAddr::from((ip, port))))
            },
        )
        .await
    }

    /// A new producer id with its epoch.
    pub async fn init_producer_id(&self, limit: Duration) -> Result<(i64, i16), Failure> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(REQUEST_TIMEOUT_MS)
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let what = "getting a producer id";
        self.insist(
            what,
            limit,
            &request,
            INIT_PRODUCER_ID_VERSION,
            |response| {
                ClientError::check(response.error_code, || what.to_owned())?;
                Ok((response.producer_id.0, response.producer_epoch))
            },
        )
        .await
    }
}

fn create_request(
    topic: &str,
    partitions: i32,
    replicas: i16,
    min_isr: i32,
) -> CreateTopicsRequest {
    let min_isr = CreatableTopicConfig::default()
        .with_name(StrBytes::from_static_str("min.insync.replicas"))
        .with_value(Some(StrBytes::from_string(min_isr.to_string())));
    let wanted = CreatableTopic::default()
        .with_name(topic_name(topic))
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_configs(vec![min_isr]);
    CreateTopicsRequest::default()
        .with_topics(vec![wanted])
        .with_timeout_ms(REQUEST_TIMEOUT_MS)
}

pub(super) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn read_metadata(topic: &str, response: MetadataResponse) -> Result<TopicInfo, ClientError> {
    let mut addresses = BTreeMap::new();
    for broker in &response.brokers {
        let ip: IpAddr = broker.host.parse().map_err(ClientError::malformed)?;
        let port = u16::try_from(broker.port).map_err(ClientError::malformed)?;
        addresses.insert(broker.node_id.0, SocketAddr::from((ip, port)));
    }
    let described = response.topics.into_iter().next();
    let described = described.ok_or_else(|| ClientError::malformed("no topic in the metadata"))?;
    ClientError::check(described.error_code, || format!("metadata of {topic}"))?;
    read_topic(topic, described, &addresses)
}

fn read_topic(
    topic: &str,
    described: MetadataResponseTopic,
    addresses: &BTreeMap<i32, SocketAddr>,
) -> Result<TopicInfo, ClientError> {
    let id = TopicId::from_bytes(described.topic_id.into_bytes());
    let read = |partition: MetadataResponsePartition| {
        let index = u32::try_from(partition.partition_index).map_err(ClientError::malformed)?;
        let leader = partition.leader_id.0;
        let leader = match (leader, addresses.get(&leader)) {
            (-1, _) => None,
            (leader, Some(address)) => Some((leader, *address)),
            (leader, None) => {
                let text = format!("leader {leader} is not among the brokers");
                return Err(ClientError::Malformed(text));
            }
        };
        Ok(PartitionInfo {
            id: PartitionId::new(id, index),
            leader,
            replicas: partition
                .replica_nodes
                .iter()
                .map(|broker| broker.0)
                .collect(),
            isr: partition.isr_nodes.iter().map(|broker| broker.0).collect(),
        })
    };
    let partitions: Result<Vec<_>, _> = described.partitions.into_iter().map(read).collect();
    let mut partitions = partitions?;
    partitions.sort_by_key(|partition| partition.id.index);
    Ok(TopicInfo {
        name: topic.to_owned(),
        id,
        partitions,
    })
}
