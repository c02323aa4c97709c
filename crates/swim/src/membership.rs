//! The handle: start, join, look, leave.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Address, BoxFuture, Clock, Datagram, Entropy, NodeInfo, NodeName, OsEntropy, SystemClock,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{SharedSecret, SwimConfig};
use crate::contact::MAX_SEEDS;
use crate::detector::Detector;
use crate::driver::{Command, Driver, Saving};
use crate::error::SwimError;
use crate::event_log::{EventLog, EventStream};
use crate::member::{Member, MemberState, MembershipView};
use crate::message::MAX_EVENT_BYTES;
use crate::profile::{Destination, MAX_METADATA_BYTES};
use crate::resolver::Resolver;
use crate::state_file::SavedState;
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
    /// A second way to ask a member whether it is there, when its datagrams stay out: a firewall that
    /// drops UDP then raises no false alarm.
    pub stream: Option<Arc<dyn StreamProbe>>,
}

/// Port: asks a member over a stream whether it is there.
pub trait StreamProbe: Send + Sync + 'static {
    /// Whether this life of the member answers. The caller drops the future after a ping timeout.
    fn probe(&self, member: NodeName, boot_id: u64, to: Destination) -> BoxFuture<'static, bool>;
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
    /// Where the members of the last life were.
    remembered: Arc<[Address]>,
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
            stream: None,
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
        let saved = restore(&mut config, ports.clock.as_ref())?;
        config.stream_fallback = ports.stream.is_some();
        let saving = config.state_file.clone().map(|path| Saving {
            path,
            boot_id: saved.boot_id,
            saved: saved.peers.clone(),
            next: ports.clock.now(),
        });
        let stream_timeout = config.ping_timeout;
        let join_timeout = config.join_timeout;
        let local = local_node.cluster_addr.clone();
        let seed = ports.entropy.next_u64();
        let detector = Detector::new(local_node, config, seed, ports.clock.now())?;
        let first = Arc::new(detector.view());
        let log = EventLog::new(Arc::clone(&first));
        let (view_tx, view) = watch::channel(first);
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
            log,
            events: Vec::new(),
            stream: ports.stream,
            stream_timeout,
            stream_probes: tokio::task::JoinSet::new(),
            saving,
        };
        tokio::spawn(driver.run());
        Ok(Self {
            local,
            join_timeout,
            commands,
            view,
            remembered: saved.peers.into(),
        })
    }

    /// Asks the seeds (`host:port` each; names are resolved in the background and again and again) and
    /// waits until one has answered. The node's own address among them is ignored; without any other
    /// there is nothing to wait for. The seeds are kept, and asked again while this node is alone. The
    /// members that a state file remembers are asked as well.
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
        let mut seeds = addresses.clone();
        seeds.extend(self.remembered.iter().cloned());
        seeds.truncate(MAX_SEEDS);
        let command = Command::Join { seeds, contacted };
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

    /// The events in their order, beginning with a snapshot; a reader that lags too far gets another
    /// snapshot instead of a gap.
    ///
    /// # Errors
    /// [`SwimError::Stopped`].
    pub async fn subscribe(&self) -> Result<EventStream, SwimError> {
        let (done, stream) = oneshot::channel();
        self.ask(Command::Subscribe { done }, stream).await
    }

    /// Replaces what this node says of itself beside its addresses; everybody hears of it.
    ///
    /// # Errors
    /// [`SwimError::InvalidConfig`] for more than 512 bytes, [`SwimError::Stopped`].
    pub async fn set_metadata(&self, metadata: Bytes) -> Result<(), SwimError> {
        if metadata.len() > MAX_METADATA_BYTES {
            let reason = format!("at most {MAX_METADATA_BYTES} bytes are allowed");
            return Err(SwimError::config("metadata", reason));
        }
        let sent = self.commands.send(Command::SetMetadata(metadata)).await;
        sent.map_err(|_| SwimError::Stopped)
    }

    /// Tells every member this once, best effort: [`crate::Event::User`] over there.
    ///
    /// # Errors
    /// [`SwimError::InvalidConfig`] for more than 512 bytes, [`SwimError::Stopped`].
    pub async fn broadcast(&self, payload: Bytes) -> Result<(), SwimError> {
        if payload.len() > MAX_EVENT_BYTES {
            let reason = format!("at most {MAX_EVENT_BYTES} bytes are allowed");
            return Err(SwimError::config("event", reason));
        }
        let sent = self.commands.send(Command::Broadcast(payload)).await;
        sent.map_err(|_| SwimError::Stopped)
    }

    /// Takes datagrams under a further secret from now on, and gives its key's number. A rotation is
    /// three steps, each on all nodes before the next: install, [`Membership::use_key`],
    /// [`Membership::remove_key`]. No member is suspected meanwhile.
    ///
    /// # Errors
    /// [`SwimError::NoKeys`], [`SwimError::InvalidConfig`], [`SwimError::Stopped`].
    pub async fn install_secret(&self, secret: SharedSecret) -> Result<u8, SwimError> {
        let (done, result) = oneshot::channel();
        self.ask(Command::Install { secret, done }, result).await?
    }

    /// Prefers this key for sending from now on.
    ///
    /// # Errors
    /// [`SwimError::NoKeys`], [`SwimError::UnknownKey`], [`SwimError::Stopped`].
    pub async fn use_key(&self, key: u8) -> Result<(), SwimError> {
        let (done, result) = oneshot::channel();
        self.ask(Command::Use { key, done }, result).await?
    }

    /// Stops taking datagrams under this key, after a grace of ten seconds.
    ///
    /// # Errors
    /// [`SwimError::NoKeys`], [`SwimError::UnknownKey`], [`SwimError::PrimaryKey`],
    /// [`SwimError::Stopped`].
    pub async fn remove_key(&self, key: u8) -> Result<(), SwimError> {
        let (done, result) = oneshot::channel();
        self.ask(Command::Remove { key, done }, result).await?
    }

    /// Holds these secrets from now on, as if the node had been restarted with them: the first one for
    /// sending, the others for members that do not hold it yet. What is held besides goes as by
    /// [`Membership::remove_key`].
    ///
    /// # Errors
    /// [`SwimError::NoKeys`], [`SwimError::InvalidConfig`], [`SwimError::Stopped`]: nothing has changed.
    pub async fn replace_secrets(&self, secret: SharedSecret) -> Result<(), SwimError> {
        let (done, result) = oneshot::channel();
        self.ask(Command::Replace { secret, done }, result).await?
    }

    async fn ask<T>(&self, command: Command, answer: oneshot::Receiver<T>) -> Result<T, SwimError> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| SwimError::Stopped)?;
        answer.await.map_err(|_| SwimError::Stopped)
    }

    /// Tells the others that this node goes, until three of them (or all) have acknowledged it or six
    /// periods have passed, and stops.
    ///
    /// # Errors
    /// [`SwimError::Stopped`] if it had stopped before.
    pub async fn leave(&self) -> Result<(), SwimError> {
        let (done, told) = oneshot::channel();
        self.ask(Command::Leave { done }, told).await
    }
}

/// Settles the boot id: the configured one, or one that is greater than the last life's.
fn restore(config: &mut SwimConfig, clock: &dyn Clock) -> Result<SavedState, SwimError> {
    let failed = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| SwimError::State { path, source }
    };
    let mut saved = match &config.state_file {
        Some(path) => SavedState::load(path).map_err(failed(path))?,
        None => SavedState::default(),
    };
    let wall = u64::try_from(clock.wall().0).unwrap_or(0);
    let boot_id = config
        .boot_id
        .unwrap_or_else(|| wall.max(saved.boot_id.saturating_add(1)));
    config.boot_id = Some(boot_id);
    saved.boot_id = boot_id;
    if let Some(path) = &config.state_file {
        // Before the first datagram: no life may begin that the next one would not know of.
        saved.store(path).map_err(failed(path))?;
    }
    Ok(saved)
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
