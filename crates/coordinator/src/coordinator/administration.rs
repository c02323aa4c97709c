//! What an operator asks of a cluster: who is in it, and who is to go.

use std::time::Duration;

use rivven_core_types::{LogIndex, NodeName};
use rivven_raft_store::RaftStoreError;
use rivven_swim::Membership;

use super::ClusterCoordinator;
use crate::error::CoordinatorError;
use crate::members::{self, ClusterNode};
use crate::messages::RemoveTarget;

impl ClusterCoordinator {
    /// The failure detector: `None` in a standalone node, and before the node belongs to a cluster.
    /// What it believes is a hint.
    pub fn membership(&self) -> Option<Membership> {
        self.inner.membership.get().cloned()
    }

    /// Every node that is a member or ever registered, by name, as this node has applied it.
    ///
    /// # Errors
    /// [`CoordinatorError::RaftStore`] while the Raft core does not run.
    pub fn nodes(&self) -> Result<Vec<ClusterNode>, CoordinatorError> {
        let inner = &self.inner;
        let membership = inner.raft.membership()?;
        let status = inner.raft.status();
        let last_log = status.last_log.unwrap_or(LogIndex::new(0));
        let state = inner.state.current();
        Ok(members::list(
            &state,
            &membership,
            status.leader.as_ref(),
            last_log,
        ))
    }

    /// Removes a node for good, from any node: its life of the data directory never comes back. Its
    /// vote goes to a learner if there is one. Its replicas stay assigned to it, not in sync, until
    /// they are moved or a new life of the same name has copied them from their leaders.
    ///
    /// # Errors
    /// [`CoordinatorError::Rejected`] when it is active and holds replicas, or when it alone holds
    /// the records of a partition and `accept_loss` is not set; [`CoordinatorError::InvalidRequest`]
    /// for an unknown name: nothing changed. [`CoordinatorError::Rpc`]: not finished within
    /// `deadline`; it may still happen, and asking again is safe.
    pub async fn remove_node(
        &self,
        name: NodeName,
        accept_loss: bool,
        deadline: Duration,
    ) -> Result<(), CoordinatorError> {
        let target = RemoveTarget { name, accept_loss };
        self.inner.members.remove(target, deadline).await
    }

    /// Hands the leadership of the metadata group, and with it the controller, to the voter `to`.
    /// Returns when the request is on its way.
    ///
    /// # Errors
    /// [`CoordinatorError::RaftStore`]: this node does not lead (ask the one that it names), or `to`
    /// is no voter. Nothing changed.
    pub async fn transfer_controller(&self, to: &NodeName) -> Result<(), CoordinatorError> {
        let own = &self.inner.former.own.name;
        match self.inner.raft.leader() {
            Some((leader, _)) if leader != *own => {
                let leader = Some(leader);
                Err(RaftStoreError::NotLeader { leader }.into())
            }
            _ => Ok(self.inner.raft.transfer_leadership(to).await?),
        }
    }
}
