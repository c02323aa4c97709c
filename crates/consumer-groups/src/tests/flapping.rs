//! A client that comes and goes again and again is kept waiting, and nobody else.

use std::time::Duration;

use super::rules::{beat, call, owned};
use super::world::{World, group, member};
use crate::{ClientInfo, Epoch, GroupPhase, Heartbeat, InstanceId, Request};

/// How often the client has left.
const LIVES: u32 = 6;

/// A heartbeat of the client that flaps, in a new life each time.
fn flapping(life: u32, epoch: Epoch) -> Heartbeat {
    Heartbeat {
        instance: Some(InstanceId::new("flapping").unwrap()),
        ..beat(&format!("f{life}"), epoch, &[])
    }
}

/// Members `a` and `b`, and a client that has left so often that it waits for eight seconds.
fn flapped(world: &mut World) {
    world.topics.put("t", 6);
    call(world, beat("a", Epoch::JOIN, &[])).unwrap();
    call(world, beat("b", Epoch::JOIN, &[])).unwrap();
    for life in 0..LIVES {
        let joined = call(world, flapping(life, Epoch::JOIN)).unwrap();
        assert!(joined.epoch.get() > 0);
        settle(world, &["a", "b"]);
        call(world, flapping(life, Epoch::LEAVE)).unwrap();
        settle(world, &["a", "b"]);
    }
}

fn known(world: &World, id: &str) -> (Epoch, usize) {
    let state = world.state();
    let consumer = state.group(&group("g")).unwrap().consumer().unwrap();
    let m = consumer.member(&member(id)).unwrap();
    (m.epoch, m.assigned.len())
}

/// The members follow what they are told, for a few rounds.
fn settle(world: &mut World, ids: &[&str]) {
    for _ in 0..4 {
        for id in ids {
            let state = world.state();
            let found = state.group(&group("g")).and_then(|g| g.consumer());
            let m = found.and_then(|c| c.member(&member(id))).unwrap();
            call(world, beat(id, m.epoch, m.assigned.as_slice())).unwrap();
        }
    }
}

#[test]
fn a_dead_members_partitions_do_not_wait_for_a_client_that_flaps() {
    let mut world = World::new();
    flapped(&mut world);
    let before = world.now;
    // It is there once more, is told so at once, and gets nothing yet.
    let joined = call(&mut world, flapping(LIVES, Epoch::JOIN)).unwrap();
    assert!(joined.epoch.get() > 0 && owned(&joined).is_empty());
    settle(&mut world, &["a", "b"]);
    assert_eq!(
        [known(&world, "a").1, known(&world, "b").1],
        [3, 3],
        "nothing was taken from anybody"
    );
    // A member dies: what it had goes to the other one while the client still waits.
    let (epoch, _) = known(&world, "a");
    call(&mut world, beat("a", epoch, &[])).unwrap();
    let leave = Heartbeat {
        owned: None,
        ..beat("a", Epoch::LEAVE, &[])
    };
    call(&mut world, leave).unwrap();
    settle(&mut world, &["b"]);
    assert_eq!(known(&world, "b").1, 6);
    assert!(world.now.since(before) < Duration::from_secs(5));
    let last = format!("f{LIVES}");
    assert_eq!(known(&world, &last).1, 0);
    // In the end it gets its share.
    for _ in 0..40 {
        world.pass(Duration::from_millis(500));
        settle(&mut world, &["b", &last]);
    }
    assert_eq!([known(&world, "b").1, known(&world, &last).1], [3, 3]);
    let state = world.state();
    let found = state.group(&group("g")).unwrap();
    assert_eq!(found.phase(), GroupPhase::Stable);
}

#[test]
fn a_client_that_flaps_is_not_kept_waiting_where_nobody_else_reads() {
    let mut world = World::new();
    world.topics.put("t", 6);
    for life in 0..5 {
        let joined = call(&mut world, flapping(life, Epoch::JOIN)).unwrap();
        assert_eq!(owned(&joined).len(), 6, "life {life}");
        call(&mut world, flapping(life, Epoch::LEAVE)).unwrap();
    }
}

#[test]
fn members_of_one_client_id_that_are_restarted_one_after_another_are_not_one_that_flaps() {
    let mut world = World::new();
    world.topics.put("t", 8);
    let ids = ["a", "b", "c", "d"];
    for id in ids {
        call(&mut world, beat(id, Epoch::JOIN, &[])).unwrap();
        world.pass(Duration::from_millis(500));
    }
    settle(&mut world, &ids);
    for (at, id) in ids.iter().enumerate() {
        call(&mut world, beat(id, Epoch::LEAVE, &[])).unwrap();
        let again = format!("{id}-again");
        call(&mut world, beat(&again, Epoch::JOIN, &[])).unwrap();
        let present: Vec<String> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| {
                if n <= at {
                    format!("{id}-again")
                } else {
                    (*id).to_owned()
                }
            })
            .collect();
        let present: Vec<&str> = present.iter().map(String::as_str).collect();
        settle(&mut world, &present);
        assert_eq!(known(&world, &again).1, 2);
    }
}

#[test]
fn a_static_member_that_leaves_for_a_while_again_and_again_disturbs_nobody() {
    let mut world = World::new();
    world.topics.put("t", 6);
    call(&mut world, beat("a", Epoch::JOIN, &[])).unwrap();
    call(&mut world, flapping(0, Epoch::JOIN)).unwrap();
    settle(&mut world, &["a", "f0"]);
    for life in 0..6 {
        call(&mut world, flapping(life, Epoch::LEAVE_STATIC)).unwrap();
        let back = call(&mut world, flapping(life + 1, Epoch::JOIN)).unwrap();
        assert_eq!(owned(&back).len(), 3, "life {life}");
    }
}

#[test]
fn new_partitions_do_not_wait_for_a_client_that_flaps() {
    let mut world = World::new();
    flapped(&mut world);
    let before = world.now;
    call(&mut world, flapping(LIVES, Epoch::JOIN)).unwrap();
    world.topics.put("t", 10);
    settle(&mut world, &["a", "b"]);
    assert_eq!([known(&world, "a").1, known(&world, "b").1], [5, 5]);
    assert!(world.now.since(before) < Duration::from_secs(5));
}

#[test]
fn a_host_whose_members_are_restarted_together_is_not_one_that_flaps() {
    for together in [true, false] {
        let mut world = World::new();
        world.topics.put("t", 10);
        let on_host = |id: &str, epoch| Heartbeat {
            client: ClientInfo {
                id: "reader".to_owned(),
                host: "10.0.0.1".to_owned(),
            },
            ..beat(id, epoch, &[])
        };
        call(&mut world, beat("other", Epoch::JOIN, &[])).unwrap();
        let ids = ["a", "b", "c", "d"];
        for id in ids {
            call(&mut world, on_host(id, Epoch::JOIN)).unwrap();
        }
        settle(&mut world, &["other", "a", "b", "c", "d"]);
        for id in ids {
            world.ask(Request::Heartbeat(Box::new(on_host(id, Epoch::LEAVE))));
            if !together {
                world.settle();
            }
        }
        world.settle();
        settle(&mut world, &["other"]);
        // The first one that is back gets its share at once.
        call(&mut world, on_host("a2", Epoch::JOIN)).unwrap();
        settle(&mut world, &["other", "a2"]);
        assert_eq!(known(&world, "a2").1, 5, "together: {together}");
    }
}
