//! Consumer groups: every request is decoded to what was sent, and every response, errors included,
//! encodes at every advertised version.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::StrBytes;
use rivven_coordinator::consumer_groups::{
    Group, GroupError, GroupPhase, GroupsState, HeartbeatAnswer, Joined, MemberId, Request,
    Response, Synced,
};
use rivven_core_types::{BoxFuture, BrokerId};

use super::fake::{FakeBroker, call, encode, open};
use crate::api::ApiKey;
use crate::group_broker::GroupBroker;
use crate::requests::{
    ConsumerHeartbeatRequest, FindCoordinatorRequest, JoinGroupRequest, LeaveGroupRequest,
    OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
};
use crate::wire::Reader;

/// Refuses groups called `bad`, and answers all others as if everything went well.
pub(super) struct FakeGroups;

const BAD: &str = "bad";

impl GroupBroker for FakeGroups {
    fn coordinator(&self) -> BoxFuture<'static, Option<BrokerId>> {
        Box::pin(async { Some(BrokerId::new(2)) })
    }

    fn call(&self, request: Request) -> BoxFuture<'static, Response> {
        let id = |text: &str| MemberId::new(text).unwrap();
        let joined = Joined {
            generation: Default::default(),
            protocol_type: "consumer".to_owned(),
            protocol: "range".to_owned(),
            leader: "a".to_owned(),
            member: id("a"),
            members: vec![(id("a"), None, Bytes::from_static(b"m"))],
            skip_assignment: true,
        };
        let synced = Synced {
            protocol_type: "consumer".to_owned(),
            protocol: "range".to_owned(),
            assignment: Bytes::from_static(b"mine"),
        };
        let answer = HeartbeatAnswer {
            member: id("a"),
            epoch: Default::default(),
            interval_ms: 1_000,
            assignment: Some(Default::default()),
        };
        let unknown = GroupError::UnknownMember;
        let response = match request {
            Request::Join(j) if j.group.as_str() == BAD => {
                Response::Joined(Err(GroupError::MemberIdRequired(id("fresh"))))
            }
            Request::Join(_) => Response::Joined(Ok(joined)),
            Request::Sync(s) if s.group.as_str() == BAD => Response::Synced(Err(unknown)),
            Request::Sync(_) => Response::Synced(Ok(synced)),
            Request::Leave(l) if l.group.as_str() == BAD => Response::Left(Err(unknown)),
            Request::Leave(l) => Response::Left(Ok(vec![Ok(()); l.members.len()])),
            Request::Heartbeat(h) if h.group.as_str() == BAD => Response::Heartbeat(Err(unknown)),
            Request::Heartbeat(_) => Response::Heartbeat(Ok(answer)),
            Request::ClassicHeartbeat(h) if h.group.as_str() == BAD => Response::Done(Err(unknown)),
            Request::Propose(op) if op.group().is_some_and(|g| g.as_str() == BAD) => {
                Response::Done(Err(unknown))
            }
            _ => Response::Done(Ok(())),
        };
        Box::pin(async move { response })
    }

    fn read(&self) -> BoxFuture<'static, Result<Arc<GroupsState>, GroupError>> {
        Box::pin(async { Ok(Arc::default()) })
    }

    fn phase(&self, group: &Group) -> GroupPhase {
        group.phase()
    }

    fn random_id(&self) -> [u8; 16] {
        [7; 16]
    }
}

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn reader<M: kafka_protocol::protocol::Request>(version: i16, message: &M) -> Reader {
    let (call, rest) = open(&encode(version, 1, message));
    call.open(rest).unwrap()
}

fn join_request(version: i16, group: &'static str) -> kp::JoinGroupRequest {
    let protocol = kp::join_group_request::JoinGroupRequestProtocol::default()
        .with_name(text("range"))
        .with_metadata(Bytes::from_static(b"topics"));
    let request = kp::JoinGroupRequest::default()
        .with_group_id(text(group).into())
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(if version >= 1 { 20_000 } else { -1 })
        .with_member_id(text("m"))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol]);
    if version >= 5 {
        request.with_group_instance_id(Some(text("i")))
    } else {
        request
    }
}

