use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rivven_core_types::{BrokerId, RackId, TopicId};

use super::plan as make;
use super::*;
use crate::config::RackMode;

fn b(id: usize) -> BrokerId {
    BrokerId::new(i32::try_from(id).unwrap())
}

fn node(id: usize, rack: usize) -> ViewNode {
    ViewNode {
        id: b(id),
        rack: Some(RackId::new(format!("r{rack}")).unwrap()),
        weight: 100,
        state: NodeState::Active,
    }
}

/// Nodes 0.. dealt out over `racks` racks.
fn view(count: usize, racks: usize) -> ClusterView {
    ClusterView {
        nodes: (0..count).map(|i| node(i, i % racks)).collect(),
    }
}

fn topic(n: u8) -> TopicId {
    TopicId::from_bytes([n; 16])
}

fn place(topic_number: u8, index: u32, replicas: &[usize], factor: usize) -> PlacedPartition {
    PlacedPartition {
        id: PartitionId::new(topic(topic_number), index),
        replicas: replicas.iter().map(|n| b(*n)).collect(),
        replication_factor: factor,
        bytes: 1_000,
    }
}

/// `count` partitions with nothing placed yet.
fn blank(topic_number: u8, count: u32, factor: usize) -> Vec<PlacedPartition> {
    (0..count)
        .map(|p| place(topic_number, p, &[], factor))
        .collect()
}

fn table(partitions: Vec<PlacedPartition>) -> Assignment {
    Assignment {
        partitions,
        version: 7,
    }
}

fn run(current: &Assignment, view: &ClusterView) -> Plan {
    make(current, view, &Goals::default())
}

/// The assignment once the given moves are made.
fn after_moves(current: &Assignment, moves: &[Move]) -> Assignment {
    let mut after = current.clone();
    let at: BTreeMap<PartitionId, usize> = after.partitions.iter().map(|p| p.id).zip(0..).collect();
    for step in moves {
        let partition = &mut after.partitions[at[&step.partition]];
        partition.replicas = step.apply(&partition.replicas);
    }
    after
}

fn after(current: &Assignment, plan: &Plan) -> Assignment {
    let mut after = after_moves(current, &plan.moves);
    let at: BTreeMap<PartitionId, usize> = after.partitions.iter().map(|p| p.id).zip(0..).collect();
    for step in &plan.leader_moves {
        let partition = &mut after.partitions[at[&step.partition]];
        assert_eq!(partition.replicas.first(), Some(&step.from));
        partition.replicas = step.apply(&partition.replicas);
    }
    after
}

fn loads(current: &Assignment, view: &ClusterView) -> BTreeMap<BrokerId, (u64, u64)> {
    let mut loads: BTreeMap<BrokerId, (u64, u64)> =
        view.nodes.iter().map(|n| (n.id, (0, 0))).collect();
    for partition in &current.partitions {
        for (at, broker) in partition.replicas.iter().enumerate() {
            let load = loads.entry(*broker).or_default();
            load.0 += 1;
            load.1 += u64::from(at == 0);
        }
    }
    loads
}

/// Greatest minus least replicas in each rack of active nodes, and the most leaders.
fn evenness(current: &Assignment, view: &ClusterView) -> (u64, u64) {
    let loads = loads(current, view);
    let active = || view.nodes.iter().filter(|n| n.state == NodeState::Active);
    let racks: BTreeSet<&Option<RackId>> = active().map(|n| &n.rack).collect();
    let spread = racks.into_iter().map(|rack| {
        let of_rack = active().filter(|n| &n.rack == rack).map(|n| loads[&n.id].0);
        of_rack.clone().max().unwrap() - of_rack.min().unwrap()
    });
    (
        spread.max().unwrap(),
        active().map(|n| loads[&n.id].1).max().unwrap(),
    )
}

fn violations(current: &Assignment, view: &ClusterView) -> usize {
    let racks: BTreeMap<BrokerId, &Option<RackId>> =
        view.nodes.iter().map(|n| (n.id, &n.rack)).collect();
    let all: BTreeSet<&&Option<RackId>> = racks.values().collect();
    let spread = |p: &&PlacedPartition| {
        let used: BTreeSet<&Option<RackId>> = p.replicas.iter().map(|r| racks[r]).collect();
        used.len() < all.len().min(p.replicas.len())
    };
    current.partitions.iter().filter(spread).count()
}

