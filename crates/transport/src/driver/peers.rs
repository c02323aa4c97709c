//! The address book, and one pooled connection per peer and lane: dialled once however many callers
//! wait for it, and left alone for a while after a failure.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::{Address, Lane, NodeName, RpcError};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::client::Connection;
use super::dial::dial;
use super::lifecycle::{Shared, lock};

/// A connection that dies younger than this counts as a failed attempt, so that a peer which accepts
/// and hangs up is not redialled in a tight loop.
const SHORT_LIFE: Duration = Duration::from_secs(1);

type Dialled = Option<Result<Arc<Connection>, RpcError>>;

enum SlotState {
    Idle,
    Dialling(watch::Receiver<Dialled>),
    Ready(Arc<Connection>),
    Backoff { until: Instant, error: RpcError },
}

/// The connection of one lane to one peer at one address.
struct Slot {
    state: SlotState,
    failures: u32,
}

impl Slot {
    fn new() -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            state: SlotState::Idle,
            failures: 0,
        }))
    }

    fn fail(&mut self, shared: &Shared, error: RpcError) {
        let until = Instant::now() + shared.backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.state = SlotState::Backoff { until, error };
    }
}

struct Peer {
    address: Address,
    slots: [Arc<Mutex<Slot>>; 3],
}

impl Peer {
    fn new(address: Address) -> Self {
        let slots = std::array::from_fn(|_| Slot::new());
        Self { address, slots }
    }

    fn slot(&self, lane: Lane) -> Arc<Mutex<Slot>> {
        let [control, rpc, bulk] = &self.slots;
        Arc::clone(match lane {
            Lane::Control => control,
            Lane::Rpc => rpc,
            Lane::Bulk => bulk,
        })
    }
}

/// Every peer that this node may call.
#[derive(Default)]
pub(super) struct Peers(Mutex<BTreeMap<NodeName, Peer>>);

impl Peers {
    /// Adds a peer or moves it to another address; gives the name back when the book is full. Calls
    /// in flight on a connection to the old address end there.
    pub(super) fn add(
        &self,
        name: NodeName,
        address: Address,
        most: usize,
    ) -> Result<(), NodeName> {
        let mut peers = lock(&self.0);
        match peers.get(&name) {
            Some(peer) if peer.address == address => Ok(()),
            None if peers.len() >= most => Err(name),
            Some(_) | None => {
                peers.insert(name, Peer::new(address));
                Ok(())
            }
        }
    }

    pub(super) fn remove(&self, name: &NodeName) {
        lock(&self.0).remove(name);
    }

    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }

    /// Forgets all connections, so that the next calls shake hands anew. Calls in flight end on the
    /// old ones.
    pub(super) fn reconnect_all(&self) {
        for peer in lock(&self.0).values_mut() {
            *peer = Peer::new(peer.address.clone());
        }
    }

    /// Where a peer is.
    #[cfg(feature = "quic")]
    pub(super) fn address(&self, name: &NodeName) -> Option<Address> {
        lock(&self.0).get(name).map(|peer| peer.address.clone())
    }

    fn slot(&self, name: &NodeName, lane: Lane) -> Option<Arc<Mutex<Slot>>> {
        Some(lock(&self.0).get(name)?.slot(lane))
    }

    fn find(&self, name: &NodeName, lane: Lane) -> Option<(Address, Arc<Mutex<Slot>>)> {
        let peers = lock(&self.0);
        let peer = peers.get(name)?;
        Some((peer.address.clone(), peer.slot(lane)))
    }
}

/// Where `name` is, if nothing is under way on that lane: no connection, no dial, no pause after a failure.
#[cfg(feature = "quic")]
pub(super) fn resting(shared: &Shared, name: &NodeName, lane: Lane) -> Option<Address> {
    let (address, slot) = shared.peers.find(name, lane)?;
    let rests = match &lock(&slot).state {
        SlotState::Idle => true,
        SlotState::Ready(connection) => !connection.usable(),
        SlotState::Backoff { until, .. } => Instant::now() >= *until,
        SlotState::Dialling(_) => false,
    };
    rests.then_some(address)
}

