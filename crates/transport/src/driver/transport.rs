//! The transport as its users see it.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::{
    Address, BoxFuture, ClusterId, Entropy, NodeName, PeerIdentity, PeerRpc, RpcError, RpcHandler,
    RpcRequest, RpcResponse, limits,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{Instrument as _, Span};

use super::accept::accept_loop;
use super::client::check_size;
use super::dial::dial;
use super::lifecycle::{Carrier, Phase, Shared, lock};
use super::peers::{connection, open_connection};
use super::socket;
use crate::config::TransportConfig;
use crate::error::TransportError;

/// A call waits at most this long, whatever its deadline: beyond it the budget would not fit its field.
const LONGEST_WAIT: Duration = Duration::from_millis(u32::MAX as u64);

/// Where the connections of each lane run, so that record I/O never holds up a heartbeat.
#[derive(Debug, Clone)]
pub struct TransportRuntimes {
    /// Accepting, handshakes, the control and the rpc lane.
    pub control: Handle,
    /// The bulk lane.
    pub data: Handle,
}

impl TransportRuntimes {
    /// Everything on the current runtime.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`Handle::current`] does.
    pub fn current() -> Self {
        Self {
            control: Handle::current(),
            data: Handle::current(),
        }
    }
}

/// Framed RPC with every peer, in both directions. Clones share everything; when the last one is
/// dropped all connections close.
#[derive(Clone)]
pub struct Transport {
    shared: Arc<Shared>,
    owner: Arc<Owner>,
}

/// What only the users of the transport hold, and none of its tasks.
struct Owner {
    shared: Arc<Shared>,
    listener: Mutex<Option<TcpListener>>,
    local: SocketAddr,
    all_gone: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.advance(Phase::Closed);
        self.shared.no_new_tasks();
        self.shared.peers.clear();
        self.shared.close_carrier();
    }
}

