//! The listener.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::admission::{Admission, LogGate};
use crate::broker::Broker;
use crate::config::KafkaConfig;
use crate::connection::{self, Shared};
use crate::error::KafkaError;
use crate::handlers::Context;
use crate::metrics;

/// The pause after a failed accept: when file descriptors have run out it fails at once, again and
/// again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How much longer than the grace the connections may take to end before they are cut off.
const STOP_MARGIN: Duration = Duration::from_secs(1);

/// A running Kafka port. Dropping it stops the server without waiting for its connections.
#[derive(Debug)]
pub struct KafkaServer {
    local_addr: SocketAddr,
    stop: watch::Sender<bool>,
    listener: JoinHandle<()>,
}

impl KafkaServer {
    /// Listens on `addr` (port 0 chooses one) and serves `broker` on the tokio runtime that this is
    /// called from.
    ///
    /// # Errors
    /// [`KafkaError::Config`], [`KafkaError::AddressInUse`] and [`KafkaError::Bind`]; nothing is left
    /// running.
    pub async fn bind(
        addr: SocketAddr,
        config: KafkaConfig,
        broker: Arc<dyn Broker>,
    ) -> Result<Self, KafkaError> {
        config.validate()?;
        let listener = TcpListener::bind(addr).await.map_err(|source| {
            if source.kind() == io::ErrorKind::AddrInUse {
                KafkaError::AddressInUse { addr }
            } else {
                KafkaError::Bind { addr, source }
            }
        })?;
        let local_addr = listener
            .local_addr()
            .map_err(|source| KafkaError::Bind { addr, source })?;
        let (stop, stopped) = watch::channel(false);
        let shared = Shared {
            memory: Arc::new(Semaphore::new(config.request_memory_bytes)),
            gate: Arc::default(),
            context: Context {
                broker,
                config: Arc::new(config),
                peer: None,
            },
        };
        tracing::info!(%local_addr, "the Kafka port listens");
        Ok(Self {
            local_addr,
            stop,
            listener: tokio::spawn(listen(listener, shared, stopped)),
        })
    }

    /// The address that it listens on.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops accepting and reading, answers the requests in flight for as long as
    /// [`KafkaConfig::shutdown_grace`] allows, and closes all connections.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.listener.await {
            tracing::error!(%error, "the Kafka listener failed");
        }
    }
}

async fn listen(listener: TcpListener, shared: Shared, mut stop: watch::Receiver<bool>) {
    let admission = Arc::new(Admission::new(&shared.context.config));
    let gate = LogGate::default();
    let mut connections = JoinSet::new();
    let stopped = stop.clone();
    loop {
        tokio::select! {
            () = connection::stopped(&mut stop) => break,
            Some(ended) = connections.join_next() => {
                // A panic ends its own connection and no other.
                if let Err(error) = ended {
                    tracing::error!(%error, "a Kafka connection failed");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    take(&shared, &admission, &gate, &mut connections, (stream, peer), &stopped);
                }
                Err(error) => {
                    metrics::rejected("accept");
                    if let Some(suppressed) = gate.pass() {
                        tracing::warn!(%error, suppressed, "cannot accept a Kafka connection");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let limit = shared.context.config.shutdown_grace + STOP_MARGIN;
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(limit, all).await.is_err() {
        tracing::warn!(left = connections.len(), "cut off Kafka connections");
    }
    connections.shutdown().await;
}

fn take(
    shared: &Shared,
    admission: &Arc<Admission>,
    gate: &LogGate,
    connections: &mut JoinSet<()>,
    (stream, peer): (TcpStream, SocketAddr),
    stop: &watch::Receiver<bool>,
) {
    match admission.admit(peer.ip()) {
        Ok(ticket) => {
            let (shared, stop) = (shared.clone(), stop.clone());
            connections.spawn(async move {
                connection::serve(shared, stream, stop).await;
                drop(ticket);
            });
        }
        Err(refused) => {
            let reason = refused.name();
            metrics::rejected(reason);
            if let Some(suppressed) = gate.pass() {
                tracing::warn!(%peer, reason, suppressed, "refused a Kafka connection");
            }
        }
    }
}