#[test]
fn nothing_placed_becomes_even_at_once() {
    let view = view(10, 3);
    let current = table([blank(1, 100, 3), blank(2, 7, 2)].concat());
    let plan = run(&current, &view);
    assert_eq!(plan.moves.len(), 314);
    let after = after(&current, &plan);
    let (spread, leaders) = evenness(&after, &view);
    assert!(spread <= 1 && leaders <= 11, "{spread} {leaders}");
    assert_eq!(violations(&after, &view), 0);
    assert!(run(&after, &view).is_empty());
    assert_eq!(plan.base_version, 7);
}

/// Public rivven-cluster 0.0.22: a new node stayed empty for ever.
#[test]
fn a_new_node_gets_its_share_and_not_one_move_more_is_made() {
    let small = view(99, 3);
    let current = table(blank(1, 1_000, 3));
    let current = after(&current, &run(&current, &small));
    let large = view(100, 3);
    let plan = run(&current, &large);
    // Node 99 is the 34th of its rack, which holds 1,000 replicas: 29 for it.
    assert_eq!(plan.moves.len(), 29);
    assert!(
        plan.moves
            .iter()
            .all(|m| m.to == b(99) && m.phase == Phase::Balance)
    );
    let after = after(&current, &plan);
    let (spread, leaders) = evenness(&after, &large);
    assert!(spread <= 1 && leaders <= 10, "{spread} {leaders}");
    assert_eq!(violations(&after, &large), 0);
}

#[test]
fn a_lost_node_costs_what_it_held() {
    let mut view = view(100, 3);
    let current = table(blank(1, 1_000, 3));
    let current = after(&current, &run(&current, &view));
    let lost = loads(&current, &view)[&b(50)].0;
    view.nodes[50].state = NodeState::Gone;
    let plan = run(&current, &view);
    assert_eq!(plan.moves.len() as u64, lost);
    assert!(
        plan.moves
            .iter()
            .all(|m| m.from == Some(b(50)) && m.phase == Phase::Repair)
    );
    assert_eq!(plan.before.missing, lost);
    let after = after(&current, &plan);
    let (spread, leaders) = evenness(&after, &view);
    assert!(spread <= 1 && leaders <= 11, "{spread} {leaders}");
    assert_eq!((plan.after.missing, violations(&after, &view)), (0, 0));
    // One that nobody knows any more is lost as well.
    view.nodes.remove(50);
    assert_eq!(run(&current, &view).moves.len(), plan.moves.len());
}

#[test]
fn a_draining_node_gives_everything_away_and_gets_nothing() {
    let mut view = view(9, 3);
    let current = table(blank(1, 60, 3));
    let current = after(&current, &run(&current, &view));
    view.nodes[4].state = NodeState::Draining;
    let plan = run(&current, &view);
    assert_eq!((plan.moves.len(), plan.before.to_drain), (20, 20));
    assert!(
        plan.moves
            .iter()
            .all(|m| m.from == Some(b(4)) && m.phase == Phase::Drain)
    );
    let after = after(&current, &plan);
    assert_eq!(loads(&after, &view)[&b(4)], (0, 0));
    assert_eq!(plan.after.to_drain, 0);
    assert!(run(&after, &view).is_empty());
}

#[test]
fn a_crowded_rack_is_spread_and_no_leader_moves_without_need() {
    let view = view(6, 3);
    // Nodes 0 and 3 are of rack 0.
    let current = table(vec![place(1, 0, &[0, 3, 1], 3)]);
    let plan = run(&current, &view);
    assert_eq!(
        (plan.before.rack_violations, plan.after.rack_violations),
        (1, 0)
    );
    assert_eq!(plan.moves.len(), 1);
    assert_eq!(
        (plan.moves[0].from, plan.moves[0].phase),
        (Some(b(3)), Phase::Rack)
    );
    assert!(plan.leader_moves.is_empty());
}

#[test]
fn a_change_of_rack_is_followed() {
    let before = view(6, 3);
    let current = table(blank(1, 30, 3));
    let current = after(&current, &run(&current, &before));
    let mut moved = before;
    moved.nodes[3].rack = Some(RackId::new("r1").unwrap());
    let plan = run(&current, &moved);
    let after = after(&current, &plan);
    assert_eq!(violations(&after, &moved), 0);
    assert!(run(&after, &moved).is_empty());
}

