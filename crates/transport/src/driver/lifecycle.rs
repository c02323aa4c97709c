//! What all tasks of one transport share: its configuration, its phase, and who is still alive.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rivven_core_types::{Address, ClusterId, Entropy, Lane, Rng};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::admission::Door;
use super::memory::CONTROL_BYTES;
use super::metrics::Calls;
use super::peers::Peers;
#[cfg(feature = "quic")]
use super::quic::Quic;
use super::transport::TransportRuntimes;
#[cfg(feature = "tls")]
use crate::config::Security;
use crate::config::{TransportConfig, TransportLimits};
use crate::error::{HandshakeError, TransportError};
use crate::handshake::LocalIdentity;
#[cfg(feature = "tls")]
use crate::tls::Reloader;

/// At most one warning of a kind in this time.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// How far a transport has been shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    Draining,
    Closed,
}

/// Locks a mutex that guards plain data: a panic elsewhere leaves it as valid as it was.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What connections run over.
pub(super) enum Carrier {
    Tcp,
    /// A bound UDP socket, and what peers are told of it where TCP is there as well.
    #[cfg(feature = "quic")]
    Quic(
        std::net::UdpSocket,
        crate::quic::QuicConfig,
        Option<Address>,
    ),
}

pub(super) struct Shared {
    pub(super) config: TransportConfig,
    pub(super) runtimes: TransportRuntimes,
    pub(super) entropy: Arc<dyn Entropy>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Reloader>,
    #[cfg(feature = "quic")]
    pub(super) quic: Option<Quic>,
    pub(super) peers: Peers,
    pub(super) phase: watch::Sender<Phase>,
    pub(super) unpooled: Semaphore,
    /// Those who have not finished the handshake, over TCP or QUIC.
    pub(super) door: Door,
    /// Places for accepted connections, TCP's and lanes of QUIC's.
    pub(super) accepted: Arc<Semaphore>,
    /// Memory that peers may still take on the rpc and bulk lanes.
    pub(super) memory: Arc<Semaphore>,
    /// The same on the control lane.
    pub(super) control_memory: Arc<Semaphore>,
    pub(super) calls: Calls,
    cluster: Mutex<Option<ClusterId>>,
    warned: Mutex<BTreeMap<&'static str, Instant>>,
    /// Every task holds a clone until it ends; the transport takes its own away at shutdown.
    alive: Mutex<Option<mpsc::Sender<()>>>,
}

impl Shared {
    /// Over `carrier`; see [`Carrier`].
    pub(super) fn new(
        config: TransportConfig,
        carrier: Carrier,
        runtimes: TransportRuntimes,
        entropy: Arc<dyn Entropy>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<()>), TransportError> {
        #[cfg(feature = "tls")]
        let tls = match &config.security {
            Security::MutualTls(tls) => Some(Reloader::start(tls.clone(), config.name.clone())?),
            Security::SharedSecret(_) | Security::InsecureDev => None,
        };
        #[cfg(feature = "quic")]
        let quic = match (carrier, &tls) {
            (Carrier::Quic(socket, quic, advertised), Some(tls)) => {
                Some(Quic::new(socket, quic, advertised, &tls.current())?)
            }
            (Carrier::Quic(..), None) => {
                let reason = "QUIC needs mutual TLS".to_owned();
                return Err(TransportError::Certificate(reason));
            }
            (Carrier::Tcp, _) => None,
        };
        #[cfg(not(feature = "quic"))]
        let Carrier::Tcp = carrier;
        let (alive, all_gone) = mpsc::channel(1);
        let shared = Arc::new(Self {
            runtimes,
            entropy,
            #[cfg(feature = "tls")]
            tls,
            #[cfg(feature = "quic")]
            quic,
            peers: Peers::default(),
            phase: watch::Sender::new(Phase::Running),
            unpooled: Semaphore::new(config.limits.max_unpooled_calls),
            door: Door::default(),
            accepted: Arc::new(Semaphore::new(config.limits.max_connections)),
            memory: Arc::new(Semaphore::new(config.limits.max_node_bytes)),
            control_memory: Arc::new(Semaphore::new(CONTROL_BYTES)),
            calls: Calls::default(),
            cluster: Mutex::new(config.cluster_id),
            warned: Mutex::default(),
            alive: Mutex::new(Some(alive)),
            config,
        });
        Ok((shared, all_gone))
    }

