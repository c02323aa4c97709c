//! How a node stops, in order or at once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::ClusterCoordinator;

/// How long an orderly stop waits for the controller to move the leaderships away.
const CONTROLLED_SHUTDOWN_WAIT: Duration = Duration::from_secs(5);
/// After its leaderships have moved, a stopping broker goes on answering "not the leader" for this
/// long: an answer costs a client a refresh, a broken connection up to a second and a half.
const CLIENT_GRACE: Duration = Duration::from_millis(200);

impl ClusterCoordinator {
    /// Stops in order: hands the leaderships over, flushes the logs, leaves the failure detector,
    /// closes the stores. Bounded in time; a node that cannot reach a controller stops all the same.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        inner.stopping.store(true, Ordering::Relaxed);
        self.hand_groups_over().await;
        self.wait_for_permission().await;
        if let Some(membership) = inner.membership.get()
            && let Err(error) = membership.leave().await
        {
            tracing::debug!(%error, "nobody took note of the leave");
        }
        self.abandon().await;
    }

    /// Stops without telling anybody and without handing anything over; frees what the node holds.
    /// For a node whose network and disk have been taken away.
    pub async fn abandon(&self) {
        let inner = &self.inner;
        inner.swim_shutdown.send_replace(true);
        let tasks = std::mem::take(
            &mut *inner
                .tasks
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        );
        for task in tasks {
            task.abort();
        }
        if let Some(replication) = inner.replication.get() {
            replication.shutdown().await;
        }
        inner.groups_node.lock().await.shutdown().await;
        inner.raft_node.lock().await.shutdown().await;
        inner.network.rpc.shutdown().await;
    }

    /// Lets another voter coordinate the groups at once, instead of after an election time-out.
    async fn hand_groups_over(&self) {
        let raft = &self.inner.groups_raft;
        if !raft.is_leader() {
            return;
        }
        let status = raft.status();
        let own = &self.inner.config.node.name;
        let Some(heir) = status.voters.iter().find(|v| v.name != *own) else {
            return;
        };
        if let Err(error) = raft.transfer_leadership(&heir.name).await {
            tracing::debug!(%error, "the group coordinator is not handed over");
        }
    }

    async fn wait_for_permission(&self) {
        let alone = self
            .cluster_state()
            .brokers()
            .filter(|b| b.is_active())
            .count()
            <= 1;
        if alone || self.session().local.is_none() {
            return;
        }
        let mut session = self.watch_session();
        let permitted = async {
            while !session.borrow_and_update().may_stop {
                if session.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(CONTROLLED_SHUTDOWN_WAIT, permitted)
            .await
            .is_err()
        {
            tracing::warn!("no controller has taken the leaderships over; stopping all the same");
        }
        tokio::time::sleep(CLIENT_GRACE).await;
    }
}
