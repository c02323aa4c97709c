//! The rebalancer against the real state machine; replication is played by making everybody in sync.

use std::sync::Arc;

use rivven_core_types::{
    AlterPartitionProposal, BrokerId, ClusterId, CommittedEntry, Durability, Incarnation,
    IsrMember, LogConfig, LogDirId, LogIndex, NodeInfo, NodeName, RaftNodeId, StateMachine, Term,
    TopicId, TopicName,
};
use rivven_metadata::{MetadataStateMachine, Rejection};

use super::*;

struct World {
    machine: MetadataStateMachine,
    index: u64,
    sizes: Sizes,
}

fn b(n: i32) -> BrokerId {
    BrokerId::new(n)
}

impl World {
    /// Brokers 1 to `brokers`, and a topic of 12 partitions with 3 replicas on the first three.
    fn new(brokers: u8) -> Self {
        let mut world = Self {
            machine: MetadataStateMachine::new(Arc::new(|_| {})),
            index: 0,
            sizes: Sizes::default(),
        };
        let cluster_id = ClusterId::from_bytes([1; 16]);
        world.apply(&Command::FormCluster { cluster_id });
        for n in 1..=brokers {
            world.register(n, None);
        }
        world.apply(&Command::CreateTopic {
            name: TopicName::new("t").unwrap(),
            id: TopicId::from_bytes([7; 16]),
            replicas: vec![vec![b(1), b(2), b(3)]; 12],
            min_isr: 2,
            durability: Durability::Fsync,
            log: LogConfig::default(),
            placement: None,
        });
        world
    }

    /// A broker starts, in this rack.
    fn register(&mut self, n: u8, rack: Option<&str>) {
        let address: rivven_core_types::Address = "127.0.0.1:1".parse().unwrap();
        let name = NodeName::new(format!("node-{n}")).unwrap();
        let mut info = NodeInfo::new(name, address.clone(), address);
        info.rack = rack.map(|rack| rivven_core_types::RackId::new(rack).unwrap());
        self.apply(&Command::RegisterBroker {
            info,
            incarnation: Incarnation::from_bytes([n; 16]),
            raft_id: RaftNodeId::new(u64::from(n)),
            log_dir: LogDirId::from_bytes([n; 16]),
            lossy: Vec::new(),
        });
        self.unfence(i32::from(n));
    }

    fn state(&self) -> &ClusterState {
        self.machine.state()
    }

    fn apply(&mut self, command: &Command) -> CommandResult {
        self.index += 1;
        let entry = CommittedEntry {
            index: LogIndex::new(self.index),
            term: Term::new(1),
            command: command.encode().unwrap(),
        };
        CommandResult::decode(&self.machine.apply(&[entry]).unwrap()[0]).unwrap()
    }

    fn place(&mut self, command: PlacementCommand) {
        let result = self.apply(&Command::Place(command));
        assert!(matches!(result, CommandResult::Placed { .. }), "{result:?}");
    }

    fn unfence(&mut self, n: i32) {
        let node_epoch = self.state().broker(b(n)).unwrap().node_epoch;
        self.apply(&Command::UnfenceBroker {
            broker: b(n),
            node_epoch,
        });
    }

    fn fence(&mut self, n: i32) {
        let node_epoch = self.state().broker(b(n)).unwrap().node_epoch;
        self.apply(&Command::FenceBroker {
            broker: b(n),
            node_epoch,
        });
    }

    /// Every active replica catches up.
    fn catch_up(&mut self) {
        let all: Vec<_> = self.state().partitions().cloned().collect();
        for partition in all {
            let Some(leader) = partition.leader else {
                continue;
            };
            let epoch = |broker: BrokerId| self.state().broker(broker).unwrap().node_epoch;
            let member = |broker: &BrokerId| IsrMember {
                broker: *broker,
                node_epoch: epoch(*broker),
            };
            let active = partition
                .replicas
                .iter()
                .filter(|r| self.state().is_active(**r));
            let proposal = AlterPartitionProposal {
                partition: partition.id,
                leader_epoch: partition.leader_epoch,
                partition_epoch: partition.partition_epoch,
                new_isr: active.map(member).collect(),
                recovery: partition.recovery,
            };
            let (broker, node_epoch, proposals) = (leader, epoch(leader), vec![proposal]);
            self.apply(&Command::AlterPartitions {
                broker,
                node_epoch,
                proposals,
            });
        }
    }

