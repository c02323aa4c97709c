//! The world around the state machine, for the model test: brokers with logs that they replicate,
//! crash, lose and wipe, leaders that commit by what they know of the ISR (which may be old), and a
//! record of what was committed.

use std::collections::{BTreeMap, BTreeSet};

use rivven_core_types::{
    AlterPartitionError, AlterPartitionProposal, BrokerId, IsrMember, LeaderEpoch, NodeEpoch,
    Offset, PartitionId, PartitionState, RecoveryState, Rng,
};

use super::support::Cluster;
use crate::{Command, CommandResult, ReplicaClaim};

/// A record: the epoch in which it was written, and a number of its own.
pub(super) type Record = (LeaderEpoch, u64);

/// Longest log; a topic is mostly deleted before it is reached.
const MAX_LOG: usize = 300;
/// Most records of one fetch: less than comes in at times, so that followers fall behind.
const MAX_FETCH: usize = 8;

/// What a leader knows, while it believes it leads.
pub(super) struct Leadership {
    pub(super) epoch: LeaderEpoch,
    /// The log end when it took office.
    start: usize,
    /// The last ISR that it knows to be committed.
    seen: PartitionState,
    /// What may be the ISR besides, while a proposal is under way.
    pending: Option<Vec<BrokerId>>,
    progress: BTreeMap<BrokerId, (NodeEpoch, usize)>,
    high_watermark: usize,
}

/// A proposal on its way to the controller.
struct InFlight {
    sender: BrokerId,
    node_epoch: NodeEpoch,
    proposal: AlterPartitionProposal,
}

/// One partition as it is out there.
#[derive(Default)]
pub(super) struct Replicas {
    pub(super) logs: BTreeMap<BrokerId, Vec<Record>>,
    known: BTreeMap<BrokerId, PartitionState>,
    pub(super) leaders: BTreeMap<BrokerId, Leadership>,
    in_flight: Vec<InFlight>,
    pub(super) committed: Vec<Record>,
    /// Leaders of earlier epochs are beyond what was promised: records were given up since.
    given_up_before: LeaderEpoch,
}

/// One broker process and its disk.
pub(super) struct Process {
    pub(super) life: u8,
    /// Its epoch, while it runs and is registered.
    pub(super) node_epoch: Option<NodeEpoch>,
    /// Lost records that the controller has not been told of.
    pub(super) lossy: BTreeSet<PartitionId>,
    /// Its disk is a new one.
    pub(super) wiped: bool,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) processes: BTreeMap<BrokerId, Process>,
    pub(super) replicas: BTreeMap<PartitionId, Replicas>,
    next_record: u64,
    pub(super) commits: u64,
}

