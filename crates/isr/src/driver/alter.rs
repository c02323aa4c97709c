//! Carries in-sync-set proposals to the controller, as many as there are in one request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{AlterPartitionProposal, PartitionId};
use tokio::sync::mpsc;

use super::api::PartitionController;
use super::command::Command;
use super::manager::shard_of;

/// Most proposals in one request.
const MAX_GROUP: usize = 1_000;
/// How long the controller may take; after it the proposals are sent again.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs until its queue closes.
pub(super) async fn run(
    mut queue: mpsc::Receiver<AlterPartitionProposal>,
    controller: Arc<dyn PartitionController>,
    shards: Vec<mpsc::WeakSender<Command>>,
) {
    let mut group = Vec::new();
    while queue.recv_many(&mut group, MAX_GROUP).await > 0 {
        // A proposal supersedes an older one of the same partition.
        let proposals: BTreeMap<PartitionId, AlterPartitionProposal> =
            group.drain(..).map(|p| (p.partition, p)).collect();
        let call = controller.alter_partitions(proposals.values().cloned().collect());
        let outcomes = match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(error)) => {
                tracing::debug!(%error, "in-sync-set proposals were not answered");
                Vec::new()
            }
            Err(_elapsed) => Vec::new(),
        };
        let mut results: BTreeMap<_, _> = outcomes
            .into_iter()
            .map(|outcome| (outcome.partition, outcome.result))
            .collect();
        let mut by_shard: Vec<Vec<_>> = shards.iter().map(|_| Vec::new()).collect();
        for (partition, proposal) in proposals {
            let answer = results.remove(&partition);
            if let Some(answers) = by_shard.get_mut(shard_of(partition, shards.len())) {
                answers.push((proposal, answer));
            }
        }
        for (shard, answers) in shards.iter().zip(by_shard) {
            let Some(shard) = shard.upgrade().filter(|_| !answers.is_empty()) else {
                continue;
            };
            if shard.send(Command::AlterAnswered(answers)).await.is_err() {
                return;
            }
        }
    }
}