    /// One round; whether there was anything to do.
    fn round(&mut self, limits: &Limits) -> bool {
        let steps = next_steps(self.state(), &PlacementConfig::default(), limits, || {
            self.sizes.clone()
        });
        let any = !steps.is_empty();
        steps.into_iter().for_each(|step| self.place(step));
        assert!(in_flight(self.state(), &self.sizes).len() <= limits.max_concurrent);
        any
    }

    fn settle(&mut self) -> usize {
        let limits = Limits {
            max_concurrent: 4,
            max_misplaced_percent: 100,
            ..Limits::default()
        };
        let mut rounds = 0;
        while self.round(&limits) || self.state().reassignments().next().is_some() {
            self.catch_up();
            rounds += 1;
            assert!(rounds < 100, "it never ends");
        }
        rounds
    }

    fn loads(&self) -> Vec<(usize, usize)> {
        let load = |broker: &BrokerId| {
            (
                self.state().partitions_of(*broker).count(),
                self.state().leaderships_of(*broker),
            )
        };
        let brokers: Vec<BrokerId> = self.state().brokers().map(|broker| broker.id).collect();
        brokers.iter().map(load).collect()
    }
}

fn steps(world: &World) -> Vec<PlacementCommand> {
    let config = PlacementConfig::default();
    next_steps(world.state(), &config, &Limits::default(), || {
        world.sizes.clone()
    })
}

#[test]
fn nothing_is_done_unless_asked_for() {
    let world = World::new(4);
    assert!(steps(&world).is_empty());
    assert_eq!(world.loads()[3], (0, 0));
}

#[test]
fn a_rebalance_evens_replicas_and_leaders_out_and_ends() {
    let mut world = World::new(4);
    world.place(PlacementCommand::SetRebalancing { rebalancing: true });
    world.settle();
    assert_eq!(world.loads(), [(9, 3); 4]);
    assert!(!world.state().is_rebalancing());
}

#[test]
fn a_new_node_and_a_change_of_rack_are_followed_when_evening_out() {
    let mut world = World::new(4);
    for n in 1..=4 {
        world.register(n, Some(["a", "b", "c", "a"][usize::from(n) - 1]));
        world.catch_up();
    }
    world.place(PlacementCommand::SetRebalancing { rebalancing: true });
    world.settle();
    assert_eq!(
        world.loads()[3].0,
        6,
        "the new node shares the rack of the first"
    );
    // The third joins the rack of the second, and a new one comes in its place.
    world.register(3, Some("b"));
    world.register(5, Some("c"));
    world.catch_up();
    world.place(PlacementCommand::SetRebalancing { rebalancing: true });
    world.settle();
    let racks = |p: &rivven_core_types::PartitionState| -> Vec<String> {
        let rack = |id: &BrokerId| world.state().broker(*id).unwrap().info.rack.clone();
        let mut racks: Vec<String> = p
            .replicas
            .iter()
            .map(|id| rack(id).unwrap().to_string())
            .collect();
        racks.sort();
        racks
    };
    for partition in world.state().partitions() {
        assert_eq!(racks(partition), ["a", "b", "c"]);
    }
    let replicas: Vec<usize> = world.loads().iter().map(|load| load.0).collect();
    assert_eq!(replicas, [6, 6, 6, 6, 12]);
    assert!(!world.state().is_rebalancing());
}

