use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    Address, Lane, OsEntropy, PeerIdentity, PeerRpc, Reply, RpcError, RpcHandler, RpcKind,
    RpcRequest, RpcResponse,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::support::*;
use crate::driver::client::Answer;
use crate::driver::{Transport, TransportRuntimes};
use crate::error::TransportError;

#[tokio::test]
async fn an_occupied_port_is_named() {
    let a = node("a").await;
    let mut settings = config("b", shared("s"));
    settings.listen = a.transport.local_addr();
    let outcome =
        Transport::bind(settings, TransportRuntimes::current(), Arc::new(OsEntropy)).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, TransportError::AddressInUse { .. }));
    let port = a.transport.local_addr().port().to_string();
    assert!(error.to_string().contains(&port), "{error}");
}

#[tokio::test]
async fn a_restarted_peer_is_found_again() {
    let (a, b) = (node("a").await, node("b").await);
    a.knows(&b, "b");
    let echo = async || a.call("b", request(ECHO, Lane::Control, b"")).await;
    echo().await.unwrap();
    let listen = b.transport.local_addr();
    within(b.transport.shutdown()).await;
    drop(b);
    eventually(echo, Result::is_err).await.unwrap_err();
    let mut settings = config("b", shared("s"));
    settings.listen = listen;
    let _again = start(settings).await;
    eventually(echo, Result::is_ok).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_moves_or_goes_is_followed() {
    let (a, b, moved) = (node("a").await, node("b").await, node("b").await);
    let outcome = a.call("b", request(ECHO, Lane::Rpc, b"")).await;
    assert_eq!(
        outcome.unwrap_err(),
        RpcError::UnknownPeer { peer: name("b") }
    );
    a.knows(&b, "b");
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    a.knows(&moved, "b");
    let call = tokio::spawn(a.transport.call(&name("b"), request(GATED, Lane::Rpc, b"")));
    within(moved.handler.arrived.acquire())
        .await
        .unwrap()
        .forget();
    a.transport.remove_peer(&name("b"));
    moved.handler.gate.add_permits(1);
    within(call).await.unwrap().unwrap();
    let outcome = a.call("b", request(ECHO, Lane::Rpc, b"")).await;
    assert!(matches!(outcome, Err(RpcError::UnknownPeer { .. })));
}

#[tokio::test]
async fn shutdown_answers_what_is_in_flight_and_refuses_what_is_new() {
    let (a, b) = (node("a").await, node("b").await);
    a.knows(&b, "b");
    let call = tokio::spawn(
        a.transport
            .call(&name("b"), request(GATED, Lane::Rpc, b"last")),
    );
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    let (serving, gate) = (b.transport.clone(), Arc::clone(&b.handler.gate));
    let shutdown = tokio::spawn(async move { serving.shutdown().await });
    eventually(
        async || TcpStream::connect(b.transport.local_addr()).await,
        Result::is_err,
    )
    .await
    .unwrap_err();
    gate.add_permits(1);
    assert_eq!(&within(call).await.unwrap().unwrap().meta[..], b"last");
    within(shutdown).await.unwrap();
    let outcome = b.call("a", request(ECHO, Lane::Rpc, b"")).await;
    assert_eq!(outcome.unwrap_err(), RpcError::Shutdown);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let mut settings = config("b", shared("s"));
    settings.limits.drain_timeout = Duration::from_millis(50);
    let (a, b) = (node("a").await, start(settings).await);
    a.knows(&b, "b");
    let call = tokio::spawn(a.transport.call(&name("b"), request(GATED, Lane::Rpc, b"")));
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    within(b.transport.shutdown()).await;
    let outcome = within(call).await.unwrap();
    assert!(
        matches!(outcome, Err(RpcError::ConnectionLost { .. })),
        "{outcome:?}"
    );
    within(b.handler.dropped.notified()).await;
}

#[tokio::test]
async fn a_lost_connection_aborts_what_it_asked_for() {
    let (a, b) = (node("a").await, node("b").await);
    a.knows(&b, "b");
    let call = tokio::spawn(a.transport.call(&name("b"), request(GATED, Lane::Rpc, b"")));
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    drop(a);
    within(b.handler.dropped.notified()).await;
    assert!(within(call).await.unwrap().is_err());
}

/// Passes bytes on in both directions until told to hold them back.
async fn relay(to: std::net::SocketAddr, hold: tokio::sync::watch::Receiver<bool>) -> Address {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(to).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            for (mut from, mut to) in [(near_in, far_out), (far_in, near_out)] {
                let mut hold = hold.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 4096];
                    while let Ok(n @ 1..) = from.read(&mut buffer).await {
                        if hold.wait_for(|held| !held).await.is_err()
                            || to.write_all(&buffer[..n]).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        }
    });
    address
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_by_its_silence_on_both_sides() {
    let brisk = |node: &str| {
        let mut settings = config(node, shared("s"));
        settings.limits.ping_interval = Duration::from_millis(50);
        settings.limits.dead_after = Duration::from_millis(400);
        start(settings)
    };
    let (a, b) = (brisk("a").await, brisk("b").await);
    let (hold, held) = tokio::sync::watch::channel(false);
    let address = relay(b.transport.local_addr(), held).await;
    a.transport.add_peer(name("b"), address);
    let call = tokio::spawn(
        a.transport
            .call(&name("b"), request(GATED, Lane::Control, b"")),
    );
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    // An idle connection lives on pings alone, for longer than `dead_after`.
    let quiet = tokio::time::timeout(Duration::from_secs(1), b.handler.dropped.notified());
    assert!(quiet.await.is_err());
    assert!(!call.is_finished());
    hold.send_replace(true);
    let outcome = within(call).await.unwrap();
    assert!(
        matches!(outcome, Err(RpcError::ConnectionLost { .. })),
        "{outcome:?}"
    );
    within(b.handler.dropped.notified()).await;
}

