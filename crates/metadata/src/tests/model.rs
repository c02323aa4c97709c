//! The model test: random histories in a world that replicates, crashes and loses, with the safety
//! of the committed records checked after every command.
//!
//! It also holds the rule chosen for the last member standing: when fenced it leaves the ISR and is
//! eligible, and leads again when it comes back without loss.

use std::collections::BTreeSet;

use bytes::Bytes;
use rivven_core_types::test_util::hunt::assert_found;
use rivven_core_types::{
    BrokerId, CommittedEntry, Durability, LogConfig, PartitionId, PartitionState, StateMachine,
    TopicId,
};

use super::model_world::{Process, World};
use super::support::{Cluster, b, machine, registration, topic_name};
use crate::{ClusterState, Command, CommandResult, ReplicaClaim, TopicChange};

const BROKERS: i32 = 5;

/// What happened, so that a test cannot pass because nothing did.
#[derive(Debug, Default)]
struct Tally {
    commands: u64,
    clean_elections: u64,
    from_elr: u64,
    recoveries: u64,
    unclean: u64,
    commits: u64,
    altered: u64,
}

struct Model {
    cluster: Cluster,
    world: World,
    tally: Tally,
    topics: u8,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut model = Self {
            cluster: Cluster::with_brokers(BROKERS),
            world: World::new(seed),
            tally: Tally::default(),
            topics: 0,
        };
        for n in 1..=BROKERS {
            let process = Process {
                life: 1,
                node_epoch: Some(model.cluster.epoch(n)),
                lossy: BTreeSet::new(),
                wiped: false,
            };
            model.world.processes.insert(b(n), process);
        }
        for _ in 0..3 {
            model.create_topic();
        }
        model
    }

    fn create_topic(&mut self) {
        let mut brokers: Vec<BrokerId> = (1..=BROKERS).map(b).collect();
        self.world.rng.shuffle(&mut brokers);
        let rf = 1 + u32::try_from(self.world.rng.below(4)).unwrap();
        brokers.truncate(usize::try_from(rf).unwrap());
        let min_isr = 1 + u32::try_from(self.world.rng.below(u64::from(rf))).unwrap();
        self.topics += 1;
        let id = TopicId::from_bytes([self.topics; 16]);
        let command = Command::CreateTopic {
            name: topic_name(&format!("topic-{}", self.topics)),
            id,
            replicas: vec![brokers],
            min_isr,
            durability: Durability::Replicated,
            log: LogConfig::default(),
            placement: None,
        };
        if let CommandResult::TopicCreated { .. } = self.run(&command) {
            let partition = PartitionId::new(id, 0);
            self.world.replicas.entry(partition).or_default();
        }
    }

    fn delete_topic(&mut self, id: PartitionId) {
        let topic = self.cluster.state().topic_by_id(&id.topic).unwrap();
        let name = topic.name.clone();
        self.run(&Command::DeleteTopic { name });
        self.world.replicas.remove(&id);
        for process in self.world.processes.values_mut() {
            process.lossy.remove(&id);
        }
    }

    fn alter_topic(&mut self, id: PartitionId) {
        let topic = self.cluster.state().topic_by_id(&id.topic).unwrap();
        let (name, rf) = (topic.name.clone(), u64::from(topic.replication_factor));
        let change = TopicChange {
            min_isr: Some(1 + u32::try_from(self.world.rng.below(rf)).unwrap()),
            retention_ms: Some(self.world.chance(50).then_some(1)),
            ..TopicChange::default()
        };
        let altered = self.run(&Command::AlterTopic { name, change });
        assert_eq!(altered, CommandResult::TopicAltered { id: id.topic });
        self.tally.altered += 1;
    }

    /// Runs a command that must keep every promise.
    fn run(&mut self, command: &Command) -> CommandResult {
        let before = self.cluster.state().clone();
        let result = self.cluster.run(command);
        self.tally.commands += 1;
        let lost_some = matches!(
            command,
            Command::RegisterBroker { .. }
                | Command::ElectUnclean { .. }
                | Command::RecoverPartition { .. }
        );
        self.check(&before, lost_some);
        result
    }

    fn check(&mut self, before: &ClusterState, may_lose: bool) {
        let after = self.cluster.state().clone();
        for new in after.partitions() {
            if !self.world.replicas.contains_key(&new.id) {
                continue;
            }
            let Some(old) = before.partition(&new.id) else {
                continue;
            };
            if !may_lose {
                self.check_clean(old, new);
            }
        }
    }

    fn check_clean(&mut self, old: &PartitionState, new: &PartitionState) {
        for member in new.isr.iter().chain(&new.elr) {
            let fine = self.world.holds_or_lost(*member, new.id);
            assert!(fine, "{member} lacks committed records: {old:?} -> {new:?}");
        }
        let eligible = |p: &PartitionState, broker: &BrokerId| {
            p.isr.contains(broker) || p.elr.contains(broker)
        };
        if new.is_under_min_isr() {
            let gone = |m: &&BrokerId| eligible(old, m) && !eligible(new, m);
            // One that leaves a sufficient ISR may go; from a small one nobody does.
            let dropped = old.isr.iter().chain(&old.elr).find(gone);
            assert_eq!(dropped, None, "{old:?} -> {new:?}");
        }
        if let Some(leader) = new.leader
            && new.leader_epoch > old.leader_epoch
        {
            self.tally.clean_elections += 1;
            self.tally.from_elr += u64::from(!old.isr.contains(&leader));
            assert!(eligible(old, &leader), "{old:?} -> {new:?}");
            assert!(self.world.holds_or_lost(leader, new.id));
        }
    }

    fn step(&mut self) {
        let broker = b(1 + i32::try_from(self.world.rng.below(5)).unwrap());
        let partitions: Vec<PartitionId> = self.world.replicas.keys().copied().collect();
        let id = self.world.pick(&partitions).unwrap();
        match self.world.rng.below(100) {
            0..40 => self.replicate(id),
            40..52 => {
                self.world.deliver(&mut self.cluster, id);
                self.tally.commands += 1;
                let state = self.cluster.state().clone();
                self.check(&state, false);
            }
            52..56 => self.fence(broker),
            56..74 => self.unfence(broker),
            74 => self.shut_down(broker),
            75..78 => {
                let loss = if self.world.chance(40) { 5 } else { 0 };
                self.world.crash(broker, loss);
                // Now and then the power goes everywhere.
                if self.world.chance(10) {
                    (1..=BROKERS).for_each(|n| self.world.crash(b(n), 5));
                }
            }
            78 if self.world.chance(30) => {
                self.world.crash(broker, usize::MAX - 1);
                let process = self.world.processes.get_mut(&broker).unwrap();
                process.life += 1;
                process.wiped = true;
            }
            79..91 => self.register(broker),
            91..96 => self.recover(id),
            96 => self.elect_unclean(id),
            97 if partitions.len() > 1 => self.delete_topic(id),
            98 => self.alter_topic(id),
            _ => {
                if self.world.replicas.len() < 4 && self.topics < 250 {
                    self.create_topic();
                }
            }
        }
    }

    /// A burst of what brokers do among themselves.
    fn replicate(&mut self, id: PartitionId) {
        for _ in 0..24 {
            let current = self.cluster.partition(id);
            let replicas = current.replicas.clone();
            let broker = self.world.pick(&replicas).unwrap();
            let mut leaders: Vec<BrokerId> =
                self.world.replicas[&id].leaders.keys().copied().collect();
            leaders.extend(current.leader);
            let Some(leader) = self.world.pick(&leaders) else {
                return;
            };
            match self.world.rng.below(10) {
                0..2 => self.world.learn(broker, &current),
                2 | 3 => self.world.append(leader, id),
                4..7 => self.world.fetch(broker, leader, id),
                7 | 8 => self.world.commit(leader, id),
                _ => self.world.propose(leader, id),
            }
            let state = self.cluster.state().clone();
            self.check(&state, false);
        }
    }

    fn fence(&mut self, broker: BrokerId) {
        let node_epoch = self.cluster.epoch(broker.get());
        self.run(&Command::FenceBroker { broker, node_epoch });
    }

    fn unfence(&mut self, broker: BrokerId) {
        if let Some(node_epoch) = self.world.processes[&broker].node_epoch {
            self.run(&Command::UnfenceBroker { broker, node_epoch });
        }
    }

    fn shut_down(&mut self, broker: BrokerId) {
        if let Some(node_epoch) = self.world.processes[&broker].node_epoch {
            self.run(&Command::BeginControlledShutdown { broker, node_epoch });
        }
    }

    fn register(&mut self, broker: BrokerId) {
        if self.world.is_up(broker) {
            return;
        }
        let process = &self.world.processes[&broker];
        // One that was wiped has no idea of what it lost: its incarnation tells.
        let lossy: Vec<PartitionId> = if process.wiped {
            Vec::new()
        } else {
            process.lossy.iter().copied().collect()
        };
        let command = registration(broker.get(), process.life, &lossy);
        let CommandResult::Registered { node_epoch, .. } = self.run(&command) else {
            panic!("registration refused");
        };
        let process = self.world.processes.get_mut(&broker).unwrap();
        process.node_epoch = Some(node_epoch);
        process.lossy.clear();
        process.wiped = false;
        let state = self.cluster.state().clone();
        self.check(&state, false);
    }

    fn recover(&mut self, id: PartitionId) {
        let partition = self.cluster.partition(id);
        if partition.leader.is_some() || !partition.elr.is_empty() {
            return;
        }
        let mut claims = self.world.claims(&partition);
        claims.retain(|claim| self.cluster.state().is_active(claim.broker));
        let command = Command::RecoverPartition {
            partition: id,
            partition_epoch: partition.partition_epoch,
            claims: claims.clone(),
        };
        let CommandResult::PartitionElected { partition: new } = self.run(&command) else {
            return;
        };
        self.tally.recoveries += 1;
        // If anybody had everything, then so has the one that was chosen.
        let holders = |broker: &&BrokerId| self.world.holds_or_lost(**broker, id);
        let somebody = partition.last_known_isr.iter().find(holders);
        let chosen = new.leader.unwrap();
        assert!(
            somebody.is_none() || self.world.holds_or_lost(chosen, id),
            "{somebody:?} had all, {chosen} was chosen: {partition:?}"
        );
        // And where all have lost some, nobody's log goes on in a later epoch.
        let last = |claim: &ReplicaClaim| (claim.last_epoch, claim.log_end);
        let of_chosen = claims.iter().find(|claim| claim.broker == chosen).map(last);
        assert_eq!(of_chosen, claims.iter().map(last).max(), "{claims:?}");
        self.world.give_up(&new);
    }

    fn elect_unclean(&mut self, id: PartitionId) {
        if self.world.chance(30) {
            let command = Command::ElectUnclean { partition: id };
            if let CommandResult::PartitionElected { partition } = self.run(&command) {
                self.tally.unclean += 1;
                self.world.give_up(&partition);
            }
        }
    }
}