#[tokio::test]
async fn joining_and_syncing() {
    for version in ApiKey::JoinGroup.versions() {
        let sent = join_request(version, "g");
        let got = JoinGroupRequest::decode(&mut reader(version, &sent), version).unwrap();
        assert_eq!((got.group.as_str(), got.member.as_str()), ("g", "m"));
        assert_eq!(got.instance.is_some(), version >= 5);
        assert_eq!(got.protocols[0].1, "topics");
        let good = call(&FakeBroker::new(), version, &sent).await;
        assert_eq!((good.error_code, good.member_id.as_str()), (0, "a"));
        let bad = call(&FakeBroker::new(), version, &join_request(version, BAD)).await;
        assert_eq!((bad.error_code, bad.member_id.as_str()), (79, "fresh"));
    }
    for version in ApiKey::SyncGroup.versions() {
        let assignment = kp::sync_group_request::SyncGroupRequestAssignment::default()
            .with_member_id(text("m"))
            .with_assignment(Bytes::from_static(b"x"));
        for (group, code) in [("g", 0), (BAD, 25)] {
            let sent = kp::SyncGroupRequest::default()
                .with_group_id(text(group).into())
                .with_generation_id(3)
                .with_member_id(text("m"))
                .with_assignments(vec![assignment.clone()]);
            let got = SyncGroupRequest::decode(&mut reader(version, &sent), version).unwrap();
            assert_eq!((got.generation, got.assignments.len()), (3, 1));
            assert_eq!(
                call(&FakeBroker::new(), version, &sent).await.error_code,
                code
            );
        }
    }
}

#[tokio::test]
async fn staying_and_leaving() {
    for (group, code) in [("g", 0), (BAD, 25)] {
        for version in ApiKey::Heartbeat.versions() {
            let sent = kp::HeartbeatRequest::default()
                .with_group_id(text(group).into())
                .with_member_id(text("m"));
            assert_eq!(
                call(&FakeBroker::new(), version, &sent).await.error_code,
                code
            );
        }
        for version in ApiKey::LeaveGroup.versions() {
            let sent = kp::LeaveGroupRequest::default().with_group_id(text(group).into());
            let sent = if version < 3 {
                sent.with_member_id(text("m"))
            } else {
                let member = kp::leave_group_request::MemberIdentity::default();
                sent.with_members(vec![member.with_member_id(text("m"))])
            };
            let got = LeaveGroupRequest::decode(&mut reader(version, &sent), version).unwrap();
            assert_eq!(got.members[0].0.as_str(), "m");
            assert_eq!(
                call(&FakeBroker::new(), version, &sent).await.error_code,
                code
            );
        }
        for version in ApiKey::ConsumerGroupHeartbeat.versions() {
            let owned = kp::consumer_group_heartbeat_request::TopicPartitions::default()
                .with_partitions(vec![1, 2]);
            let sent = kp::ConsumerGroupHeartbeatRequest::default()
                .with_group_id(text(group).into())
                .with_member_id(text("m"))
                .with_member_epoch(4)
                .with_rebalance_timeout_ms(-1)
                .with_topic_partitions(Some(vec![owned]));
            let got =
                ConsumerHeartbeatRequest::decode(&mut reader(version, &sent), version).unwrap();
            assert_eq!((got.epoch, got.owned.unwrap()[0].1.len()), (4, 2));
            assert_eq!(
                call(&FakeBroker::new(), version, &sent).await.error_code,
                code
            );
        }
    }
}

