//! Single rules of the consumer protocol, of offsets, and of what bytes may do.

use std::time::Duration;

use rivven_core_types::{PartitionId, TopicName};

use super::world::{World, group, member};
use crate::{
    Batch, ClientInfo, Committer, Epoch, GroupError, Heartbeat, HeartbeatAnswer, InstanceId,
    OffsetToCommit, Op, Partitions, Request, Response, decode_results,
};

pub(super) fn beat(id: &str, epoch: Epoch, owned: &[PartitionId]) -> Heartbeat {
    let joins = epoch == Epoch::JOIN;
    Heartbeat {
        group: group("g"),
        member: member(id),
        instance: None,
        epoch,
        rack: None,
        client: ClientInfo::default(),
        rebalance_timeout_ms: joins.then_some(5_000),
        topics: joins.then(|| vec![TopicName::new("t").unwrap()]),
        pattern: None,
        assignor: None,
        owned: Some(owned.iter().copied().collect()),
    }
}

pub(super) fn call(world: &mut World, beat: Heartbeat) -> Result<HeartbeatAnswer, GroupError> {
    let ticket = world.ask(Request::Heartbeat(Box::new(beat)));
    world.pass(Duration::from_millis(150));
    match world.replies.remove(&ticket) {
        Some(Response::Heartbeat(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

pub(super) fn owned(answer: &HeartbeatAnswer) -> Vec<PartitionId> {
    answer
        .assignment
        .clone()
        .unwrap_or_default()
        .as_slice()
        .to_vec()
}

/// Nobody waits for the command that says that topics have changed, so that no client would say it again.
#[test]
fn new_partitions_are_read_though_the_command_that_tells_of_them_was_lost() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    world.pass(Duration::from_secs(1));
    world.topics.put("t", 5);
    let tells = |p: &crate::Proposal| matches!(p.op, Op::TopicsChanged { .. });
    let look = |world: &mut World| {
        world.now = world.now + Duration::from_millis(250);
        world.step(|c, view| c.tick(view));
        world.take_batch()
    };
    let lost = look(&mut world);
    assert!(lost.iter().any(tells));
    world.lose(lost);
    let again = look(&mut world);
    assert!(again.iter().any(tells));
    world.commit(again);
    world.settle();
    assert!(look(&mut world).is_empty(), "once is enough");
    let told = call(&mut world, beat("a", a.epoch, &owned(&a))).unwrap();
    assert_eq!(owned(&told).len(), 5);
}

/// A look at the topics tells no group that has not heard of the last one: else the queue would grow for as
/// long as topics change and nothing is committed. One that was not told, whatever the reason, is told later.
#[test]
fn a_group_is_told_of_its_topics_once_at_a_time() {
    let mut world = World::new();
    let (first, second) = (world.topics.put("t", 2), world.topics.put("u", 2));
    assert_ne!(first, second);
    for (name, topic) in [("g", "t"), ("h", "u")] {
        let join = Heartbeat {
            group: group(name),
            topics: Some(vec![TopicName::new(topic).unwrap()]),
            ..beat("a", Epoch::JOIN, &[])
        };
        call(&mut world, join).unwrap();
    }
    world.pass(Duration::from_secs(1));
    let look = |world: &mut World| {
        world.now = world.now + Duration::from_millis(250);
        world.step(|c, view| c.tick(view));
        let batch = world.take_batch();
        let tells = |p: &&crate::Proposal| matches!(p.op, Op::TopicsChanged { .. });
        assert_eq!(batch.iter().filter(tells).count(), batch.len());
        batch
    };
    world.topics.put("t", 3);
    world.topics.put("u", 3);
    let mut told = look(&mut world);
    assert_eq!(told.len(), 2);
    let other = told.split_off(1);
    world.topics.put("t", 4);
    assert!(look(&mut world).is_empty(), "both are on their way");
    world.lose(told);
    assert!(look(&mut world).is_empty(), "one is on its way still");
    // No word of this one in the answer: the state machine did not understand it.
    world.step(|c, view| c.applied(view, other, Vec::new()));
    let again = look(&mut world);
    assert_eq!(again.len(), 2);
    world.commit(again);
    world.settle();
    assert!(look(&mut world).is_empty());
    // What is on its way when the office ends is nobody's any more, and the next one tells anew.
    world.topics.put("t", 5);
    let old = look(&mut world);
    assert_eq!(old.len(), 1);
    world.lead();
    world.lose(old);
    let anew = look(&mut world);
    assert_eq!(anew.len(), 1);
}

#[test]
fn a_partition_moves_only_after_its_owner_has_given_it_up() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    assert_eq!(owned(&a).len(), 2, "the first answer brings the assignment");
    let has = owned(&a);
    let settled = call(&mut world, beat("a", a.epoch, &has)).unwrap();
    assert_eq!(settled.assignment, None, "confirmed");
    let b = call(&mut world, beat("b", Epoch::JOIN, &[])).unwrap();
    assert!(owned(&b).is_empty(), "a has both still");
    let told = call(&mut world, beat("a", a.epoch, &has)).unwrap();
    assert_eq!(
        (told.epoch, owned(&told).len()),
        (a.epoch, 1),
        "the epoch waits"
    );
    let waits = call(&mut world, beat("b", b.epoch, &[])).unwrap();
    assert!(owned(&waits).is_empty());
    let given = call(&mut world, beat("a", a.epoch, &owned(&told))).unwrap();
    assert!(given.epoch > a.epoch);
    let gets = call(&mut world, beat("b", b.epoch, &[])).unwrap();
    assert_eq!(owned(&gets).len(), 1);
}

#[test]
fn of_a_member_that_joins_twice_only_the_last_word_counts() {
    // Repeated after each plan, both joins took turns, and the group was planned for without end.
    let mut world = World::new();
    world.topics.put("t", 2);
    world.topics.put("u", 2);
    let first = world.ask(Request::Heartbeat(Box::new(beat("a", Epoch::JOIN, &[]))));
    let again = Heartbeat {
        topics: Some(vec![TopicName::new("u").unwrap()]),
        ..beat("a", Epoch::JOIN, &[])
    };
    let second = world.ask(Request::Heartbeat(Box::new(again)));
    world.pass(Duration::from_secs(2));
    let refused = Response::Heartbeat(Err(GroupError::LoadInProgress));
    assert_eq!(world.replies.remove(&first), Some(refused));
    let Some(Response::Heartbeat(Ok(answer))) = world.replies.remove(&second) else {
        panic!("the second join is not answered");
    };
    assert_eq!(owned(&answer).len(), 2);
    let state = world.state();
    let found = state.group(&group("g")).unwrap();
    assert_eq!(found.phase(), crate::GroupPhase::Stable);
}

#[test]
fn a_join_is_answered_though_everybody_leaves_before_the_plan() {
    let ask = |world: &mut World, id: &str, epoch| {
        world.ask(Request::Heartbeat(Box::new(beat(id, epoch, &[]))))
    };
    let refused = Some(Response::Heartbeat(Err(GroupError::UnknownMember)));
    for deleted in [false, true] {
        let mut world = World::new();
        world.topics.put("t", 2);
        let joins = ["a", "b"].map(|id| ask(&mut world, id, Epoch::JOIN));
        world.settle();
        for id in ["a", "b"] {
            ask(&mut world, id, Epoch::LEAVE);
        }
        world.settle();
        if deleted {
            let group = group("g");
            world.call(Request::Propose(Op::DeleteGroup { group }));
        }
        world.pass(Duration::from_secs(2));
        for ticket in joins {
            assert_eq!(world.replies.remove(&ticket), refused, "{deleted}");
        }
    }
    // The plan is in the log behind the leave.
    let mut world = World::new();
    world.topics.put("t", 2);
    let join = ask(&mut world, "a", Epoch::JOIN);
    let batch = world.take_batch();
    let results = world.apply(&batch);
    ask(&mut world, "a", Epoch::LEAVE);
    world.step(|c, view| c.applied(view, batch, results));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.replies.remove(&join), refused);
}

#[test]
fn heartbeats_of_a_settled_group_write_nothing() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    let before = world.proposals;
    for _ in 0..100 {
        let again = Heartbeat {
            owned: None,
            ..beat("a", a.epoch, &[])
        };
        call(&mut world, again).unwrap();
    }
    assert_eq!(world.proposals, before);
}

