//! The network as the coordinator needs it, and its TCP and UDP implementation.

use std::net::SocketAddr;
use std::sync::Arc;

use rivven_core_types::{
    Address, BoxFuture, ClusterId, Datagram, Entropy, Incarnation, NodeName, PeerIdentity, PeerRpc,
    RpcError, RpcHandler, RpcRequest, RpcResponse,
};
use rivven_swim::{SwimError, UdpDatagram};
use rivven_transport::{
    Compression, Security, Transport, TransportConfig, TransportLimits, TransportRuntimes,
};

use crate::error::CoordinatorError;

/// A node's connections to its peers.
pub trait ClusterNetwork: PeerRpc {
    /// Starts answering peers.
    fn serve(&self, handler: Arc<dyn RpcHandler>);
    /// Learns or updates where a peer is.
    fn add_peer(&self, name: NodeName, address: Address);
    /// Learns which cluster this node belongs to; connections made before are given up.
    fn set_cluster_id(&self, cluster: ClusterId);
    /// Calls whoever answers at `address`, before names are known.
    fn call_address(
        &self,
        address: &Address,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<(PeerIdentity, RpcResponse), RpcError>>;
    /// Closes all connections after a short grace.
    fn shutdown(&self) -> BoxFuture<'static, ()>;
}

/// Who binds.
#[derive(Debug, Clone)]
pub struct NetworkIdentity {
    /// The node's name.
    pub name: NodeName,
    /// The life of its data directory.
    pub incarnation: Incarnation,
    /// Its cluster, if it knows it.
    pub cluster: Option<ClusterId>,
}

/// A bound network: RPC and the failure detector's datagrams.
#[derive(Clone)]
pub struct BoundNetwork {
    /// Calls to and from peers.
    pub rpc: Arc<dyn ClusterNetwork>,
    /// The failure detector's socket.
    pub datagram: Arc<dyn Datagram>,
}

impl std::fmt::Debug for BoundNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BoundNetwork")
    }
}

/// Port: binds a node's network once its identity has been read from the disk.
pub trait NetworkFactory: Send + Sync + 'static {
    /// Binds, or says which address is not to be had.
    fn bind(
        &self,
        identity: NetworkIdentity,
    ) -> BoxFuture<'static, Result<BoundNetwork, CoordinatorError>>;
}

/// Real sockets: TCP for RPC and UDP for the failure detector, on the same port, and QUIC on another one.
#[derive(Debug, Clone)]
pub struct SocketNetwork {
    /// Where to listen.
    pub listen: SocketAddr,
    /// QUIC beside TCP, if wanted.
    #[cfg(feature = "quic")]
    pub quic: Option<rivven_transport::QuicListen>,
    /// How peers prove who they are.
    pub security: Security,
    /// Whether long bodies are compressed.
    pub compression: Compression,
    /// Bounds.
    pub limits: TransportLimits,
    /// Which runtime serves which lane.
    pub runtimes: TransportRuntimes,
    /// Nonces come from here.
    pub entropy: SharedEntropy,
}

/// A shared source of entropy that can be printed.
#[derive(Clone)]
pub struct SharedEntropy(pub Arc<dyn Entropy>);

impl std::fmt::Debug for SharedEntropy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entropy")
    }
}

impl NetworkFactory for SocketNetwork {
    fn bind(
        &self,
        identity: NetworkIdentity,
    ) -> BoxFuture<'static, Result<BoundNetwork, CoordinatorError>> {
        let this = self.clone();
        Box::pin(async move {
            let config = TransportConfig {
                name: identity.name,
                incarnation: identity.incarnation,
                cluster_id: identity.cluster,
                listen: this.listen,
                security: this.security,
                compression: this.compression,
                limits: this.limits,
            };
            let (runtimes, entropy) = (this.runtimes, this.entropy.0);
            #[cfg(feature = "quic")]
            let transport = match this.quic {
                Some(quic) => Transport::bind_beside_quic(config, quic, runtimes, entropy).await?,
                None => Transport::bind(config, runtimes, entropy).await?,
            };
            #[cfg(not(feature = "quic"))]
            let transport = Transport::bind(config, runtimes, entropy).await?;
            let address = transport.local_addr();
            let unbound = |source| SwimError::Bind {
                address: format!("the UDP address {address}"),
                source,
            };
            let datagram = UdpDatagram::bind(address).await.map_err(unbound)?;
            Ok(BoundNetwork {
                rpc: Arc::new(transport),
                datagram: Arc::new(datagram),
            })
        })
    }
}

impl ClusterNetwork for Transport {
    fn serve(&self, handler: Arc<dyn RpcHandler>) {
        Self::serve(self, handler);
    }

    fn add_peer(&self, name: NodeName, address: Address) {
        Self::add_peer(self, name, address);
    }

    fn set_cluster_id(&self, cluster: ClusterId) {
        Self::set_cluster_id(self, cluster);
    }

    fn call_address(
        &self,
        address: &Address,
        request: RpcRequest,
    ) -> BoxFuture<'static, Result<(PeerIdentity, RpcResponse), RpcError>> {
        Self::call_address(self, address, request)
    }

    fn shutdown(&self) -> BoxFuture<'static, ()> {
        let transport = self.clone();
        Box::pin(async move { Self::shutdown(&transport).await })
    }
}
