//! What a node keeps an eye on: where its peers are, whether it still belongs to them, its Raft stores.

use std::sync::Arc;

use rivven_core_types::{Address, FencedState};
use rivven_metadata::ClusterState;
use rivven_raft_store::{RaftHandle, RaftState};
use rivven_swim::MAX_SEEDS;

use super::Inner;
use crate::error::CoordinatorError;

/// Tells the network where the peers are: from the membership of the metadata group, and from the
/// brokers' registrations, which are newer.
pub(super) async fn follow_addresses(inner: Arc<Inner>) {
    let mut states = inner.state.subscribe();
    let mut status = inner.raft.watch_status();
    loop {
        let members = {
            let status = status.borrow_and_update();
            let members = status.voters.iter().chain(&status.learners);
            members.cloned().collect::<Vec<_>>()
        };
        for member in members {
            if member.name != inner.config.node.name {
                inner.network.rpc.add_peer(member.name, member.address);
            }
        }
        let state = Arc::clone(&states.borrow_and_update());
        for broker in state
            .brokers()
            .filter(|b| b.info.name != inner.config.node.name)
        {
            let address = broker.info.cluster_addr.clone();
            inner
                .network
                .rpc
                .add_peer(broker.info.name.clone(), address);
        }
        let changed = tokio::select! {
            biased;
            changed = states.changed() => changed.is_ok(),
            changed = status.changed() => changed.is_ok(),
        };
        if !changed {
            return;
        }
    }
}

/// Ends the node when this life of it has been removed: by what it has applied, or by what the others
/// say while it is cut off.
pub(super) async fn watch_standing(inner: Arc<Inner>) {
    let own = &inner.former.own;
    let mut states = inner.state.subscribe();
    let removed = async {
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            let gone = state.broker_by_name(&own.name).is_some_and(|record| {
                record.incarnation == own.incarnation && record.state == FencedState::Removed
            });
            if gone || states.changed().await.is_err() {
                return gone;
            }
        }
    };
    let is_in_session = || {
        let session = *inner.session.borrow();
        session.local.is_some() && !session.fenced
    };
    let error = tokio::select! {
        biased;
        gone = removed => {
            let (name, by) = (own.name.clone(), own.name.clone());
            if !gone {
                return;
            }
            CoordinatorError::Removed { name, by }
        }
        error = inner.former.watch_standing(is_in_session) => error,
    };
    inner.failure.send_replace(Some(Arc::new(error)));
}

/// Reports a store that has failed for good: the node must stop, and another may take over.
pub(super) async fn watch_raft(inner: Arc<Inner>, raft: RaftHandle) {
    let mut status = raft.watch_status();
    let failed = status
        .wait_for(|status| status.state == RaftState::Failed)
        .await;
    if let Ok(status) = failed {
        let reason = status.failure.unwrap_or_else(|| "unknown".to_owned());
        let error = rivven_core_types::ProposeError::Unavailable { reason };
        inner.failure.send_replace(Some(Arc::new(error.into())));
    }
}

/// Whom the failure detector asks first: the configured members, and after a restart also where the
/// brokers were that the replicated metadata remembers.
pub(super) fn seeds(inner: &Inner) -> Vec<Address> {
    let configured = inner.config.members.iter().map(|m| m.address.clone());
    seed_addresses(configured, &inner.state.current())
}

/// No broker is ever forgotten: those that were removed would take the places of the living.
fn seed_addresses(configured: impl Iterator<Item = Address>, state: &ClusterState) -> Vec<Address> {
    let remembered = state
        .brokers()
        .filter(|b| b.state != FencedState::Removed)
        .map(|b| b.info.cluster_addr.clone());
    let mut seeds: Vec<Address> = Vec::new();
    for address in configured.chain(remembered) {
        if seeds.len() < MAX_SEEDS && !seeds.contains(&address) {
            seeds.push(address);
        }
    }
    seeds
}

#[cfg(test)]
mod tests {
    use rivven_core_types::{
        BrokerId, ClusterId, CommittedEntry, Incarnation, LogDirId, LogIndex, NodeEpoch, NodeInfo,
        NodeName, RaftNodeId, StateMachine, Term,
    };
    use rivven_metadata::{Command, MetadataStateMachine};

    use super::*;

    #[test]
    fn removed_brokers_are_no_seeds() {
        let address = |port: u32| -> Address { format!("127.0.0.1:{port}").parse().unwrap() };
        let register = |n: u8| {
            let name = NodeName::new(format!("node-{n}")).unwrap();
            let incarnation = Incarnation::from_bytes([n; 16]);
            Command::RegisterBroker {
                raft_id: RaftNodeId::derive(&name, &incarnation),
                info: NodeInfo::new(name, address(1), address(100 + u32::from(n))),
                incarnation,
                log_dir: LogDirId::from_bytes([n; 16]),
                lossy: Vec::new(),
            }
        };
        let commands = [
            Command::FormCluster {
                cluster_id: ClusterId::from_bytes([1; 16]),
            },
            register(1),
            register(2),
            Command::RemoveBroker {
                broker: BrokerId::new(1),
                node_epoch: NodeEpoch::new(2),
                accept_loss: false,
            },
        ];
        let mut machine = MetadataStateMachine::new(Arc::new(|_| {}));
        for (index, command) in (1..).zip(&commands) {
            let entry = CommittedEntry {
                index: LogIndex::new(index),
                term: Term::new(1),
                command: command.encode().unwrap(),
            };
            machine.apply(&[entry]).unwrap();
        }
        let configured = [address(101 + 50)];
        let seeds = seed_addresses(configured.clone().into_iter(), machine.state());
        assert_eq!(seeds, [configured[0].clone(), address(102)]);
    }
}
