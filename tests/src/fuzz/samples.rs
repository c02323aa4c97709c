//! Valid messages, made by the encoders.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use kafka_protocol::messages as kp;
use kafka_protocol::protocol::{Request, StrBytes};
use rivven_core_types::test_util::SeededEntropy;
use rivven_core_types::{
    Address, AlterPartitionProposal, BatchBuilder, BrokerId, ClusterId, CommittedEntry, Durability,
    Incarnation, IsrMember, Lane, LeaderEpoch, LogConfig, LogDirId, LogIndex, MonoTime, NodeEpoch,
    NodeInfo, NodeName, Offset, PartitionEpoch, PartitionId, ProducerEpoch, ProducerId, RaftNodeId,
    RecoveryState, StateMachine, Term, TopicId, TopicName,
};
use rivven_metadata::{Command, LevelCommand, MetadataLevel, MetadataStateMachine, ReplicaClaim};
use rivven_swim::{Detector, Input, Output, SwimConfig, SwimSecurity};
use rivven_transport::{
    FrameEncoder, FrameHeader, FrameType, Initiator, InitiatorStep, LocalIdentity, Responder,
    ResponderStep, Security, WriteBatch, early_claim,
};

use crate::failure::{Doing, Failure};

type Samples = Result<Vec<Vec<u8>>, Failure>;

fn name(text: &str) -> Result<NodeName, Failure> {
    NodeName::new(text).doing(|| "a sample's name".to_owned())
}

/// Frames of every type, without a seal.
pub(super) fn frames() -> Samples {
    let types = [
        FrameType::Handshake,
        FrameType::Request,
        FrameType::Response,
        FrameType::Failure,
        FrameType::Cancel,
        FrameType::Ping,
        FrameType::Pong,
        FrameType::Part,
        FrameType::GoAway,
    ];
    let mut samples = Vec::new();
    let mut encoder = FrameEncoder::new(1, super::targets::MAX_PAYLOAD, None);
    for frame_type in types {
        let mut header = FrameHeader::new(1, frame_type);
        (header.kind, header.correlation, header.budget_ms) = (3, 77, 1_000);
        let mut batch = WriteBatch::default();
        let (meta, body) = (Bytes::from_static(b"meta"), Bytes::from_static(b"a body"));
        let encoded = encoder.encode(header, &meta, body, &mut batch);
        encoded.doing(|| "a sample frame".to_owned())?;
        batch.close_segment();
        let mut room = [IoSlice::new(&[]); _];
        let slices = batch.slices(&mut room);
        samples.push(slices.iter().flat_map(|slice| slice.to_vec()).collect());
    }
    Ok(samples)
}

pub(super) fn identity(text: &str) -> Result<LocalIdentity, Failure> {
    Ok(LocalIdentity {
        name: name(text)?,
        incarnation: Incarnation::from_bytes([3; 16]),
        cluster: Some(ClusterId::from_bytes([4; 16])),
        quic: None,
    })
}

/// The messages of a handshake, each behind a byte that says whom it is for: 0 and 1 the responder, 2 and 3
/// the initiator, 4 the responder on a channel that has proved who the other is.
pub(super) fn handshakes() -> Samples {
    let what = || "a sample handshake".to_owned();
    let entropy = SeededEntropy::new(1);
    let security = || Security::InsecureDev;
    let start = Initiator::start(identity("a")?, security(), None, None, Lane::Rpc, &entropy);
    let (mut initiator, hello) = start.doing(what)?;
    let mut responder = Responder::new(identity("b")?, security(), None);
    let mut samples = vec![[&[0], &hello[..]].concat()];
    let challenge = responder.receive(&hello, &entropy).doing(what)?;
    let ResponderStep::Send(challenge) = challenge else {
        return Err(Failure::new("no challenge in the sample handshake"));
    };
    samples.push([&[2], &challenge[..]].concat());
    if let InitiatorStep::Send(claim) = initiator.receive(&challenge).doing(what)? {
        samples.push([&[1], &claim[..]].concat());
        let answered = responder.receive(&claim, &entropy).doing(what)?;
        if let ResponderStep::Done(reply, _) = answered {
            samples.push([&[3], &reply[..]].concat());
        }
    }
    let early = early_claim(&identity("a")?, &name("b")?, Lane::Rpc);
    samples.push([&[4], &early.doing(what)?[..]].concat());
    Ok(samples)
}

