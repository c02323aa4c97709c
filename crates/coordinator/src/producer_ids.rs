//! Producer ids (KIP-98), handed out from blocks that are allocated through Raft (KIP-730), so that
//! an id is never given twice in the life of a cluster.

use std::ops::Range;
use std::time::Duration;

use rivven_core_types::{ProducerId, planted};
use rivven_isr::LocalBroker;
use rivven_metadata::{Command, CommandResult};
use tokio::sync::Mutex;

use crate::error::CoordinatorError;
use crate::proposals::MetadataProposer;

/// This broker's supply of producer ids.
#[derive(Debug, Default)]
pub(crate) struct ProducerIds {
    // Held across the proposal on purpose: one block is fetched at a time, and whoever else asks
    // meanwhile takes from it.
    block: Mutex<Range<i64>>,
}

impl ProducerIds {
    /// The next id; fetches a block when there is none left.
    pub(crate) async fn next(
        &self,
        local: LocalBroker,
        proposer: &MetadataProposer,
        deadline: Duration,
    ) -> Result<ProducerId, CoordinatorError> {
        let mut block = self.block.lock().await;
        if let Some(id) = block.next() {
            return Ok(ProducerId::new(id));
        }
        let command = Command::AllocateProducerIds {
            broker: local.id,
            node_epoch: local.node_epoch,
        };
        match proposer.commit(&command, deadline).await?.result {
            CommandResult::ProducerIdBlock { first, len } => {
                let first = first.get();
                let taken = i64::from(!planted("coordinator.producer-id-given-twice"));
                *block = first.saturating_add(taken)..first.saturating_add(i64::from(len));
                Ok(ProducerId::new(first))
            }
            other => Err(CoordinatorError::UnexpectedAnswer(format!("{other:?}"))),
        }
    }
}
