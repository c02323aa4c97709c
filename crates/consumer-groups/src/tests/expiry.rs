//! When committed offsets expire (KIP-211), and when they do not.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use rivven_core_types::{PartitionId, TopicName};

use super::rules::{beat, call};
use super::world::{World, group, member};
use crate::{
    ClientInfo, Committer, Epoch, Heartbeat, JoinRequest, OffsetToCommit, Op, Request, Response,
    SyncRequest, Ticket,
};

const DAY: Duration = Duration::from_secs(24 * 3_600);

fn commit(world: &mut World, name: &str, by: Option<(&str, Epoch)>, partition: PartitionId) {
    let answer = world.call(Request::Propose(Op::Commit {
        group: group(name),
        by: Committer {
            member: by.map(|(id, _)| member(id)),
            instance: None,
            epoch: by.map_or(Epoch::LEAVE, |(_, epoch)| epoch),
        },
        offsets: vec![OffsetToCommit {
            partition,
            offset: 7,
            leader_epoch: -1,
            metadata: "".into(),
        }],
    }));
    assert_eq!(answer, Some(Response::Done(Ok(()))));
}

fn has(world: &World, name: &str, partition: PartitionId) -> bool {
    let state = world.state();
    let found = state.group(&group(name));
    found.is_some_and(|g| g.offset(&partition).is_some())
}

/// Lets hours pass. Nothing happens but what the coordinator does by itself, and `alive` each hour.
fn hours(world: &mut World, hours: u64, mut alive: impl FnMut(&mut World)) {
    for _ in 0..hours {
        for _ in 0..6 {
            world.now = world.now + Duration::from_secs(600);
            alive(world);
            world.step(|c, view| c.tick(view));
            world.settle();
        }
    }
}

#[test]
fn offsets_of_a_group_that_nobody_joined_expire_a_retention_after_their_commit() {
    let mut world = World::new();
    let id = world.topics.put("t", 2);
    let [early, late] = [0, 1].map(|n| PartitionId::new(id, n));
    commit(&mut world, "g", None, early);
    hours(&mut world, 5 * 24, |_| {});
    commit(&mut world, "g", None, late);
    hours(&mut world, 24, |_| {});
    assert!(has(&world, "g", early), "six days");
    // Nothing but time has passed: the state's clock must not wait for somebody to commit something.
    hours(&mut world, 30, |_| {});
    assert!(!has(&world, "g", early) && has(&world, "g", late));
    hours(&mut world, 5 * 24, |_| {});
    assert!(world.state().group(&group("g")).is_none());
}

#[test]
fn offsets_of_a_group_outlive_its_last_member_by_a_retention() {
    let mut world = World::new();
    let partition = PartitionId::new(world.topics.put("t", 1), 0);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    commit(&mut world, "g", Some(("a", a.epoch)), partition);
    let alive = |world: &mut World| {
        call(
            world,
            Heartbeat {
                owned: None,
                ..beat("a", a.epoch, &[])
            },
        )
        .unwrap();
    };
    // Old when the member leaves, and kept all the same.
    for _ in 0..20 * 24 * 60 * 2 {
        world.now = world.now + Duration::from_secs(30);
        alive(&mut world);
    }
    assert!(has(&world, "g", partition), "it is subscribed");
    call(&mut world, beat("a", Epoch::LEAVE, &[])).unwrap();
    hours(&mut world, 6 * 24, |_| {});
    assert!(has(&world, "g", partition));
    hours(&mut world, 2 * 24, |_| {});
    assert!(world.state().group(&group("g")).is_none());
}

#[test]
fn an_offset_that_is_committed_after_the_group_was_left_is_kept_for_a_retention_too() {
    let mut world = World::new();
    let partition = PartitionId::new(world.topics.put("t", 1), 0);
    call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    call(&mut world, beat("a", Epoch::LEAVE, &[])).unwrap();
    hours(&mut world, 6 * 24, |_| {});
    commit(&mut world, "g", None, partition);
    hours(&mut world, 6 * 24, |_| {});
    assert!(has(&world, "g", partition));
    hours(&mut world, 2 * 24, |_| {});
    assert!(!has(&world, "g", partition));
}