fn common_prefix(a: &[Record], b: &[Record]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            processes: BTreeMap::new(),
            replicas: BTreeMap::new(),
            next_record: 0,
            commits: 0,
        }
    }

    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.rng.below(100) < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let place = self.rng.below(from.len() as u64);
        from.get(usize::try_from(place).unwrap()).copied()
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap()
    }

    pub(super) fn is_up(&self, broker: BrokerId) -> bool {
        self.processes[&broker].node_epoch.is_some()
    }

    /// Whether the replica has all committed records, or is known to itself alone to have lost some.
    pub(super) fn holds_or_lost(&self, broker: BrokerId, id: PartitionId) -> bool {
        let replicas = &self.replicas[&id];
        let log = replicas.logs.get(&broker).map_or(&[][..], Vec::as_slice);
        log.starts_with(&replicas.committed) || self.processes[&broker].lossy.contains(&id)
    }

    /// The process stops; with `loss`, up to that many of the last records of each log are gone.
    pub(super) fn crash(&mut self, broker: BrokerId, loss: usize) {
        for (id, replicas) in &mut self.replicas {
            replicas.leaders.remove(&broker);
            replicas.known.remove(&broker);
            let Some(log) = replicas.logs.get_mut(&broker) else {
                continue;
            };
            let lost = usize::try_from(self.rng.below(loss as u64 + 1)).unwrap();
            let left = log.len().saturating_sub(lost);
            let process = self.processes.get_mut(&broker).unwrap();
            if left < log.len() {
                process.lossy.insert(*id);
            }
            log.truncate(left);
        }
        self.processes.get_mut(&broker).unwrap().node_epoch = None;
    }

    /// The broker applies the partition's current record, and takes office if it leads.
    pub(super) fn learn(&mut self, broker: BrokerId, current: &PartitionState) {
        if !self.is_up(broker) {
            return;
        }
        let replicas = self.replicas.get_mut(&current.id).unwrap();
        replicas.known.insert(broker, current.clone());
        if current.leader != Some(broker) {
            replicas.leaders.remove(&broker);
            return;
        }
        let start = replicas.logs.entry(broker).or_default().len();
        let leadership = replicas
            .leaders
            .entry(broker)
            .or_insert_with(|| Leadership {
                epoch: LeaderEpoch::new(-1),
                start,
                seen: current.clone(),
                pending: None,
                progress: BTreeMap::new(),
                high_watermark: 0,
            });
        if leadership.epoch != current.leader_epoch {
            leadership.epoch = current.leader_epoch;
            leadership.start = start;
            leadership.progress.clear();
            leadership.high_watermark = 0;
            leadership.pending = None;
        }
        // News of the same partition epoch says nothing about a proposal under way, which may yet be
        // accepted: only a later epoch does away with it.
        if leadership.pending.is_none() || current.partition_epoch > leadership.seen.partition_epoch
        {
            leadership.seen = current.clone();
            leadership.pending = None;
        }
    }

    pub(super) fn append(&mut self, leader: BrokerId, id: PartitionId) {
        let record = self.next_record;
        self.next_record += 1;
        let replicas = self.replicas.get_mut(&id).unwrap();
        let Some(leadership) = replicas.leaders.get(&leader) else {
            return;
        };
        let epoch = leadership.epoch;
        let log = replicas.logs.entry(leader).or_default();
        if log.len() < MAX_LOG {
            log.push((epoch, record));
        }
    }

    /// The follower drops what the leader does not have and copies some of what it lacks.
    pub(super) fn fetch(&mut self, follower: BrokerId, leader: BrokerId, id: PartitionId) {
        let Some(node_epoch) = self.processes[&follower].node_epoch else {
            return;
        };
        let some = self.below(MAX_FETCH);
        let replicas = self.replicas.get_mut(&id).unwrap();
        let (Some(leadership), Some(known)) = (
            replicas.leaders.get_mut(&leader),
            replicas.known.get(&follower),
        ) else {
            return;
        };
        let same_epoch = known.leader_epoch == leadership.epoch && known.leader == Some(leader);
        if follower == leader || !same_epoch {
            return;
        }
        let theirs = replicas.logs.entry(leader).or_default().clone();
        let log = replicas.logs.entry(follower).or_default();
        let common = common_prefix(log, &theirs);
        log.truncate(common);
        log.extend(theirs.iter().skip(common).take(some));
        leadership
            .progress
            .insert(follower, (node_epoch, log.len()));
    }

    /// Moves the high watermark: over the maximal ISR, and only if the committed one is large enough.
    pub(super) fn commit(&mut self, leader: BrokerId, id: PartitionId) {
        let replicas = self.replicas.get_mut(&id).unwrap();
        let Some(leadership) = replicas.leaders.get_mut(&leader) else {
            return;
        };
        if leadership.seen.is_under_min_isr() || leadership.epoch < replicas.given_up_before {
            return;
        }
        let log = &replicas.logs[&leader];
        let pending = leadership.pending.as_deref().unwrap_or(&[]);
        let mut end = log.len();
        for member in leadership.seen.isr.iter().chain(pending) {
            if *member != leader {
                end = end.min(leadership.progress.get(member).map_or(0, |(_, end)| *end));
            }
        }
        leadership.high_watermark = leadership.high_watermark.max(end);
        let committed = &log[..leadership.high_watermark];
        let shared = common_prefix(committed, &replicas.committed);
        assert_eq!(
            shared,
            committed.len().min(replicas.committed.len()),
            "two histories were committed in {id}"
        );
        if committed.len() > replicas.committed.len() {
            self.commits += 1;
            replicas.committed = committed.to_vec();
        }
    }

    /// The leader proposes to let a follower in that has caught up, or to drop one.
    pub(super) fn propose(&mut self, leader: BrokerId, id: PartitionId) {
        let Some(node_epoch) = self.processes[&leader].node_epoch else {
            return;
        };
        let grow = self.chance(70);
        let place = self.rng.next_u64();
        let replicas = self.replicas.get_mut(&id).unwrap();
        let Some(leadership) = replicas.leaders.get_mut(&leader) else {
            return;
        };
        if leadership.pending.is_some() {
            return;
        }
        let seen = &leadership.seen;
        let caught_up = leadership.high_watermark.max(leadership.start);
        let mut isr = seen.isr.clone();
        let is_in = |broker: &BrokerId| seen.isr.contains(broker);
        let ready = |broker: &BrokerId| {
            let progress = leadership.progress.get(broker);
            !is_in(broker) && progress.is_some_and(|(_, end)| *end >= caught_up)
        };
        let others = |grow: bool| -> Vec<BrokerId> {
            let all = seen.replicas.iter().copied().filter(|b| *b != leader);
            all.filter(|b| if grow { ready(b) } else { is_in(b) })
                .collect()
        };
        let candidates = others(grow);
        if candidates.is_empty() {
            return;
        }
        let chosen = candidates[usize::try_from(place % candidates.len() as u64).unwrap()];
        if grow {
            isr.push(chosen);
        } else {
            isr.retain(|b| *b != chosen);
        }
        let new_isr = isr
            .iter()
            .map(|broker| IsrMember {
                broker: *broker,
                node_epoch: if *broker == leader {
                    node_epoch
                } else {
                    let progress = leadership.progress.get(broker);
                    progress.map_or(NodeEpoch::new(0), |(epoch, _)| *epoch)
                },
            })
            .collect();
        let proposal = AlterPartitionProposal {
            partition: id,
            leader_epoch: leadership.epoch,
            partition_epoch: seen.partition_epoch,
            new_isr,
            recovery: RecoveryState::Recovered,
        };
        leadership.pending = Some(isr);
        replicas.in_flight.push(InFlight {
            sender: leader,
            node_epoch,
            proposal,
        });
    }

    /// A proposal arrives at the controller, sooner or later, perhaps twice; its answer may be lost.
    pub(super) fn deliver(&mut self, cluster: &mut Cluster, id: PartitionId) {
        let count = self.replicas[&id].in_flight.len();
        if count == 0 {
            return;
        }
        let place = self.below(count);
        let (twice, lost) = (self.chance(30), self.chance(30));
        let in_flight = &mut self.replicas.get_mut(&id).unwrap().in_flight;
        let flying = &in_flight[place];
        let command = Command::AlterPartitions {
            broker: flying.sender,
            node_epoch: flying.node_epoch,
            proposals: vec![flying.proposal.clone()],
        };
        let (sender, epoch) = (flying.sender, flying.proposal.leader_epoch);
        if !twice {
            in_flight.remove(place);
        }
        let result = cluster.run(&command);
        let CommandResult::PartitionsAltered { outcomes } = result else {
            return;
        };
        if lost {
            return;
        }
        let leaders = &mut self.replicas.get_mut(&id).unwrap().leaders;
        let Some(leadership) = leaders.get_mut(&sender).filter(|l| l.epoch == epoch) else {
            return;
        };
        match &outcomes[0].result {
            Ok(state) => {
                if state.partition_epoch >= leadership.seen.partition_epoch {
                    leadership.seen = state.clone();
                    leadership.pending = None;
                }
            }
            // A copy of it that is still under way may be accepted once the replica is eligible: a
            // leader that has sent a proposal more than once must not give it up on a refusal.
            Err(AlterPartitionError::IneligibleReplica) if !twice => leadership.pending = None,
            Err(_) => {}
        }
    }

    /// What the running members would claim.
    pub(super) fn claims(&self, partition: &PartitionState) -> Vec<ReplicaClaim> {
        let logs = &self.replicas[&partition.id].logs;
        let claim = |broker: &BrokerId| {
            let node_epoch = self.processes[broker].node_epoch?;
            let log = logs.get(broker).map_or(&[][..], Vec::as_slice);
            Some(ReplicaClaim {
                broker: *broker,
                node_epoch,
                last_epoch: log.last().map(|(epoch, _)| *epoch),
                log_end: Offset::new(i64::try_from(log.len()).unwrap()).unwrap(),
            })
        };
        partition.replicas.iter().filter_map(claim).collect()
    }

    /// A leader was installed that may lack committed records: from now on its log is the truth.
    pub(super) fn give_up(&mut self, new: &PartitionState) {
        let replicas = self.replicas.get_mut(&new.id).unwrap();
        let leader = new.leader.unwrap();
        let log = replicas.logs.entry(leader).or_default();
        let kept = common_prefix(log, &replicas.committed);
        replicas.committed.truncate(kept);
        replicas.given_up_before = new.leader_epoch;
    }
}
