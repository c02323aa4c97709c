use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::{
    Address, HandshakeRefusal, Lane, NodeName, OsEntropy, PeerRpc, RpcError, RpcKind, RpcRequest,
    RpcResponse,
};
use tokio::net::TcpStream;

use super::support::*;
use crate::config::{Security, TransportLimits};
use crate::driver::{Transport, TransportRuntimes};
use crate::quic::{QuicConfig, QuicListen, QuicTransport};
use crate::tls::TlsConfig;

async fn quic(tls: TlsConfig) -> (QuicTransport, Arc<Tester>) {
    let bind = "127.0.0.1:0".parse().unwrap();
    let transport = QuicTransport::new(bind, QuicConfig::high_throughput(), tls);
    let transport = within(transport).await.unwrap();
    let handler = Arc::new(Tester::default());
    transport.set_handler(Arc::<Tester>::clone(&handler));
    transport.start().await.unwrap();
    (transport, handler)
}

async fn send(
    from: &QuicTransport,
    to: &NodeName,
    request: RpcRequest,
) -> Result<RpcResponse, RpcError> {
    within(from.send(to, request)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_talks_on_every_lane_and_carries_long_bodies() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let (a, _) = quic(tls.clone().for_node(name("a"))).await;
    let (b, _) = quic(tls).await;
    // Without a name it goes by its address.
    assert_eq!(
        b.name().as_str(),
        format!("127.0.0.1_{}", b.local_addr().port())
    );
    a.add_peer(b.name().clone(), b.local_addr());
    for lane in Lane::ALL {
        let mut echo = request(ECHO, lane, b"meta");
        echo.body = vec![7; 3 << 20].into();
        let answer = send(&a, b.name(), echo.clone()).await.unwrap();
        assert!(answer.meta == echo.meta && answer.body == echo.body);
    }
    let answer = send(&a, b.name(), request(WHO, Lane::Rpc, b""))
        .await
        .unwrap();
    assert_eq!(&answer.meta[..], b"a None");
    let kind = RpcKind(0x7fff);
    let outcome = send(&a, b.name(), request(kind, Lane::Rpc, b"")).await;
    assert_eq!(outcome.unwrap_err(), RpcError::UnknownKind { kind });
    within(a.shutdown()).await;
    within(b.shutdown()).await;
}

#[tokio::test]
async fn a_stranger_on_quic_is_untrusted_and_a_wrong_name_is_noticed() {
    let ours = TlsConfig::self_signed("rivven-cluster").unwrap();
    let theirs = TlsConfig::self_signed("rivven-cluster").unwrap();
    let (a, _) = quic(ours.clone()).await;
    let (b, _) = quic(ours).await;
    let (stranger, _) = quic(theirs).await;
    a.add_peer(stranger.name().clone(), stranger.local_addr());
    let outcome = send(&a, stranger.name(), request(ECHO, Lane::Rpc, b"")).await;
    let Err(RpcError::Handshake { reason, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(
        matches!(reason, HandshakeRefusal::UntrustedPeer { .. }),
        "{reason:?}"
    );
    a.add_peer(name("somebody"), b.local_addr());
    let outcome = send(&a, &name("somebody"), request(ECHO, Lane::Rpc, b"")).await;
    let Err(RpcError::Handshake { reason, .. }) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(
        matches!(reason, HandshakeRefusal::WrongNode { .. }),
        "{reason:?}"
    );
}

#[tokio::test]
async fn calls_over_quic_time_out_are_cancelled_and_survive_a_restart_of_the_peer() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let (a, _) = quic(tls.clone().for_node(name("a"))).await;
    let (b, handler) = quic(tls.clone().for_node(name("b"))).await;
    a.add_peer(name("b"), b.local_addr());
    let mut hasty = request(GATED, Lane::Bulk, b"");
    hasty.deadline = Duration::from_millis(100);
    let outcome = send(&a, &name("b"), hasty).await;
    assert!(
        matches!(outcome, Err(RpcError::Timeout { .. })),
        "{outcome:?}"
    );
    within(handler.dropped.notified()).await;
    let address = b.local_addr();
    within(b.shutdown()).await;
    drop(b);
    let again = async || {
        let config = QuicConfig::default();
        QuicTransport::new(address, config, tls.clone().for_node(name("b"))).await
    };
    let b = eventually(again, Result::is_ok).await.unwrap();
    b.set_handler(Arc::new(Tester::default()));
    b.start().await.unwrap();
    let echo = async || send(&a, &name("b"), request(ECHO, Lane::Rpc, b"")).await;
    eventually(echo, Result::is_ok).await.unwrap();
}

/// A node on TCP, and on QUIC as well. Peers are told `advertised`, or the truth.
async fn both(node: &str, tls: &TlsConfig, advertised: Option<Address>) -> Node {
    both_with(node, tls, advertised, |_| {}).await
}

/// The same with other limits.
async fn both_with(
    node: &str,
    tls: &TlsConfig,
    advertised: Option<Address>,
    limit: impl FnOnce(&mut TransportLimits),
) -> Node {
    let tls = tls.clone().for_node(name(node));
    let mut settings = config(node, Security::MutualTls(tls));
    settings.limits.handshake_timeout = Duration::from_secs(1);
    limit(&mut settings.limits);
    let listen = QuicListen {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertised,
        config: QuicConfig::default(),
    };
    let (runtimes, entropy) = (TransportRuntimes::current(), Arc::new(OsEntropy));
    let transport = Transport::bind_beside_quic(settings, listen, runtimes, entropy);
    let transport = within(transport).await.unwrap();
    let handler = Arc::new(Tester::default());
    transport.serve(Arc::<Tester>::clone(&handler));
    Node { transport, handler }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_is_learnt_over_tcp_and_left_where_it_does_not_get_through() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    // Whoever is told this address reaches nobody.
    let nowhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let nowhere = Address::from(nowhere.local_addr().unwrap());
    let a = both("a", &tls, None).await;
    let b = both("b", &tls, None).await;
    let cut_off = both("cut-off", &tls, Some(nowhere)).await;
    let plain = start(config(
        "plain",
        Security::MutualTls(tls.clone().for_node(name("plain"))),
    ))
    .await;
    let carrier = |to: &str| {
        let quic = a.transport.quic_address_of(&name(to));
        quic.is_some()
    };
    for (peer, over_quic) in [("b", true), ("cut-off", false), ("plain", false)] {
        let node = match peer {
            "b" => &b,
            "plain" => &plain,
            _ => &cut_off,
        };
        a.knows(node, peer);
        for lane in Lane::ALL {
            let mut echo = request(ECHO, lane, b"meta");
            echo.body = vec![7; 1 << 20].into();
            let answer = a.call(peer, echo.clone()).await.unwrap();
            assert!(answer.body == echo.body);
        }
        assert_eq!(carrier(peer), over_quic, "{peer}");
    }
    // Who does not speak QUIC calls those who do.
    plain.knows(&a, "a");
    plain
        .call("a", request(ECHO, Lane::Rpc, b""))
        .await
        .unwrap();
    within(a.transport.shutdown()).await;
    within(b.transport.shutdown()).await;
}

#[tokio::test]
async fn shutdown_over_quic_answers_what_is_in_flight() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let (a, b) = (both("a", &tls, None).await, both("b", &tls, None).await);
    a.knows(&b, "b");
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    assert!(a.transport.quic_address_of(&name("b")).is_some());
    let call = |length| {
        let mut last = request(GATED, Lane::Rpc, b"last");
        last.body = vec![7; length].into();
        tokio::spawn(a.transport.call(&name("b"), last))
    };
    let calls = [call(0), call(1 << 20)];
    within(b.handler.arrived.acquire_many(2))
        .await
        .unwrap()
        .forget();
    let serving = b.transport.clone();
    let shutdown = tokio::spawn(async move { serving.shutdown().await });
    eventually(
        async || TcpStream::connect(b.transport.local_addr()).await,
        Result::is_err,
    )
    .await
    .unwrap_err();
    b.handler.gate.add_permits(2);
    for (call, length) in calls.into_iter().zip([0, 1 << 20]) {
        let answer = within(call).await.unwrap().unwrap();
        assert_eq!(
            (&answer.meta[..], answer.body.len()),
            (&b"last"[..], length)
        );
    }
    within(shutdown).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_is_back_without_quic_is_no_longer_sought_there() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let (a, b) = (both("a", &tls, None).await, both("b", &tls, None).await);
    a.knows(&b, "b");
    let echo = async || a.call("b", request(ECHO, Lane::Rpc, b"")).await;
    echo().await.unwrap();
    assert!(a.transport.quic_address_of(&name("b")).is_some());
    let listen = b.transport.local_addr();
    within(b.transport.shutdown()).await;
    drop(b);
    let mut settings = config("b", Security::MutualTls(tls.clone().for_node(name("b"))));
    settings.listen = listen;
    let _plain = start(settings).await;
    eventually(echo, Result::is_ok).await.unwrap();
    assert_eq!(a.transport.quic_address_of(&name("b")), None);
}

#[tokio::test]
async fn an_address_that_was_silent_is_not_tried_again_in_the_same_dial() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let nobody = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let advertised = Address::from(nobody.local_addr().unwrap());
    let a = both("a", &tls, None).await;
    let b = both("b", &tls, Some(advertised.clone())).await;
    a.knows(&b, "b");
    let quic = a.transport.quic().unwrap();
    // As if packets had come through so far.
    let address = Address::from(b.transport.local_addr());
    assert!(quic.learn(&address, advertised, 16));
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    // RFC 9000, section 17.2: in a first packet the length of the destination's id and the id come after
    // 5 bytes. Every attempt has an id of its own, and repeats keep it.
    let mut attempts = std::collections::BTreeSet::new();
    let mut packet = [0; 2048];
    while let Ok(length) = nobody.try_recv(&mut packet) {
        let id = packet[..length].get(6..6 + usize::from(packet[5])).unwrap();
        attempts.insert(id.to_vec());
    }
    assert_eq!(attempts.len(), 1);
    assert_eq!(quic.alternative(&address), None, "TCP for a while");
}

#[tokio::test]
async fn connections_over_tcp_and_quic_count_together() {
    let tls = TlsConfig::self_signed("rivven-cluster").unwrap();
    let a = both("a", &tls, None).await;
    let b = both_with("b", &tls, None, |limits| limits.max_connections = 3).await;
    let plain = start(config(
        "plain",
        Security::MutualTls(tls.clone().for_node(name("plain"))),
    ))
    .await;
    a.knows(&b, "b");
    plain.knows(&b, "b");
    // One stream; the connection over TCP by which it was learnt closes.
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    for lane in [Lane::Control, Lane::Rpc] {
        let echo = async || plain.call("b", request(ECHO, lane, b"")).await;
        eventually(echo, Result::is_ok).await.unwrap();
    }
    let outcome = plain.call("b", request(ECHO, Lane::Bulk, b"")).await;
    assert!(outcome.is_err(), "{outcome:?}");
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
}
