//! The state machine that Raft drives.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use rivven_core_types::{
    Admission, ApplyStop, CommittedEntry, FrozenState, RestoreError, StateMachine,
};

use crate::apply;
use crate::command::Command;
use crate::image;
use crate::levels::LevelRange;
use crate::result::CommandResult;
use crate::state::ClusterState;

/// Takes the state after every applied batch and after a snapshot was installed. Called on the
/// thread that applies: it must not block.
pub type Publisher = Arc<dyn Fn(Arc<ClusterState>) + Send + Sync>;

/// The metadata state machine of Raft group 0.
///
/// Equal entries give equal states, results and hashes on every node; whatever the bytes of an
/// entry, it never panics. One that it does not understand stops it.
#[derive(Clone)]
pub struct MetadataStateMachine {
    state: ClusterState,
    publisher: Publisher,
    supported: LevelRange,
}

impl fmt::Debug for MetadataStateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataStateMachine")
            .field("applied", &self.state.applied())
            .field("hash", &self.state.hash())
            .finish_non_exhaustive()
    }
}

impl MetadataStateMachine {
    /// An empty state machine that hands its states to `publisher`.
    pub fn new(publisher: Publisher) -> Self {
        Self {
            state: ClusterState::default(),
            publisher,
            supported: LevelRange::SUPPORTED,
        }
    }

    /// The state machine of a build that understands other levels.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn supporting(self, supported: LevelRange) -> Self {
        Self { supported, ..self }
    }

    /// The current state.
    pub const fn state(&self) -> &ClusterState {
        &self.state
    }

    fn publish(&self) {
        (self.publisher)(Arc::new(self.state.clone()));
    }
}

impl StateMachine for MetadataStateMachine {
    fn apply(&mut self, batch: &[CommittedEntry]) -> Result<Vec<Bytes>, ApplyStop> {
        let mut results = Vec::with_capacity(batch.len());
        for entry in batch {
            let command = Command::decode(&entry.command).map_err(|error| ApplyStop {
                index: entry.index,
                reason: error.to_string(),
            })?;
            let result = apply::apply(&mut self.state, entry.index, command)
                .unwrap_or_else(CommandResult::Rejected);
            self.state.applied = entry.index;
            let level = self.state.level();
            self.supported
                .check_not_above(level)
                .map_err(|reason| ApplyStop {
                    index: entry.index,
                    reason,
                })?;
            // Every list in a result is bounded well below the limit of an encoded one. Were it not
            // to fit, the proposer would find an empty result, which is a decoding error.
            results.push(result.encode().unwrap_or_default());
        }
        if !batch.is_empty() {
            self.publish();
        }
        Ok(results)
    }

    fn admission(&self) -> Admission {
        |command| {
            Command::decode(command)
                .map(drop)
                .map_err(|e| e.to_string())
        }
    }

    fn freeze(&self) -> Arc<dyn FrozenState> {
        Arc::new(image::FrozenMetadata::new(self.state.clone()))
    }

    fn restore(&self, image: &mut dyn io::Read) -> Result<Box<dyn StateMachine>, RestoreError> {
        let state = image::read(image, self.supported)?;
        Ok(Box::new(Self {
            state,
            publisher: Arc::clone(&self.publisher),
            supported: self.supported,
        }))
    }

    fn installed(&mut self) {
        self.publish();
    }

    fn hash(&self) -> u64 {
        self.state.hash()
    }
}
