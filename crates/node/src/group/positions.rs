//! Offsets of partitions: what is committed, and what their leaders have.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestGroup;
use kafka_protocol::messages::{
    FetchRequest, ListOffsetsRequest, MetadataResponse, OffsetFetchRequest,
};
use rivven_cluster::types::{Address, RecordBatch};

use super::client::{Client, GroupCommandError, Result, address, check, text};

const OFFSET_FETCH_VERSION: i16 = 8;
const LIST_OFFSETS_VERSION: i16 = 7;
const FETCH_VERSION: i16 = 11;
/// Who asks as a client and not as a replica.
const CLIENT: i32 = -1;

/// A topic's name and a partition's index.
pub(super) type TopicPartition = (String, i32);

/// The special times of ListOffsets.
pub(super) const LATEST: i64 = -1;
/// The log's start.
pub(super) const EARLIEST: i64 = -2;

/// What a group has committed, by partition.
pub(super) fn committed(client: &mut Client, group: &str) -> Result<BTreeMap<TopicPartition, i64>> {
    let one = OffsetFetchRequestGroup::default()
        .with_group_id(text(group).into())
        .with_topics(None);
    let request = OffsetFetchRequest::default().with_groups(vec![one]);
    let code = |answer: &kafka_protocol::messages::OffsetFetchResponse| {
        answer.groups.first().map_or(0, |group| group.error_code)
    };
    let found = client.at_coordinator(group, OFFSET_FETCH_VERSION, &request, code)?;
    check(code(&found), || format!("group {group}"))?;
    let mut offsets = BTreeMap::new();
    for topic in found.groups.into_iter().flat_map(|group| group.topics) {
        for partition in topic.partitions {
            if partition.error_code == 0 && partition.committed_offset >= 0 {
                let at = (topic.name.to_string(), partition.partition_index);
                offsets.insert(at, partition.committed_offset);
            }
        }
    }
    Ok(offsets)
}

/// The partitions of some topics, and who leads them.
#[derive(Debug, Default)]
pub(super) struct Leaders(pub(super) BTreeMap<TopicPartition, Option<Address>>);

impl Leaders {
    /// Asks for them; a topic that does not exist has none.
    pub(super) fn of(client: &mut Client, topics: &BTreeSet<String>) -> Result<Self> {
        if topics.is_empty() {
            return Ok(Self::default());
        }
        let names: Vec<String> = topics.iter().cloned().collect();
        Self::read(&client.metadata(&names)?)
    }

    fn read(metadata: &MetadataResponse) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        for broker in &metadata.brokers {
            nodes.insert(broker.node_id.0, address(&broker.host, broker.port)?);
        }
        let mut leaders = BTreeMap::new();
        for topic in metadata.topics.iter().filter(|t| t.error_code == 0) {
            let name = topic.name.as_ref().map(|name| name.as_str().to_owned());
            for partition in &topic.partitions {
                let at = (name.clone().unwrap_or_default(), partition.partition_index);
                leaders.insert(at, nodes.get(&partition.leader_id.0).cloned());
            }
        }
        Ok(Self(leaders))
    }

    /// The offsets at a time or a special one, of the partitions whose leader answers. `None`: no record
    /// is so late.
    pub(super) fn list_offsets(
        &self,
        client: &mut Client,
        partitions: &BTreeSet<TopicPartition>,
        time: i64,
    ) -> Result<BTreeMap<TopicPartition, Option<i64>>> {
        let mut asked: BTreeMap<String, (Address, BTreeMap<String, Vec<i32>>)> = BTreeMap::new();
        for (topic, index) in partitions {
            let at = (topic.clone(), *index);
            let Some(leader) = self.0.get(&at).cloned().flatten() else {
                continue;
            };
            let (_, topics) = asked
                .entry(leader.to_string())
                .or_insert_with(|| (leader, BTreeMap::new()));
            topics.entry(topic.clone()).or_default().push(*index);
        }
        let mut offsets = BTreeMap::new();
        for (leader, topics) in asked.into_values() {
            let topics = topics.into_iter().map(|(name, indexes)| {
                let one = |index| {
                    ListOffsetsPartition::default()
                        .with_partition_index(index)
                        .with_current_leader_epoch(-1)
                        .with_timestamp(time)
                };
                ListOffsetsTopic::default()
                    .with_name(text(&name).into())
                    .with_partitions(indexes.into_iter().map(one).collect())
            });
            let request = ListOffsetsRequest::default()
                .with_replica_id(CLIENT.into())
                .with_topics(topics.collect());
            let found = match client.call(&leader, LIST_OFFSETS_VERSION, &request) {
                Err(GroupCommandError::Unreachable { .. }) => continue,
                found => found?,
            };
            for topic in found.topics {
                for partition in topic.partitions.iter().filter(|p| p.error_code == 0) {
                    let at = (topic.name.to_string(), partition.partition_index);
                    offsets.insert(at, (partition.offset >= 0).then_some(partition.offset));
                }
            }
        }
        Ok(offsets)
    }

    /// The time of the first batch that reaches to `offset`, Unix milliseconds, if there is one and its
    /// leader answers.
    pub(super) fn time_at(
        &self,
        client: &mut Client,
        at: &TopicPartition,
        offset: i64,
    ) -> Result<Option<i64>> {
        let Some(leader) = self.0.get(at).cloned().flatten() else {
            return Ok(None);
        };
        let (topic, index) = at;
        // The first batch is always whole, however few bytes are asked for (KIP-74).
        let partition = FetchPartition::default()
            .with_partition(*index)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1);
        let topic = FetchTopic::default()
            .with_topic(text(topic).into())
            .with_partitions(vec![partition]);
        let request = FetchRequest::default()
            .with_replica_id(CLIENT.into())
            .with_max_wait_ms(0)
            .with_min_bytes(0)
            .with_max_bytes(1)
            .with_topics(vec![topic]);
        let found = match client.call(&leader, FETCH_VERSION, &request) {
            Err(GroupCommandError::Unreachable { .. }) => return Ok(None),
            found => found?,
        };
        let mut partitions = found.responses.into_iter().flat_map(|t| t.partitions);
        let Some(mut records) = partitions.next().and_then(|p| p.records) else {
            return Ok(None);
        };
        let batch = RecordBatch::split_from(&mut records).ok();
        Ok(batch.map(|batch| batch.header().base_timestamp))
    }
}