/// Partitions that are added are placed as the topic's record says, whatever the configuration, and
/// evenly with those that it has.
#[test]
fn added_partitions_follow_the_strategy_of_their_topic() {
    use crate::topics::place_more;
    let mut world = World::new(6);
    let strategy = |strategy: &str, algorithm_version| {
        Some(rivven_metadata::TopicPlacement {
            strategy: strategy.to_owned(),
            algorithm_version,
        })
    };
    let state = world.state().clone();
    let mut topic = state.topic(&TopicName::new("t").unwrap()).unwrap().clone();
    let config = PlacementConfig::default();
    topic.placement = strategy("balanced", 1);
    // The first three hold 12 replicas of the topic, the others get as many.
    let more = place_more(&topic, 24, &config, &state).unwrap();
    for n in 4..=6 {
        let held = more.iter().filter(|replicas| replicas.contains(&b(n)));
        assert_eq!(held.count(), 12, "{more:?}");
    }
    topic.placement = strategy("balanced", rivven_placement::ALGORITHM_VERSION + 1);
    let error = place_more(&topic, 24, &config, &state).unwrap_err();
    assert!(error.to_string().contains("upgrade"), "{error}");
    topic.placement = strategy("newest", 1);
    let error = place_more(&topic, 24, &config, &state).unwrap_err();
    assert!(error.to_string().contains("newest"), "{error}");
    world.fence(4);
    topic.placement = None;
    let more = place_more(&topic, 24, &config, world.state()).unwrap();
    assert!(more.iter().all(|replicas| !replicas.contains(&b(4))));
}

/// A request that forbids another number of replicas is checked on the metadata whose epoch it names.
#[test]
fn a_number_of_replicas_that_may_not_change_is_compared_with_what_it_is_to_be() {
    use crate::reassignments::{ReassignTo, target};
    let mut world = World::new(4);
    let id = PartitionId::new(TopicId::from_bytes([7; 16]), 0);
    let to = |brokers: &[i32], may_change_count| ReassignTo {
        partition: id,
        target: Some(brokers.iter().map(|n| b(*n)).collect()),
        may_change_count,
    };
    assert!(target(world.state(), &to(&[4, 2, 3], false)).is_ok());
    world.fence(3);
    let free = target(world.state(), &to(&[3], true)).unwrap();
    world.place(PlacementCommand::Reassign {
        changes: vec![free],
    });
    assert!(world.state().reassignment(&id).is_some());
    assert_eq!(
        target(world.state(), &to(&[4, 2, 3], false)),
        Err(Rejection::InvalidReplicationFactor {
            index: 0,
            found: 3,
            expected: 1,
            max: 15
        })
    );
    let epoch = world.state().partition(&id).unwrap().partition_epoch;
    let taken = target(world.state(), &to(&[4], false)).unwrap();
    assert_eq!(taken.partition_epoch, epoch);
}

/// A shrink that waits is no move that a wave counts, and is not redirected to even replicas out.
#[test]
fn what_was_asked_of_a_partition_is_not_undone_by_evening_out() {
    let mut world = World::new(4);
    let id = PartitionId::new(TopicId::from_bytes([7; 16]), 0);
    world.fence(3);
    let shrink = |partition: &rivven_core_types::PartitionState| ReplicaTarget {
        partition: partition.id,
        partition_epoch: partition.partition_epoch,
        target: Some(vec![b(3)]),
    };
    let changes = world.state().partitions().map(shrink).collect();
    world.place(PlacementCommand::Reassign { changes });
    world.unfence(3);
    world.place(PlacementCommand::SetRebalancing { rebalancing: true });
    let before = world.state().reassignment(&id).cloned();
    assert!(before.is_some());
    assert!(steps(&world).is_empty(), "nor is it over");
    // Draining is what somebody has asked for as well, and later.
    world.place(PlacementCommand::SetDraining {
        broker: b(3),
        draining: true,
    });
    assert!(!steps(&world).is_empty());
    world.place(PlacementCommand::SetDraining {
        broker: b(3),
        draining: false,
    });
    world.catch_up();
    assert!(world.state().reassignments().next().is_none());
    assert!(!steps(&world).is_empty(), "now they are evened out");
}

