//! What is too much is refused with an error that says so, and changes nothing.

use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::PartitionId;

use super::rules::{beat, call};
use super::world::{World, group, member};
use crate::{
    AssignError, Batch, ClientInfo, Committer, Epoch, GroupError, GroupId, Heartbeat, InstanceId,
    JoinRequest, MAX_GROUP_ID_BYTES, MAX_GROUP_MEMBERS, MAX_ID_BYTES, MAX_OFFSET_METADATA_BYTES,
    MemberId, OffsetToCommit, Op, Request, Response,
};

fn join(id: &str) -> JoinRequest {
    JoinRequest {
        group: group("c"),
        member: None,
        fresh_id: member(id),
        instance: None,
        client: ClientInfo::default(),
        session_timeout_ms: 10_000,
        rebalance_timeout_ms: 20_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"topics"))],
        knows_member_id_required: false,
        knows_skip_assignment: false,
    }
}

fn refused(world: &mut World, request: JoinRequest) -> GroupError {
    match world.call(Request::Join(request)) {
        Some(Response::Joined(Err(error))) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ids_are_as_long_as_they_may_be_and_no_longer() {
    for (length, fits) in [
        (0, false),
        (1, true),
        (MAX_GROUP_ID_BYTES, true),
        (MAX_GROUP_ID_BYTES + 1, false),
    ] {
        assert_eq!(GroupId::new("g".repeat(length)).is_ok(), fits, "{length}");
    }
    let long = "m".repeat(MAX_ID_BYTES + 1);
    let too_long = |what| AssignError::IdTooLong {
        what,
        length: long.len(),
        max: MAX_ID_BYTES,
    };
    assert_eq!(MemberId::new(&long), Err(too_long("member id")));
    assert_eq!(InstanceId::new(&long), Err(too_long("instance id")));
    assert!(MemberId::new(&long[1..]).is_ok());
}

#[test]
fn a_group_takes_ten_thousand_members_of_the_consumer_protocol() {
    let mut world = World::new();
    world.topics.put("t", 1);
    for n in 0..=MAX_GROUP_MEMBERS {
        let ticket = world.ask(Request::Heartbeat(Box::new(beat(
            &format!("m{n}"),
            Epoch::JOIN,
            &[],
        ))));
        if n % 1_000 == 0 {
            let batch = world.take_batch();
            world.commit(batch);
        }
        if n == MAX_GROUP_MEMBERS {
            world.settle();
            let full = GroupError::GroupMaxSize(MAX_GROUP_MEMBERS);
            assert_eq!(
                world.replies.remove(&ticket),
                Some(Response::Heartbeat(Err(full.clone())))
            );
            assert!(full.is_retriable() && full.code() == 81);
        }
    }
    let state = world.state();
    let found = state.group(&group("g")).unwrap();
    assert_eq!(found.member_count(), MAX_GROUP_MEMBERS);
}

#[test]
fn a_group_takes_ten_thousand_members_of_the_classic_protocol() {
    let mut world = World::new();
    for n in 0..MAX_GROUP_MEMBERS {
        world.ask(Request::Join(join(&format!("m{n}"))));
    }
    let full = GroupError::GroupMaxSize(MAX_GROUP_MEMBERS);
    assert_eq!(refused(&mut world, join("one-more")), full);
    world.pass(Duration::from_secs(4));
    let state = world.state();
    let found = state.group(&group("c")).unwrap();
    assert_eq!(found.member_count(), MAX_GROUP_MEMBERS);
    assert_eq!(refused(&mut world, join("one-more")), full);
}

#[test]
fn subscriptions_have_a_known_assignor_and_a_pattern_that_parses() {
    let mut world = World::new();
    world.topics.put("t", 1);
    let unknown = Heartbeat {
        assignor: Some("best".to_owned()),
        ..beat("a", Epoch::JOIN, &[])
    };
    assert_eq!(
        call(&mut world, unknown),
        Err(GroupError::UnsupportedAssignor("best".to_owned()))
    );
    for pattern in ["[".to_owned(), "(a{99}){99}".to_owned(), "x".repeat(1_025)] {
        let bad = Heartbeat {
            pattern: Some(pattern),
            ..beat("a", Epoch::JOIN, &[])
        };
        let outcome = call(&mut world, bad);
        assert!(
            matches!(outcome, Err(GroupError::InvalidRegex(_))),
            "{outcome:?}"
        );
    }
    let longest = Heartbeat {
        group: group("other"),
        pattern: Some("x".repeat(1_024)),
        ..beat("a", Epoch::JOIN, &[])
    };
    assert!(call(&mut world, longest).is_ok());
    let nothing = Heartbeat {
        topics: None,
        ..beat("a", Epoch::JOIN, &[])
    };
    let outcome = call(&mut world, nothing);
    assert!(matches!(outcome, Err(GroupError::InvalidRequest(_))));
    assert!(
        world.state().group(&group("g")).is_none(),
        "nothing changed"
    );
}

#[test]
fn classic_members_keep_to_the_limits_of_sessions_and_subscriptions() {
    let mut world = World::new();
    for session_timeout_ms in [5_999, 1_800_001] {
        let odd = JoinRequest {
            session_timeout_ms,
            ..join("a")
        };
        let range = GroupError::InvalidSessionTimeout {
            min_ms: 6_000,
            max_ms: 1_800_000,
        };
        assert_eq!(refused(&mut world, odd), range);
    }
    let long = JoinRequest {
        protocols: vec![("range".to_owned(), Bytes::from(vec![0; 256 * 1024]))],
        ..join("a")
    };
    let outcome = refused(&mut world, long);
    assert!(
        matches!(outcome, GroupError::InvalidRequest(_)),
        "{outcome}"
    );
    let none = JoinRequest {
        protocols: Vec::new(),
        ..join("a")
    };
    assert_eq!(refused(&mut world, none), GroupError::InconsistentProtocol);
    assert!(
        world.state().group(&group("c")).is_none(),
        "nothing changed"
    );
}

#[test]
fn metadata_of_an_offset_is_as_long_as_it_may_be_and_no_longer() {
    let mut world = World::new();
    let partition = PartitionId::new(world.topics.put("t", 1), 0);
    let commit = |length: usize| {
        Request::Propose(Op::Commit {
            group: group("g"),
            by: Committer {
                member: None,
                instance: None,
                epoch: Epoch::LEAVE,
            },
            offsets: vec![OffsetToCommit {
                partition,
                offset: 1,
                leader_epoch: -1,
                metadata: "x".repeat(length).into(),
            }],
        })
    };
    let too_long = GroupError::MetadataTooLarge(MAX_OFFSET_METADATA_BYTES);
    assert_eq!(
        world.call(commit(MAX_OFFSET_METADATA_BYTES + 1)),
        Some(Response::Done(Err(too_long)))
    );
    assert!(
        world.state().group(&group("g")).is_none(),
        "nothing changed"
    );
    assert_eq!(
        world.call(commit(MAX_OFFSET_METADATA_BYTES)),
        Some(Response::Done(Ok(())))
    );
}

#[test]
fn a_change_that_is_too_long_for_the_log_is_refused_before_it_gets_there() {
    let partition = PartitionId::new(rivven_core_types::TopicId::from_bytes([1; 16]), 0);
    let offset = OffsetToCommit {
        partition,
        offset: 1,
        leader_epoch: -1,
        metadata: "x".repeat(MAX_OFFSET_METADATA_BYTES).into(),
    };
    let limit = rivven_core_types::limits::MAX_COMMAND_BYTES;
    let op = Op::Commit {
        group: group("g"),
        by: Committer {
            member: None,
            instance: None,
            epoch: Epoch::LEAVE,
        },
        offsets: vec![offset; limit / MAX_OFFSET_METADATA_BYTES + 1],
    };
    let at = rivven_core_types::UnixMillis(1);
    assert!(Batch::encode_ops(at, [&op]).is_err());
}