#[test]
fn shortages_are_named_with_their_figures() {
    let mut few = view(3, 3);
    few.nodes[2].state = NodeState::Gone;
    let current = table(vec![place(1, 0, &[0, 1, 2], 3), place(1, 1, &[2, 1, 0], 3)]);
    let plan = run(&current, &few);
    assert!(plan.moves.is_empty());
    let expected = Shortage {
        limiting: Limiting::Nodes,
        needed: 3,
        available: 2,
        replicas: 2,
        example: Some(PartitionId::new(topic(1), 0)),
    };
    assert_eq!(plan.shortages, [expected]);

    let full = Goals {
        max_partitions_per_node: 2,
        ..Goals::default()
    };
    let current = table(blank(1, 3, 3));
    let plan = make(&current, &view(4, 2), &full);
    assert_eq!(plan.moves.len(), 8);
    let total = plan
        .shortages
        .iter()
        .find(|s| s.limiting == Limiting::TotalCapacity)
        .unwrap();
    assert_eq!((total.needed, total.available), (9, 8));

    let strict = Goals {
        rack_mode: RackMode::Strict,
        max_partitions_per_node: 1,
        ..Goals::default()
    };
    let mut lopsided = view(4, 1);
    lopsided.nodes[0].rack = Some(RackId::new("lone").unwrap());
    let plan = make(&table(blank(1, 2, 2)), &lopsided, &strict);
    assert_eq!(plan.moves.len(), 3);
    assert_eq!(plan.shortages[0].limiting, Limiting::Racks);
    let relaxed = Goals {
        rack_mode: RackMode::Prefer,
        ..strict
    };
    assert!(
        make(&table(blank(1, 2, 2)), &lopsided, &relaxed)
            .shortages
            .is_empty()
    );
}

#[test]
fn racks_of_one_five_and_six_nodes_put_no_more_on_the_lone_one_than_they_must() {
    let mut nodes = vec![node(0, 0)];
    nodes.extend((1..6).map(|i| node(i, 1)));
    nodes.extend((6..12).map(|i| node(i, 2)));
    let view = ClusterView { nodes };
    let current = table(blank(1, 120, 3));
    let plan = run(&current, &view);
    assert_eq!(
        loads(&after(&current, &plan), &view)[&b(0)].0,
        120,
        "one of each"
    );
    let capped = Goals {
        max_partitions_per_node: 40,
        ..Goals::default()
    };
    let plan = make(&current, &view, &capped);
    let after = after(&current, &plan);
    assert!(loads(&after, &view).values().all(|load| load.0 <= 40));
    assert_eq!((plan.moves.len(), plan.after.missing), (360, 0));
}

#[test]
fn a_giant_weight_holds_one_of_each() {
    let mut view = view(5, 5);
    view.nodes[2].weight = u32::MAX;
    let current = table(blank(1, 40, 3));
    let plan = run(&current, &view);
    let loads = loads(&after(&current, &plan), &view);
    assert_eq!(loads[&b(2)].0, 40);
    assert!(loads.values().all(|load| load.0 >= 20));
}

#[test]
fn a_node_of_weight_zero_keeps_what_it_has_but_does_not_lead() {
    let mut view = view(4, 1);
    let current = table(blank(1, 20, 2));
    let current = after(&current, &run(&current, &view));
    view.nodes[1].weight = 0;
    let plan = run(&current, &view);
    assert!(plan.moves.is_empty());
    assert_eq!(loads(&after(&current, &plan), &view)[&b(1)], (10, 0));
}

#[test]
fn some_unevenness_is_tolerated_and_then_all_of_it_is_removed() {
    let view = view(3, 1);
    let mut partitions: Vec<PlacedPartition> = (0..100)
        .map(|p| place(1, p, &[usize::try_from(p).unwrap() % 3], 1))
        .collect();
    let goals = Goals {
        tolerance_percent: 10,
        ..Goals::default()
    };
    for p in [1, 4, 7] {
        partitions[p].replicas = vec![b(0)];
    }
    // 37, 30, 33: the share is 33 to 34.
    assert!(make(&table(partitions.clone()), &view, &goals).is_empty());
    partitions[10].replicas = vec![b(0)];
    let plan = make(&table(partitions), &view, &goals);
    assert_eq!(plan.moves.len(), 4);
    assert_eq!(plan.after.replicas, (33, 34));
}