/// Nobody can say when a dead broker comes back: evening out ends without what waits for it.
#[test]
fn evening_out_ends_while_a_reassignment_waits_for_a_dead_broker() {
    let mut world = World::new(4);
    world.fence(3);
    let fewer = |partition: &rivven_core_types::PartitionState| ReplicaTarget {
        partition: partition.id,
        partition_epoch: partition.partition_epoch,
        target: Some(vec![b(1), b(3)]),
    };
    let changes: Vec<_> = world.state().partitions().map(fewer).collect();
    let waiting = changes.len();
    world.place(PlacementCommand::Reassign { changes });
    let goals = Goals::default();
    let plan = plan_for(world.state(), &goals, &world.sizes);
    assert!(!plan.moves.is_empty(), "there is something to even out");
    world.place(PlacementCommand::SetRebalancing { rebalancing: true });
    for _ in 0..3 {
        world.round(&Limits::default());
        world.catch_up();
    }
    assert!(!world.state().is_rebalancing());
    assert_eq!(world.state().reassignments().count(), waiting);

    world.unfence(3);
    world.catch_up();
    assert!(world.state().reassignments().next().is_none());
    world.place(PlacementCommand::SetRebalancing { rebalancing: true });
    world.settle();
    assert_eq!(world.loads(), [(6, 3); 4]);
}

/// The new replica counts beside the old one while it moves: there is no room for it.
#[test]
fn a_partition_with_as_many_replicas_as_can_be_is_said_to_be_in_the_way() {
    let mut world = World::new(16);
    let id = TopicId::from_bytes([8; 16]);
    world.apply(&Command::CreateTopic {
        name: TopicName::new("wide").unwrap(),
        id,
        replicas: vec![(1..=15).map(b).collect()],
        min_isr: 2,
        durability: Durability::Fsync,
        log: LogConfig::default(),
        placement: None,
    });
    world.place(PlacementCommand::SetDraining {
        broker: b(15),
        draining: true,
    });
    assert!(steps(&world).is_empty());
    let goals = Goals::default();
    let plan = plan_for(world.state(), &goals, &world.sizes);
    assert!(plan.moves.iter().all(|step| step.partition.topic != id));
    let [shortage] = plan.shortages.as_slice() else {
        panic!("{:?}", plan.shortages);
    };
    assert_eq!((shortage.needed, shortage.available), (16, 15));
    assert_eq!(shortage.example, Some(PartitionId::new(id, 0)));
}

/// An answer that was lost is made up for only by what the caller wanted, not by what others did.
#[test]
fn a_lost_answer_is_told_from_what_others_did() {
    use crate::reassignments::{ReassignTo, cancelled_since, is_grown};
    let mut world = World::new(4);
    let name = TopicName::new("t").unwrap();
    let id = PartitionId::new(TopicId::from_bytes([7; 16]), 0);
    let reassign = |world: &mut World, target: Option<Vec<BrokerId>>| {
        let partition_epoch = world.state().partition(&id).unwrap().partition_epoch;
        let changes = vec![ReplicaTarget {
            partition: id,
            partition_epoch,
            target,
        }];
        world.place(PlacementCommand::Reassign { changes });
    };
    let to = |target: Option<Vec<BrokerId>>| ReassignTo {
        partition: id,
        target,
        may_change_count: false,
    };
    let (target, cancel) = (Some(vec![b(1), b(2), b(4)]), to(None));
    let idle = world.state().clone();
    reassign(&mut world, target.clone());
    let moving = world.state().clone();
    assert!(!cancelled_since(&moving, &moving, &cancel));
    reassign(&mut world, None);
    assert!(cancelled_since(&moving, world.state(), &cancel));
    assert!(!cancelled_since(&idle, world.state(), &cancel));
    assert!(!cancelled_since(
        &moving,
        world.state(),
        &to(target.clone())
    ));
    reassign(&mut world, target);
    world.catch_up();
    assert!(world.state().reassignment(&id).is_none());
    assert!(
        !cancelled_since(&moving, world.state(), &cancel),
        "it was completed"
    );

    let added = vec![vec![b(1), b(2), b(3)], vec![b(2), b(3), b(4)]];
    assert!(!is_grown(world.state(), &name, 14, None));
    world.place(PlacementCommand::AddPartitions {
        topic: name.clone(),
        partitions_now: 12,
        replicas: added.clone(),
    });
    assert!(is_grown(world.state(), &name, 14, None));
    assert!(is_grown(world.state(), &name, 14, Some(&added)));
    let other: Vec<_> = added.into_iter().rev().collect();
    assert!(!is_grown(world.state(), &name, 14, Some(&other)));
}

