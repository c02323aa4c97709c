//! Linearizable reads, on the leader and on every other member.

use std::time::Duration;

use bytes::Bytes;
use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use rivven_core_types::{Lane, LogIndex, NodeName, ProposeError, RpcError, RpcKind, RpcRequest};

use super::{RaftHandle, not_leader, unavailable};
use crate::error::RaftStoreError;
use crate::instance::Instance;
use crate::messages::{ReadIndexAnswer, ReadIndexMessage, decode_answer, encode_request};
use crate::runtime::{RaftInstant, timeout, timeout_at};
use crate::types::LogId;

/// Where a read index comes from.
enum Source {
    Here(LogIndex),
    Leader { id: u64, name: NodeName },
}

impl RaftHandle {
    /// Has a quorum confirm who leads (ReadIndex: the Raft paper, section 8; Ongaro's thesis, section
    /// 6.4), waits until everything that was committed before the call is applied **here**, and
    /// returns that index: a read of the local state afterwards is linearizable. A member that does
    /// not lead asks the leader for the index, which costs one round trip more.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`]: no leader is known, or leadership has just moved; retriable.
    /// [`ProposeError::NotInitialized`]. [`ProposeError::Unavailable`]: no quorum or no answer before
    /// `deadline`; retriable. Nothing changes in any case.
    pub async fn read_barrier(&self, deadline: Duration) -> Result<LogIndex, ProposeError> {
        self.enter(self.confirmed_index(deadline)).await
    }

    /// Waits until the entry at `index` is applied here, also across a restart of the core.
    ///
    /// # Errors
    /// [`RaftStoreError::Timeout`] after `deadline`, [`RaftStoreError::Unavailable`] when the node
    /// is gone.
    pub async fn wait_applied(
        &self,
        index: LogIndex,
        deadline: Duration,
    ) -> Result<(), RaftStoreError> {
        let wait = async { timeout(deadline, self.applied(index)).await };
        match self.enter(wait).await {
            Ok(outcome) => outcome,
            Err(_) => Err(RaftStoreError::Timeout(format!(
                "entry {index} to be applied"
            ))),
        }
    }

    async fn applied(&self, index: LogIndex) -> Result<(), RaftStoreError> {
        let mut status = self.watch_status();
        loop {
            drop(status.borrow_and_update());
            if let Some(instance) = self.shared.instance.load_full() {
                let mut progress = instance.raft.watch_apply_progress();
                let reached = |at: &Option<LogId>| at.is_some_and(|at| at.index >= index.get());
                if progress.wait_until(reached).await.is_ok() {
                    return Ok(());
                }
            }
            // The core has died; the supervisor says so, and again when there is another one.
            status.changed().await?;
        }
    }

    async fn confirmed_index(&self, deadline: Duration) -> Result<LogIndex, ProposeError> {
        let until = RaftInstant::after(deadline);
        let instance = self.instance().map_err(unavailable)?;
        self.check_initialized()?;
        let index = match self.source(&instance, until, deadline).await? {
            Source::Here(index) => index,
            Source::Leader { id, name } => self.ask_leader(id, &name, until).await?,
        };
        let applied = self.wait_applied(index, until.left()).await;
        applied.map_err(unavailable)?;
        Ok(index)
    }

    async fn source(
        &self,
        instance: &Instance,
        until: RaftInstant,
        deadline: Duration,
    ) -> Result<Source, ProposeError> {
        let late = || unavailable(format!("no quorum confirmed the read within {deadline:?}"));
        let ask = instance.raft.get_read_linearizer(ReadPolicy::ReadIndex);
        match timeout_at(until, ask).await.map_err(|_| late())? {
            Ok(linearizer) => {
                let index = linearizer.read_log_id().index();
                Ok(Source::Here(LogIndex::new(index)))
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                match (forward.leader_id, &forward.leader_node) {
                    (Some(id), Some(node)) if id != self.shared.context.raft_id() => {
                        let name = node.name.clone();
                        Ok(Source::Leader { id, name })
                    }
                    _ => Err(not_leader(forward)),
                }
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    async fn ask_leader(
        &self,
        id: u64,
        leader: &NodeName,
        until: RaftInstant,
    ) -> Result<LogIndex, ProposeError> {
        let failed = |e: RpcError| unavailable(format!("asking {leader} for a read index: {e}"));
        let deadline = until.left();
        let message = ReadIndexMessage {
            target: id,
            from: self.shared.context.raft_id(),
            deadline_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        };
        let request = RpcRequest {
            kind: RpcKind::RAFT_READ_INDEX,
            lane: Lane::Rpc,
            meta: encode_request(self.group(), &message).map_err(failed)?,
            body: Bytes::new(),
            deadline,
        };
        let answer = self.shared.context.rpc.call(leader, request);
        let answer = match timeout_at(until, answer).await {
            Ok(answer) => answer.map_err(failed)?,
            Err(_) => return Err(unavailable(format!("{leader} has not answered in time"))),
        };
        match decode_answer(&answer).map_err(failed)? {
            ReadIndexAnswer::Confirmed { index } => Ok(LogIndex::new(index)),
            ReadIndexAnswer::Unconfirmed(reason) => Err(unavailable(reason)),
        }
    }
}
