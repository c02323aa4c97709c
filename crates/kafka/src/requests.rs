//! Decoded requests: one structure per API with the fields of all advertised versions.

mod api_versions;
mod configs;
mod create_partitions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod elect_leaders;
mod fetch;
mod groups;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod offset_for_leader_epoch;
mod produce;
mod reassignments;

pub(crate) use api_versions::ApiVersionsRequest;
pub(crate) use configs::{
    AlterResource, DescribeConfigsRequest, DescribeResource, IncrementalAlterConfigsRequest,
};
pub(crate) use create_partitions::{CreatePartitionsRequest, PartitionsRequest};
pub(crate) use create_topics::{CreateTopicsRequest, TopicRequest};
pub(crate) use delete_records::DeleteRecordsRequest;
pub(crate) use delete_topics::{DeleteTopic, DeleteTopicsRequest};
pub(crate) use elect_leaders::ElectLeadersRequest;
pub(crate) use fetch::{FetchRequest, FetchTopicRequest};
pub(crate) use groups::{
    CommitPartition, ConsumerHeartbeatRequest, FindCoordinatorRequest, GroupIdsRequest,
    HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, NamedPartitions,
    OffsetCommitRequest, OffsetDeleteRequest, OffsetFetchRequest, SyncGroupRequest,
};
pub(crate) use init_producer_id::InitProducerIdRequest;
pub(crate) use list_offsets::{ListOffsetsPartitionRequest, ListOffsetsRequest};
pub(crate) use metadata::{MetadataRequest, MetadataTopicRequest};
pub(crate) use offset_for_leader_epoch::{EpochPartition, OffsetForLeaderEpochRequest};
pub(crate) use produce::{ProducePartition, ProduceRequest};
pub(crate) use reassignments::{
    AlterPartitionReassignmentsRequest, ListPartitionReassignmentsRequest,
};

/// Most topics in one request.
pub(crate) const MAX_TOPICS: usize = 10_000;
/// Most partitions of one topic in one request.
pub(crate) const MAX_PARTITIONS: usize = 100_000;
/// Most configuration entries of one resource.
pub(crate) const MAX_CONFIGS: usize = 256;
