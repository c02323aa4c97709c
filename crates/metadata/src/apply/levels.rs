//! The metadata level.

use rivven_core_types::{FencedState, LogIndex};

use super::brokers;
use crate::levels::{LevelCommand, MetadataLevel};
use crate::rejection::Rejection;
use crate::result::CommandResult;
use crate::state::ClusterState;

pub(super) fn apply(
    state: &mut ClusterState,
    index: LogIndex,
    command: LevelCommand,
) -> Result<CommandResult, Rejection> {
    match command {
        LevelCommand::Register(registration) => brokers::register(state, index, registration),
        LevelCommand::Raise { from, to } => raise(state, from, to),
    }
}

/// Done again it changes nothing.
fn raise(
    state: &mut ClusterState,
    from: MetadataLevel,
    to: MetadataLevel,
) -> Result<CommandResult, Rejection> {
    let active = state.level();
    if active == to {
        return Ok(CommandResult::LevelActive { level: to });
    }
    if active != from || to < active {
        return Err(Rejection::StaleLevel {
            found: from,
            active,
        });
    }
    let registered = state.brokers().filter(|b| b.state != FencedState::Removed);
    for broker in registered.map(|record| record.id) {
        let levels = state.levels_of(broker);
        if !levels.contains(to) {
            return Err(Rejection::LevelUnsupported {
                broker: Some(broker),
                level: to,
                levels,
            });
        }
    }
    state.set_level(to);
    Ok(CommandResult::LevelActive { level: to })
}
