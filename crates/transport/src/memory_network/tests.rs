use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rivven_core_types::{Datagram as _, Incarnation, Lane, PeerRpc as _, Reply};
use tokio::time::Instant;

use super::*;

struct Counter(AtomicUsize);

impl Counter {
    fn run(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl RpcHandler for Counter {
    fn handle(&self, peer: &PeerIdentity, _request: RpcRequest) -> Reply {
        self.0.fetch_add(1, Ordering::Relaxed);
        let meta = Bytes::from(peer.name.to_string());
        let body = Bytes::new();
        Reply::Now(Ok(RpcResponse { meta, body }))
    }
}

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

fn identity(text: &str) -> PeerIdentity {
    PeerIdentity {
        name: name(text),
        incarnation: Incarnation::from_bytes([0; 16]),
        cluster: None,
    }
}

fn request(millis: u64) -> RpcRequest {
    RpcRequest {
        kind: RpcKind::PROPOSE,
        lane: Lane::Rpc,
        meta: Bytes::new(),
        body: Bytes::new(),
        deadline: Duration::from_millis(millis),
    }
}

/// Hosts a and b with their sockets; b counts what it is asked.
struct Pair {
    network: MemoryNetwork,
    a: MemoryHost,
    b: MemoryHost,
    sockets: [MemoryDatagram; 2],
    counter: Arc<Counter>,
}

fn pair(seed: u64) -> Pair {
    let network = MemoryNetwork::new(seed);
    let (a, b) = (network.host(at(1)), network.host(at(2)));
    let sockets = [
        a.bind(identity("a")).unwrap(),
        b.bind(identity("b")).unwrap(),
    ];
    let counter = Arc::new(Counter(AtomicUsize::new(0)));
    b.serve(Arc::<Counter>::clone(&counter));
    Pair {
        network,
        a,
        b,
        sockets,
        counter,
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_its_latency_and_says_who_called() {
    let pair = pair(1);
    let began = Instant::now();
    let answer = pair.a.call(&name("b"), request(1000)).await.unwrap();
    assert_eq!(answer.meta, "a");
    let took = began.elapsed();
    assert!((200..=2002).contains(&took.as_micros()), "{took:?}");
    let (who, _) = pair
        .a
        .call_address(&at(2).into(), request(1000))
        .await
        .unwrap();
    assert_eq!(who.name, name("b"));
    let unknown = pair.a.call(&name("c"), request(1000)).await;
    assert!(matches!(unknown, Err(RpcError::UnknownPeer { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_one_way_cut_loses_requests_one_way_and_answers_the_other() {
    let pair = pair(2);
    let call = async || pair.a.call(&name("b"), request(1000)).await;
    pair.network.set_way(at(1), at(2), false);
    assert!(matches!(call().await, Err(RpcError::Timeout { .. })));
    assert_eq!(pair.counter.run(), 0);
    pair.network.set_way(at(1), at(2), true);
    pair.network.set_way(at(2), at(1), false);
    assert!(matches!(call().await, Err(RpcError::Timeout { .. })));
    assert_eq!(pair.counter.run(), 1, "executed, and nobody knows");
    pair.network.restore_links();
    call().await.unwrap();
    assert_eq!(pair.network.traffic().disturbed, 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_given_up_may_still_be_executed() {
    let pair = pair(3);
    pair.network.set_weather(Weather {
        stalled_kind: Some((RpcKind::PROPOSE, 1000)),
        ..Weather::default()
    });
    let outcome = pair.a.call(&name("b"), request(1)).await;
    assert!(matches!(outcome, Err(RpcError::Timeout { .. })));
    assert_eq!(pair.counter.run(), 0);
    let later = Duration::from_millis(MAX_STALL_MILLIS + 2);
    tokio::time::sleep(later).await;
    assert_eq!(pair.counter.run(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_killed_host_reaches_nobody_and_its_successor_is_another() {
    let pair = pair(4);
    pair.network.kill(at(2));
    let call = async || pair.a.call(&name("b"), request(1000)).await;
    assert!(matches!(call().await, Err(RpcError::Unreachable { .. })));
    let successor = pair.network.host(at(2));
    assert!(pair.b.bind(identity("b")).is_err(), "dead");
    let _socket = successor.bind(identity("b")).unwrap();
    successor.serve(Arc::<Counter>::clone(&pair.counter));
    call().await.unwrap();
    let outcome = pair.b.call(&name("a"), request(10)).await;
    assert!(matches!(outcome, Err(RpcError::Timeout { .. })));
    pair.b.shutdown();
    call().await.unwrap();
    successor.shutdown();
    assert!(matches!(call().await, Err(RpcError::Unreachable { .. })));
}

/// Sends 500 numbered datagrams in bad weather; what arrives, in its order.
async fn in_bad_weather(seed: u64) -> Vec<u16> {
    let pair = pair(seed);
    pair.network.set_weather(Weather {
        // Timers go by milliseconds: latencies must differ by more to reorder.
        latency_spread_micros: 50_000,
        lost_datagrams: 100,
        doubled_datagrams: 100,
        ..Weather::default()
    });
    let [a, b] = &pair.sockets;
    for n in 0..500u16 {
        a.send_to(&n.to_be_bytes(), at(2)).await.unwrap();
    }
    let mut arrived = Vec::new();
    let mut buffer = [0; 2];
    while let Ok(received) =
        tokio::time::timeout(Duration::from_secs(1), b.recv_from(&mut buffer)).await
    {
        assert_eq!(received.unwrap(), (2, at(1)));
        arrived.push(u16::from_be_bytes(buffer));
    }
    arrived
}

#[tokio::test(start_paused = true)]
async fn datagrams_are_lost_doubled_and_reordered_as_the_seed_says() {
    let arrived = in_bad_weather(5).await;
    let different: BTreeSet<_> = arrived.iter().collect();
    assert!((400..490).contains(&different.len()), "{}", different.len());
    assert!(arrived.len() > different.len() + 20, "doubled");
    assert!(!arrived.is_sorted(), "reordered");
    assert_eq!(in_bad_weather(5).await, arrived);
    assert_ne!(in_bad_weather(6).await, arrived);
}

#[tokio::test(start_paused = true)]
async fn an_observer_sees_each_message_on_its_way() {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let network = MemoryNetwork::new(7).observed(Arc::new(move |from, to, event| {
        let what = match event {
            MemoryEvent::Sent(_) => "sent",
            MemoryEvent::Delivered(_) => "delivered",
            MemoryEvent::Answered(_, answer) => {
                assert!(answer.is_ok());
                "answered"
            }
            MemoryEvent::Datagram(payload) => std::str::from_utf8(payload).unwrap(),
        };
        let line = format!("{} {} {what}", from.port(), to.port());
        notes.lock().unwrap().push(line);
    }));
    let (a, b) = (network.host(at(1)), network.host(at(2)));
    let socket = a.bind(identity("a")).unwrap();
    b.bind(identity("b")).unwrap();
    b.serve(Arc::new(Counter(AtomicUsize::new(0))));
    a.call(&name("b"), request(1000)).await.unwrap();
    socket.send_to(b"hello", at(2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    let seen = seen.lock().unwrap();
    assert_eq!(
        *seen,
        ["1 2 sent", "1 2 delivered", "1 2 answered", "1 2 hello"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_paused_host_neither_answers_nor_hears_until_it_goes_on() {
    let pair = pair(9);
    let (a, b) = (pair.a.clone(), pair.b.clone());
    pair.network.pause(at(2));
    let began = Instant::now();
    let asked = tokio::spawn(a.call(&name("b"), request(60_000)));
    let asks = tokio::spawn(b.call(&name("a"), request(60_000)));
    pair.sockets[0].send_to(b"late", at(2)).await.unwrap();
    let mut buffer = [0; 16];
    let heard = pair.sockets[1].recv_from(&mut buffer);
    let heard = tokio::time::timeout(Duration::from_secs(20), heard).await;
    assert!(heard.is_err() && !asked.is_finished() && !asks.is_finished());
    assert_eq!(pair.counter.run(), 0);
    pair.network.resume(at(2));
    let (length, from) = pair.sockets[1].recv_from(&mut buffer).await.unwrap();
    assert_eq!((&buffer[..length], from), (&b"late"[..], at(1)));
    asked.await.unwrap().unwrap();
    // a serves nobody, which b learns only now.
    let refused = asks.await.unwrap();
    assert!(
        matches!(refused, Err(RpcError::Unreachable { .. })),
        "{refused:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(21));

    // Whoever is started at the address is not the one that was stopped.
    pair.network.pause(at(2));
    let asked = tokio::spawn(a.call(&name("b"), request(1_000)));
    tokio::task::yield_now().await;
    let next = pair.network.host(at(2));
    next.bind(identity("b")).unwrap();
    next.serve(Arc::<Counter>::clone(&pair.counter));
    asked.await.unwrap().unwrap();
}