/// Two members that talk insecurely; `boot_id` tells lives apart.
pub(super) fn detector(text: &str, port: u16, seed: u64) -> Result<Detector, Failure> {
    let info = NodeInfo::new(name(text)?, address(port + 1)?, address(port)?);
    let config = SwimConfig {
        security: SwimSecurity::InsecureDev,
        boot_id: Some(1),
        ..SwimConfig::default()
    };
    let made = Detector::new(info, config, seed, MonoTime::default());
    made.doing(|| "a sample detector".to_owned())
}

fn address(port: u16) -> Result<Address, Failure> {
    Address::new("127.0.0.1", port).doing(|| "a sample's address".to_owned())
}

/// Puts the checksum of a datagram to `b` right.
pub(super) fn reseal_datagram(input: &mut [u8]) {
    if let Ok(receiver) = NodeName::new("b") {
        rivven_swim::fuzzing::reseal(&receiver, input);
    }
}

/// Datagrams that reached `b` while `a`, `b` and `c` found each other.
pub(super) fn datagrams() -> Samples {
    let ports = [("a", 7_000u16), ("b", 7_100), ("c", 7_200)];
    let mut detectors = BTreeMap::new();
    for (text, port) in ports {
        detectors.insert(port, detector(text, port, u64::from(port))?);
    }
    let mut samples = Vec::new();
    let mut now = MonoTime::default();
    for _ in 0..60 {
        now = now + Duration::from_millis(50);
        let mut sent: Vec<(u16, u16, Bytes)> = Vec::new();
        for (port, detector) in &mut detectors {
            let mut out = Vec::new();
            if *port != 7_000 {
                let join = Input::Join(vec![address(7_000)?]);
                detector.handle(now, join, &mut out);
            }
            detector.handle(now, Input::Timeout, &mut out);
            sent.extend(sends(*port, out));
        }
        while let Some((from, to, payload)) = sent.pop() {
            if to == 7_100 {
                samples.push(payload.to_vec());
            }
            if let Some(detector) = detectors.get_mut(&to) {
                let from = SocketAddr::from(([127, 0, 0, 1], from));
                let mut out = Vec::new();
                let payload = &payload;
                detector.handle(now, Input::Datagram { from, payload }, &mut out);
                sent.extend(sends(to, out));
            }
        }
    }
    samples.sort();
    samples.dedup();
    samples.truncate(200);
    Ok(samples)
}

fn sends(from: u16, out: Vec<Output>) -> impl Iterator<Item = (u16, u16, Bytes)> {
    out.into_iter().filter_map(move |output| match output {
        Output::Send { to, payload } => {
            let to = to.to_string();
            let port = to.rsplit(':').next()?.parse().ok()?;
            Some((from, port, payload))
        }
        _ => None,
    })
}

/// One metadata command of each kind.
pub(super) fn commands() -> Samples {
    let what = || "a sample command".to_owned();
    let topic = TopicId::from_bytes([9; 16]);
    let (partition, broker, node_epoch) = (
        PartitionId::new(topic, 0),
        BrokerId::new(1),
        NodeEpoch::new(2),
    );
    let info = NodeInfo::new(name("a")?, address(7_001)?, address(7_000)?);
    let member = |broker| IsrMember {
        broker: BrokerId::new(broker),
        node_epoch,
    };
    let commands = [
        Command::FormCluster {
            cluster_id: ClusterId::from_bytes([4; 16]),
        },
        Command::RegisterBroker {
            info,
            incarnation: Incarnation::from_bytes([3; 16]),
            raft_id: RaftNodeId::new(8),
            log_dir: LogDirId::from_bytes([5; 16]),
            lossy: vec![partition],
        },
        Command::Level(LevelCommand::Raise {
            from: MetadataLevel::FIRST,
            to: MetadataLevel::new(2),
        }),
        Command::UnfenceBroker { broker, node_epoch },
        Command::CreateTopic {
            name: TopicName::new("orders").doing(what)?,
            id: topic,
            replicas: vec![vec![broker], vec![broker]],
            min_isr: 1,
            durability: Durability::Fsync,
            log: LogConfig::default(),
            placement: None,
        },
        Command::AlterPartitions {
            broker,
            node_epoch,
            proposals: vec![AlterPartitionProposal {
                partition,
                leader_epoch: LeaderEpoch::new(0),
                partition_epoch: PartitionEpoch::new(0),
                new_isr: vec![member(1), member(2)],
                recovery: RecoveryState::default(),
            }],
        },
        Command::AllocateProducerIds { broker, node_epoch },
        Command::RecoverPartition {
            partition,
            partition_epoch: PartitionEpoch::new(0),
            claims: vec![ReplicaClaim {
                broker,
                node_epoch,
                last_epoch: Some(LeaderEpoch::new(0)),
                log_end: Offset::ZERO,
            }],
        },
        Command::ElectUnclean { partition },
        Command::FenceBroker { broker, node_epoch },
        Command::BeginControlledShutdown { broker, node_epoch },
        Command::DeleteTopic {
            name: TopicName::new("orders").doing(what)?,
        },
    ];
    let encode = |command: &Command| Ok(command.encode().doing(what)?.to_vec());
    commands.iter().map(encode).collect()
}

