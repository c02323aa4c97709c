//! QUIC as a transport of its own: bind, start, add peers, send.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use rivven_core_types::{
    Address, Entropy as _, Incarnation, NodeName, OsEntropy, PeerIdentity, PeerRpc as _, Reply,
    RpcError, RpcHandler, RpcRequest, RpcResponse,
};

use super::config::QuicConfig;
use crate::config::{Compression, Security, TransportConfig, TransportLimits};
use crate::driver::{Transport, TransportRuntimes, address_label, bind_udp};
use crate::error::TransportError;
use crate::tls::TlsConfig;

/// Calls to and from peers over QUIC: TLS 1.3 on both sides, one connection per peer, a stream per lane.
///
/// Peers go by the node names of their certificates. An identity made with [`TlsConfig::self_signed`] and
/// without [`TlsConfig::for_node`] is named after the bound address (see [`Self::name`]).
///
/// ```no_run
/// # async fn run(
/// #     bind_addr: std::net::SocketAddr,
/// #     peer_id: rivven_core_types::NodeName,
/// #     peer_addr: std::net::SocketAddr,
/// #     request: rivven_core_types::RpcRequest,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// use rivven_transport::{QuicConfig, QuicTransport, TlsConfig};
///
/// let config = QuicConfig::high_throughput();
/// let tls = TlsConfig::self_signed("rivven-cluster")?;
///
/// let transport = QuicTransport::new(bind_addr, config, tls).await?;
/// transport.start().await?;
/// transport.add_peer(peer_id.clone(), peer_addr);
///
/// let response = transport.send(&peer_id, request).await?;
/// # drop(response);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct QuicTransport {
    transport: Transport,
    name: NodeName,
    handler: Handler,
}

#[derive(Clone)]
struct Handler(Arc<Mutex<Arc<dyn RpcHandler>>>);

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Handler")
    }
}

/// Serves nothing.
struct Nobody;

impl RpcHandler for Nobody {
    fn handle(&self, _peer: &PeerIdentity, request: RpcRequest) -> Reply {
        let kind = request.kind;
        Reply::Now(Err(RpcError::UnknownKind { kind }))
    }
}

impl QuicTransport {
    /// Binds the UDP socket on the current runtime. Nothing is accepted before [`Self::start`].
    ///
    /// Fails with the address if it cannot be bound, with the file if a certificate cannot be used, and
    /// with the name of a setting that is out of range.
    pub async fn new(
        bind: SocketAddr,
        config: QuicConfig,
        tls: TlsConfig,
    ) -> Result<Self, TransportError> {
        config.validate()?;
        let (socket, local) = bind_udp(bind, config.socket_buffer_bytes)?;
        let name = match tls.node()? {
            Some(name) => name,
            None => address_label(&Address::from(local))
                .map_err(|e| TransportError::Certificate(e.to_string()))?,
        };
        let mut incarnation = [0; 16];
        OsEntropy.fill(&mut incarnation);
        let settings = TransportConfig {
            name: name.clone(),
            incarnation: Incarnation::from_bytes(incarnation),
            cluster_id: None,
            listen: local,
            security: Security::MutualTls(tls),
            compression: Compression::None,
            limits: TransportLimits::default(),
        };
        let runtimes = TransportRuntimes::current();
        let entropy = Arc::new(OsEntropy);
        let transport = Transport::over_quic(socket, settings, config, runtimes, entropy).await?;
        Ok(Self {
            transport,
            name,
            handler: Handler(Arc::new(Mutex::new(Arc::new(Nobody)))),
        })
    }

    /// Who answers the peers from now on. Until then every request is refused as an unknown kind.
    pub fn set_handler(&self, handler: Arc<dyn RpcHandler>) {
        *self
            .handler
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = handler;
    }

    /// Starts to accept peers.
    #[expect(clippy::unused_async, reason = "the documented signature")]
    pub async fn start(&self) -> Result<(), TransportError> {
        self.transport.serve(Arc::new(self.handler.clone()));
        Ok(())
    }

    /// The name by which peers know this node.
    pub const fn name(&self) -> &NodeName {
        &self.name
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.transport.local_addr()
    }

    /// Makes a peer known; does not connect yet.
    pub fn add_peer(&self, peer: NodeName, address: SocketAddr) {
        self.transport.add_peer(peer, Address::from(address));
    }

    /// Calls a peer; errors as [`rivven_core_types::PeerRpc::call`].
    pub async fn send(
        &self,
        peer: &NodeName,
        request: RpcRequest,
    ) -> Result<RpcResponse, RpcError> {
        self.transport.call(peer, request).await
    }

    /// Lets calls in flight end, and closes.
    pub async fn shutdown(&self) {
        self.transport.shutdown().await;
    }
}

impl RpcHandler for Handler {
    fn handle(&self, peer: &PeerIdentity, request: RpcRequest) -> Reply {
        let handler = Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        handler.handle(peer, request)
    }
}
