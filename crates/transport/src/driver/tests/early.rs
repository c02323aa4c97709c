//! Calls in QUIC's early data.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicClientConfig;
use rivven_core_types::{Address, Lane, OsEntropy, RpcError, RpcKind};
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::support::*;
use crate::answer::{FailedAnswer, encode_failure};
use crate::config::Security;
use crate::driver::dial::handshake_frame;
use crate::driver::early::Acquaintances;
use crate::driver::secure::NO_HOST_NAME;
use crate::driver::{Transport, TransportRuntimes};
use crate::frame::{
    Frame, FrameDecoder, FrameEncoder, FrameHeader, FrameType, MAX_SLICES, WriteBatch,
};
use crate::handshake::{Initiator, LocalIdentity, MAX_VERSION, early_claim};
use crate::quic::QuicConfig;
use crate::tls::{TlsBundle, TlsConfig};

const PROBE: RpcKind = RpcKind::MEMBER_PROBE;

/// A node on QUIC alone whose unused connections close soon.
async fn quic(node: &str, tls: &TlsConfig, early_data: bool, listen: Option<SocketAddr>) -> Node {
    let tls = tls.clone().for_node(name(node));
    let mut settings = config(node, Security::MutualTls(tls));
    settings.limits.ping_interval = Duration::from_millis(20);
    settings.limits.idle_timeout = Duration::from_millis(60);
    settings.listen = listen.unwrap_or(settings.listen);
    let quic = QuicConfig {
        early_data,
        ..QuicConfig::default()
    };
    let (runtimes, entropy) = (TransportRuntimes::current(), Arc::new(OsEntropy));
    let transport = Transport::bind_quic(settings, quic, runtimes, entropy);
    let transport = within(transport).await.unwrap();
    let handler = Arc::new(Tester::default());
    transport.serve(Arc::<Tester>::clone(&handler));
    Node { transport, handler }
}

/// A path that records what goes to the server, and can keep back what comes from it.
struct Path {
    address: SocketAddr,
    keep_back: watch::Sender<bool>,
    recorded: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Datagrams of the server, delivered or kept back.
    answered: Arc<AtomicUsize>,
}

impl Path {
    async fn to(server: SocketAddr) -> Self {
        let front = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        back.connect(server).await.unwrap();
        let path = Self {
            address: front.local_addr().unwrap(),
            keep_back: watch::Sender::new(false),
            recorded: Arc::default(),
            answered: Arc::default(),
        };
        let mut kept_back = path.keep_back.subscribe();
        let (recorded, answered) = (Arc::clone(&path.recorded), Arc::clone(&path.answered));
        tokio::spawn(async move {
            let mut client = None;
            let (mut up, mut down) = (vec![0; 65_536], vec![0; 65_536]);
            let mut late = Vec::new();
            loop {
                tokio::select! {
                    received = front.recv_from(&mut up) => {
                        let Ok((length, from)) = received else { continue };
                        client = Some(from);
                        recorded.lock().unwrap().push(up[..length].to_vec());
                        drop(back.send(&up[..length]).await);
                    }
                    received = back.recv(&mut down) => {
                        // An error: nobody is there now.
                        let Ok(length) = received else { continue };
                        answered.fetch_add(1, Ordering::SeqCst);
                        late.push(down[..length].to_vec());
                    }
                    changed = kept_back.changed() => if changed.is_err() { return },
                }
                if !*kept_back.borrow()
                    && let Some(client) = client
                {
                    for datagram in late.drain(..) {
                        drop(front.send_to(&datagram, client).await);
                    }
                }
            }
        });
        path
    }

    fn forget(&self) {
        self.recorded.lock().unwrap().clear();
    }

    /// Sends everything again, from another address, until the server answers as to a new connection: it
    /// drops what belongs to one that it still knows.
    async fn replay(&self, server: SocketAddr) {
        let recorded = self.recorded.lock().unwrap().clone();
        assert!(!recorded.is_empty());
        let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let answered = async || {
            for datagram in &recorded {
                attacker.send_to(datagram, server).await.unwrap();
            }
            let mut room = [0; 2048];
            let answer = attacker.recv(&mut room);
            tokio::time::timeout(Duration::from_millis(50), answer).await
        };
        eventually(answered, Result::is_ok).await.unwrap().unwrap();
    }
}

fn probes(node: &Node) -> usize {
    node.handler.probed.load(Ordering::SeqCst)
}