/// A state machine to which all sample commands but the last ones were applied.
pub(super) fn metadata() -> Result<MetadataStateMachine, Failure> {
    let mut machine = MetadataStateMachine::new(Arc::new(|_| ()));
    for (command, index) in commands()?.into_iter().take(8).zip(1..) {
        let entry = CommittedEntry {
            index: LogIndex::new(index),
            term: Term::new(1),
            command: command.into(),
        };
        machine
            .apply(&[entry])
            .doing(|| "applying the sample commands".to_owned())?;
    }
    Ok(machine)
}

/// Images of the metadata: empty, and with a topic.
pub(super) fn images() -> Samples {
    let empty = MetadataStateMachine::new(Arc::new(|_| ()));
    let mut samples = Vec::new();
    for machine in [empty, metadata()?] {
        let mut image = Vec::new();
        machine.freeze().write_to(&mut image)?;
        samples.push(image);
    }
    Ok(samples)
}

/// Record batches: with and without keys, a producer, several in a row.
pub(super) fn batches() -> Samples {
    let what = || "a sample batch".to_owned();
    let plain = BatchBuilder::new(1_000).record(1_000, None, Some(b"value"));
    let mut many = BatchBuilder::new(1_000);
    for number in 0..20u8 {
        many = many.record(1_000, Some(&[number]), Some(&[number; 30]));
    }
    let (id, epoch) = (ProducerId::new(7), ProducerEpoch::new(1));
    let producer = BatchBuilder::new(5).producer(id, epoch, 12);
    let producer = producer.record(5, Some(b"key"), None);
    let mut samples = Vec::new();
    for builder in [plain, many, producer] {
        samples.push(builder.build().doing(what)?.bytes().to_vec());
    }
    samples.push(samples.concat());
    Ok(samples)
}

/// A request frame, without its length.
fn frame<R: Request>(request: &R, version: i16) -> Result<Vec<u8>, Failure> {
    let header = kp::RequestHeader::default()
        .with_request_api_key(R::KEY)
        .with_request_api_version(version)
        .with_correlation_id(5)
        .with_client_id(Some(StrBytes::from_static_str("fuzz")));
    let mut bytes = BytesMut::new();
    let what = || format!("a sample request {} version {version}", R::KEY);
    kafka_protocol::protocol::Encodable::encode(&header, &mut bytes, R::header_version(version))
        .doing(what)?;
    request.encode(&mut bytes, version).doing(what)?;
    Ok(bytes.to_vec())
}

/// Kafka requests of every kind, of the first and the last version and some between.
pub(super) fn requests() -> Samples {
    let text = StrBytes::from_static_str;
    let topic = || kp::TopicName(text("orders"));
    let records = batches()?.swap_remove(1);
    let mut samples = Vec::new();
    for version in [3, 8, 9] {
        let data = kp::produce_request::PartitionProduceData::default()
            .with_records(Some(records.clone().into()));
        let data = kp::produce_request::TopicProduceData::default()
            .with_name(topic())
            .with_partition_data(vec![data]);
        let request = kp::ProduceRequest::default()
            .with_acks(-1)
            .with_topic_data(vec![data]);
        samples.push(frame(&request, version)?);
    }
    for version in [4, 11, 12] {
        let partition = kp::fetch_request::FetchPartition::default().with_fetch_offset(3);
        let wanted = kp::fetch_request::FetchTopic::default()
            .with_topic(topic())
            .with_partitions(vec![partition; 3]);
        let request = kp::FetchRequest::default().with_topics(vec![wanted]);
        samples.push(frame(&request, version)?);
    }
    for version in [1, 5, 6] {
        let partition = kp::list_offsets_request::ListOffsetsPartition::default();
        let wanted = kp::list_offsets_request::ListOffsetsTopic::default()
            .with_name(topic())
            .with_partitions(vec![partition; 2]);
        let request = kp::ListOffsetsRequest::default().with_topics(vec![wanted]);
        samples.push(frame(&request, version)?);
    }
    for version in [0, 4, 8, 9, 12] {
        let wanted = kp::metadata_request::MetadataRequestTopic::default().with_name(Some(topic()));
        let request = kp::MetadataRequest::default().with_topics(Some(vec![wanted; 2]));
        samples.push(frame(&request, version)?);
    }
    for version in [0, 3] {
        samples.push(frame(&kp::ApiVersionsRequest::default(), version)?);
    }
    for version in [2, 5, 7] {
        let config = kp::create_topics_request::CreatableTopicConfig::default()
            .with_name(text("min.insync.replicas"))
            .with_value(Some(text("2")));
        let wanted = kp::create_topics_request::CreatableTopic::default()
            .with_name(topic())
            .with_num_partitions(3)
            .with_configs(vec![config]);
        let request = kp::CreateTopicsRequest::default().with_topics(vec![wanted]);
        samples.push(frame(&request, version)?);
    }
    for version in [0, 2, 4] {
        samples.push(frame(&kp::InitProducerIdRequest::default(), version)?);
    }
    samples.extend(admin_requests()?);
    samples.extend(group_requests()?);
    Ok(samples)
}