#[test]
fn wrong_epochs_are_fenced_and_a_lost_answer_is_forgiven() {
    let mut world = World::new();
    world.topics.put("t", 1);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    let newer = Epoch::new(a.epoch.get() + 1);
    let fenced = call(&mut world, beat("a", newer, &[]));
    assert_eq!(fenced, Err(GroupError::FencedMemberEpoch(a.epoch)));
    let unknown = call(&mut world, beat("nobody", a.epoch, &[]));
    assert_eq!(unknown, Err(GroupError::UnknownMember));
    // The answer to the join was lost: the client joins again, and nobody else is disturbed.
    let again = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    assert_eq!((again.epoch, owned(&again).len()), (a.epoch, 1));
}

#[test]
fn who_gives_partitions_up_too_slowly_is_fenced() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    let has = owned(&a);
    let b = call(&mut world, beat("b", Epoch::JOIN, &[])).unwrap();
    for _ in 0..40 {
        drop(call(&mut world, beat("a", a.epoch, &has)));
    }
    let fenced = call(&mut world, beat("a", a.epoch, &has));
    assert_eq!(fenced, Err(GroupError::UnknownMember));
    let all = call(&mut world, beat("b", b.epoch, &[])).unwrap();
    assert_eq!(owned(&all).len(), 2);
}

