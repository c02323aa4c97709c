//! What an operator asks of the cluster, beyond creating topics.

use std::time::Duration;

use rivven_core_types::{PartitionId, PartitionState, TopicId, TopicName};
use rivven_metadata::{Command, CommandResult, TopicChange};

use crate::coordinator::ClusterCoordinator;
use crate::error::CoordinatorError;

impl ClusterCoordinator {
    /// Deletes a topic with all its records, everywhere, and waits until this node has applied it.
    ///
    /// # Errors
    /// [`CoordinatorError::Rejected`] changed nothing (there is no such topic);
    /// [`CoordinatorError::Propose`] may still delete it.
    pub async fn delete_topic(
        &self,
        name: &TopicName,
        deadline: Duration,
    ) -> Result<TopicId, CoordinatorError> {
        let name = name.clone();
        match self
            .commit(&Command::DeleteTopic { name }, deadline)
            .await?
        {
            CommandResult::TopicDeleted { id } => Ok(id),
            other => Err(CoordinatorError::UnexpectedAnswer(format!("{other:?}"))),
        }
    }

    /// Changes settings of a topic and waits until this node has applied them.
    ///
    /// # Errors
    /// [`CoordinatorError::Rejected`] changed nothing; [`CoordinatorError::Propose`] may still do it.
    pub async fn alter_topic(
        &self,
        name: &TopicName,
        change: TopicChange,
        deadline: Duration,
    ) -> Result<TopicId, CoordinatorError> {
        let name = name.clone();
        let command = Command::AlterTopic { name, change };
        match self.commit(&command, deadline).await? {
            CommandResult::TopicAltered { id } => Ok(id),
            other => Err(CoordinatorError::UnexpectedAnswer(format!("{other:?}"))),
        }
    }

    /// Has any active replica elected for a partition without leader, though it may lack committed
    /// records: for an operator who has given the others up. Counted and logged.
    ///
    /// # Errors
    /// [`CoordinatorError::Rejected`] changed nothing (there is a leader, or no replica is active);
    /// [`CoordinatorError::Propose`] may still do it.
    pub async fn elect_unclean(
        &self,
        partition: PartitionId,
        deadline: Duration,
    ) -> Result<PartitionState, CoordinatorError> {
        let command = Command::ElectUnclean { partition };
        match self.commit(&command, deadline).await? {
            CommandResult::PartitionElected { partition: elected } => {
                metrics::counter!("rivven_unclean_elections_total").increment(1);
                tracing::warn!(
                    %partition, leader = ?elected.leader, leader_epoch = %elected.leader_epoch,
                    "unclean election: committed records that this leader lacks are lost"
                );
                Ok(elected)
            }
            other => Err(CoordinatorError::UnexpectedAnswer(format!("{other:?}"))),
        }
    }

    async fn commit(
        &self,
        command: &Command,
        deadline: Duration,
    ) -> Result<CommandResult, CoordinatorError> {
        let committed = self.proposer().commit(command, deadline).await?;
        Ok(committed.result)
    }
}
