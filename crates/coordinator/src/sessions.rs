//! The controller's side of the broker sessions (D12): who is alive, who must be fenced.
//!
//! A pure table. The session rests on heartbeats that carry the broker's node epoch and the health of
//! its disk; SWIM only shortens the wait. Losing the controller loses the table: a new controller
//! gives every broker a whole session time-out again, unless SWIM has found it dead.

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_core_types::{BrokerId, FencedState, MonoTime, NodeEpoch, NodeName};
use rivven_metadata::{BrokerRecord, ClusterState, Command};

use crate::config::SessionConfig;
use crate::messages::{HeartbeatReply, HeartbeatRequest};

/// Heartbeats that a broker must have missed before SWIM's word is taken.
const MISSED_BEFORE_SWIM_COUNTS: u32 = 2;

#[derive(Debug, Clone)]
struct Contact {
    node_epoch: NodeEpoch,
    at: MonoTime,
    disk_healthy: bool,
    wants_shutdown: bool,
    caught_up: bool,
}

/// The sessions of all brokers with this controller.
#[derive(Debug)]
pub(crate) struct Sessions {
    config: SessionConfig,
    leading_since: MonoTime,
    contacts: BTreeMap<BrokerId, Contact>,
}

impl Sessions {
    /// The table of a controller that has just been elected.
    pub(crate) const fn new(config: SessionConfig, now: MonoTime) -> Self {
        Self {
            config,
            leading_since: now,
            contacts: BTreeMap::new(),
        }
    }

    /// Takes note of a heartbeat from the node called `sender`.
    pub(crate) fn heartbeat(
        &mut self,
        now: MonoTime,
        sender: &NodeName,
        request: &HeartbeatRequest,
        state: &ClusterState,
    ) -> HeartbeatReply {
        let current = state
            .broker(request.broker)
            .filter(|b| b.info.name == *sender && b.node_epoch == request.node_epoch);
        let Some(record) = current else {
            return HeartbeatReply::StaleEpoch;
        };
        let contact = Contact {
            node_epoch: request.node_epoch,
            at: now,
            disk_healthy: request.disk_healthy,
            wants_shutdown: request.wants_shutdown,
            // The registration itself must have reached the broker: it then knows the metadata of
            // that index and is fit to lead.
            caught_up: i64::try_from(request.applied.get())
                .is_ok_and(|applied| applied >= record.node_epoch.get()),
        };
        self.contacts.insert(request.broker, contact);
        let may_stop = record.state != FencedState::Active
            && !state
                .partitions_of(request.broker)
                .any(|partition| partition.leader == Some(request.broker));
        HeartbeatReply::Alive {
            fenced: matches!(record.state, FencedState::Fenced | FencedState::Removed),
            may_stop,
        }
    }

    /// The commands that the sessions call for now. `dead` says whether SWIM holds a node for dead.
    pub(crate) fn due(
        &self,
        now: MonoTime,
        state: &ClusterState,
        dead: &dyn Fn(&NodeName) -> bool,
    ) -> Vec<Command> {
        state
            .brokers()
            .filter_map(|record| self.due_for(now, record, dead))
            .collect()
    }