impl Transport {
    /// Binds the listening socket; nothing is accepted before [`Self::serve`].
    ///
    /// Fails with [`TransportError::AddressInUse`] naming the address, and with
    /// [`TransportError::Limit`] naming a limit that is out of range.
    #[expect(
        clippy::unused_async,
        reason = "binding over QUIC, or by name, has to wait; callers need not change then"
    )]
    pub async fn bind(
        config: TransportConfig,
        runtimes: TransportRuntimes,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TransportError> {
        config.validate()?;
        let (listener, local) = socket::listen(config.listen)?;
        let made = Shared::new(config, Carrier::Tcp, runtimes, entropy)?;
        Ok(Self::from_parts(made, Some(listener), local))
    }

    /// The same over QUIC: binds `config.listen` as a UDP address. Needs `Security::MutualTls`.
    #[cfg(feature = "quic")]
    pub async fn bind_quic(
        mut config: TransportConfig,
        quic: crate::quic::QuicConfig,
        runtimes: TransportRuntimes,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TransportError> {
        let (bound, local) = socket::bind_udp(config.listen, quic.socket_buffer_bytes)?;
        config.listen = local;
        Self::over_quic(bound, config, quic, runtimes, entropy).await
    }

    /// Over QUIC on a bound socket. Its endpoint lives on the current runtime.
    #[cfg(feature = "quic")]
    #[expect(
        clippy::unused_async,
        reason = "an endpoint is made inside of a runtime"
    )]
    pub(crate) async fn over_quic(
        socket: std::net::UdpSocket,
        config: TransportConfig,
        quic: crate::quic::QuicConfig,
        runtimes: TransportRuntimes,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TransportError> {
        config.validate()?;
        let local = config.listen;
        let carrier = Carrier::Quic(socket, quic, None);
        let made = Shared::new(config, carrier, runtimes, entropy)?;
        Ok(Self::from_parts(made, None, local))
    }

    /// Over TCP, and over QUIC as well: listens on both. Peers learn the QUIC address in the handshake over
    /// TCP, authenticated, and those that speak QUIC use it from then on; where it does not get through
    /// they stay on TCP. Needs `Security::MutualTls`. The endpoint lives on the current runtime.
    #[cfg(feature = "quic")]
    #[expect(
        clippy::unused_async,
        reason = "an endpoint is made inside of a runtime"
    )]
    pub async fn bind_beside_quic(
        config: TransportConfig,
        quic: crate::quic::QuicListen,
        runtimes: TransportRuntimes,
        entropy: Arc<dyn Entropy>,
    ) -> Result<Self, TransportError> {
        config.validate()?;
        let (listener, local) = socket::listen(config.listen)?;
        let bytes = quic.config.socket_buffer_bytes;
        let (socket, bound) = socket::bind_udp(quic.listen, bytes)?;
        let advertised = quic.advertised.unwrap_or_else(|| Address::from(bound));
        let carrier = Carrier::Quic(socket, quic.config, Some(advertised));
        let made = Shared::new(config, carrier, runtimes, entropy)?;
        Ok(Self::from_parts(made, Some(listener), local))
    }

    fn from_parts(
        (shared, all_gone): (Arc<Shared>, mpsc::Receiver<()>),
        listener: Option<TcpListener>,
        local: SocketAddr,
    ) -> Self {
        let owner = Arc::new(Owner {
            shared: Arc::clone(&shared),
            listener: Mutex::new(listener),
            local,
            all_gone: tokio::sync::Mutex::new(all_gone),
        });
        Self { shared, owner }
    }

    /// The address bound; its port is the real one when port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.owner.local
    }

    /// Starts to accept peers and to answer them with `handler`. Only the first call counts.
    pub fn serve(&self, handler: Arc<dyn RpcHandler>) {
        let Some(alive) = self.shared.alive() else {
            tracing::warn!("the transport is shut down");
            return;
        };
        let control = &self.shared.runtimes.control;
        #[cfg(feature = "tls")]
        {
            let watching = super::certificates::watch(Arc::clone(&self.shared), alive.clone());
            control.spawn(watching);
        }
        let listener = lock(&self.owner.listener).take();
        #[cfg(feature = "quic")]
        if let Some(quic) = &self.shared.quic
            && quic.advertised.is_some() == listener.is_some()
        {
            control.spawn(super::quic::accept_loop(
                Arc::clone(&self.shared),
                Arc::clone(&handler),
                alive.clone(),
            ));
            if listener.is_none() {
                return;
            }
        }
        let Some(listener) = listener else {
            tracing::warn!("the transport already serves");
            return;
        };
        control.spawn(accept_loop(
            Arc::clone(&self.shared),
            listener,
            handler,
            alive,
        ));
    }

    /// Reads the certificates again, which otherwise happens within seconds after a file has changed.
    /// New connections use them; peers that are trusted no longer lose theirs. After an error the old
    /// ones stay in use.
    #[cfg(feature = "tls")]
    pub fn reload_certificates(&self) -> Result<(), TransportError> {
        self.shared.reload_certificates()
    }

    /// Makes a peer known, or moves it to another address. Idempotent; does not connect yet. Beyond
    /// `max_peers` a new peer is not added, and calls to it fail with [`RpcError::UnknownPeer`].
    pub fn add_peer(&self, name: NodeName, address: Address) {
        let most = self.shared.limits().max_peers;
        if let Err(name) = self.shared.peers.add(name, address, most)
            && self.shared.may_warn("peers")
        {
            tracing::warn!(peer = %name, most, "the address book is full");
        }
    }

    /// Forgets a peer. Calls in flight still get their answers.
    pub fn remove_peer(&self, name: &NodeName) {
        self.shared.peers.remove(name);
    }

    /// Where a peer is reached over QUIC, if it has said so over TCP and it works.
    #[cfg(feature = "quic")]
    pub fn quic_address_of(&self, name: &NodeName) -> Option<Address> {
        let address = self.shared.peers.address(name)?;
        self.shared.quic.as_ref()?.alternative(&address)
    }

    #[cfg(all(test, feature = "quic"))]
    pub(super) fn quic(&self) -> Option<&super::quic::Quic> {
        self.shared.quic.as_ref()
    }

    /// This node has become a member of `cluster`. Outgoing connections are made anew, so that peers
    /// no longer see a blank node; peers of another cluster are no longer answered.
    pub fn set_cluster_id(&self, cluster: ClusterId) {
        self.shared.set_cluster(cluster);
        self.shared.peers.reconnect_all();
    }

    /// Calls whoever listens at `address`, on a connection of its own that is closed afterwards: for
    /// bootstrap through seeds, whose names are not known. In errors the peer goes by its address
    /// until it has told its name.
    pub fn call_address(
        &self,
        address: &Address,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<(PeerIdentity, RpcResponse), RpcError>> {
        let (shared, address) = (Arc::clone(&self.shared), address.clone());
        Box::pin(async move {
            let (kind, lane, began) = (request.kind, request.lane, Instant::now());
            let span = tracing::debug_span!(
                "rpc.client", peer = %address, kind = kind.name(), lane = lane.name()
            );
            let calling = call_address(Arc::clone(&shared), address, request);
            let result = calling.instrument(span).await;
            shared.calls.ended((kind, lane), &result, began.elapsed());
            result
        })
    }

    /// Stops accepting and refuses new calls; lets requests in flight, in both directions, end within
    /// `drain_timeout`; closes every connection. Idempotent.
    pub async fn shutdown(&self) {
        self.shared.advance(Phase::Draining);
        self.shared.no_new_tasks();
        self.shared.peers.clear();
        lock(&self.owner.listener).take();
        let mut all_gone = self.owner.all_gone.lock().await;
        let drain = self.shared.limits().drain_timeout;
        if timeout(drain, all_gone.recv()).await.is_err() {
            self.shared.advance(Phase::Closed);
            // Tasks end at their next wait; one that never gets there must not hold up the node.
            let _ended = timeout(drain, all_gone.recv()).await.is_ok();
        }
        self.shared.advance(Phase::Closed);
        self.shared.close_carrier();
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("name", &self.shared.config.name)
            .field("local", &self.owner.local)
            .finish_non_exhaustive()
    }
}

