//! The handle: start, join, look, leave.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{
    Address, Clock, Datagram, Entropy, NodeInfo, NodeName, OsEntropy, SystemClock,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::SwimConfig;
use crate::detector::{Detector, MAX_SEEDS};
use crate::driver::{Command, Driver};
use crate::error::SwimError;
use crate::member::{Member, MemberState, MembershipView};
use crate::resolver::Resolver;
use crate::udp::UdpDatagram;

/// Commands that wait for the driver; callers wait beyond that.
const COMMAND_QUEUE: usize = 16;

/// What a membership needs of the outside.
#[derive(Clone)]
pub struct SwimPorts {
    /// The bound socket. Dropping a pending `recv_from` must lose nothing.
    pub datagram: Arc<dyn Datagram>,
    /// The clock; must advance with tokio's time, which the driver sleeps on.
    pub clock: Arc<dyn Clock>,
    /// Seeds the random choices.
    pub entropy: Arc<dyn Entropy>,
}

impl std::fmt::Debug for SwimPorts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwimPorts").finish_non_exhaustive()
    }
}

/// A running membership. Clones are handles to the same one; it stops when the last is dropped, when
/// shutdown is signalled (at once, as a crash would: call [`Membership::leave`] first to say goodbye),
/// or when it has left.
///
/// Its task runs on the runtime that it was started on: give it one that record I/O does not block.
#[derive(Debug, Clone)]
pub struct Membership {
    local: Address,
    join_timeout: Duration,
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<MembershipView>>,
}

impl Membership {
    /// Binds UDP on `config.bind_addr`, or else on the node's `cluster_addr`, and starts. With port 0
    /// the node advertises the port that it got. `shutdown_rx` turning true stops it; its sender may
    /// be dropped.
    ///
    /// # Errors
    /// Everything of [`Detector::new`], and [`SwimError::Bind`]. Nothing was started.
    pub async fn new(
        local_node: NodeInfo,
        config: SwimConfig,
        shutdown_rx: watch::Receiver<bool>,
    ) -> Result<Self, SwimError> {
        config.validate_for(&local_node)?;
        let datagram = match config.bind_addr {
            Some(address) => bind(address.to_string(), &[address]).await?,
            None => {
                let address = &local_node.cluster_addr;
                let found = tokio::net::lookup_host((address.host(), address.port())).await;
                let found: Vec<SocketAddr> = found
                    .map_err(|source| SwimError::Bind {
                        address: address.to_string(),
                        source,
                    })?
                    .collect();
                bind(address.to_string(), &found).await?
            }
        };
        let ports = SwimPorts {
            datagram: Arc::new(datagram),
            clock: Arc::new(SystemClock::default()),
            entropy: Arc::new(OsEntropy),
        };
        Self::with_ports(local_node, config, ports, shutdown_rx).await
    }