#[test]
fn what_moves_is_of_crowded_topics_small_and_not_a_leader() {
    let view = view(3, 1);
    let mut partitions = vec![
        place(1, 0, &[0, 1], 2),
        place(1, 1, &[1, 0], 2),
        place(1, 2, &[1, 0], 2),
        place(2, 0, &[0, 1], 2),
        place(2, 1, &[1, 0], 2),
    ];
    partitions[1].bytes = 10;
    let plan = run(&table(partitions), &view);
    // Ten replicas on three nodes: three for the new one.
    assert_eq!(plan.moves.len(), 3);
    assert_eq!(plan.moves[0].partition, PartitionId::new(topic(1), 1));
    assert_eq!(plan.after.leaders, (1, 2));
}

#[test]
fn waves_stay_within_their_limits_and_hold_everything() {
    let mut view = view(30, 3);
    let current = table(blank(1, 300, 3));
    let current = after(&current, &run(&current, &view));
    for gone in [3, 4, 5] {
        view.nodes[gone].state = NodeState::Draining;
    }
    let plan = run(&current, &view);
    let limits = Limits {
        max_moves_per_node: 2,
        max_concurrent: 5,
        max_bytes_in_flight: 4_000,
        max_misplaced_percent: 1,
        ..Limits::default()
    };
    let waves = plan.waves(&limits);
    assert_eq!(waves.iter().flatten().count(), plan.moves.len());
    for wave in &waves {
        assert!(!wave.is_empty() && wave.len() <= 4, "four of 1,000 bytes");
        let partitions: BTreeSet<PartitionId> = wave.iter().map(|m| m.partition).collect();
        assert_eq!(partitions.len(), wave.len());
        let mut busy: BTreeMap<BrokerId, usize> = BTreeMap::new();
        for step in wave {
            *busy.entry(step.to).or_default() += 1;
            *busy.entry(step.from.unwrap()).or_default() += 1;
        }
        assert!(busy.values().all(|n| *n <= 2));
    }
    let first = plan.next_wave(&[], &limits, false);
    assert_eq!(first, waves[0]);
    assert!(plan.next_wave(&first, &limits, false).is_empty());
    assert!(
        plan.next_wave(&[], &limits, true).is_empty(),
        "a partition is in danger"
    );
    view.nodes[3].state = NodeState::Gone;
    let plan = run(&current, &view);
    let urgent = plan.next_wave(&[], &limits, true);
    assert!(!urgent.is_empty() && urgent.iter().all(|m| m.phase == Phase::Repair));
}

/// A node is neither sent nor asked for more bytes at once than allowed, but a single replica that is
/// larger than that moves all the same.
#[test]
fn waves_heed_the_bytes_of_each_node() {
    let mut view = view(30, 3);
    let mut current = table(blank(1, 300, 3));
    current.partitions[7].bytes = 50_000;
    let current = after(&current, &run(&current, &view));
    for gone in [3, 4, 5] {
        view.nodes[gone].state = NodeState::Draining;
    }
    let plan = run(&current, &view);
    for (into, out_of) in [(2_500, 0), (0, 3_000), (1_000, 2_000)] {
        let limits = Limits {
            max_moves_per_node: 20,
            max_misplaced_percent: 100,
            max_bytes_in_per_node: into,
            max_bytes_out_per_node: out_of,
            ..Limits::default()
        };
        let waves = plan.waves(&limits);
        assert_eq!(waves.iter().flatten().count(), plan.moves.len());
        for wave in &waves {
            let mut bytes: BTreeMap<(BrokerId, bool), (u64, usize)> = BTreeMap::new();
            for step in wave {
                for key in [(step.to, true), (step.from.unwrap(), false)] {
                    let busy = bytes.entry(key).or_default();
                    *busy = (busy.0 + step.bytes, busy.1 + 1);
                }
            }
            for ((_, incoming), (bytes, moves)) in bytes {
                let most = if incoming { into } else { out_of };
                assert!(
                    most == 0 || bytes <= most || moves == 1,
                    "{bytes} of {most}"
                );
            }
        }
    }
}

