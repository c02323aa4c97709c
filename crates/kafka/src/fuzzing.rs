//! The request decoders, for a fuzzer that feeds them anything. Only with feature `fuzzing`.

use bytes::Bytes;

use crate::api::{ApiKey, Call, FixedHeader};
use crate::requests::{
    AlterPartitionReassignmentsRequest, ApiVersionsRequest, ConsumerHeartbeatRequest,
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, ElectLeadersRequest, FetchRequest, FindCoordinatorRequest,
    GroupIdsRequest, HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest,
    JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest,
    ListPartitionReassignmentsRequest, MetadataRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, SyncGroupRequest,
};
use crate::wire::DecodeError;

/// Whether a request frame, without its length, is of an advertised version and can be decoded.
pub fn decodes(mut frame: Bytes) -> bool {
    let Ok(header) = FixedHeader::split_from(&mut frame) else {
        return false;
    };
    let Some(api) = ApiKey::from_key(header.key) else {
        return false;
    };
    if !api.versions().contains(&header.version) {
        return false;
    }
    let call = Call {
        api,
        version: header.version,
        correlation: header.correlation,
    };
    decode(call, frame).is_ok()
}

fn decode(call: Call, rest: Bytes) -> Result<(), DecodeError> {
    let mut reader = call.open(rest)?;
    let (reader, version) = (&mut reader, call.version);
    match call.api {
        ApiKey::Produce => ProduceRequest::decode(reader).map(drop),
        ApiKey::Fetch => FetchRequest::decode(reader, version).map(drop),
        ApiKey::ListOffsets => ListOffsetsRequest::decode(reader, version).map(drop),
        ApiKey::Metadata => MetadataRequest::decode(reader, version).map(drop),
        ApiKey::ApiVersions => ApiVersionsRequest::decode(reader, version).map(drop),
        ApiKey::CreateTopics => CreateTopicsRequest::decode(reader).map(drop),
        ApiKey::InitProducerId => InitProducerIdRequest::decode(reader, version).map(drop),
        ApiKey::DeleteTopics => DeleteTopicsRequest::decode(reader, version).map(drop),
        ApiKey::DeleteRecords => DeleteRecordsRequest::decode(reader).map(drop),
        ApiKey::DescribeConfigs => DescribeConfigsRequest::decode(reader, version).map(drop),
        ApiKey::CreatePartitions => CreatePartitionsRequest::decode(reader).map(drop),
        ApiKey::AlterPartitionReassignments => {
            AlterPartitionReassignmentsRequest::decode(reader, version).map(drop)
        }
        ApiKey::ListPartitionReassignments => {
            ListPartitionReassignmentsRequest::decode(reader).map(drop)
        }
        ApiKey::ElectLeaders => ElectLeadersRequest::decode(reader, version).map(drop),
        ApiKey::IncrementalAlterConfigs => IncrementalAlterConfigsRequest::decode(reader).map(drop),
        ApiKey::OffsetCommit => OffsetCommitRequest::decode(reader, version).map(drop),
        ApiKey::OffsetFetch => OffsetFetchRequest::decode(reader, version).map(drop),
        ApiKey::FindCoordinator => FindCoordinatorRequest::decode(reader, version).map(drop),
        ApiKey::JoinGroup => JoinGroupRequest::decode(reader, version).map(drop),
        ApiKey::Heartbeat => HeartbeatRequest::decode(reader, version).map(drop),
        ApiKey::LeaveGroup => LeaveGroupRequest::decode(reader, version).map(drop),
        ApiKey::SyncGroup => SyncGroupRequest::decode(reader, version).map(drop),
        ApiKey::ListGroups => ListGroupsRequest::decode(reader, version).map(drop),
        ApiKey::DescribeGroups => GroupIdsRequest::decode(reader, version >= 3).map(drop),
        ApiKey::ConsumerGroupDescribe => GroupIdsRequest::decode(reader, true).map(drop),
        ApiKey::DeleteGroups => GroupIdsRequest::decode(reader, false).map(drop),
        ApiKey::OffsetForLeaderEpoch => {
            OffsetForLeaderEpochRequest::decode(reader, version).map(drop)
        }
        ApiKey::OffsetDelete => OffsetDeleteRequest::decode(reader).map(drop),
        ApiKey::ConsumerGroupHeartbeat => {
            ConsumerHeartbeatRequest::decode(reader, version).map(drop)
        }
    }
}