/// The pooled connection to `name`, if there is one in use.
pub(super) fn open_connection(
    shared: &Shared,
    name: &NodeName,
    lane: Lane,
) -> Option<Arc<Connection>> {
    let slot = shared.peers.slot(name, lane)?;
    match &lock(&slot).state {
        SlotState::Ready(connection) if connection.usable() => Some(Arc::clone(connection)),
        SlotState::Ready(_)
        | SlotState::Idle
        | SlotState::Dialling(_)
        | SlotState::Backoff { .. } => None,
    }
}

/// The pooled connection to `name`, dialled if need be.
pub(super) async fn connection(
    shared: &Arc<Shared>,
    name: &NodeName,
    lane: Lane,
    deadline: Instant,
) -> Result<Arc<Connection>, RpcError> {
    let Some((address, slot)) = shared.peers.find(name, lane) else {
        return Err(RpcError::UnknownPeer { peer: name.clone() });
    };
    let mut dialled = match poll_slot(shared, name, &address, lane, &slot) {
        Poll::Settled(result) => return result,
        Poll::Wait(dialled) => dialled,
    };
    let unreachable = |reason: &str| RpcError::Unreachable {
        peer: name.clone(),
        reason: reason.to_owned(),
    };
    match timeout_at(deadline, dialled.wait_for(Option::is_some)).await {
        Ok(Ok(result)) => result
            .clone()
            .unwrap_or_else(|| Err(unreachable("the dial ended without a result"))),
        Ok(Err(_)) => Err(unreachable("the dial was abandoned")),
        Err(_) => Err(unreachable("still connecting at the deadline")),
    }
}

enum Poll {
    Settled(Result<Arc<Connection>, RpcError>),
    Wait(watch::Receiver<Dialled>),
}

fn poll_slot(
    shared: &Arc<Shared>,
    name: &NodeName,
    address: &Address,
    lane: Lane,
    shared_slot: &Arc<Mutex<Slot>>,
) -> Poll {
    let mut slot = lock(shared_slot);
    let slot = &mut *slot;
    if let SlotState::Ready(connection) = &slot.state {
        if connection.usable() {
            return Poll::Settled(Ok(Arc::clone(connection)));
        }
        if connection.age() < SHORT_LIFE && !connection.ended_in_order() {
            let error = RpcError::Unreachable {
                peer: name.clone(),
                reason: format!("{address}: the last connection closed at once"),
            };
            slot.fail(shared, error);
        } else {
            slot.failures = 0;
            slot.state = SlotState::Idle;
        }
    }
    match &slot.state {
        SlotState::Backoff { until, error } if Instant::now() < *until => {
            return Poll::Settled(Err(error.clone()));
        }
        // The channel closes without a result only if the dialling task was dropped.
        SlotState::Dialling(dialled) if dialled.has_changed().is_ok() => {
            return Poll::Wait(dialled.clone());
        }
        SlotState::Idle
        | SlotState::Backoff { .. }
        | SlotState::Dialling(_)
        | SlotState::Ready(_) => {}
    }
    let (tell, dialled) = watch::channel(None);
    slot.state = SlotState::Dialling(dialled.clone());
    let (shared, name, address) = (Arc::clone(shared), name.clone(), address.clone());
    let settled = Arc::clone(shared_slot);
    let runtime = shared.runtime(lane).clone();
    runtime.spawn(async move {
        let result = dial(&shared, &address, Some(&name), &name, lane).await;
        let mut slot = lock(&settled);
        match &result {
            Ok(connection) => slot.state = SlotState::Ready(Arc::clone(connection)),
            Err(error) => slot.fail(&shared, error.clone()),
        }
        drop(slot);
        tell.send_replace(Some(result));
    });
    Poll::Wait(dialled)
}