/// What administrators send, of the first and the last version.
fn admin_requests() -> Samples {
    let text = StrBytes::from_static_str;
    let topic = || kp::TopicName(text("orders"));
    let mut samples = Vec::new();
    for version in [1, 6] {
        let mut request = kp::DeleteTopicsRequest::default();
        if version < 6 {
            request = request.with_topic_names(vec![topic()]);
        } else {
            let named = kp::delete_topics_request::DeleteTopicState::default();
            request = request.with_topics(vec![named.with_name(Some(topic()))]);
        }
        samples.push(frame(&request, version)?);
    }
    for version in [0, 2] {
        let part = kp::delete_records_request::DeleteRecordsPartition::default().with_offset(3);
        let of = kp::delete_records_request::DeleteRecordsTopic::default()
            .with_name(topic())
            .with_partitions(vec![part]);
        let request = kp::DeleteRecordsRequest::default().with_topics(vec![of]);
        samples.push(frame(&request, version)?);
        let of = kp::elect_leaders_request::TopicPartitions::default()
            .with_topic(topic())
            .with_partitions(vec![0, 1]);
        let request = kp::ElectLeadersRequest::default().with_topic_partitions(Some(vec![of]));
        samples.push(frame(&request, version)?);
        let assignment = kp::create_partitions_request::CreatePartitionsAssignment::default()
            .with_broker_ids(vec![1.into(), 2.into()]);
        let of = kp::create_partitions_request::CreatePartitionsTopic::default()
            .with_name(topic())
            .with_count(4)
            .with_assignments(Some(vec![assignment]));
        let request = kp::CreatePartitionsRequest::default().with_topics(vec![of]);
        samples.push(frame(&request, version)?);
    }
    for version in [0, 1] {
        let part = kp::alter_partition_reassignments_request::ReassignablePartition::default()
            .with_replicas(Some(vec![1.into(), 2.into()]));
        let of = kp::alter_partition_reassignments_request::ReassignableTopic::default()
            .with_name(topic())
            .with_partitions(vec![part]);
        let request = kp::AlterPartitionReassignmentsRequest::default().with_topics(vec![of]);
        samples.push(frame(&request, version)?);
    }
    let of = kp::list_partition_reassignments_request::ListPartitionReassignmentsTopics::default()
        .with_name(topic())
        .with_partition_indexes(vec![0, 1]);
    let request = kp::ListPartitionReassignmentsRequest::default().with_topics(Some(vec![of]));
    samples.push(frame(&request, 0)?);
    for version in [1, 4] {
        let of = kp::describe_configs_request::DescribeConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("orders"))
            .with_configuration_keys(Some(vec![text("retention.ms")]));
        let request = kp::DescribeConfigsRequest::default().with_resources(vec![of]);
        samples.push(frame(&request, version)?);
    }
    for version in [0, 1] {
        let config = kp::incremental_alter_configs_request::AlterableConfig::default()
            .with_name(text("retention.ms"))
            .with_value(Some(text("1000")));
        let of = kp::incremental_alter_configs_request::AlterConfigsResource::default()
            .with_resource_type(2)
            .with_resource_name(text("orders"))
            .with_configs(vec![config]);
        let request = kp::IncrementalAlterConfigsRequest::default().with_resources(vec![of]);
        samples.push(frame(&request, version)?);
    }
    Ok(samples)
}

