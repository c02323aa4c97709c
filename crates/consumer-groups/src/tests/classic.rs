//! The classic protocol: barriers, generations, static members, and change of coordinator.

use std::time::Duration;

use bytes::Bytes;

use super::world::{World, group, member};
use crate::{
    ClassicHeartbeat, ClientInfo, Committer, Epoch, GroupError, GroupPhase, InstanceId,
    JoinRequest, Joined, LeaveRequest, Leaving, OffsetToCommit, Op, Request, Response, SyncRequest,
    Synced, Ticket,
};

fn join(id: Option<&str>, fresh: &str) -> JoinRequest {
    JoinRequest {
        group: group("g"),
        member: id.map(member),
        fresh_id: member(fresh),
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

fn joined(world: &mut World, ticket: Ticket) -> Joined {
    match world.replies.remove(&ticket) {
        Some(Response::Joined(Ok(joined))) => joined,
        other => panic!("{other:?}"),
    }
}

fn sync(joined: &Joined, assignments: &[(&str, &'static [u8])]) -> Request {
    let assignments = assignments.iter();
    Request::Sync(SyncRequest {
        group: group("g"),
        member: joined.member.clone(),
        instance: None,
        generation: joined.generation,
        protocol_type: None,
        protocol: None,
        assignments: assignments
            .map(|(id, bytes)| (member(id), Bytes::from_static(bytes)))
            .collect(),
    })
}

fn synced(response: Option<Response>) -> Bytes {
    match response {
        Some(Response::Synced(Ok(Synced { assignment, .. }))) => assignment,
        other => panic!("{other:?}"),
    }
}

fn beat(joined: &Joined) -> Request {
    Request::ClassicHeartbeat(ClassicHeartbeat {
        group: group("g"),
        member: joined.member.clone(),
        instance: None,
        generation: joined.generation,
    })
}

/// Two members, a leads; both have their assignment.
fn two(world: &mut World) -> (Joined, Joined) {
    let a = world.ask(Request::Join(join(None, "a")));
    let b = world.ask(Request::Join(join(None, "b")));
    world.pass(Duration::from_secs(1));
    let (a, b) = (joined(world, a), joined(world, b));
    assert_eq!(
        (a.leader.as_str(), a.members.len(), b.members.len()),
        ("a", 2, 0)
    );
    let waits = world.ask(sync(&b, &[]));
    world.settle();
    assert!(
        !world.replies.contains_key(&waits),
        "the leader has not assigned"
    );
    let own = world.call(sync(&a, &[("a", b"A"), ("b", b"B")]));
    assert_eq!(synced(own), "A");
    assert_eq!(synced(world.replies.remove(&waits)), "B");
    (a, b)
}

#[test]
fn members_join_together_and_get_what_the_leader_assigns() {
    let mut world = World::new();
    let (a, b) = two(&mut world);
    assert_eq!(world.call(beat(&a)), Some(Response::Done(Ok(()))));
    let proposals = world.proposals;
    assert_eq!(world.call(beat(&b)), Some(Response::Done(Ok(()))));
    assert_eq!(world.proposals, proposals, "a heartbeat writes nothing");
}

#[test]
fn a_third_member_makes_the_others_join_again_and_commits_go_on_meanwhile() {
    let mut world = World::new();
    let (a, b) = two(&mut world);
    let c = world.ask(Request::Join(join(None, "c")));
    world.settle();
    let again = Err(GroupError::RebalanceInProgress);
    assert_eq!(world.call(beat(&a)), Some(Response::Done(again)));
    let id = world.topics.put("t", 1);
    let commit = |j: &Joined| {
        Request::Propose(Op::Commit {
            group: group("g"),
            by: Committer {
                member: Some(j.member.clone()),
                instance: None,
                epoch: j.generation,
            },
            offsets: vec![OffsetToCommit {
                partition: rivven_core_types::PartitionId::new(id, 0),
                offset: 5,
                leader_epoch: -1,
                metadata: "".into(),
            }],
        })
    };
    assert_eq!(world.call(commit(&a)), Some(Response::Done(Ok(()))));
    let a2 = world.ask(Request::Join(join(Some("a"), "x")));
    let b2 = world.ask(Request::Join(join(Some("b"), "x")));
    world.settle();
    let (a2, b2, c) = (
        joined(&mut world, a2),
        joined(&mut world, b2),
        joined(&mut world, c),
    );
    assert!(a2.generation > a.generation);
    assert_eq!(
        (b2.generation, c.generation),
        (a2.generation, a2.generation)
    );
    assert_eq!(a2.members.len(), 3);
    // The old generation is fenced; the new one must have its assignment first.
    let fenced = world.call(commit(&b));
    assert_eq!(
        fenced,
        Some(Response::Done(Err(GroupError::IllegalGeneration)))
    );
    let early = world.call(commit(&b2));
    assert_eq!(
        early,
        Some(Response::Done(Err(GroupError::RebalanceInProgress)))
    );
}

#[test]
fn a_change_of_coordinator_asks_nobody_to_rejoin_not_even_in_the_middle_of_a_round() {
    let mut world = World::new();
    let (a, b) = two(&mut world);
    world.fail_over_to_snapshot();
    assert_eq!(world.call(beat(&a)), Some(Response::Done(Ok(()))));
    assert_eq!(world.call(beat(&b)), Some(Response::Done(Ok(()))));
    // A member that is silent from now on has a whole session.
    world.pass(Duration::from_secs(9));
    assert_eq!(world.state().group(&group("g")).unwrap().member_count(), 2);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.state().group(&group("g")).unwrap().member_count(), 0);

    let mut world = World::new();
    let a = world.ask(Request::Join(join(None, "a")));
    world.pass(Duration::from_secs(1));
    let a = joined(&mut world, a);
    world.fail_over();
    let own = world.call(sync(&a, &[("a", b"A")]));
    assert_eq!(synced(own), "A", "the generation goes on where it was");
}

#[test]
fn a_silent_member_is_out_and_the_others_join_again_also_after_a_change_of_coordinator() {
    let mut world = World::new();
    let (a, _) = two(&mut world);
    for _ in 0..3 {
        world.pass(Duration::from_secs(4));
        world.call(beat(&a));
    }
    let found = world.state();
    let found = found.group(&group("g")).unwrap();
    assert_eq!(found.member_count(), 1);
    assert_eq!(
        world.coordinator.phase(found),
        GroupPhase::PreparingRebalance
    );
    world.fail_over();
    let again = Err(GroupError::RebalanceInProgress);
    assert_eq!(world.call(beat(&a)), Some(Response::Done(again)));
}

#[test]
fn generations_go_on_when_the_group_was_empty_or_deleted() {
    let mut world = World::new();
    let (a, b) = two(&mut world);
    let leaving = [&a, &b].map(|j| Leaving {
        member: Some(j.member.clone()),
        instance: None,
    });
    let left = world.call(Request::Leave(LeaveRequest {
        group: group("g"),
        members: leaving.to_vec(),
    }));
    assert_eq!(left, Some(Response::Left(Ok(vec![Ok(()), Ok(())]))));
    let delete = Request::Propose(Op::DeleteGroup { group: group("g") });
    assert_eq!(world.call(delete), Some(Response::Done(Ok(()))));
    let c = world.ask(Request::Join(join(None, "c")));
    world.pass(Duration::from_secs(1));
    let c = joined(&mut world, c);
    assert!(c.generation > a.generation);
    let zombie = Err(GroupError::UnknownMember);
    assert_eq!(world.call(beat(&a)), Some(Response::Done(zombie)));
}

#[test]
fn a_static_member_comes_back_to_its_assignment_and_fences_its_old_life() {
    let mut world = World::new();
    let fixed = |id, fresh| JoinRequest {
        instance: Some(InstanceId::new("i").unwrap()),
        ..join(id, fresh)
    };
    let first = world.ask(Request::Join(fixed(None, "a")));
    world.pass(Duration::from_secs(1));
    let first = joined(&mut world, first);
    let own = world.call(sync(&first, &[("a", b"A")]));
    assert_eq!(synced(own), "A");
    let second = world.ask(Request::Join(fixed(None, "b")));
    world.settle();
    let second = joined(&mut world, second);
    assert_eq!(second.generation, first.generation, "no rebalance");
    assert_ne!(
        second.leader,
        second.member.as_str(),
        "it must not assign anew"
    );
    assert_eq!(synced(world.call(sync(&second, &[]))), "A");
    let old = Request::Join(fixed(Some("a"), "x"));
    let fenced = Some(Response::Joined(Err(GroupError::FencedInstance)));
    assert_eq!(world.call(old), fenced);
}

#[test]
fn a_member_that_never_asks_for_its_assignment_is_taken_out() {
    // KAFKA-12890: its heartbeats alone kept the group waiting for ever.
    let mut world = World::new();
    let a = world.ask(Request::Join(join(None, "a")));
    let b = world.ask(Request::Join(join(None, "b")));
    world.pass(Duration::from_secs(1));
    let (a, b) = (joined(&mut world, a), joined(&mut world, b));
    let waits = world.ask(sync(&b, &[]));
    for _ in 0..6 {
        world.pass(Duration::from_secs(4));
        world.call(beat(&a));
    }
    let refused = Some(Response::Synced(Err(GroupError::RebalanceInProgress)));
    assert_eq!(world.replies.remove(&waits), refused);
    let state = world.state();
    let classic = state.group(&group("g")).unwrap().classic().unwrap();
    assert!(classic.member(&a.member).is_none() && classic.member(&b.member).is_some());
}

#[test]
fn a_client_that_knows_it_joins_twice_to_get_its_id() {
    let mut world = World::new();
    let twice = |id| JoinRequest {
        knows_member_id_required: true,
        ..join(id, "fresh")
    };
    let required = Err(GroupError::MemberIdRequired(member("fresh")));
    let first = world.call(Request::Join(twice(None)));
    assert_eq!(first, Some(Response::Joined(required)));
    let second = world.ask(Request::Join(twice(Some("fresh"))));
    world.pass(Duration::from_secs(1));
    assert_eq!(joined(&mut world, second).member, member("fresh"));
    let unknown = Some(Response::Joined(Err(GroupError::UnknownMember)));
    assert_eq!(world.call(Request::Join(twice(Some("other")))), unknown);
}

#[test]
fn groups_that_clients_only_name_are_forgotten() {
    let mut world = World::new();
    for n in 0..100 {
        let named = |id, knows| JoinRequest {
            group: group(&format!("g-{n}")),
            knows_member_id_required: knows,
            ..join(id, "fresh")
        };
        let unknown = Some(Response::Joined(Err(GroupError::UnknownMember)));
        assert_eq!(world.call(Request::Join(named(Some("x"), false))), unknown);
        world.call(Request::Join(named(None, true)));
    }
    assert_eq!(world.coordinator.tracked_groups(), 100);
    world.pass(Duration::from_secs(90));
    assert_eq!(world.coordinator.tracked_groups(), 0);
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let mut world = World::new();
    two(&mut world);
    let a = world.ask(Request::Join(join(Some("a"), "x")));
    world.settle();
    assert!(
        !world.replies.contains_key(&a),
        "the leader rejoins: all shall"
    );
    world.pass(Duration::from_secs(21));
    let a = joined(&mut world, a);
    assert_eq!((a.members.len(), a.leader.as_str()), (1, "a"));
    assert!(a.generation > Epoch::new(1));
}

/// Several proposals are under way: the end of a round may come through after its joins have been refused with
/// one before it. It must not answer those who have joined since.
#[test]
fn the_end_of_a_round_that_was_refused_does_not_end_the_next() {
    let mut world = World::new();
    let a = world.ask(Request::Join(join(None, "a")));
    let b = world.ask(Request::Join(join(None, "b")));
    world.pass(Duration::from_secs(1));
    let (a, b) = (joined(&mut world, a), joined(&mut world, b));
    let _synced = world.ask(sync(&a, &[("a", b"1"), ("b", b"2")]));
    let stalled = world.take_batch();
    assert_eq!(stalled.len(), 1);
    // Their subscriptions have changed.
    let anew = |member: &Joined| {
        let mut join = join(Some(member.member.as_str()), "x");
        join.protocols = vec![("range".to_owned(), Bytes::from_static(b"others"))];
        Request::Join(join)
    };
    let again = [&a, &b].map(|member| world.ask(anew(member)));
    let round = world.take_batch();
    assert_eq!(round.len(), 1);
    world.lose(stalled);
    for ticket in again {
        let refused = world.replies.remove(&ticket);
        assert!(
            matches!(refused, Some(Response::Joined(Err(_)))),
            "{refused:?}"
        );
    }
    let c = world.ask(Request::Join(join(None, "c")));
    world.commit(round);
    assert_eq!(world.replies.get(&c), None);
    let again = [&a, &b].map(|member| world.ask(anew(member)));
    world.settle();
    let [a, b] = again.map(|ticket| joined(&mut world, ticket));
    let c = joined(&mut world, c);
    assert_eq!((a.generation, b.generation), (c.generation, c.generation));
    assert_eq!(a.members.len(), 3);
}
