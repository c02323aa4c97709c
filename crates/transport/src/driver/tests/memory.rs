//! Memory that peers take: whom they may keep waiting, and when it comes back.

use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{Lane, PeerRpc, RpcError, limits};

use super::hostile::{Raw, raw};
use super::support::*;
use crate::answer::decode_answer;
use crate::frame::{FrameHeader, FrameType, PART_BYTES};

#[tokio::test]
async fn bulk_bodies_that_hold_the_nodes_memory_do_not_hold_up_the_control_lane() {
    let mut settings = config("b", shared("s"));
    settings.limits.max_node_bytes = limits::MAX_BULK_FRAME_BYTES;
    let (a, b) = (node("a").await, start(settings).await);
    a.knows(&b, "b");
    let mut long = request(GATED, Lane::Bulk, b"");
    long.body = Bytes::from(vec![3; limits::MAX_BULK_FRAME_BYTES]);
    let holder = tokio::spawn(a.transport.call(&name("b"), long));
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    // An append in one frame, an append in parts, and a heartbeat.
    for length in [10, 100 * 1024, 0] {
        let mut append = request(SOON, Lane::Control, b"append");
        append.body = Bytes::from(vec![4; length]);
        append.deadline = Duration::from_secs(5);
        let answer = a.call("b", append).await;
        assert!(answer.is_ok(), "{length}: {answer:?}");
    }
    b.handler.gate.add_permits(1);
    assert!(within(holder).await.unwrap().is_ok());
}

/// A request of this id, kind and budget, and with a body of this length that is yet to come.
fn header(correlation: u32, kind: rivven_core_types::RpcKind, budget_ms: u32) -> FrameHeader {
    let mut header = FrameHeader::new(1, FrameType::Request);
    (header.kind, header.correlation, header.budget_ms) = (kind.0, correlation, budget_ms);
    header
}

/// A body of this length, in parts.
async fn send_parts(member: &mut Raw, correlation: u32, length: usize) {
    let body = Bytes::from(vec![5; length]);
    for at in (0..length).step_by(PART_BYTES) {
        let mut part = FrameHeader::new(1, FrameType::Part);
        part.correlation = correlation;
        let piece = body.slice(at..(at + PART_BYTES).min(length));
        member.send(part, &Bytes::new(), piece).await;
    }
}

#[tokio::test]
async fn a_short_request_between_parts_does_not_wait_for_memory_that_the_parts_hold() {
    let mut settings = config("b", shared("s"));
    settings.limits.max_in_flight_bytes = limits::MAX_BULK_FRAME_BYTES;
    let b = start(settings).await;
    let mut member = raw(&b, Lane::Rpc).await;
    let half = limits::MAX_BULK_FRAME_BYTES / 2;
    for id in [1, 2] {
        member.announce(header(id, GATED, 60_000), half).await;
    }
    let body = Bytes::from_static(b"nothing is left for this one");
    member
        .send(header(3, GATED, 60_000), &Bytes::new(), body)
        .await;
    for id in [1, 2] {
        send_parts(&mut member, id, half).await;
    }
    let arrived = within(b.handler.arrived.acquire_many(2)).await;
    arrived.unwrap().forget();
    let refused = member.hear_from(3).await;
    assert_eq!(refused.header.frame_type, FrameType::Failure);
    let refused = decode_answer(&name("b"), &refused.meta);
    assert!(
        matches!(refused, RpcError::Overloaded { .. }),
        "{refused:?}"
    );
    assert_eq!(b.handler.arrived.available_permits(), 0, "it was not run");
}

#[tokio::test]
async fn a_request_half_read_at_shutdown_is_known_not_to_have_run() {
    let b = node("b").await;
    let mut member = raw(&b, Lane::Rpc).await;
    member
        .announce(header(1, GATED, 60_000), 2 * PART_BYTES)
        .await;
    send_parts(&mut member, 1, PART_BYTES).await;
    member
        .send(header(2, ECHO, 60_000), &Bytes::new(), Bytes::new())
        .await;
    assert_eq!(
        member.hear_from(2).await.header.frame_type,
        FrameType::Response
    );
    member
        .announce(header(3, GATED, 60_000), 2 * PART_BYTES)
        .await;
    // Frames are read in order: this one's answer says that the announcement was.
    member.say(FrameType::Ping, 0, b"").await;
    assert_eq!(member.hear_from(0).await.header.frame_type, FrameType::Pong);
    within(b.transport.shutdown()).await;
    let answer = member.hear().await.unwrap();
    assert_eq!(answer.header.correlation, 1);
    assert_eq!(answer.header.frame_type, FrameType::Failure);
    let answer = decode_answer(&name("b"), &answer.meta);
    assert!(!answer.maybe_executed(), "{answer:?}");
    // What came after the last one that has run is made elsewhere without being told.
    let away = member.hear().await.unwrap();
    assert_eq!(away.header.frame_type, FrameType::GoAway);
    assert_eq!(away.header.correlation, 2);
    assert!(member.hear().await.is_none());
    assert_eq!(b.handler.arrived.available_permits(), 0);
}

#[tokio::test]
async fn a_body_whose_parts_do_not_come_gives_its_memory_back_with_its_budget() {
    let mut settings = config("b", shared("s"));
    settings.limits.max_node_bytes = limits::MAX_BULK_FRAME_BYTES;
    settings.limits.ping_interval = Duration::from_millis(50);
    settings.limits.dead_after = Duration::from_secs(120);
    let (a, b) = (node("a").await, start(settings).await);
    a.knows(&b, "b");
    let mut member = raw(&b, Lane::Bulk).await;
    let longest = limits::MAX_BULK_FRAME_BYTES;
    member.announce(header(1, GATED, 500), longest).await;
    member.say(FrameType::Ping, 0, b"").await;
    assert_eq!(member.hear_from(0).await.header.frame_type, FrameType::Pong);
    let echo = async || {
        let mut long = request(ECHO, Lane::Bulk, b"");
        long.body = Bytes::from(vec![3; longest]);
        a.call("b", long).await
    };
    eventually(echo, Result::is_ok).await.unwrap();
    // The late parts are no breach of the protocol, and the request is not run.
    send_parts(&mut member, 1, longest).await;
    member
        .send(header(2, ECHO, 60_000), &Bytes::new(), Bytes::new())
        .await;
    assert_eq!(
        member.hear_from(2).await.header.frame_type,
        FrameType::Response
    );
    assert_eq!(b.handler.arrived.available_permits(), 0);
}