#[tokio::test]
async fn a_peer_busy_at_its_bound_is_not_taken_for_dead() {
    let mut settings = config("b", shared("s"));
    settings.limits.ping_interval = Duration::from_millis(50);
    settings.limits.max_in_flight_requests = 1;
    let mut dialler = config("a", shared("s"));
    dialler.limits.ping_interval = Duration::from_millis(50);
    dialler.limits.dead_after = Duration::from_millis(400);
    let (a, b) = (start(dialler).await, start(settings).await);
    a.knows(&b, "b");
    let calls: Vec<_> = (0..3)
        .map(|_| tokio::spawn(a.transport.call(&name("b"), request(GATED, Lane::Rpc, b""))))
        .collect();
    within(b.handler.arrived.acquire_many(2))
        .await
        .unwrap()
        .forget();
    let quiet = tokio::time::timeout(Duration::from_secs(1), b.handler.dropped.notified());
    assert!(quiet.await.is_err());
    b.handler.gate.add_permits(3);
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bulk_lane_runs_on_the_data_runtime_and_the_others_do_not() {
    let data = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("data")
        .enable_all()
        .build()
        .unwrap();
    let runtimes = TransportRuntimes {
        control: tokio::runtime::Handle::current(),
        data: data.handle().clone(),
    };
    let start = async |node: &str| {
        let settings = config(node, shared("s"));
        let bound = Transport::bind(settings, runtimes.clone(), Arc::new(OsEntropy)).await;
        let (transport, handler) = (bound.unwrap(), Arc::new(Tester::default()));
        transport.serve(Arc::<Tester>::clone(&handler));
        Node { transport, handler }
    };
    let (a, b) = (start("a").await, start("b").await);
    a.knows(&b, "b");
    for lane in Lane::ALL {
        let answer = a.call("b", request(THREAD, lane, b"")).await.unwrap();
        assert_eq!(answer.meta == "data", lane == Lane::Bulk, "{lane:?}");
    }
    within(a.transport.shutdown()).await;
    within(b.transport.shutdown()).await;
    data.shutdown_background();
}

/// Calls that leave together, on a connection that is there already.
async fn all_at_once(a: &Node, kind: RpcKind, calls: usize) -> Vec<JoinHandle<Answer>> {
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    (0..calls)
        .map(|_| tokio::spawn(a.transport.call(&name("b"), request(kind, Lane::Rpc, b""))))
        .collect()
}

/// The caller knows that it may ask again.
fn was_not_run(outcome: &Answer) -> bool {
    matches!(outcome, Err(RpcError::Unreachable { .. }))
}

/// Begins to shut its transport down with the first request.
struct Stopping {
    transport: Transport,
    run: AtomicUsize,
}

impl RpcHandler for Stopping {
    fn handle(&self, _: &PeerIdentity, _: RpcRequest) -> Reply {
        if self.run.fetch_add(1, Ordering::SeqCst) == 1 {
            let transport = self.transport.clone();
            tokio::spawn(async move { transport.shutdown().await });
        }
        Reply::Now(Ok(RpcResponse::default()))
    }
}

#[tokio::test]
async fn shutdown_is_seen_in_the_midst_of_requests_that_have_come_in() {
    let a = node("a").await;
    let runtimes = TransportRuntimes::current();
    let transport = Transport::bind(config("b", shared("s")), runtimes, Arc::new(OsEntropy));
    let transport = transport.await.unwrap();
    let handler = Arc::new(Stopping {
        transport: transport.clone(),
        run: AtomicUsize::new(0),
    });
    transport.serve(Arc::<Stopping>::clone(&handler));
    a.transport
        .add_peer(name("b"), Address::from(transport.local_addr()));
    let mut answered = 0;
    for call in all_at_once(&a, ECHO, 200).await {
        let outcome = within(call).await.unwrap();
        assert!(outcome.is_ok() || was_not_run(&outcome), "{outcome:?}");
        answered += usize::from(outcome.is_ok());
    }
    assert!(answered < 200, "the last had no turn before all were run");
    // The first one made the connection.
    assert_eq!(handler.run.load(Ordering::SeqCst), answered + 1);
}

#[tokio::test]
async fn those_behind_a_request_that_finds_no_room_are_told_at_once_that_they_were_not_run() {
    let mut settings = config("b", shared("s"));
    settings.limits.max_in_flight_requests = 1;
    let (a, b) = (node("a").await, start(settings).await);
    a.knows(&b, "b");
    let mut calls = all_at_once(&a, GATED, 100).await;
    let behind = calls.split_off(2);
    within(b.handler.arrived.acquire_many(2))
        .await
        .unwrap()
        .forget();
    let serving = b.transport.clone();
    let shutdown = tokio::spawn(async move { serving.shutdown().await });
    for call in behind {
        let outcome = within(call).await.unwrap();
        assert!(was_not_run(&outcome), "{outcome:?}");
    }
    b.handler.gate.add_permits(2);
    for call in calls {
        within(call).await.unwrap().unwrap();
    }
    within(shutdown).await.unwrap();
    assert_eq!(b.handler.arrived.available_permits(), 0);
}

/// Tells how many of the requests that it never answers are over.
#[derive(Default)]
struct Counting {
    arrived: AtomicUsize,
    over: Arc<AtomicUsize>,
}

struct Over(Arc<AtomicUsize>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl RpcHandler for Counting {
    fn handle(&self, _: &PeerIdentity, request: RpcRequest) -> Reply {
        if request.kind == ECHO {
            let over = self.over.load(Ordering::SeqCst);
            return Reply::Now(Ok(RpcResponse {
                meta: over.to_string().into(),
                body: Bytes::new(),
            }));
        }
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let over = Over(Arc::clone(&self.over));
        Reply::Later(Box::pin(async move {
            let _over = over;
            std::future::pending().await
        }))
    }
}

#[tokio::test]
async fn others_have_their_turn_among_cancellations() {
    let a = node("a").await;
    let runtimes = TransportRuntimes::current();
    let transport = Transport::bind(config("b", shared("s")), runtimes, Arc::new(OsEntropy));
    let transport = transport.await.unwrap();
    let handler = Arc::new(Counting::default());
    transport.serve(Arc::<Counting>::clone(&handler));
    a.transport
        .add_peer(name("b"), Address::from(transport.local_addr()));
    let calls = all_at_once(&a, GATED, 200).await;
    let arrived = async || handler.arrived.load(Ordering::SeqCst);
    eventually(arrived, |n| *n == 200).await;
    for call in calls {
        call.abort();
    }
    // It leaves with the cancellations and after them. The tasks that they end are such others.
    let answer = tokio::spawn(a.transport.call(&name("b"), request(ECHO, Lane::Rpc, b"")));
    let over = within(answer).await.unwrap().unwrap().meta;
    let over: usize = std::str::from_utf8(&over).unwrap().parse().unwrap();
    assert!(over >= 100, "{over} of 200 were over");
}