/// Calls until `a` has closed its unused connection to `b`, which it then knows.
async fn meet_and_part(a: &Node, path: &Path) {
    a.transport.add_peer(name("b"), Address::from(path.address));
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    let in_use = async || a.transport.quic().unwrap().in_use();
    eventually(in_use, |connections| *connections == 0).await;
    path.forget();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_call_of_a_reconnection_goes_early_if_it_only_asks() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let (a, b) = (
        quic("a", &tls, true, None).await,
        quic("b", &tls, true, None).await,
    );
    let path = Path::to(b.transport.local_addr()).await;
    meet_and_part(&a, &path).await;
    // Without a word from the server there is no handshake: what is run came early.
    path.keep_back.send_replace(true);
    let transport = a.transport.clone();
    let call =
        rivven_core_types::PeerRpc::call(&transport, &name("b"), request(PROBE, Lane::Rpc, b"?"));
    let call = tokio::spawn(call);
    eventually(async || probes(&b), |run| *run == 1).await;
    path.keep_back.send_replace(false);
    assert_eq!(&within(call).await.unwrap().unwrap().meta[..], b"?");
    // The lane has followed on the same connection; what is not for early data takes it.
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    assert_eq!(probes(&b), 1);
    // What is recorded of all that is worth nothing: its session has served.
    path.replay(b.transport.local_addr()).await;
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    assert_eq!(probes(&b), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_changes_something_waits_for_the_handshake() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let (a, b) = (
        quic("a", &tls, true, None).await,
        quic("b", &tls, true, None).await,
    );
    let path = Path::to(b.transport.local_addr()).await;
    meet_and_part(&a, &path).await;
    path.keep_back.send_replace(true);
    let transport = a.transport.clone();
    let mut gated = request(GATED, Lane::Rpc, b"");
    gated.deadline = Duration::from_secs(15);
    let call = rivven_core_types::PeerRpc::call(&transport, &name("b"), gated);
    let call = tokio::spawn(call);
    let before = path.answered.load(Ordering::SeqCst);
    eventually(
        async || path.answered.load(Ordering::SeqCst),
        |answered| *answered > before,
    )
    .await;
    assert_eq!(b.handler.arrived.available_permits(), 0);
    path.keep_back.send_replace(false);
    b.handler.gate.add_permits(1);
    within(call).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_forgotten_the_session_is_called_after_the_handshake() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let (a, b) = (
        quic("a", &tls, true, None).await,
        quic("b", &tls, true, None).await,
    );
    let path = Path::to(b.transport.local_addr()).await;
    meet_and_part(&a, &path).await;
    let address = b.transport.local_addr();
    within(b.transport.shutdown()).await;
    drop(b);
    let bound = async || std::net::UdpSocket::bind(address).map(drop);
    eventually(bound, Result::is_ok).await.unwrap();
    let b = quic("b", &tls, true, Some(address)).await;
    let probe = async || a.call("b", request(PROBE, Lane::Rpc, b"?")).await;
    eventually(probe, Result::is_ok).await.unwrap();
    assert_eq!(probes(&b), 1, "run once, though it was sent early before");
}

/// A member with its own ideas.
struct Member {
    endpoint: quinn::Endpoint,
    known: Acquaintances,
    tls: TlsBundle,
    server: SocketAddr,
}

impl Member {
    fn new(tls: &TlsConfig, server: SocketAddr) -> Self {
        let node = name("m");
        let tls = TlsBundle::load(&tls.clone().for_node(node.clone()), &node).unwrap();
        Self {
            endpoint: quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(),
            known: Acquaintances::default(),
            tls,
            server,
        }
    }

    fn dial(&self) -> quinn::Connecting {
        let crypto = self.known.settings(&self.tls, self.server);
        let crypto = QuicClientConfig::try_from(crypto).unwrap();
        let client = quinn::ClientConfig::new(Arc::new(crypto));
        let connecting = self
            .endpoint
            .connect_with(client, self.server, NO_HOST_NAME);
        connecting.unwrap()
    }

    fn identity() -> LocalIdentity {
        LocalIdentity {
            name: name("m"),
            incarnation: rivven_core_types::Incarnation::from_bytes([7; 16]),
            cluster: None,
            quic: None,
        }
    }

    /// What the server answers to a first message and a request behind it; `None`: it hangs up, or goes on
    /// with the handshake of a lane.
    async fn ask(connection: &quinn::Connection, first: &Bytes, kind: RpcKind) -> Option<Frame> {
        let (mut send, mut receive) = within(connection.open_bi()).await.unwrap();
        let mut batch = WriteBatch::default();
        handshake_frame(first, &mut batch).unwrap();
        let mut header = FrameHeader::new(MAX_VERSION, FrameType::Request);
        header.kind = kind.0;
        header.correlation = 1;
        header.budget_ms = 10_000;
        let mut encoder = FrameEncoder::new(MAX_VERSION, 1024, None);
        encoder
            .encode(header, &Bytes::from_static(b"?"), Bytes::new(), &mut batch)
            .unwrap();
        batch.close_segment();
        let mut room = [std::io::IoSlice::new(&[]); MAX_SLICES];
        for slice in batch.slices(&mut room) {
            send.write_all(slice).await.unwrap();
        }
        send.finish().unwrap();
        let heard = within(receive.read_to_end(4096)).await.ok()?;
        let mut decoder = FrameDecoder::new(MAX_VERSION, 4096, None);
        decoder.decode(&mut BytesMut::from(&heard[..])).ok()?
    }

    fn early(kind: RpcKind) -> (Bytes, RpcKind) {
        (
            early_claim(&Self::identity(), &name("b"), Lane::Rpc).unwrap(),
            kind,
        )
    }

    /// Dials with early data, which the server accepts.
    async fn ask_early(&self, (first, kind): (Bytes, RpcKind)) -> Option<Frame> {
        let (connection, accepted) = self.dial().into_0rtt().expect("a session to resume");
        let heard = Self::ask(&connection, &first, kind).await;
        assert!(within(accepted).await, "early data was not taken at all");
        // One more answer: before it comes a session for the next time.
        let (claim, kind) = Self::early(ECHO);
        Self::ask(&connection, &claim, kind).await.unwrap();
        connection.close(0u32.into(), b"");
        heard
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_and_replayed_early_data_runs_nothing_that_changes_something() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let b = quic("b", &tls, true, None).await;
    let path = Path::to(b.transport.local_addr()).await;
    let member = Member::new(&tls, path.address);
    let connection = within(member.dial()).await.unwrap();
    let (claim, _) = Member::early(PROBE);
    // The first answer comes behind the session tickets.
    let frame = Member::ask(&connection, &claim, PROBE).await.unwrap();
    assert_eq!(frame.header.frame_type, FrameType::Response);
    connection.close(0u32.into(), b"");
    path.forget();

    let refused = member.ask_early(Member::early(GATED)).await.unwrap();
    let too_early = encode_failure(&FailedAnswer::TooEarly).unwrap();
    assert_eq!(refused.header.frame_type, FrameType::Failure);
    assert_eq!(refused.meta, too_early);
    assert!(!crate::answer::decode_answer(&name("b"), &too_early).maybe_executed());
    path.replay(b.transport.local_addr()).await;
    path.forget();

    // A lane does not begin early, whatever comes behind its first message.
    let entropy = OsEntropy;
    let tls_says = Some(crate::handshake::ProvenPeer {
        name: name("b"),
        cluster: None,
    });
    let security = Security::MutualTls(tls.clone());
    let (_, hello) = Initiator::start(
        Member::identity(),
        security,
        tls_says,
        None,
        Lane::Rpc,
        &entropy,
    )
    .unwrap();
    assert_eq!(member.ask_early((hello, GATED)).await, None);
    path.replay(b.transport.local_addr()).await;
    path.forget();

    // Nor does a request of somebody else than the certificate says.
    let other = LocalIdentity {
        name: name("c"),
        ..Member::identity()
    };
    let claim = early_claim(&other, &name("b"), Lane::Rpc).unwrap();
    assert_eq!(member.ask_early((claim, PROBE)).await, None);

    assert_eq!(probes(&b), 1);
    let frame = member.ask_early(Member::early(PROBE)).await.unwrap();
    assert_eq!(frame.header.frame_type, FrameType::Response);
    path.replay(b.transport.local_addr()).await;
    assert_eq!(b.handler.arrived.available_permits(), 0);
    assert_eq!(probes(&b), 2);
}

#[tokio::test]
async fn without_the_setting_quic_resumes_nothing() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let b = quic("b", &tls, false, None).await;
    let member = Member::new(&tls, b.transport.local_addr());
    for _ in 0..2 {
        let connection = member.dial().into_0rtt();
        assert!(connection.is_err(), "there is a session to resume");
        let connection = within(connection.err().unwrap()).await.unwrap();
        let (claim, _) = Member::early(PROBE);
        // After the handshake it is a call like any other.
        assert!(Member::ask(&connection, &claim, PROBE).await.is_some());
        connection.close(0u32.into(), b"");
    }
    let a = quic("a", &tls, true, None).await;
    a.knows(&b, "b");
    for _ in 0..3 {
        a.call("b", request(PROBE, Lane::Rpc, b"")).await.unwrap();
        eventually(async || a.transport.quic().unwrap().in_use(), |n| *n == 0).await;
    }
    let outcome = a.call("b", request(RpcKind(0x7fff), Lane::Rpc, b"")).await;
    assert!(matches!(outcome, Err(RpcError::UnknownKind { .. })));
}