    pub(super) const fn limits(&self) -> &TransportLimits {
        &self.config.limits
    }

    pub(super) const fn runtime(&self, lane: Lane) -> &Handle {
        match lane {
            Lane::Control | Lane::Rpc => &self.runtimes.control,
            Lane::Bulk => &self.runtimes.data,
        }
    }

    pub(super) fn cluster(&self) -> Option<ClusterId> {
        *lock(&self.cluster)
    }

    pub(super) fn set_cluster(&self, cluster: ClusterId) {
        *lock(&self.cluster) = Some(cluster);
    }

    pub(super) fn identity(&self) -> LocalIdentity {
        LocalIdentity {
            name: self.config.name.clone(),
            incarnation: self.config.incarnation,
            cluster: self.cluster(),
            quic: self.advertised_quic(),
        }
    }

    fn advertised_quic(&self) -> Option<Address> {
        #[cfg(feature = "quic")]
        return self.quic.as_ref().and_then(|quic| quic.advertised.clone());
        #[cfg(not(feature = "quic"))]
        None
    }

    pub(super) fn phase_now(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Moves the phase forward, never back.
    pub(super) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = (*phase).max(to);
            forward
        });
    }

    /// Waits until the phase is at least `phase`.
    pub(super) async fn reached(&self, phase: Phase) {
        let mut phases = self.phase.subscribe();
        // The sender lives in `self`, so that the wait cannot fail.
        let _reached = phases.wait_for(|now| *now >= phase).await.is_ok();
    }

    /// Tells the metric how much memory is held.
    pub(super) fn note_memory(&self) {
        let left = self.memory.available_permits() + self.control_memory.available_permits();
        let all = self.limits().max_node_bytes + CONTROL_BYTES;
        super::metrics::memory_held(all.saturating_sub(left));
    }

    /// Closes what all connections run over, if there is such a thing.
    pub(super) fn close_carrier(&self) {
        #[cfg(feature = "quic")]
        if let Some(quic) = &self.quic {
            quic.close();
        }
    }

    /// Reads the certificates again; see [`Reloader::reload`]. Peers are then met anew.
    #[cfg(feature = "tls")]
    pub(super) fn reload_certificates(&self) -> Result<(), TransportError> {
        let Some(tls) = &self.tls else {
            return Ok(());
        };
        let reloaded = tls.reload();
        super::metrics::certificates_reloaded(reloaded.is_ok());
        super::metrics::certificate_ends(tls.current().not_after);
        if reloaded.is_ok() {
            #[cfg(feature = "quic")]
            if let Some(quic) = &self.quic {
                quic.renew(&tls.current())?;
            }
            self.peers.reconnect_all();
        }
        reloaded
    }

    /// A token that a task holds until it ends; `None` when there must be no new tasks.
    pub(super) fn alive(&self) -> Option<mpsc::Sender<()>> {
        lock(&self.alive).clone()
    }

    pub(super) fn no_new_tasks(&self) {
        lock(&self.alive).take();
    }

    /// A pause of up to `base * 2^doublings`, at most `backoff_max`: full jitter, so that nodes that
    /// failed together do not come back together.
    pub(super) fn backoff(&self, doublings: u32) -> Duration {
        let limits = self.limits();
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let most = limits.backoff_min.saturating_mul(factor);
        let most = most.min(limits.backoff_max);
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(Rng::new(self.entropy.next_u64()).below(micros.saturating_add(1)))
    }

    /// Whether a warning about `what` is due.
    pub(super) fn may_warn(&self, what: &'static str) -> bool {
        let now = Instant::now();
        let mut warned = lock(&self.warned);
        let due = warned
            .get(what)
            .is_none_or(|last| now.duration_since(*last) >= WARN_EVERY);
        if due {
            warned.insert(what, now);
        }
        due
    }

    pub(super) fn handshake_failed(&self, side: &'static str, peer: &str, error: &HandshakeError) {
        let reason = error.name();
        super::metrics::handshake_failed(reason);
        if matches!(error, HandshakeError::Refused(_)) && self.may_warn(reason) {
            tracing::warn!(peer, side, reason, "handshake refused: {error}");
        } else {
            tracing::debug!(peer, side, reason, "handshake failed: {error}");
        }
    }
}
