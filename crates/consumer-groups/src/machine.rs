//! The state machine that Raft drives.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use rivven_core_types::{
    Admission, ApplyStop, CommittedEntry, FrozenState, RestoreError, StateMachine,
};

use crate::command::{Batch, encode_results};
use crate::image;
use crate::state::GroupsState;

/// Takes the state after every applied batch and after a snapshot was installed. Called on the
/// thread that applies: it must not block.
pub type Publisher = Arc<dyn Fn(Arc<GroupsState>) + Send + Sync>;

/// The state machine of Raft group 1.
///
/// Equal entries give equal states, results and hashes on every node; whatever the bytes of an
/// entry, it never panics.
#[derive(Clone)]
pub struct GroupsStateMachine {
    state: GroupsState,
    publisher: Publisher,
}

impl fmt::Debug for GroupsStateMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupsStateMachine")
            .field("applied", &self.state.applied())
            .field("hash", &self.state.hash())
            .finish_non_exhaustive()
    }
}

impl GroupsStateMachine {
    /// An empty state machine that hands its states to `publisher`.
    pub fn new(publisher: Publisher) -> Self {
        Self {
            state: GroupsState::default(),
            publisher,
        }
    }

    /// The current state.
    pub const fn state(&self) -> &GroupsState {
        &self.state
    }

    fn publish(&self) {
        (self.publisher)(Arc::new(self.state.clone()));
    }
}

impl StateMachine for GroupsStateMachine {
    fn apply(&mut self, batch: &[CommittedEntry]) -> Result<Vec<Bytes>, ApplyStop> {
        let mut results = Vec::with_capacity(batch.len());
        for entry in batch {
            let batch = Batch::decode(&entry.command).map_err(|error| ApplyStop {
                index: entry.index,
                reason: error.to_string(),
            })?;
            let outcome = self.state.apply(batch);
            self.state.applied = entry.index;
            results.push(encode_results(&outcome).unwrap_or_default());
        }
        if !batch.is_empty() {
            self.publish();
        }
        Ok(results)
    }

    fn admission(&self) -> Admission {
        |command| Batch::decode(command).map(drop).map_err(|e| e.to_string())
    }

    fn freeze(&self) -> Arc<dyn FrozenState> {
        Arc::new(image::FrozenGroups::new(self.state.clone()))
    }

    fn restore(&self, image: &mut dyn io::Read) -> Result<Box<dyn StateMachine>, RestoreError> {
        Ok(Box::new(Self {
            state: image::read(image)?,
            publisher: Arc::clone(&self.publisher),
        }))
    }

    fn installed(&mut self) {
        self.publish();
    }

    fn hash(&self) -> u64 {
        self.state.hash()
    }
}

/// The newest state that a node has applied.
#[derive(Debug, Clone, Default)]
pub struct GroupsWatch(Arc<Mutex<Arc<GroupsState>>>);

impl GroupsWatch {
    /// The newest state.
    pub fn current(&self) -> Arc<GroupsState> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a state machine is to publish to.
    pub fn publisher(&self) -> Publisher {
        let cell = Arc::clone(&self.0);
        Arc::new(move |state| {
            let old = std::mem::replace(
                &mut *cell.lock().unwrap_or_else(PoisonError::into_inner),
                state,
            );
            // Freed outside of the lock.
            drop(old);
        })
    }
}
