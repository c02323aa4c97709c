//! The published cluster metadata: the latest immutable state, and word of every change.

use std::sync::Arc;

use rivven_core_types::watch;
use rivven_metadata::ClusterState;

/// Publishes each state that the metadata state machine reaches. Readers never wait for the writer.
#[derive(Debug, Clone)]
pub struct StateWatch {
    sender: Arc<watch::Sender<Arc<ClusterState>>>,
}

impl Default for StateWatch {
    fn default() -> Self {
        Self {
            sender: Arc::new(watch::Sender::new(Arc::new(ClusterState::default()))),
        }
    }
}

impl StateWatch {
    /// The newest state that this node has applied.
    pub fn current(&self) -> Arc<ClusterState> {
        Arc::clone(&self.sender.borrow())
    }

    /// Follows the changes; a slow reader sees the newest state, not each.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.sender.subscribe()
    }

    pub(crate) fn publish(&self, state: Arc<ClusterState>) {
        self.sender.send_replace(state);
    }
}
