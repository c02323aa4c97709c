//! Applies one command to the state: validate first, then change.

use rivven_core_types::LogIndex;

use crate::command::Command;
use crate::rejection::Rejection;
use crate::result::CommandResult;
use crate::state::ClusterState;

pub(crate) fn apply(
    state: &mut ClusterState,
    _index: LogIndex,
    command: Command,
) -> Result<CommandResult, Rejection> {
    if let Command::FormCluster { cluster_id } = command {
        state.set_cluster_id(cluster_id);
        return Ok(CommandResult::ClusterFormed { cluster_id });
    }
    Err(Rejection::NotFormed)
}
