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
            fenced: record.state == FencedState::Fenced,
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
            FencedState::Active | FencedState::ShuttingDown | FencedState::Fenced => None,
        }
    }
}