    fn due_for(
        &self,
        now: MonoTime,
        record: &BrokerRecord,
        dead: &dyn Fn(&NodeName) -> bool,
    ) -> Option<Command> {
        let (broker, node_epoch) = (record.id, record.node_epoch);
        let contact = self
            .contacts
            .get(&broker)
            .filter(|contact| contact.node_epoch == node_epoch);
        let silent = now.since(contact.map_or(self.leading_since, |contact| contact.at));
        let patience = if dead(&record.info.name) {
            match contact {
                Some(_) => self.config.heartbeat_interval * MISSED_BEFORE_SWIM_COUNTS,
                None => Duration::ZERO,
            }
        } else {
            self.config.timeout
        };
        let lost = silent > patience || contact.is_some_and(|contact| !contact.disk_healthy);
        match record.state {
            FencedState::Active | FencedState::ShuttingDown if lost => {
                Some(Command::FenceBroker { broker, node_epoch })
            }
            FencedState::Active if contact.is_some_and(|contact| contact.wants_shutdown) => {
                Some(Command::BeginControlledShutdown { broker, node_epoch })
            }
            FencedState::Fenced
                if !lost
                    && !record.leaving
                    && contact.is_some_and(|c| c.caught_up && !c.wants_shutdown) =>
            {
                Some(Command::UnfenceBroker { broker, node_epoch })
            }
            FencedState::Active
            | FencedState::ShuttingDown
            | FencedState::Fenced
            | FencedState::Removed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_core_types::{
        ClusterId, CommittedEntry, Incarnation, LogDirId, LogIndex, NodeInfo, RaftNodeId,
        StateMachine, Term,
    };
    use rivven_metadata::MetadataStateMachine;
    use std::sync::Arc;

    const CONFIG: SessionConfig = SessionConfig {
        timeout: Duration::from_secs(3),
        heartbeat_interval: Duration::from_millis(250),
    };

    fn at(millis: u64) -> MonoTime {
        MonoTime::from_origin(Duration::from_millis(millis))
    }

    /// A cluster of one broker, registered at index 2, and what it has applied since.
    struct World {
        machine: MetadataStateMachine,
        index: u64,
    }

    impl World {
        fn new() -> Self {
            let mut world = Self {
                machine: MetadataStateMachine::new(Arc::new(|_| {})),
                index: 0,
            };
            world.apply(&Command::FormCluster {
                cluster_id: ClusterId::from_bytes([1; 16]),
            });
            world.register();
            world
        }

        fn apply(&mut self, command: &Command) {
            self.index += 1;
            let entry = CommittedEntry {
                index: LogIndex::new(self.index),
                term: Term::new(1),
                command: command.encode().unwrap(),
            };
            self.machine.apply(&[entry]).unwrap();
        }

        fn register(&mut self) {
            let address: rivven_core_types::Address = "127.0.0.1:1".parse().unwrap();
            self.apply(&Command::RegisterBroker {
                info: NodeInfo::new(name(), address.clone(), address),
                incarnation: Incarnation::from_bytes([1; 16]),
                raft_id: RaftNodeId::new(1),
                log_dir: LogDirId::from_bytes([1; 16]),
                lossy: Vec::new(),
            });
        }

        fn state(&self) -> &ClusterState {
            self.machine.state()
        }

        fn beat(&self) -> HeartbeatRequest {
            let broker = self.state().brokers().next().unwrap();
            HeartbeatRequest {
                broker: broker.id,
                node_epoch: broker.node_epoch,
                applied: LogIndex::new(self.index),
                disk_healthy: true,
                wants_shutdown: false,
            }
        }

        fn due(&self, sessions: &Sessions, now: u64, dead: bool) -> Vec<Command> {
            sessions.due(at(now), self.state(), &|_| dead)
        }

        /// A world whose broker is active, and its session, last heard of at time 0.
        fn active() -> (Self, Sessions) {
            let mut world = Self::new();
            let mut sessions = Sessions::new(CONFIG, at(0));
            sessions.heartbeat(at(0), &name(), &world.beat(), world.state());
            for command in world.due(&sessions, 0, false) {
                world.apply(&command);
            }
            assert!(world.state().brokers().all(BrokerRecord::is_active));
            (world, sessions)
        }
    }

    fn name() -> NodeName {
        NodeName::new("node-1").unwrap()
    }

    #[test]
    fn a_broker_is_unfenced_only_once_it_has_applied_its_own_registration() {
        let world = World::new();
        let mut sessions = Sessions::new(CONFIG, at(0));
        assert!(
            world.due(&sessions, 0, false).is_empty(),
            "no heartbeat yet"
        );
        let behind = HeartbeatRequest {
            applied: LogIndex::new(1),
            ..world.beat()
        };
        sessions.heartbeat(at(0), &name(), &behind, world.state());
        assert!(
            world.due(&sessions, 0, false).is_empty(),
            "it would lead on old metadata"
        );
        sessions.heartbeat(at(0), &name(), &world.beat(), world.state());
        assert!(matches!(
            world.due(&sessions, 0, false)[..],
            [Command::UnfenceBroker { .. }]
        ));
    }

    #[test]
    fn silence_fences_after_the_time_out_and_swim_shortens_it() {
        let (world, sessions) = World::active();
        assert!(world.due(&sessions, 2_999, false).is_empty());
        assert!(matches!(
            world.due(&sessions, 3_001, false)[..],
            [Command::FenceBroker { .. }]
        ));
        assert!(
            world.due(&sessions, 499, true).is_empty(),
            "it was heard a moment ago"
        );
        assert!(matches!(
            world.due(&sessions, 501, true)[..],
            [Command::FenceBroker { .. }]
        ));
    }

    #[test]
    fn a_new_controller_grants_a_whole_time_out_but_not_to_the_dead() {
        let (world, _) = World::active();
        let sessions = Sessions::new(CONFIG, at(10_000));
        assert!(world.due(&sessions, 12_999, false).is_empty());
        assert_eq!(world.due(&sessions, 13_001, false).len(), 1);
        assert_eq!(world.due(&sessions, 10_001, true).len(), 1);
    }

    #[test]
    fn a_heartbeat_of_an_earlier_life_or_of_another_node_counts_for_nothing() {
        let (mut world, mut sessions) = World::active();
        let old = world.beat();
        world.register();
        let reply = sessions.heartbeat(at(100), &name(), &old, world.state());
        assert_eq!(reply, HeartbeatReply::StaleEpoch);
        assert!(
            world.due(&sessions, 100, false).is_empty(),
            "the new life has not been heard of"
        );
        let other = NodeName::new("node-2").unwrap();
        let reply = sessions.heartbeat(at(100), &other, &world.beat(), world.state());
        assert_eq!(reply, HeartbeatReply::StaleEpoch);
    }

    #[test]
    fn a_broken_disk_fences_at_once_and_until_it_works_again() {
        let (mut world, mut sessions) = World::active();
        let sick = HeartbeatRequest {
            disk_healthy: false,
            ..world.beat()
        };
        sessions.heartbeat(at(100), &name(), &sick, world.state());
        let due = world.due(&sessions, 100, false);
        assert!(matches!(due[..], [Command::FenceBroker { .. }]));
        world.apply(&due[0]);
        sessions.heartbeat(at(200), &name(), &sick, world.state());
        assert!(
            world.due(&sessions, 200, false).is_empty(),
            "still sick: stays fenced"
        );
        sessions.heartbeat(at(300), &name(), &world.beat(), world.state());
        assert!(matches!(
            world.due(&sessions, 300, false)[..],
            [Command::UnfenceBroker { .. }]
        ));
    }

    #[test]
    fn a_broker_that_wants_to_stop_is_let_go_and_not_unfenced_again() {
        let (mut world, mut sessions) = World::active();
        let leaving = HeartbeatRequest {
            wants_shutdown: true,
            ..world.beat()
        };
        let reply = sessions.heartbeat(at(100), &name(), &leaving, world.state());
        assert_eq!(
            reply,
            HeartbeatReply::Alive {
                fenced: false,
                may_stop: false
            }
        );
        let due = world.due(&sessions, 100, false);
        assert!(matches!(due[..], [Command::BeginControlledShutdown { .. }]));
        world.apply(&due[0]);
        let reply = sessions.heartbeat(at(200), &name(), &leaving, world.state());
        assert!(matches!(
            reply,
            HeartbeatReply::Alive { may_stop: true, .. }
        ));
        assert!(world.due(&sessions, 200, false).is_empty());
    }
}