#[tokio::test]
async fn offsets() {
    for version in ApiKey::OffsetCommit.versions() {
        let partition = |index| {
            kp::offset_commit_request::OffsetCommitRequestPartition::default()
                .with_partition_index(index)
                .with_committed_offset(5)
                .with_committed_metadata(Some(text("note")))
        };
        let topic = kp::offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(text(super::fake::TOPIC).into())
            .with_partitions(vec![partition(0), partition(99)]);
        for (group, code) in [("g", 0), (BAD, 25)] {
            let sent = kp::OffsetCommitRequest::default()
                .with_group_id(text(group).into())
                .with_topics(vec![topic.clone()]);
            let got = OffsetCommitRequest::decode(&mut reader(version, &sent), version).unwrap();
            assert_eq!(got.topics[0].1[1].index, 99);
            let answer = call(&FakeBroker::new(), version, &sent).await;
            let codes: Vec<i16> = answer.topics[0]
                .partitions
                .iter()
                .map(|p| p.error_code)
                .collect();
            assert_eq!(codes, [code, 3]);
        }
    }
    for version in ApiKey::OffsetFetch.versions() {
        let sent = if version < 8 {
            let topic = kp::offset_fetch_request::OffsetFetchRequestTopic::default()
                .with_name(text(super::fake::TOPIC).into())
                .with_partition_indexes(vec![0]);
            kp::OffsetFetchRequest::default()
                .with_group_id(text("g").into())
                .with_topics(Some(vec![topic]))
        } else {
            let topic = kp::offset_fetch_request::OffsetFetchRequestTopics::default()
                .with_name(text(super::fake::TOPIC).into())
                .with_partition_indexes(vec![0]);
            let group = kp::offset_fetch_request::OffsetFetchRequestGroup::default()
                .with_group_id(text("g").into())
                .with_topics(Some(vec![topic]));
            kp::OffsetFetchRequest::default().with_groups(vec![group])
        };
        let got = OffsetFetchRequest::decode(&mut reader(version, &sent), version).unwrap();
        assert_eq!(got.groups.len(), 1);
        let answer = call(&FakeBroker::new(), version, &sent).await;
        let offset = if version < 8 {
            answer.topics[0].partitions[0].committed_offset
        } else {
            answer.groups[0].topics[0].partitions[0].committed_offset
        };
        assert_eq!(offset, -1);
    }
}

#[tokio::test]
async fn what_tools_ask() {
    for version in ApiKey::FindCoordinator.versions() {
        let sent = if version < 4 {
            kp::FindCoordinatorRequest::default().with_key(text("g"))
        } else {
            kp::FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")])
        };
        let got = FindCoordinatorRequest::decode(&mut reader(version, &sent), version).unwrap();
        assert_eq!(got.keys[0].as_str(), "g");
        let answer = call(&FakeBroker::new(), version, &sent).await;
        let node = if version < 4 {
            answer.node_id
        } else {
            answer.coordinators[0].node_id
        };
        assert_eq!(node.0, 2);
    }
    for version in ApiKey::ListGroups.versions() {
        let answer = call(
            &FakeBroker::new(),
            version,
            &kp::ListGroupsRequest::default(),
        )
        .await;
        assert!(answer.groups.is_empty());
    }
    for version in ApiKey::DescribeGroups.versions() {
        let sent = kp::DescribeGroupsRequest::default().with_groups(vec![text("g").into()]);
        let answer = call(&FakeBroker::new(), version, &sent).await;
        let code = if version < 6 { 0 } else { 69 };
        assert_eq!(answer.groups[0].error_code, code);
        assert_eq!(answer.groups[0].group_state.as_str(), "Dead");
    }
    for version in ApiKey::ConsumerGroupDescribe.versions() {
        let sent =
            kp::ConsumerGroupDescribeRequest::default().with_group_ids(vec![text("g").into()]);
        let answer = call(&FakeBroker::new(), version, &sent).await;
        assert_eq!(answer.groups[0].error_code, 69);
    }
    for version in ApiKey::DeleteGroups.versions() {
        let names = ["g", BAD].map(|name| text(name).into()).to_vec();
        let sent = kp::DeleteGroupsRequest::default().with_groups_names(names);
        let answer = call(&FakeBroker::new(), version, &sent).await;
        let codes: Vec<i16> = answer.results.iter().map(|r| r.error_code).collect();
        assert_eq!(codes, [0, 25]);
    }
    let sent = kp::OffsetDeleteRequest::default().with_group_id(text("g").into());
    assert_eq!(call(&FakeBroker::new(), 0, &sent).await.error_code, 69);
}