/// What consumer groups send, of the first and the last version.
fn group_requests() -> Samples {
    let text = StrBytes::from_static_str;
    let topic = || kp::TopicName(text("orders"));
    let group = || kp::GroupId(text("readers"));
    let bytes = || Bytes::from_static(b"metadata");
    let mut samples = Vec::new();
    for version in [0, 9] {
        let protocol = kp::join_group_request::JoinGroupRequestProtocol::default()
            .with_name(text("range"))
            .with_metadata(bytes());
        let request = kp::JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(10_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol; 2]);
        samples.push(frame(&request, version)?);
    }
    for version in [0, 5] {
        let assigned = kp::sync_group_request::SyncGroupRequestAssignment::default()
            .with_member_id(text("a"))
            .with_assignment(bytes());
        let request = kp::SyncGroupRequest::default()
            .with_group_id(group())
            .with_assignments(vec![assigned; 2]);
        samples.push(frame(&request, version)?);
        let mut request = kp::LeaveGroupRequest::default().with_group_id(group());
        if version > 0 {
            let member = kp::leave_group_request::MemberIdentity::default();
            request = request.with_members(vec![member.with_member_id(text("a"))]);
        }
        samples.push(frame(&request, version)?);
        samples.push(frame(&kp::ListGroupsRequest::default(), version)?);
    }
    for version in [0, 4] {
        let request = kp::HeartbeatRequest::default().with_group_id(group());
        samples.push(frame(&request, version)?);
    }
    for version in [2, 9] {
        let part = kp::offset_commit_request::OffsetCommitRequestPartition::default()
            .with_committed_offset(7);
        let of = kp::offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(topic())
            .with_partitions(vec![part; 2]);
        let request = kp::OffsetCommitRequest::default()
            .with_group_id(group())
            .with_topics(vec![of]);
        samples.push(frame(&request, version)?);
    }
    for version in [1, 7] {
        let of = kp::offset_fetch_request::OffsetFetchRequestTopic::default()
            .with_name(topic())
            .with_partition_indexes(vec![0, 1]);
        let request = kp::OffsetFetchRequest::default()
            .with_group_id(group())
            .with_topics(Some(vec![of]));
        samples.push(frame(&request, version)?);
    }
    let request = kp::FindCoordinatorRequest::default().with_key(text("readers"));
    samples.push(frame(&request, 0)?);
    let request = kp::FindCoordinatorRequest::default().with_coordinator_keys(vec![text("a")]);
    samples.push(frame(&request, 6)?);
    for version in [0, 6] {
        let request = kp::DescribeGroupsRequest::default().with_groups(vec![group(); 2]);
        samples.push(frame(&request, version)?);
    }
    for version in [0, 2] {
        let request = kp::DeleteGroupsRequest::default().with_groups_names(vec![group()]);
        samples.push(frame(&request, version)?);
    }
    let request = kp::OffsetDeleteRequest::default().with_group_id(group());
    samples.push(frame(&request, 0)?);
    for version in [0, 1] {
        let request = kp::ConsumerGroupHeartbeatRequest::default()
            .with_group_id(group())
            .with_member_id(text("a"))
            .with_subscribed_topic_names(Some(vec![topic()]));
        samples.push(frame(&request, version)?);
        let request = kp::ConsumerGroupDescribeRequest::default().with_group_ids(vec![group()]);
        samples.push(frame(&request, version)?);
    }
    Ok(samples)
}

/// Raft messages, each behind a byte that names its kind.
pub(super) fn raft() -> Samples {
    let sample = |(kind, bytes): (u8, Vec<u8>)| {
        let mut sample = BytesMut::new();
        sample.put_u8(kind);
        sample.extend_from_slice(&bytes);
        sample.to_vec()
    };
    let samples = rivven_raft_store::fuzzing::samples();
    Ok(samples.into_iter().map(sample).collect())
}

/// Configuration files.
pub(super) fn configs() -> Samples {
    let short = "cluster:\n  node_id: a\n  mode: standalone\n  data_dir: d\n";
    let long = "cluster:\n  node_id: \"node-1\"\n  mode: cluster\n  rack: \"r\"\n  data_dir: d\n  \
                client_addr: \"127.0.0.1:9092\"\n  cluster_addr: \"127.0.0.1:9093\"\n  seeds:\n    - \
                \"127.0.0.1:9094\"\n    - \"127.0.0.1:9095\"\n  security: { mode: insecure_dev }\n  swim:\n    \
                ping_interval_ms: 100\n    ping_timeout_ms: 50\n  raft:\n    snapshot_threshold: 10000\n  \
                replication: { min_isr: 2 }\n  topic_defaults: { partitions: 6, auto_create: true }\n";
    Ok([short, long].map(|text| text.as_bytes().to_vec()).to_vec())
}
