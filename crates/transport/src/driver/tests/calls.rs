use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{Address, Lane, PeerRpc, RpcError, RpcKind, limits};

use super::support::*;
use crate::config::{Security, TransportLimits};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_back_out_of_order_and_each_to_its_caller() {
    let (a, b) = (node("a").await, node("b").await);
    a.knows(&b, "b");
    let gated = {
        let call = a
            .transport
            .call(&name("b"), request(GATED, Lane::Rpc, b"first"));
        tokio::spawn(call)
    };
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    // A thousand later calls on the same connection overtake the gated one.
    let calls: Vec<_> = (0..1000u32)
        .map(|i| {
            let mut echo = request(ECHO, Lane::Rpc, b"");
            echo.body = Bytes::from(i.to_be_bytes().to_vec());
            tokio::spawn(a.transport.call(&name("b"), echo))
        })
        .collect();
    for (i, call) in (0..1000u32).zip(calls) {
        let answer = within(call).await.unwrap().unwrap();
        assert_eq!(&answer.body[..], i.to_be_bytes());
    }
    assert!(!gated.is_finished());
    b.handler.gate.add_permits(1);
    let answer = within(gated).await.unwrap().unwrap();
    assert_eq!(&answer.meta[..], b"first");
}

#[tokio::test]
async fn a_request_is_dropped_at_its_deadline_and_when_its_caller_gives_up() {
    let (a, b) = (node("a").await, node("b").await);
    a.knows(&b, "b");
    let mut hasty = request(GATED, Lane::Bulk, b"");
    hasty.deadline = Duration::from_millis(50);
    let outcome = a.call("b", hasty).await;
    assert!(matches!(&outcome, Err(e @ RpcError::Timeout { .. }) if e.maybe_executed()));
    within(b.handler.dropped.notified()).await;

    let call = tokio::spawn(
        a.transport
            .call(&name("b"), request(GATED, Lane::Bulk, b"")),
    );
    within(b.handler.arrived.acquire_many(2))
        .await
        .unwrap()
        .forget();
    call.abort();
    within(b.handler.dropped.notified()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_16_mib_comes_back_byte_identical() {
    for security in [shared("s"), Security::InsecureDev] {
        let a = start(config("a", security.clone())).await;
        let b = start(config("b", security)).await;
        a.knows(&b, "b");
        let body: Vec<u8> = (0..limits::MAX_BULK_FRAME_BYTES)
            .map(|i| u8::try_from(i * 31 % 251).unwrap())
            .collect();
        let mut echo = request(ECHO, Lane::Bulk, b"");
        echo.body = Bytes::from(body);
        let answer = a.call("b", echo.clone()).await.unwrap();
        assert!(answer.body == echo.body);
        echo.meta = Bytes::from_static(b"x");
        let outcome = a.call("b", echo).await;
        assert!(
            matches!(outcome, Err(RpcError::TooLarge { .. })),
            "{outcome:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_lane_answers_while_the_bulk_lane_is_stuffed() {
    let mut settings = config("b", shared("s"));
    settings.limits.max_in_flight_requests = 4;
    let (a, b) = (node("a").await, start(settings).await);
    a.knows(&b, "b");
    // More than the peer takes at once, and more bytes than the sockets hold: it stops reading.
    let stuffed: Vec<_> = (0..24)
        .map(|_| {
            let mut bulk = request(GATED, Lane::Bulk, b"");
            bulk.body = Bytes::from(vec![0; 1 << 20]);
            tokio::spawn(a.transport.call(&name("b"), bulk))
        })
        .collect();
    within(b.handler.arrived.acquire_many(5))
        .await
        .unwrap()
        .forget();
    for _ in 0..50 {
        a.call("b", request(ECHO, Lane::Control, b"hb"))
            .await
            .unwrap();
    }
    assert!(
        b.handler.arrived.available_permits() <= 1,
        "the bulk lane is not read"
    );
    assert!(stuffed.iter().all(|call| !call.is_finished()));
    b.handler.gate.add_permits(24);
    for call in stuffed {
        within(call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_full_control_lane_is_overloaded_at_once_and_others_wait_up_to_a_bound() {
    let mut settings = config("a", shared("s"));
    settings.limits = TransportLimits {
        max_pending_calls: 2,
        max_waiting_calls: 1,
        ..settings.limits
    };
    let (a, b) = (start(settings).await, node("b").await);
    a.knows(&b, "b");
    for (lane, fitting) in [(Lane::Control, 2), (Lane::Rpc, 3)] {
        let calls: Vec<_> = (0..fitting)
            .map(|_| tokio::spawn(a.transport.call(&name("b"), request(GATED, lane, b""))))
            .collect();
        within(b.handler.arrived.acquire_many(2))
            .await
            .unwrap()
            .forget();
        let overloaded = eventually(
            async || {
                let mut hasty = request(ECHO, lane, b"");
                hasty.deadline = Duration::from_millis(20);
                a.call("b", hasty).await
            },
            |outcome| matches!(outcome, Err(RpcError::Overloaded { .. })),
        );
        assert!(!overloaded.await.unwrap_err().maybe_executed());
        b.handler.gate.add_permits(fitting);
        for call in calls {
            within(call).await.unwrap().unwrap();
        }
        let left = b.handler.arrived.available_permits();
        b.handler.arrived.forget_permits(left);
    }
}

#[tokio::test]
async fn a_handler_that_cannot_answer_says_so_before_the_deadline() {
    let (a, b) = (node("a").await, node("b").await);
    a.knows(&b, "b");
    for kind in [PANIC, TOO_MUCH] {
        let outcome = a.call("b", request(kind, Lane::Control, b"")).await;
        assert!(
            matches!(&outcome, Err(e @ RpcError::AnswerFailed { .. }) if e.maybe_executed()),
            "{outcome:?}"
        );
    }
    let kind = RpcKind(0x7fff);
    let outcome = a.call("b", request(kind, Lane::Rpc, b"")).await;
    assert_eq!(outcome.unwrap_err(), RpcError::UnknownKind { kind });
    // None of it costs the connection.
    a.call("b", request(ECHO, Lane::Control, b""))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_seed_is_called_by_address_and_tells_its_name() {
    let mut settings = config("b", shared("s"));
    settings.cluster_id = Some(cluster(1));
    let (a, b) = (node("a").await, start(settings).await);
    let address = Address::from(b.transport.local_addr());
    let call = a
        .transport
        .call_address(&address, request(WHO, Lane::Rpc, b""));
    let (peer, answer) = within(call).await.unwrap();
    assert_eq!((peer.name.as_str(), peer.cluster), ("b", Some(cluster(1))));
    assert_eq!(&answer.meta[..], b"a None");
    let nobody = Address::new("127.0.0.1", 1).unwrap();
    let call = a
        .transport
        .call_address(&nobody, request(WHO, Lane::Rpc, b""));
    let error = within(call).await.unwrap_err();
    assert!(matches!(&error, RpcError::Unreachable { peer, .. } if peer.as_str() == "127.0.0.1_1"));
}