#[test]
fn a_drained_broker_is_emptied_and_a_dead_one_replaced() {
    let mut world = World::new(5);
    world.place(PlacementCommand::SetDraining {
        broker: b(2),
        draining: true,
    });
    world.settle();
    assert_eq!(world.loads()[1], (0, 0));
    world.fence(3);
    world.place(PlacementCommand::SetDraining {
        broker: b(3),
        draining: true,
    });
    world.settle();
    assert_eq!(world.loads()[2], (0, 0));
    let replicas: usize = world.loads().iter().map(|load| load.0).sum();
    assert_eq!(replicas, 36);
}

/// A replica on its way to a broker that dies for good is sent elsewhere.
#[test]
fn a_move_to_a_broker_that_is_given_up_is_redirected() {
    let mut world = World::new(5);
    world.place(PlacementCommand::SetDraining {
        broker: b(1),
        draining: true,
    });
    assert!(world.round(&Limits::default()));
    let target = in_flight(world.state(), &world.sizes)[0].to;
    world.fence(target.get());
    world.place(PlacementCommand::SetDraining {
        broker: target,
        draining: true,
    });
    world.settle();
    assert_eq!(world.loads()[0], (0, 0));
    assert_eq!(world.state().partitions_of(target).count(), 0);
}

#[test]
fn nothing_but_repair_begins_while_a_partition_is_under_its_min_isr() {
    let mut world = World::new(5);
    world.fence(2);
    world.fence(3);
    world.place(PlacementCommand::SetDraining {
        broker: b(1),
        draining: true,
    });
    assert!(steps(&world).is_empty());
    world.place(PlacementCommand::SetDraining {
        broker: b(2),
        draining: true,
    });
    let steps = steps(&world);
    assert!(!steps.is_empty(), "the lost replicas of 2 are replaced");
}

/// What leaders have told of their logs bounds the bytes under way, from round to round; a log of which
/// nobody has told counts as much as may be under way and so is copied alone.
#[test]
fn bytes_under_way_stay_within_their_limits() {
    let limits = Limits {
        max_misplaced_percent: 100,
        max_bytes_in_flight: 250,
        max_bytes_in_per_node: 200,
        ..Limits::default()
    };
    let mut world = World::new(5);
    let drain = |draining| PlacementCommand::SetDraining {
        broker: b(1),
        draining,
    };
    world.place(drain(true));
    world.sizes.unknown = unknown_size(&limits);
    assert!(world.round(&limits));
    assert_eq!(in_flight(world.state(), &world.sizes).len(), 1);
    assert!(
        !world.round(&limits),
        "the log under way may be of any length"
    );

    // Now its leader tells: it has room beside it for one more of the same length.
    world.sizes.known = world.state().partitions().map(|p| (p.id, 100)).collect();
    let mut rounds = 0;
    while world.round(&limits) || world.state().reassignments().next().is_some() {
        let moves = in_flight(world.state(), &world.sizes);
        let into = |to| {
            moves
                .iter()
                .filter(|m| m.to == to)
                .map(|m| m.bytes)
                .sum::<u64>()
        };
        assert!(moves.len() <= 2 && moves.iter().all(|m| m.bytes == 100));
        assert!([4, 5].into_iter().all(|n| into(b(n)) <= 200));
        world.catch_up();
        rounds += 1;
        assert!(rounds < 100, "it never ends");
    }
    assert!(rounds >= 6, "two of twelve at a time: {rounds}");
    assert_eq!(world.loads()[0], (0, 0));
}