/// What a cluster goes through in a storm: nodes come, go and are drained, topics come and go.
#[test]
fn after_any_history_the_plan_is_exact_and_minimal() {
    let mut state = 3u64;
    let mut random = move |below: usize| {
        state = crate::hash::xxh64(&state.to_le_bytes(), 11);
        usize::try_from(state % below as u64).unwrap()
    };
    let mut view = view(12, 3);
    let mut current = table(blank(0, 50, 3));
    let mut next_node = 12;
    for step in 1..=150u8 {
        match random(6) {
            0 | 1 if view.nodes.len() < 40 => {
                view.nodes.push(node(next_node, random(3)));
                next_node += 1;
            }
            2 => {
                let at = random(view.nodes.len());
                let rack = view.nodes[at].rack.clone();
                // At least two nodes stay in each rack.
                if view.nodes.iter().filter(|n| n.rack == rack).count() > 2 {
                    view.nodes.remove(at);
                }
            }
            3 => {
                let gone = topic(u8::try_from(random(usize::from(step))).unwrap());
                current.partitions.retain(|p| p.id.topic != gone);
            }
            _ => current
                .partitions
                .extend(blank(step, 1 + u32::try_from(random(30)).unwrap(), 3)),
        }
        if current.partitions.is_empty() {
            continue;
        }
        let plan = run(&current, &view);
        let before = loads(&current, &view);
        current = after(&current, &plan);
        let (spread, leaders) = evenness(&current, &view);
        assert!(spread <= 1, "{step}: {spread}");
        let most = current.partitions.len().div_ceil(view.nodes.len()) as u64;
        assert!(leaders <= most, "{step}: {leaders} > {most}");
        assert_eq!(violations(&current, &view), 0);
        // Whoever takes gives nothing: with these loads in the end, no plan has fewer moves.
        let gained: u64 = loads(&current, &view)
            .iter()
            .map(|(id, load)| load.0.saturating_sub(before.get(id).map_or(0, |b| b.0)))
            .sum();
        assert_eq!(plan.moves.len() as u64, gained, "{step}");
        assert!(run(&current, &view).is_empty(), "{step}");
    }
}

