//! Recovery of partitions that have nobody electable left (D9): ISR and ELR are empty, since every
//! replica that held all committed records has lost some of its log.
//!
//! The controller waits until all members of the last known ISR are back, asks each how far its log
//! reaches, and proposes the longest by (last epoch, end offset). With fewer members the partition
//! stays offline: one of the missing may hold a record that nobody else has.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::watch;
use rivven_core_types::{
    BrokerId, Lane, NodeName, PartitionState, PeerRpc, Reply, RpcError, RpcKind, RpcRequest,
    RpcResponse, planted,
};
use rivven_isr::{ReplicaRole, ReplicationManager};
use rivven_metadata::{ClusterState, Command, ReplicaClaim};

use crate::broker::SessionStatus;
use crate::messages::{self, ClaimsReply, ClaimsRequest, LogClaim};
use crate::proposals::MetadataProposer;
use crate::state::StateWatch;

/// Pause between two looks for partitions to recover.
const INTERVAL: Duration = Duration::from_millis(500);
/// How long a broker may take to answer.
const CALL_DEADLINE: Duration = Duration::from_secs(2);
/// How long the proposal for one partition may take.
const PROPOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Partitions looked at in one round; the others wait for the next.
const MAX_PARTITIONS_PER_ROUND: usize = 500;

/// Both sides of recovery: the controller that asks, and the broker that answers.
pub(crate) struct Recovery {
    pub(crate) own_name: NodeName,
    pub(crate) state: StateWatch,
    pub(crate) rpc: Arc<dyn PeerRpc>,
    pub(crate) proposer: MetadataProposer,
    pub(crate) replication: Arc<OnceLock<ReplicationManager>>,
    pub(crate) session: watch::Receiver<SessionStatus>,
}

impl Recovery {
    /// Looks for partitions to recover while this node is the controller. Runs until aborted.
    pub(crate) async fn run(&self, is_controller: impl Fn() -> bool) {
        loop {
            if is_controller() {
                let state = self.state.current();
                let ready: Vec<&PartitionState> = state
                    .needing_recovery()
                    .filter(|p| is_ready(p, &state))
                    .take(MAX_PARTITIONS_PER_ROUND)
                    .collect();
                if !ready.is_empty() {
                    self.recover(&state, &ready).await;
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn recover(&self, state: &ClusterState, partitions: &[&PartitionState]) {
        let mut replies: BTreeMap<BrokerId, (ClaimsRequest, ClaimsReply)> = BTreeMap::new();
        for broker in members(partitions) {
            let asked = partitions
                .iter()
                .filter(|p| p.last_known_isr.contains(&broker));
            let request = ClaimsRequest {
                partitions: asked.map(|p| (p.id, p.partition_epoch)).collect(),
            };
            match self.ask(broker, &request, state).await {
                Ok(reply) => drop(replies.insert(broker, (request, reply))),
                Err(error) => tracing::warn!(%broker, %error, "no log claims; asking again"),
            }
        }
        for partition in partitions {
            let Some(claims) = claims_of(partition, &replies) else {
                continue;
            };
            let (id, partition_epoch) = (partition.id, partition.partition_epoch);
            let command = Command::RecoverPartition {
                partition: id,
                partition_epoch,
                claims,
            };
            match self.proposer.commit(&command, PROPOSE_DEADLINE).await {
                Ok(committed) => {
                    metrics::counter!("rivven_partition_recoveries_total").increment(1);
                    tracing::warn!(
                        partition = %id, result = ?committed.result,
                        "recovered from the longest log left; records that no log has are lost"
                    );
                }
                Err(error) => tracing::warn!(partition = %id, %error, "recovery refused"),
            }
        }
    }

    async fn ask(
        &self,
        broker: BrokerId,
        request: &ClaimsRequest,
        state: &ClusterState,
    ) -> Result<ClaimsReply, RpcError> {
        let gone = || RpcError::Refused(format!("broker {broker} is not registered"));
        let name = state
            .broker(broker)
            .map(|b| b.info.name.clone())
            .ok_or_else(gone)?;
        if name == self.own_name {
            return self.claims(request);
        }
        let call = RpcRequest {
            kind: RpcKind::LOG_CLAIMS,
            lane: Lane::Rpc,
            meta: messages::encode(request)?,
            body: Bytes::new(),
            deadline: CALL_DEADLINE,
        };
        let response = self.rpc.call(&name, call).await?;
        messages::decode(&response.meta)
    }

    fn claims(&self, request: &ClaimsRequest) -> Result<ClaimsReply, RpcError> {
        let not_ready = || RpcError::Refused("not registered yet".to_owned());
        let replication = self.replication.get().ok_or_else(not_ready)?;
        let local = self.session.borrow().local.ok_or_else(not_ready)?;
        let claim = |(id, epoch): &(_, _)| {
            // Only a replica that knows of the missing leader has stopped changing its log.
            let status = replication.status(*id)?;
            let settled = status.partition_epoch == *epoch && status.role == ReplicaRole::Idle;
            settled.then_some(LogClaim {
                last_epoch: status.last_epoch,
                log_end: status.log_end,
            })
        };
        let claims = request.partitions.iter().map(claim).collect();
        Ok(ClaimsReply {
            node_epoch: local.node_epoch,
            claims,
        })
    }

    /// Answers `LOG_CLAIMS`.
    pub(crate) fn answer(&self, meta: &[u8]) -> Reply {
        let answer = || -> Result<RpcResponse, RpcError> {
            let reply = self.claims(&messages::decode(meta)?)?;
            Ok(RpcResponse {
                meta: messages::encode(&reply)?,
                body: Bytes::new(),
            })
        };
        Reply::Now(answer())
    }
}

fn is_ready(partition: &PartitionState, state: &ClusterState) -> bool {
    let members = &partition.last_known_isr;
    let active = |broker: &BrokerId| {
        state.is_active(*broker) || planted("metadata.recovers-without-everybody")
    };
    !members.is_empty() && members.iter().all(active)
}

fn members(partitions: &[&PartitionState]) -> std::collections::BTreeSet<BrokerId> {
    partitions
        .iter()
        .flat_map(|p| p.last_known_isr.iter().copied())
        .collect()
}

/// The claims of all members, or `None` while one of them is missing.
fn claims_of(
    partition: &PartitionState,
    replies: &BTreeMap<BrokerId, (ClaimsRequest, ClaimsReply)>,
) -> Option<Vec<ReplicaClaim>> {
    let claim = |broker: &BrokerId| {
        let (request, reply) = replies.get(broker)?;
        let place = request
            .partitions
            .iter()
            .position(|(id, _)| *id == partition.id)?;
        let claim = (*reply.claims.get(place)?)?;
        Some(ReplicaClaim {
            broker: *broker,
            node_epoch: reply.node_epoch,
            last_epoch: claim.last_epoch,
            log_end: claim.log_end,
        })
    };
    partition.last_known_isr.iter().map(claim).collect()
}
