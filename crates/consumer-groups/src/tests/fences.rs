//! Members that are gone, were replaced or lost an answer, and what they still say.

use std::time::Duration;

use rivven_core_types::PartitionId;

use super::rules::{beat, call, owned};
use super::world::{World, group, member};
use crate::{
    Committer, Epoch, GroupConfig, GroupError, Heartbeat, InstanceId, OffsetToCommit, Op, Request,
    Response,
};

fn commit(world: &mut World, id: &str, epoch: Epoch, partition: PartitionId) -> crate::OpResult {
    let answer = world.call(Request::Propose(Op::Commit {
        group: group("g"),
        by: Committer {
            member: Some(member(id)),
            instance: None,
            epoch,
        },
        offsets: vec![OffsetToCommit {
            partition,
            offset: 1,
            leader_epoch: -1,
            metadata: "".into(),
        }],
    }));
    match answer {
        Some(Response::Done(outcome)) => outcome,
        other => panic!("{other:?}"),
    }
}

fn is_member(world: &World, id: &str) -> bool {
    let state = world.state();
    let found = state.group(&group("g")).and_then(|g| g.consumer());
    found.is_some_and(|c| c.member(&member(id)).is_some())
}

fn fixed(id: &str, epoch: Epoch) -> Heartbeat {
    Heartbeat {
        instance: Some(InstanceId::new("i").unwrap()),
        ..beat(id, epoch, &[])
    }
}

/// The log was slow, so that the coordinator was told that nobody knows, and refused the client; then the
/// join came through. No session was kept for that member, and what it was given was read by nobody until
/// another node coordinated.
#[test]
fn a_member_whose_join_came_through_unheard_is_out_when_it_stays_silent() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let joining = world.ask(Request::Heartbeat(Box::new(beat("a", Epoch::JOIN, &[]))));
    let joined = world.take_batch();
    world.apply(&joined);
    world.lose(joined);
    let refused = Response::Heartbeat(Err(GroupError::LoadInProgress));
    assert_eq!(world.replies.remove(&joining), Some(refused));
    let session = GroupConfig::default().consumer_session_timeout;
    world.pass(session - Duration::from_secs(1));
    assert!(is_member(&world, "a"), "it has a whole session");
    world.pass(Duration::from_secs(30));
    assert!(!is_member(&world, "a"));
}

#[test]
fn who_leaves_before_its_join_is_answered_does_not_come_back() {
    // The coordinator repeats a join once there is a plan with it. A consumer that had closed meanwhile
    // was a member again, for as long as a session lasts, and what it was given was read by nobody.
    let mut world = World::new();
    world.topics.put("t", 2);
    let joining = world.ask(Request::Heartbeat(Box::new(beat("a", Epoch::JOIN, &[]))));
    let joined = world.take_batch();
    world.commit(joined);
    let planned = world.take_batch();
    let leaving = Heartbeat {
        owned: None,
        ..beat("a", Epoch::LEAVE, &[])
    };
    let leaving = world.ask(Request::Heartbeat(Box::new(leaving)));
    let left = world.take_batch();
    let both: Vec<_> = planned.into_iter().chain(left).collect();
    assert_eq!(both.len(), 2, "the plan and the leave");
    world.commit(both);
    world.settle();
    assert!(!is_member(&world, "a"));
    let refused = Response::Heartbeat(Err(GroupError::UnknownMember));
    assert_eq!(world.replies.remove(&joining), Some(refused));
    let Some(Response::Heartbeat(Ok(_))) = world.replies.remove(&leaving) else {
        panic!("the leave is not answered");
    };
}

#[test]
fn a_member_that_has_joined_and_has_nothing_yet_commits_nothing() {
    // Epoch 0 is what every joining client says, so it proves nothing about who owns what.
    let mut world = World::new();
    let partition = PartitionId::new(world.topics.put("t", 1), 0);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    world.ask(Request::Heartbeat(Box::new(beat("b", Epoch::JOIN, &[]))));
    let joined = world.take_batch();
    world.apply(&joined);
    let stale = Err(GroupError::StaleMemberEpoch);
    assert_eq!(commit(&mut world, "b", Epoch::JOIN, partition), stale);
    assert_eq!(commit(&mut world, "a", a.epoch, partition), Ok(()));
}

#[test]
fn a_static_member_that_is_away_commits_nothing() {
    let mut world = World::new();
    let partition = PartitionId::new(world.topics.put("t", 1), 0);
    let a = call(&mut world, fixed("a", Epoch::JOIN)).unwrap();
    assert_eq!(commit(&mut world, "a", a.epoch, partition), Ok(()));
    call(&mut world, fixed("a", Epoch::LEAVE_STATIC)).unwrap();
    let stale = Err(GroupError::StaleMemberEpoch);
    for epoch in [Epoch::LEAVE_STATIC, Epoch::LEAVE, a.epoch] {
        assert_eq!(commit(&mut world, "a", epoch, partition), stale);
    }
}

