use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Address, ClusterId, Incarnation, Lane, NodeName, OsEntropy, PeerIdentity, PeerRpc, Reply,
    RpcError, RpcHandler, RpcKind, RpcRequest, RpcResponse,
};
use tokio::sync::{Notify, Semaphore};

use crate::config::{Security, TransportConfig, TransportLimits};
use crate::driver::{Transport, TransportRuntimes};
use crate::secret::Secret;

/// Answers at once with what it was sent.
pub(super) const ECHO: RpcKind = RpcKind(0x7001);
/// Answers when `Tester::gate` has a permit.
pub(super) const GATED: RpcKind = RpcKind(0x7002);
/// Panics in its future.
pub(super) const PANIC: RpcKind = RpcKind(0x7003);
/// Answers with the caller's identity.
pub(super) const WHO: RpcKind = RpcKind(0x7004);
/// Answers with a body one byte too long for the control lane.
pub(super) const TOO_MUCH: RpcKind = RpcKind(0x7005);

/// Answers with what it was sent, from a task of its own.
pub(super) const SOON: RpcKind = RpcKind(0x7007);

/// Answers with the name of the thread that runs the handler.
pub(super) const THREAD: RpcKind = RpcKind(0x7006);

pub(super) struct Tester {
    /// Lets gated requests go.
    pub(super) gate: Arc<Semaphore>,
    /// Gated requests that arrived, as permits.
    pub(super) arrived: Arc<Semaphore>,
    /// Told when a gated request is dropped unanswered.
    pub(super) dropped: Arc<Notify>,
    /// Probes that have been run.
    pub(super) probed: AtomicUsize,
}

impl Default for Tester {
    fn default() -> Self {
        Self {
            gate: Arc::new(Semaphore::new(0)),
            arrived: Arc::new(Semaphore::new(0)),
            dropped: Arc::default(),
            probed: AtomicUsize::new(0),
        }
    }
}

struct Dropped(Arc<Notify>, bool);

impl Dropped {
    fn answered(mut self) {
        self.1 = true;
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        if !self.1 {
            self.0.notify_one();
        }
    }
}

impl RpcHandler for Tester {
    fn handle(&self, peer: &PeerIdentity, request: RpcRequest) -> Reply {
        let echo = RpcResponse {
            meta: request.meta,
            body: request.body,
        };
        match request.kind {
            ECHO => Reply::Now(Ok(echo)),
            SOON => Reply::Later(Box::pin(async move { Ok(echo) })),
            WHO => Reply::Now(Ok(RpcResponse {
                meta: Bytes::from(format!("{} {:?}", peer.name, peer.cluster)),
                body: Bytes::new(),
            })),
            GATED => {
                self.arrived.add_permits(1);
                let gate = Arc::clone(&self.gate);
                let dropped = Dropped(Arc::clone(&self.dropped), false);
                Reply::Later(Box::pin(async move {
                    gate.acquire().await.unwrap().forget();
                    dropped.answered();
                    Ok(echo)
                }))
            }
            PANIC => Reply::Later(Box::pin(async { panic!("this test's handler panics") })),
            THREAD => Reply::Now(Ok(RpcResponse {
                meta: Bytes::from(std::thread::current().name().unwrap_or("").to_owned()),
                body: Bytes::new(),
            })),
            TOO_MUCH => Reply::Now(Ok(RpcResponse {
                meta: Bytes::new(),
                body: Bytes::from(vec![0; crate::frame::lane_limit(Lane::Control) + 1]),
            })),
            // Asks and changes nothing.
            RpcKind::MEMBER_PROBE => {
                self.probed.fetch_add(1, Ordering::SeqCst);
                Reply::Now(Ok(echo))
            }
            kind => Reply::Now(Err(RpcError::UnknownKind { kind })),
        }
    }
}

pub(super) struct Node {
    pub(super) transport: Transport,
    pub(super) handler: Arc<Tester>,
}

pub(super) fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

pub(super) fn cluster(byte: u8) -> ClusterId {
    ClusterId::from_bytes([byte; 16])
}

pub(super) fn secret(text: &str) -> Secret {
    Secret::new(format!("{text:-<32}")).unwrap()
}

pub(super) fn shared(text: &str) -> Security {
    Security::SharedSecret(secret(text))
}

pub(super) fn config(node: &str, security: Security) -> TransportConfig {
    TransportConfig {
        name: name(node),
        incarnation: Incarnation::from_bytes([7; 16]),
        cluster_id: None,
        listen: "127.0.0.1:0".parse().unwrap(),
        security,
        compression: crate::config::Compression::None,
        limits: TransportLimits {
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(50),
            drain_timeout: Duration::from_secs(2),
            ..TransportLimits::default()
        },
    }
}

pub(super) async fn start(config: TransportConfig) -> Node {
    let runtimes = TransportRuntimes::current();
    let transport = Transport::bind(config, runtimes, Arc::new(OsEntropy))
        .await
        .unwrap();
    let handler = Arc::new(Tester::default());
    transport.serve(Arc::<Tester>::clone(&handler));
    Node { transport, handler }
}

pub(super) async fn node(text: &str) -> Node {
    start(config(text, shared("s"))).await
}

impl Node {
    pub(super) fn knows(&self, other: &Self, as_name: &str) {
        let address = Address::from(other.transport.local_addr());
        self.transport.add_peer(name(as_name), address);
    }

    pub(super) async fn call(
        &self,
        peer: &str,
        request: RpcRequest,
    ) -> Result<RpcResponse, RpcError> {
        within(self.transport.call(&name(peer), request)).await
    }
}

pub(super) fn request(kind: RpcKind, lane: Lane, meta: &'static [u8]) -> RpcRequest {
    RpcRequest {
        kind,
        lane,
        meta: Bytes::from_static(meta),
        body: Bytes::new(),
        deadline: Duration::from_secs(10),
    }
}

/// Every wait of these tests: long for a busy machine, short for a person.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("the condition was not met in time")
}

/// Calls until the answer is as wanted.
pub(super) async fn eventually<T>(what: impl AsyncFn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    within(async {
        loop {
            let outcome = what().await;
            if wanted(&outcome) {
                return outcome;
            }
            // sleep-ok: polls a condition, with a deadline
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}
