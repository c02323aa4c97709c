//! A host on the network in memory, and the calls that it makes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{
    Address, BoxFuture, ClusterId, NodeName, PeerIdentity, PeerRpc, Reply, RpcError, RpcHandler,
    RpcRequest, RpcResponse,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::datagram::{DATAGRAM_QUEUE, MemoryDatagram};
use super::{Host, MemoryEvent, MemoryNetwork};

/// As far as a deadline reaches on the wire.
const LONGEST_WAIT: Duration = Duration::from_millis(u32::MAX as u64);

type Answer = Result<(PeerIdentity, RpcResponse), RpcError>;

/// One life of a host: it calls its peers by name, and answers them. Clones are the same host. Once it is
/// killed, or another has taken its address, it reaches nobody.
#[derive(Debug, Clone)]
pub struct MemoryHost {
    network: MemoryNetwork,
    address: SocketAddr,
    generation: u64,
}

impl MemoryHost {
    pub(super) const fn new(network: MemoryNetwork, address: SocketAddr, generation: u64) -> Self {
        Self {
            network,
            address,
            generation,
        }
    }

    /// Where it is.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Gives it an identity, by which peers find it from now on, and a socket for datagrams.
    ///
    /// Fails with [`RpcError::Shutdown`] if it is dead; nothing has changed then.
    pub fn bind(&self, identity: PeerIdentity) -> Result<MemoryDatagram, RpcError> {
        let (sender, receiver) = mpsc::channel(DATAGRAM_QUEUE);
        let mut world = self.network.world();
        let host = world.hosts.entry(self.address).or_default();
        if host.generation != self.generation {
            return Err(RpcError::Shutdown);
        }
        let name = identity.name.clone();
        host.datagrams = Some(sender);
        host.identity = Some(identity);
        world.addresses.insert(name, self.address);
        drop(world);
        let (address, generation) = (self.address, self.generation);
        let network = self.network.clone();
        Ok(MemoryDatagram::new(network, address, generation, receiver))
    }

    /// Answers peers with `handler` from now on.
    pub fn serve(&self, handler: Arc<dyn RpcHandler>) {
        // The one before may use the network as it goes.
        drop(self.change(|host| host.handler.replace(handler)));
    }

    /// It has become a member of `cluster`.
    pub fn set_cluster_id(&self, cluster: ClusterId) {
        self.change(|host| {
            if let Some(identity) = &mut host.identity {
                identity.cluster = Some(cluster);
            }
        });
    }

    /// Calls whoever is at `address`; errors as [`PeerRpc::call`].
    pub fn call_address(
        &self,
        address: &Address,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<(PeerIdentity, RpcResponse), RpcError>> {
        let this = self.clone();
        let to = address.to_string().parse();
        Box::pin(async move {
            let to = to.map_err(|_| RpcError::Malformed("not a socket address".to_owned()))?;
            let unnamed = NodeName::new("unnamed").map_err(|e| RpcError::Refused(e.to_string()))?;
            this.deliver(to, unnamed, request).await
        })
    }

    /// Takes it off the network.
    pub fn shutdown(&self) {
        // A later life at this address must not be taken off with this one.
        if self.network.is_alive(self.address, self.generation) {
            self.network.kill(self.address);
        }
    }

    async fn deliver(self, to: SocketAddr, peer: NodeName, request: RpcRequest) -> Answer {
        let waited = request.deadline;
        let deadline = Instant::now() + waited.min(LONGEST_WAIT);
        if self.network.is_alive(self.address, self.generation) {
            let (answer, answered) = oneshot::channel();
            let message = self.clone().carry(to, peer.clone(), request, answer);
            drop(tokio::spawn(message));
            if let Ok(Ok(outcome)) = tokio::time::timeout_at(deadline, answered).await {
                return outcome;
            }
        }
        // Silence is only known for what it is when the time is over.
        tokio::time::sleep_until(deadline).await;
        Err(RpcError::Timeout { peer, waited })
    }

    /// One message and its answer. Says nothing when either is lost.
    async fn carry(
        self,
        to: SocketAddr,
        peer: NodeName,
        request: RpcRequest,
        answer: oneshot::Sender<Answer>,
    ) {
        let from = self.identity();
        let weather = {
            let mut world = self.network.world();
            world.traffic.calls += 1;
            world.weather
        };
        let here = self.address;
        self.network.until_resumed(here).await;
        self.network.tell(here, to, MemoryEvent::Sent(&request));
        let (lost, stalled) = (weather.lost_requests, weather.stalled(request.kind));
        let Some(latency) = self.network.send(here, to, lost, stalled) else {
            return;
        };
        tokio::time::sleep(latency).await;
        self.network.until_resumed(to).await;
        if self.network.is_cut(here, to) {
            return;
        }
        let target = self.network.world().hosts.get(&to).and_then(|host| {
            let (handler, identity) = (host.handler.clone()?, host.identity.clone()?);
            Some((handler, identity, host.generation))
        });
        self.network
            .tell(here, to, MemoryEvent::Delivered(&request));
        let (Some(from), Some((handler, identity, generation))) = (from, target) else {
            let reason = "connection refused in the simulated network".to_owned();
            drop(answer.send(Err(RpcError::Unreachable { peer, reason })));
            return;
        };
        let patience = request.deadline;
        let response = match handler.handle(&from, request.clone()) {
            Reply::Now(response) => response,
            Reply::Later(response) => match tokio::time::timeout(patience, response).await {
                Ok(response) => response,
                Err(_elapsed) => return,
            },
        };
        self.network.until_resumed(to).await;
        // A dead host answers nobody.
        if !self.network.is_alive(to, generation) {
            return;
        }
        if let Some(latency) = self.network.send(to, here, weather.lost_answers, 0) {
            tokio::time::sleep(latency).await;
            self.network.until_resumed(here).await;
            if !self.network.is_cut(to, here) {
                let event = MemoryEvent::Answered(&request, &response);
                self.network.tell(here, to, event);
                // The caller may have given up.
                drop(answer.send(response.map(|response| (identity, response))));
            }
        }
    }

    fn identity(&self) -> Option<PeerIdentity> {
        let world = self.network.world();
        let host = world.hosts.get(&self.address)?;
        host.identity
            .clone()
            .filter(|_| host.generation == self.generation)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Host) -> T) -> Option<T> {
        let mut world = self.network.world();
        let host = world.hosts.get_mut(&self.address);
        let host = host.filter(|host| host.generation == self.generation)?;
        Some(change(host))
    }
}

impl PeerRpc for MemoryHost {
    fn call(
        &self,
        peer: &NodeName,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        let (this, peer) = (self.clone(), peer.clone());
        let to = self.network.world().addresses.get(&peer).copied();
        Box::pin(async move {
            let to = to.ok_or_else(|| RpcError::UnknownPeer { peer: peer.clone() })?;
            this.deliver(to, peer, request)
                .await
                .map(|(_, response)| response)
        })
    }
}