/// One history.
fn run(seed: u64) -> Model {
    let mut model = Model::new(seed);
    for _ in 0..6000 {
        model.step();
    }
    model
}

#[test]
fn the_model_finds_mistakes_planted_in_the_rules() {
    const FINDS: [&str; 6] = [
        "metadata.another-life-may-join",
        "metadata.eligible-for-ever",
        "metadata.lossy-stays-eligible",
        "metadata.recovers-by-length-alone",
        "metadata.recovers-without-everybody",
        "metadata.takes-an-old-in-sync-set",
    ];
    assert_found(&FINDS, 0..40, run);
}

#[test]
fn committed_records_stay_with_whoever_may_lead() {
    let asked = std::env::var("RIVVEN_METADATA_SEEDS").ok();
    let seeds = asked.map_or(40, |seeds| seeds.parse().unwrap());
    let mut total = Tally::default();
    for seed in 0..seeds {
        let model = run(seed);
        total.commands += model.tally.commands;
        total.clean_elections += model.tally.clean_elections;
        total.from_elr += model.tally.from_elr;
        total.recoveries += model.tally.recoveries;
        total.unclean += model.tally.unclean;
        total.altered += model.tally.altered;
        total.commits += model.world.commits;
    }
    assert!(total.commands >= 20_000, "{total:?}");
    assert!(total.commits >= 1000, "{total:?}");
    assert!(total.clean_elections >= 1000, "{total:?}");
    assert!(total.from_elr >= 100, "{total:?}");
    assert!(total.recoveries >= 200, "{total:?}");
    assert!(total.unclean >= 10, "{total:?}");
    assert!(total.altered >= 1000, "{total:?}");
}