#[test]
fn a_static_member_that_was_replaced_is_told_so_and_commits_nothing() {
    let mut world = World::new();
    let partition = PartitionId::new(world.topics.put("t", 1), 0);
    let old = call(&mut world, fixed("old", Epoch::JOIN)).unwrap();
    call(&mut world, fixed("old", Epoch::LEAVE_STATIC)).unwrap();
    let new = call(&mut world, fixed("new", Epoch::JOIN)).unwrap();
    assert_eq!(owned(&new), [partition]);
    // Not "unknown": it would join again and fight its successor for the instance.
    let zombie = call(&mut world, fixed("old", old.epoch));
    assert_eq!(zombie, Err(GroupError::FencedInstance));
    let leaves = call(&mut world, fixed("old", Epoch::LEAVE));
    assert_eq!(leaves, Err(GroupError::FencedInstance));
    let committed = commit(&mut world, "old", old.epoch, partition);
    assert_eq!(committed, Err(GroupError::UnknownMember));
    assert_eq!(commit(&mut world, "new", new.epoch, partition), Ok(()));
}

#[test]
fn a_revocation_goes_on_under_a_new_coordinator() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    let has = owned(&a);
    call(&mut world, beat("a", a.epoch, &has)).unwrap();
    let b = call(&mut world, beat("b", Epoch::JOIN, &[])).unwrap();
    let told = call(&mut world, beat("a", a.epoch, &has)).unwrap();
    assert_eq!(owned(&told).len(), 1);
    world.fail_over_to_snapshot();
    // The answer was lost with the old coordinator: it is given again.
    let again = call(
        &mut world,
        Heartbeat {
            owned: None,
            ..beat("a", a.epoch, &[])
        },
    )
    .unwrap();
    assert_eq!((again.epoch, owned(&again)), (told.epoch, owned(&told)));
    let waits = call(&mut world, beat("b", b.epoch, &[])).unwrap();
    assert!(owned(&waits).is_empty(), "a has not given it up");
    // Half of it is no answer, all of it is.
    let still = call(&mut world, beat("a", a.epoch, &has)).unwrap();
    assert_eq!(still.epoch, a.epoch);
    world.fail_over();
    let given = call(&mut world, beat("a", a.epoch, &owned(&told))).unwrap();
    assert!(given.epoch > a.epoch);
    let gets = call(&mut world, beat("b", b.epoch, &[])).unwrap();
    assert_eq!(owned(&gets).len(), 1);
}

#[test]
fn who_dawdles_over_a_revocation_is_fenced_by_the_new_coordinator_too() {
    let mut world = World::new();
    let partition = PartitionId::new(world.topics.put("t", 2), 0);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    let has = owned(&a);
    let b = call(&mut world, beat("b", Epoch::JOIN, &[])).unwrap();
    call(&mut world, beat("a", a.epoch, &has)).unwrap();
    world.fail_over();
    // A whole rebalance time-out from the change of coordinator on.
    world.pass(Duration::from_secs(4));
    assert!(is_member(&world, "a"));
    world.pass(Duration::from_secs(2));
    assert!(!is_member(&world, "a"));
    let late = commit(&mut world, "a", a.epoch, partition);
    assert_eq!(late, Err(GroupError::UnknownMember));
    let all = call(&mut world, beat("b", b.epoch, &[])).unwrap();
    assert_eq!(owned(&all).len(), 2);
}

#[test]
fn an_answer_that_comes_twice_changes_nothing() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    let has = owned(&a);
    call(&mut world, beat("a", a.epoch, &has)).unwrap();
    let b = call(&mut world, beat("b", Epoch::JOIN, &[])).unwrap();
    let told = call(&mut world, beat("a", a.epoch, &has)).unwrap();
    let given = beat("a", a.epoch, &owned(&told));
    let first = call(&mut world, given.clone()).unwrap();
    // The answer was lost and the heartbeat is sent again, with the epoch of before.
    let second = call(&mut world, given).unwrap();
    assert_eq!((first.epoch, owned(&first)), (second.epoch, owned(&second)));
    // With what it has given up it is somebody who missed more than an answer.
    let zombie = call(&mut world, beat("a", a.epoch, &has));
    assert_eq!(zombie, Err(GroupError::FencedMemberEpoch(first.epoch)));
    call(&mut world, beat("b", b.epoch, &[])).unwrap();
}

#[test]
fn a_heartbeat_that_waits_for_the_log_is_a_sign_of_life() {
    let mut world = World::new();
    world.topics.put("t", 2);
    let a = call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    world.pass(Duration::from_secs(44));
    // It changes something, and the log stalls for longer than what is left of the session.
    let changed = Heartbeat {
        rebalance_timeout_ms: Some(6_000),
        ..beat("a", a.epoch, &owned(&a))
    };
    world.ask(Request::Heartbeat(Box::new(changed)));
    let stalled = world.take_batch();
    assert_eq!(stalled.len(), 1);
    world.now = world.now + Duration::from_secs(3);
    world.step(|c, view| c.tick(view));
    assert!(world.take_batch().is_empty(), "nobody is fenced");
    world.commit(stalled);
    world.settle();
    assert!(is_member(&world, "a"));
}
