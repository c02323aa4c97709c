//! Notices at once that the leader's process has ended, instead of waiting out the election timeout.
//!
//! Every voter that follows keeps one call to its leader open. A process that ends, however it ends, has its
//! connections closed by its kernel, and the call fails with them. The voter then asks the others for their
//! pre-votes (Ongaro's thesis, section 9.6) until somebody leads. Nothing rests on the signal: a pre-vote
//! changes no vote and no term, and nobody gives one, this node included, before the lease of the leader
//! that it last heard from has passed. So a leader that lives loses nothing when a connection of his breaks,
//! and where no signal comes (a machine that loses its power closes nothing) the timeouts hold as before.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::metrics::RaftServerMetrics;
use rivven_core_types::{Lane, NodeName, RpcError, RpcKind, RpcRequest};

use crate::instance::{Context, RaftCore};
use crate::messages::{LeaderWatchAnswer, LeaderWatchMessage, decode_answer, encode_request};
use crate::runtime::{RaftInstant, WatchReceiver, sleep, timeout};
use crate::types::{TypeConfig, Vote};

/// How long a leader holds a call, after which it is made again.
const HOLD: Duration = Duration::from_secs(5);
/// What a call may take beyond that.
const SLACK: Duration = Duration::from_secs(1);
/// The pause after a call that says nothing about the leader's process.
const PAUSE: Duration = Duration::from_secs(1);
/// Attempts per heartbeat interval: the lease ends between two of them.
const ATTEMPTS: u32 = 5;

type Metrics = WatchReceiver<RaftServerMetrics<TypeConfig>>;

/// Whom this voter follows.
struct Followed {
    id: u64,
    name: NodeName,
    /// This node's place among the voters that may follow: those behind let those before go first, for two
    /// that stand at once split the votes.
    rank: u32,
    others: u32,
}

fn followed(metrics: &RaftServerMetrics<TypeConfig>) -> Option<Followed> {
    let id = metrics.current_leader.filter(|id| *id != metrics.id)?;
    let membership = &metrics.membership_config;
    let mut voters: Vec<u64> = membership
        .voter_ids()
        .filter(|voter| *voter != id)
        .collect();
    voters.sort_unstable();
    let rank = voters.iter().position(|voter| *voter == metrics.id)?;
    Some(Followed {
        id,
        name: membership.get_node(&id)?.name.clone(),
        rank: u32::try_from(rank).ok()?,
        others: u32::try_from(voters.len()).ok()?,
    })
}

/// Runs until the core ends.
pub(crate) async fn run(context: Arc<Context>, raft: RaftCore) {
    let mut metrics = raft.server_metrics();
    loop {
        let leader = followed(&metrics.borrow_and_update());
        let Some(leader) = leader else {
            if metrics.changed().await.is_err() {
                return;
            }
            continue;
        };
        let is_lost = async {
            let call = timeout(HOLD + SLACK, hold(&context, &leader)).await;
            match call {
                Ok(Err(RpcError::ConnectionLost { .. })) => true,
                Ok(Ok(true)) => false,
                // He leads no more, or cannot be asked: whoever leads next is told by the metrics.
                _ => {
                    sleep(PAUSE).await;
                    false
                }
            }
        };
        let is_lost = tokio::select! {
            biased;
            changed = metrics.changed() => match changed {
                Ok(()) => false,
                Err(_) => return,
            },
            is_lost = is_lost => is_lost,
        };
        if is_lost && stand(&context, &raft, &mut metrics, &leader).await.is_err() {
            return;
        }
    }
}

/// Asks the leader, who answers after a while, or once he leads no more.
async fn hold(context: &Context, leader: &Followed) -> Result<bool, RpcError> {
    let message = LeaderWatchMessage {
        target: leader.id,
        from: context.raft_id(),
        hold_ms: u64::try_from(HOLD.as_millis()).unwrap_or(u64::MAX),
    };
    let request = RpcRequest {
        kind: RpcKind::RAFT_WATCH_LEADER,
        lane: Lane::Control,
        meta: encode_request(context.group(), &message)?,
        body: Bytes::new(),
        deadline: HOLD + SLACK,
    };
    let answer = context.rpc.call(&leader.name, request).await?;
    Ok(decode_answer::<LeaderWatchAnswer>(&answer)?.leads)
}

/// Whom this node has voted for or follows.
fn whom(metrics: &mut Metrics) -> (Vote, Option<u64>) {
    let now = metrics.borrow_and_update();
    (now.vote, now.current_leader)
}

/// Asks for pre-votes until somebody stands or leads, or until the timeouts would have led to an election twice.
async fn stand(
    context: &Context,
    raft: &RaftCore,
    metrics: &mut Metrics,
    leader: &Followed,
) -> Result<(), ()> {
    let config = &context.config;
    let lease = Duration::from_millis(config.election_timeout_max_ms);
    // Long enough for an election: heartbeats are chosen to be.
    let turn = Duration::from_millis(config.heartbeat_interval_ms);
    let step = turn / ATTEMPTS;
    tracing::info!(leader = %leader.name, "the leader's connection was lost; asking for pre-votes");
    let until = RaftInstant::after(lease * 2 + turn * leader.others);
    let mut pause = match leader.rank {
        0 => step,
        rank => lease + turn * rank,
    };
    let begun = whom(metrics);
    while until.left() > Duration::ZERO {
        tokio::select! {
            biased;
            changed = metrics.changed() => {
                changed.map_err(drop)?;
                if whom(metrics) != begun {
                    // Somebody stands, or leads.
                    return Ok(());
                }
                // Of something else, such as the members.
                continue;
            }
            () = sleep(pause) => {}
        }
        raft.trigger().elect(true).await.map_err(drop)?;
        pause = step;
    }
    Ok(())
}