#[test]
fn a_static_member_finds_its_partitions_again_and_nobody_else_gets_its_instance() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let fixed = |id: &str, epoch| Heartbeat {
        instance: Some(InstanceId::new("i").unwrap()),
        ..beat(id, epoch, &[])
    };
    let a = call(&mut world, fixed("a", Epoch::JOIN)).unwrap();
    let taken = call(&mut world, fixed("b", Epoch::JOIN));
    assert_eq!(taken, Err(GroupError::UnreleasedInstance));
    call(&mut world, fixed("a", Epoch::LEAVE_STATIC)).unwrap();
    let before = world.state().group(&group("g")).unwrap().epoch();
    let b = call(&mut world, fixed("b", Epoch::JOIN)).unwrap();
    assert_eq!(owned(&b), owned(&a));
    assert_eq!(world.state().group(&group("g")).unwrap().epoch(), before);
}

#[test]
fn a_pattern_follows_new_topics_and_a_bad_one_is_refused() {
    let mut world = World::new();
    world.topics.put("orders-1", 1);
    let by_pattern = |pattern: &str| Heartbeat {
        topics: Some(Vec::new()),
        pattern: Some(pattern.to_owned()),
        ..beat("a", Epoch::JOIN, &[])
    };
    let refused = call(&mut world, by_pattern("orders-["));
    assert!(matches!(refused, Err(GroupError::InvalidRegex(_))));
    let a = call(&mut world, by_pattern("orders-.*")).unwrap();
    assert_eq!(owned(&a).len(), 1);
    world.topics.put("orders-2", 2);
    world.topics.put("others", 2);
    world.pass(Duration::from_secs(1));
    let more = call(&mut world, beat("a", a.epoch, &owned(&a))).unwrap();
    assert_eq!(owned(&more).len(), 3);
}

fn commit(epoch: Epoch, by: Option<&str>, metadata: &str, partition: PartitionId) -> Request {
    Request::Propose(Op::Commit {
        group: group("g"),
        by: Committer {
            member: by.map(member),
            instance: None,
            epoch,
        },
        offsets: vec![OffsetToCommit {
            partition,
            offset: 7,
            leader_epoch: 1,
            metadata: metadata.into(),
        }],
    })
}

#[test]
fn offsets_of_nobodys_group_and_of_members_only() {
    let mut world = World::new();
    let partition = PartitionId::new(world.topics.put("t", 1), 0);
    let none = Epoch::LEAVE;
    let alone = world.call(commit(none, None, "", partition));
    assert_eq!(
        alone,
        Some(Response::Done(Ok(()))),
        "a consumer without a group"
    );
    let long = "x".repeat(5_000);
    let too_long = world.call(commit(none, None, &long, partition));
    assert!(matches!(
        too_long,
        Some(Response::Done(Err(GroupError::MetadataTooLarge(_))))
    ));
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    let outside = world.call(commit(none, None, "", partition));
    assert_eq!(
        outside,
        Some(Response::Done(Err(GroupError::UnknownMember)))
    );
    let stale = Epoch::new(a.epoch.get() + 1);
    let stale = world.call(commit(stale, Some("a"), "", partition));
    assert_eq!(
        stale,
        Some(Response::Done(Err(GroupError::StaleMemberEpoch)))
    );
    let own = world.call(commit(a.epoch, Some("a"), "", partition));
    assert_eq!(own, Some(Response::Done(Ok(()))));
}

#[test]
fn arbitrary_bytes_are_neither_a_panic_nor_a_change() {
    let mut rng = rivven_core_types::Rng::new(3);
    for length in 0..2_000usize {
        let bytes: Vec<u8> = (0..length % 200)
            .map(|_| u8::try_from(rng.below(256)).unwrap())
            .collect();
        drop(Batch::decode(&bytes));
        drop(decode_results(&bytes));
        let mut prefixed = vec![1];
        prefixed.extend_from_slice(&bytes);
        drop(Batch::decode(&prefixed));
    }
    let nothing = Partitions::default();
    assert!(nothing.is_empty());
}
