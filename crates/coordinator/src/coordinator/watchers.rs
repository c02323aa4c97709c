//! What a node keeps an eye on: where its peers are, whether it still belongs to them, its Raft stores.

use std::sync::Arc;

use rivven_core_types::{Address, FencedState};
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
    let state = inner.state.current();
    let configured = inner.config.members.iter().map(|m| m.address.clone());
    let remembered = state.brokers().map(|b| b.info.cluster_addr.clone());
    let mut seeds: Vec<Address> = Vec::new();
    for address in configured.chain(remembered) {
        if seeds.len() < MAX_SEEDS && !seeds.contains(&address) {
            seeds.push(address);
        }
    }
    seeds
}