/// Applies in batches of various lengths.
fn apply_all(machine: &mut dyn StateMachine, entries: &[CommittedEntry]) -> Vec<Bytes> {
    let mut results = Vec::new();
    for batch in entries.chunks(7) {
        results.extend(machine.apply(batch).unwrap());
    }
    results
}

#[test]
fn equal_histories_give_equal_hashes_results_and_images_on_every_node() {
    for seed in 100..106 {
        let mut model = Model::new(seed);
        for _ in 0..2000 {
            model.step();
        }
        let original = &model.cluster.machine;
        let (mut follower, _) = machine();
        let results = apply_all(&mut follower, &model.cluster.history);
        assert_eq!(results, model.cluster.results);
        assert_eq!(follower.hash(), original.hash());

        // Another one gets an image half-way and goes on from there.
        let (first, second) = model
            .cluster
            .history
            .split_at(model.cluster.history.len() / 2);
        let (mut source, _) = machine();
        apply_all(&mut source, first);
        let mut image = Vec::new();
        source.freeze().write_to(&mut image).unwrap();
        let mut learner = machine().0.restore(&mut image.as_slice()).unwrap();
        assert_eq!(learner.hash(), source.hash());
        let results = apply_all(learner.as_mut(), second);
        assert_eq!(results[..], model.cluster.results[first.len()..]);
        assert_eq!(learner.hash(), original.hash());
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        learner.freeze().write_to(&mut theirs).unwrap();
        original.freeze().write_to(&mut ours).unwrap();
        assert_eq!(ours, theirs);
    }
}