impl World {
    fn create(&mut self, n: u8, partitions: usize, placed: bool) {
        self.apply(&Command::CreateTopic {
            name: TopicName::new(format!("topic-{n}")).unwrap(),
            id: TopicId::from_bytes([n; 16]),
            replicas: vec![vec![b(1), b(2), b(3)]; partitions],
            min_isr: 2,
            durability: Durability::Fsync,
            log: LogConfig::default(),
            placement: placed.then(|| rivven_metadata::TopicPlacement {
                strategy: PlacementStrategy::Balanced.to_string(),
                algorithm_version: rivven_placement::ALGORITHM_VERSION,
            }),
        });
    }

    /// As the controller does every half minute.
    fn leader_round(&mut self) -> bool {
        let even = even_leaders(self.state(), &PlacementConfig::default());
        let changed = even.map(|command| self.place(command)).is_some();
        if let Some(command) = bring_leaders_back(self.state()) {
            self.place(command);
        }
        changed
    }
}

/// Whatever the history was, topics that the balanced strategy has placed are led evenly within a round,
/// for which nothing is copied; the others count, and stay as they are.
#[test]
fn leaders_of_balanced_topics_are_evened_out_after_any_history() {
    let mut world = World::new(3);
    assert!(
        !world.leader_round(),
        "its creator has placed it: all led by 1"
    );
    world.create(8, 12, true);
    assert_eq!(world.loads()[0].1, 24);
    let fixed: Vec<_> = world.state().partitions().cloned().collect();
    world.fence(3);
    assert!(!world.leader_round(), "it will be back");
    world.unfence(3);
    world.catch_up();
    assert!(world.leader_round());
    assert!(!world.leader_round(), "and then it is even");
    // 24 leaders: 12 that stay with 1, and no more than the share of 8 with either of the others.
    let leaders: Vec<usize> = world.loads().iter().map(|load| load.1).collect();
    assert!(
        leaders[0] == 12 && leaders[1..].iter().all(|led| *led <= 8),
        "{leaders:?}"
    );
    assert!(world.state().reassignments().next().is_none());
    for before in fixed
        .iter()
        .filter(|p| p.id.topic == TopicId::from_bytes([7; 16]))
    {
        assert_eq!(
            world.state().partition(&before.id).unwrap().replicas,
            before.replicas
        );
    }
    // The other topic goes, and so does what made these uneven.
    world.apply(&Command::DeleteTopic {
        name: TopicName::new("t").unwrap(),
    });
    assert!(world.leader_round());
    assert!(world.loads().iter().all(|load| load.1 == 4));
    world.create(9, 50, true);
    world.create(10, 1, false);
    for _ in 0..3 {
        world.leader_round();
    }
    // 63 leaders on three brokers.
    assert!(
        world.loads().iter().all(|load| load.1 == 21),
        "{:?}",
        world.loads()
    );
    // One that is kept empty, and later removed, keeps its mark: that is no reason to stop evening.
    world.register(4, None);
    world.place(PlacementCommand::SetDraining {
        broker: b(4),
        draining: true,
    });
    world.create(11, 9, true);
    assert!(world.leader_round());
    world.fence(4);
    let node_epoch = world.state().broker(b(4)).unwrap().node_epoch;
    let removed = world.apply(&Command::RemoveBroker {
        broker: b(4),
        node_epoch,
        accept_loss: false,
    });
    assert!(removed.into_result().is_ok() && world.state().is_draining(b(4)));
    world.create(12, 9, true);
    assert!(world.leader_round());
    let leaders: Vec<usize> = world.loads().iter().map(|load| load.1).collect();
    assert_eq!(leaders, [27, 27, 27, 0]);
}