/// A member whose session outlasts the steps of the test, of a group that reads `topics`.
fn classic(world: &mut World, name: &str, topics: &[&str]) -> Epoch {
    let mut subscription = BytesMut::new();
    subscription.put_i16(1);
    subscription.put_i32(i32::try_from(topics.len()).unwrap());
    for topic in topics {
        subscription.put_i16(i16::try_from(topic.len()).unwrap());
        subscription.put_slice(topic.as_bytes());
    }
    let join = world.ask(Request::Join(JoinRequest {
        group: group(name),
        member: None,
        fresh_id: member("m"),
        instance: None,
        client: ClientInfo::default(),
        session_timeout_ms: 1_800_000,
        rebalance_timeout_ms: 1_800_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), subscription.freeze())],
        knows_member_id_required: false,
        knows_skip_assignment: false,
    }));
    world.pass(Duration::from_secs(1));
    let generation = joined(world, join);
    world.call(Request::Sync(SyncRequest {
        group: group(name),
        member: member("m"),
        instance: None,
        generation,
        protocol_type: None,
        protocol: None,
        assignments: vec![(member("m"), Bytes::from_static(b"all"))],
    }));
    generation
}

fn joined(world: &mut World, ticket: Ticket) -> Epoch {
    match world.replies.remove(&ticket) {
        Some(Response::Joined(Ok(joined))) => joined.generation,
        other => panic!("{other:?}"),
    }
}

fn classic_beat(name: &str, generation: Epoch) -> Request {
    Request::ClassicHeartbeat(crate::ClassicHeartbeat {
        group: group(name),
        member: member("m"),
        instance: None,
        generation,
    })
}

#[test]
fn of_a_stable_group_only_what_it_no_longer_subscribes_to_expires() {
    let mut world = World::new();
    let read = PartitionId::new(world.topics.put("read", 1), 0);
    let left = PartitionId::new(world.topics.put("left", 1), 0);
    let generation = classic(&mut world, "c", &["read"]);
    let subscribed = Heartbeat {
        topics: Some(vec![TopicName::new("read").unwrap()]),
        ..beat("a", Epoch::JOIN, &[])
    };
    let a = call(&mut world, subscribed).unwrap();
    for partition in [read, left] {
        commit(&mut world, "c", Some(("m", generation)), partition);
        commit(&mut world, "g", Some(("a", a.epoch)), partition);
    }
    let alive = |world: &mut World| {
        world.call(classic_beat("c", generation));
        // Sessions of the consumer protocol are shorter than the steps here.
        for _ in 0..20 {
            world.now = world.now + Duration::from_secs(30);
            call(
                world,
                Heartbeat {
                    owned: None,
                    ..beat("a", a.epoch, &[])
                },
            )
            .unwrap();
        }
    };
    let days = |world: &mut World, days: u32| {
        let until = world.now + DAY * days;
        while world.now < until {
            alive(world);
            world.step(|c, view| c.tick(view));
            world.settle();
        }
    };
    days(&mut world, 6);
    for name in ["c", "g"] {
        assert!(has(&world, name, left) && has(&world, name, read), "{name}");
    }
    days(&mut world, 2);
    for name in ["c", "g"] {
        assert!(
            !has(&world, name, left) && has(&world, name, read),
            "{name}"
        );
    }
}

#[test]
fn while_members_are_to_join_again_nothing_expires() {
    let mut world = World::new();
    let left = PartitionId::new(world.topics.put("left", 1), 0);
    let generation = classic(&mut world, "c", &["read"]);
    commit(&mut world, "c", Some(("m", generation)), left);
    // Somebody else joins and the member takes its time: the group prepares for the next round.
    hours(&mut world, 7 * 24 - 1, |world| {
        world.call(classic_beat("c", generation));
    });
    world.ask(Request::Join(JoinRequest {
        group: group("c"),
        member: None,
        fresh_id: member("n"),
        instance: None,
        client: ClientInfo::default(),
        session_timeout_ms: 1_800_000,
        rebalance_timeout_ms: u32::MAX,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"\0\x01\0\0\0\0"))],
        knows_member_id_required: false,
        knows_skip_assignment: false,
    }));
    hours(&mut world, 3, |world| {
        let again = Response::Done(Err(crate::GroupError::RebalanceInProgress));
        assert_eq!(world.call(classic_beat("c", generation)), Some(again));
    });
    assert!(has(&world, "c", left));
}
