//! Proposals, one by one and in batches.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use openraft::errors::{ClientWriteError, RaftError};
use rivven_core_types::limits::MAX_COMMAND_BYTES;
use rivven_core_types::{
    BoxFuture, LogIndex, ProposeError, Proposed, Proposer, RaftGroupId, planted,
};

use super::{RaftHandle, not_leader, unavailable};
use crate::runtime::timeout;
use crate::types::{Applied, Command, LogId, TypeConfig};

fn unknown(reason: impl ToString) -> ProposeError {
    ProposeError::Unknown {
        reason: reason.to_string(),
    }
}

fn late(deadline: Duration) -> ProposeError {
    unknown(format!("not applied within {deadline:?}"))
}

/// Refused before it was appended, or of unknown outcome.
fn failed(error: ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) => not_leader(forward),
        error => unknown(error),
    }
}

fn done(id: LogId, applied: Applied) -> Proposed {
    Proposed {
        index: LogIndex::new(id.index),
        result: applied.0,
    }
}

impl RaftHandle {
    fn check(&self, group: RaftGroupId, commands: &[Bytes]) -> Result<(), ProposeError> {
        if group != self.group() {
            return Err(unavailable(format!(
                "Raft group {group} is not served here"
            )));
        }
        self.check_initialized()?;
        for command in commands {
            let (length, max) = (command.len(), MAX_COMMAND_BYTES);
            if length > max {
                return Err(ProposeError::TooLarge { length, max });
            }
            (self.shared.context.admission)(command)
                .map_err(|reason| ProposeError::NotUnderstood { reason })?;
        }
        Ok(())
    }

    async fn propose_here(
        &self,
        group: RaftGroupId,
        command: Bytes,
        deadline: Duration,
    ) -> Result<Proposed, ProposeError> {
        let instance = self.instance().map_err(unavailable)?;
        self.check(group, std::slice::from_ref(&command))?;
        let _permit = self
            .shared
            .proposals
            .try_acquire()
            .map_err(|_| ProposeError::Overloaded)?;
        match timeout(deadline, instance.raft.client_write(Command(command))).await {
            Ok(Ok(written)) => Ok(done(written.log_id, written.data)),
            Ok(Err(RaftError::APIError(error))) => Err(failed(error)),
            Ok(Err(_)) if planted("raft-store.dead-core-acknowledges") => Ok(Proposed {
                index: LogIndex::default(),
                result: Bytes::new(),
            }),
            Ok(Err(error)) => Err(unknown(error)),
            Err(_) => Err(late(deadline)),
        }
    }

    /// Proposes several commands at once, in their order and without another one between them, and waits
    /// until they are applied, or until `deadline` has passed. One pass through the core and one write of
    /// the log serve them all. There is an outcome for each, in order: after a change of the leader the
    /// first may be applied and the rest unknown.
    ///
    /// # Errors
    /// As [`Proposer::propose`], for all of them: none was appended. A batch counts with as many proposals
    /// as it has commands; [`ProposeError::Overloaded`] when there is no room for so many.
    pub async fn propose_batch(
        &self,
        commands: Vec<Bytes>,
        deadline: Duration,
    ) -> Result<Vec<Result<Proposed, ProposeError>>, ProposeError> {
        let call = self.clone().propose_all(commands, deadline);
        let outcome = self.enter(call).await;
        match &outcome {
            Ok(outcomes) => outcomes
                .iter()
                .for_each(|one| self.shared.outcomes.count(one)),
            Err(_) => self.shared.outcomes.count(&outcome),
        }
        outcome
    }

    async fn propose_all(
        self,
        commands: Vec<Bytes>,
        deadline: Duration,
    ) -> Result<Vec<Result<Proposed, ProposeError>>, ProposeError> {
        let instance = self.instance().map_err(unavailable)?;
        self.check(self.group(), &commands)?;
        let count = commands.len();
        let permits = u32::try_from(count).map_err(|_| ProposeError::Overloaded)?;
        let _permits = self
            .shared
            .proposals
            .try_acquire_many(permits)
            .map_err(|_| ProposeError::Overloaded)?;
        let mut outcomes = Vec::with_capacity(count);
        let wait = async {
            let written = instance
                .raft
                .client_write_many(commands.into_iter().map(Command));
            let mut written = written.await.map_err(unknown)?;
            while let Some(one) = written.next().await {
                outcomes.push(match one {
                    Ok(Ok(one)) => Ok(done(one.log_id, one.response)),
                    Ok(Err(error)) => Err(failed(error)),
                    Err(error) => Err(unknown(error)),
                });
            }
            Ok::<_, ProposeError>(())
        };
        let waited = timeout(deadline, wait).await;
        let rest = match waited {
            Ok(Ok(())) => unknown("the Raft core has ended"),
            Ok(Err(error)) => error,
            Err(_) => late(deadline),
        };
        outcomes.resize(count, Err(rest));
        Ok(outcomes)
    }
}

impl Proposer for RaftHandle {
    fn propose(
        &self,
        group: RaftGroupId,
        command: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Proposed, ProposeError>> {
        let this = self.clone();
        Box::pin(async move {
            let outcome = this
                .enter(this.propose_here(group, command, deadline))
                .await;
            this.shared.outcomes.count(&outcome);
            outcome
        })
    }
}