    /// The same over ports of the caller's.
    ///
    /// # Errors
    /// As [`Membership::new`].
    #[expect(
        clippy::unused_async,
        reason = "the same shape as `new`; and it must be called within a runtime"
    )]
    pub async fn with_ports(
        mut local_node: NodeInfo,
        mut config: SwimConfig,
        ports: SwimPorts,
        shutdown_rx: watch::Receiver<bool>,
    ) -> Result<Self, SwimError> {
        let bound = ports.datagram.local_addr();
        let bound = bound.map_err(|source| SwimError::Bind {
            address: local_node.cluster_addr.to_string(),
            source,
        })?;
        if local_node.cluster_addr.port() == 0 {
            let host = local_node.cluster_addr.host().to_owned();
            let address = Address::new(host, bound.port());
            local_node.cluster_addr = address.map_err(|_| SwimError::UnusableAddress {
                address: local_node.cluster_addr.clone(),
            })?;
        }
        if config.boot_id.is_none() {
            let wall = u64::try_from(ports.clock.wall().0).unwrap_or(0);
            config.boot_id = Some(wall.max(1));
        }
        let join_timeout = config.join_timeout;
        let local = local_node.cluster_addr.clone();
        let seed = ports.entropy.next_u64();
        let detector = Detector::new(local_node, config, seed, ports.clock.now())?;
        let (view_tx, view) = watch::channel(Arc::new(detector.view()));
        let (commands, commands_rx) = mpsc::channel(COMMAND_QUEUE);
        let driver = Driver {
            detector,
            datagram: ports.datagram,
            clock: ports.clock,
            resolver: Resolver::new(bound),
            commands: commands_rx,
            shutdown: shutdown_rx,
            view: view_tx,
            join_waiters: Vec::new(),
            leave_waiters: Vec::new(),
        };
        tokio::spawn(driver.run());
        Ok(Self {
            local,
            join_timeout,
            commands,
            view,
        })
    }

    /// Asks the seeds (`host:port` each; names are resolved in the background and again and again) and
    /// waits until one has answered. The node's own address among them is ignored; without any other
    /// there is nothing to wait for. The seeds are kept, and asked again while this node is alone.
    ///
    /// # Errors
    /// [`SwimError::InvalidSeed`], [`SwimError::InvalidConfig`] for more than 64 seeds,
    /// [`SwimError::NoSeedAnswered`] after `join_timeout` (retriable), [`SwimError::Stopped`].
    pub async fn join<S: Display>(&self, seeds: &[S]) -> Result<(), SwimError> {
        let mut addresses = Vec::new();
        for seed in seeds {
            let seed = seed.to_string();
            let address = seed.parse::<Address>();
            addresses.push(address.map_err(|source| SwimError::InvalidSeed { seed, source })?);
        }
        addresses.retain(|address| *address != self.local);
        if addresses.is_empty() {
            return Ok(());
        }
        if addresses.len() > MAX_SEEDS {
            let reason = format!("{} given; at most {MAX_SEEDS} are allowed", addresses.len());
            return Err(SwimError::config("seeds", reason));
        }
        let (contacted, heard) = oneshot::channel();
        let command = Command::Join {
            seeds: addresses.clone(),
            contacted,
        };
        let sent = self.commands.send(command).await;
        sent.map_err(|_| SwimError::Stopped)?;
        match tokio::time::timeout(self.join_timeout, heard).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(SwimError::Stopped),
            Err(_) => Err(SwimError::NoSeedAnswered {
                seeds: addresses,
                waited: self.join_timeout,
            }),
        }
    }

    /// All members by name: this node, and those that are dead or gone but remembered, included.
    pub fn members(&self) -> Vec<Member> {
        self.view.borrow().members.clone()
    }

    /// What is believed of one member; `None` if it is unknown.
    pub fn state_of(&self, name: &NodeName) -> Option<MemberState> {
        self.view.borrow().get(name).map(|member| member.state)
    }

    /// The newest view.
    pub fn view(&self) -> Arc<MembershipView> {
        Arc::clone(&self.view.borrow())
    }

    /// This node as it is advertised, with the port that it got.
    pub fn local_addr(&self) -> &Address {
        &self.local
    }

    /// Follows the membership: a reader that lags sees the newest view, and
    /// [`MembershipView::changes_since`] tells it what it missed. Closed when the membership stops.
    pub fn events(&self) -> watch::Receiver<Arc<MembershipView>> {
        self.view.clone()
    }

    /// Tells the others that this node goes, over a few periods, and stops.
    ///
    /// # Errors
    /// [`SwimError::Stopped`] if it had stopped before.
    pub async fn leave(&self) -> Result<(), SwimError> {
        let (done, told) = oneshot::channel();
        let sent = self.commands.send(Command::Leave { done }).await;
        sent.map_err(|_| SwimError::Stopped)?;
        told.await.map_err(|_| SwimError::Stopped)
    }
}

async fn bind(address: String, candidates: &[SocketAddr]) -> Result<UdpDatagram, SwimError> {
    let none = std::io::Error::new(
        std::io::ErrorKind::NotFound,
        "the name resolves to no address",
    );
    let mut source = none;
    for candidate in candidates {
        match UdpDatagram::bind(*candidate).await {
            Ok(datagram) => return Ok(datagram),
            Err(error) => source = error,
        }
    }
    Err(SwimError::Bind { address, source })
}