/// Any cluster: nodes in any state, of any weight, partitions anywhere.
fn anything() -> impl Strategy<Value = (Assignment, ClusterView, Goals)> {
    let state = prop_oneof![
        8 => Just(NodeState::Active), 1 => Just(NodeState::Draining), 1 => Just(NodeState::Gone)
    ];
    let weight = prop_oneof![6 => Just(100u32), 1 => Just(0), 2 => 1u32..400, 1 => Just(u32::MAX)];
    let nodes = proptest::collection::vec((0usize..4, weight, state), 1..14);
    let partition = (
        0u8..4,
        proptest::collection::vec(0usize..15, 0..5),
        1usize..5,
        0u64..9,
    );
    let partitions = proptest::collection::vec(partition, 1..30);
    let mode = prop_oneof![
        Just(RackMode::Strict),
        Just(RackMode::Prefer),
        Just(RackMode::Off)
    ];
    let cap = prop_oneof![3 => Just(0u32), 1 => 1u32..12];
    (nodes, partitions, mode, cap).prop_map(|(nodes, partitions, rack_mode, cap)| {
        let nodes = nodes
            .into_iter()
            .enumerate()
            .map(|(id, (rack, weight, state))| ViewNode {
                weight,
                state,
                ..node(id, rack)
            });
        let partitions =
            partitions
                .into_iter()
                .zip(0u32..)
                .map(|((topic, mut replicas, rf, bytes), p)| {
                    let mut seen = BTreeSet::new();
                    replicas.retain(|replica| seen.insert(*replica));
                    PlacedPartition {
                        bytes,
                        ..place(topic, p, &replicas, rf)
                    }
                });
        let goals = Goals {
            rack_mode,
            max_partitions_per_node: cap,
            ..Goals::default()
        };
        let view = ClusterView {
            nodes: nodes.collect(),
        };
        (table(partitions.collect()), view, goals)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn the_plan_keeps_every_promise_in_any_cluster((current, view, goals) in anything()) {
        let plan = make(&current, &view, &goals);
        let done = after(&current, &plan);
        let usable: BTreeSet<BrokerId> = view.nodes.iter()
            .filter(|n| n.state == NodeState::Active && n.weight > 0).map(|n| n.id).collect();
        prop_assert!(plan.moves.iter().all(|m| usable.contains(&m.to)));
        let partitions: BTreeSet<(PartitionId, BrokerId)> =
            plan.moves.iter().map(|m| (m.partition, m.to)).collect();
        prop_assert_eq!(partitions.len(), plan.moves.len());
        for (old, new) in current.partitions.iter().zip(&done.partitions) {
            // Nothing that is well stays behind, and no factor is lowered.
            prop_assert!(new.replicas.len() >= old.replicas.len());
            let given: Vec<BrokerId> = plan.moves.iter()
                .filter(|m| m.partition == old.id).map(|m| m.to).collect();
            for broker in given {
                prop_assert_eq!(new.replicas.iter().filter(|r| **r == broker).count(), 1);
            }
        }
        if goals.max_partitions_per_node > 0 {
            let cap = u64::from(goals.max_partitions_per_node);
            let before = loads(&current, &view);
            for (id, load) in loads(&done, &view) {
                prop_assert!(load.0 <= cap.max(before.get(&id).map_or(0, |b| b.0)));
            }
        }
        if plan.shortages.is_empty() {
            prop_assert_eq!((plan.after.missing, plan.after.to_drain), (0, 0));
        }
        prop_assert!(plan.after.rack_violations <= plan.before.rack_violations
            || plan.moves.iter().any(|m| m.phase <= Phase::Drain));
        // Once done there is nothing more to do. Where racks stand in the way, or a node is pinned, a
        // little more balance may have become possible; the test below shows that it ends.
        let again = make(&done, &view, &goals);
        if plan.shortages.is_empty() {
            prop_assert!(again.moves.iter().all(|m| m.phase == Phase::Balance));
        }
        let pinned = view.nodes.iter().any(|n| n.weight == 0);
        if goals.rack_mode == RackMode::Off && !pinned && plan.shortages.is_empty() {
            prop_assert_eq!(&again.moves, &[]);
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    /// Executed wave by wave, with a new plan for each, it comes to an end.
    #[test]
    fn planning_again_after_each_wave_ends((current, view, goals) in anything()) {
        let limits = Limits { max_concurrent: 2, ..Limits::default() };
        let first = make(&current, &view, &goals);
        let mut now = current;
        let mut made = 0;
        loop {
            let wave = make(&now, &view, &goals).next_wave(&[], &limits, false);
            if wave.is_empty() {
                break;
            }
            made += wave.len();
            now = after_moves(&now, &wave);
            prop_assert!(made <= first.moves.len() * 2 + 4, "{} of {}", made, first.moves.len());
        }
        let end = make(&now, &view, &goals);
        prop_assert!(end.moves.is_empty());
    }

    /// Executed in part and planned again, the rest is exactly as long as it was.
    #[test]
    fn planning_again_half_way_gives_the_rest(
        (current, view, goals) in anything(), waves in 0usize..6, racks in 1usize..4,
    ) {
        // Enough nodes in as many racks as there are replicas, so that racks never stand in the way.
        let nodes = view.nodes.iter().enumerate().map(|(i, n)| ViewNode {
            weight: 100,
            state: if n.state == NodeState::Gone { NodeState::Draining } else { n.state },
            ..node(i, i % racks)
        });
        let active = (20..20 + racks * 3).map(|i| node(i, i % racks));
        let view = ClusterView { nodes: nodes.chain(active).collect() };
        let mut current = current;
        for partition in &mut current.partitions {
            let mut used = BTreeSet::new();
            partition.replication_factor = racks;
            partition.replicas.retain(|r| used.insert(usize::try_from(r.get()).unwrap() % racks));
        }
        let goals = Goals { max_partitions_per_node: 0, ..goals };
        let whole = make(&current, &view, &goals);
        let limits = Limits { max_concurrent: 2, ..Limits::default() };
        let done: Vec<Move> = whole.waves(&limits).into_iter().take(waves).flatten().collect();
        let rest = make(&after_moves(&current, &done), &view, &goals);
        prop_assert_eq!(done.len() + rest.moves.len(), whole.moves.len());
    }

    #[test]
    fn the_order_of_nodes_and_partitions_does_not_matter(
        (current, view, goals) in anything(), seed in any::<u64>(),
    ) {
        let plan = make(&current, &view, &goals);
        let (mut partitions, mut nodes) = (current.partitions.clone(), view.nodes);
        let key = |n: u64| crate::hash::pair_hash(n, seed);
        partitions.sort_by_key(|p| key(u64::from(p.id.index.get())));
        nodes.sort_by_key(|n| key(u64::try_from(n.id.get()).unwrap()));
        let shuffled = Assignment { partitions, version: current.version };
        prop_assert_eq!(make(&shuffled, &ClusterView { nodes }, &goals), plan);
    }
}
