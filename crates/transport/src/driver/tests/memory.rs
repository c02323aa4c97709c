//! Memory that peers take: whom they may keep waiting, and when it comes back.

use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{Lane, PeerRpc, limits};

use super::support::*;

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