impl PeerRpc for Transport {
    fn call(
        &self,
        peer: &NodeName,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
        let (shared, peer) = (Arc::clone(&self.shared), peer.clone());
        Box::pin(async move {
            let (kind, lane, began) = (request.kind, request.lane, Instant::now());
            let span = tracing::debug_span!(
                "rpc.client", peer = %peer, kind = kind.name(), lane = lane.name(),
                correlation = tracing::field::Empty
            );
            let calling = call(&shared, peer, request, began, &span);
            let result = calling.instrument(span.clone()).await;
            shared.calls.ended((kind, lane), &result, began.elapsed());
            result
        })
    }
}

async fn call(
    shared: &Arc<Shared>,
    peer: NodeName,
    request: RpcRequest,
    began: Instant,
    span: &Span,
) -> Result<RpcResponse, RpcError> {
    check_size(&request)?;
    let deadline = began + request.deadline.min(LONGEST_WAIT);
    #[cfg(feature = "quic")]
    if super::early::may_go(shared, &request) {
        // Boxed: its state must not be part of every call.
        let early = Box::pin(super::early::call(shared, &peer, &request, deadline));
        if let Some(answer) = early.await {
            return answer;
        }
    }
    let mut second_try = false;
    loop {
        if shared.phase_now() != Phase::Running {
            return Err(RpcError::Shutdown);
        }
        let connection = match open_connection(shared, &peer, request.lane) {
            Some(connection) => connection,
            None => Box::pin(connection(shared, &peer, request.lane, deadline)).await?,
        };
        match connection.call(request.clone(), deadline, span).await {
            // The pooled connection closed under us before anything was sent on it.
            Err(RpcError::Unreachable { .. }) if !second_try => second_try = true,
            result => return result,
        }
    }
}

async fn call_address(
    shared: Arc<Shared>,
    address: Address,
    request: RpcRequest,
) -> Result<(PeerIdentity, RpcResponse), RpcError> {
    check_size(&request)?;
    let label = label_of(&address)?;
    if shared.phase_now() != Phase::Running {
        return Err(RpcError::Shutdown);
    }
    let deadline = Instant::now() + request.deadline.min(LONGEST_WAIT);
    let Ok(_permit) = shared.unpooled.try_acquire() else {
        return Err(RpcError::Overloaded { peer: label });
    };
    let lane = request.lane;
    let dialler = Arc::clone(&shared);
    let name = label.clone();
    let dialled = async move { dial(&dialler, &address, None, &name, lane).await };
    let mut dialling = AbortOnDrop(shared.runtime(lane).spawn(dialled));
    let unreachable = |reason: &str| RpcError::Unreachable {
        peer: label.clone(),
        reason: reason.to_owned(),
    };
    let connection = match timeout_at(deadline, &mut dialling.0).await {
        Ok(Ok(dialled)) => dialled?,
        Ok(Err(_)) => return Err(unreachable("the dial was abandoned")),
        Err(_) => return Err(unreachable("still connecting at the deadline")),
    };
    let response = connection.call(request, deadline, &Span::none()).await?;
    Ok((connection.peer().clone(), response))
}

/// A task that nobody waits for any more is stopped.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A name to stand for an address in errors: `[::1]:9093` becomes `--1_9093`.
pub(crate) fn label_of(address: &Address) -> Result<NodeName, RpcError> {
    let mut label: String = format!("{}_{}", address.host(), address.port())
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
                c
            } else {
                '-'
            }
        })
        .collect();
    label.truncate(limits::MAX_NODE_NAME_BYTES);
    NodeName::new(&label).map_err(|e| RpcError::Malformed(e.to_string()))
}
