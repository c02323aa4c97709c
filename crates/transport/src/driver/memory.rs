//! The memory that peers may take: a share per connection, and one that all connections have together,
//! those of the control lane apart from the others.

use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{Lane, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::lifecycle::Shared;

/// What all connections of the control lane may hold together: an append of the greatest length from each
/// of eight members. The semaphores are fair, so that in one budget with bulk bodies an append, and the
/// heartbeats behind it, would wait for as long as those take, and the leader would be voted out.
pub(super) const CONTROL_BYTES: usize = 8 * limits::MAX_CONTROL_FRAME_BYTES;

/// The memory of one connection.
#[derive(Debug)]
pub(super) struct Memory {
    connection: Arc<Semaphore>,
    node: Arc<Semaphore>,
    patience: Duration,
}

/// Bytes taken, given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    _connection: OwnedSemaphorePermit,
    _node: OwnedSemaphorePermit,
}

impl Memory {
    pub(super) fn of(shared: &Shared, lane: Lane) -> Self {
        Self {
            connection: Arc::new(Semaphore::new(shared.limits().max_in_flight_bytes)),
            node: Arc::clone(match lane {
                Lane::Control => &shared.control_memory,
                Lane::Rpc | Lane::Bulk => &shared.memory,
            }),
            patience: shared.limits().ping_interval,
        }
    }

    /// Takes `length` bytes if they are there.
    pub(super) fn try_hold(&self, length: usize) -> Option<Held> {
        let length = u32::try_from(length).ok()?;
        let connection = Arc::clone(&self.connection);
        let node = Arc::clone(&self.node);
        Some(Held {
            _connection: connection.try_acquire_many_owned(length).ok()?,
            _node: node.try_acquire_many_owned(length).ok()?,
        })
    }

    /// Waits for `length` bytes.
    pub(super) async fn hold(&self, length: usize) -> Option<Held> {
        let length = u32::try_from(length).ok()?;
        let connection = Arc::clone(&self.connection);
        let node = Arc::clone(&self.node);
        Some(Held {
            _connection: connection.acquire_many_owned(length).await.ok()?,
            _node: node.acquire_many_owned(length).await.ok()?,
        })
    }

    /// Memory for a body that a peer has announced. Nothing is read meanwhile, so `alone` says that no
    /// other body of this connection is half-read: waiting with one could be waiting for oneself.
    /// `None`: there is none, now or after a ping's time, which the peer puts up with.
    pub(super) async fn for_body(&self, length: usize, alone: bool) -> Option<Held> {
        match self.try_hold(length) {
            None if alone => timeout(self.patience, self.hold(length)).await.ok()?,
            held => held,
        }
    }
}
