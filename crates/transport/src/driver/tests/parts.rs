//! Long bodies in parts, the memory for them, compressed bodies, and connections that end in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rivven_core_types::{Address, Lane, PeerRpc, RpcError, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::support::*;
use crate::config::Security;
use crate::driver::reader::Pulse;
use crate::driver::writer::{Outgoing, write_loop};
use crate::frame::{
    FrameDecoder, FrameEncoder, FrameType, MAX_OPEN_BODIES, PART_BYTES, lane_limit,
};

pub(super) fn outgoing(correlation: u32, length: usize) -> Outgoing {
    let mut frame = Outgoing::bare(FrameType::Request, correlation);
    frame.body = Bytes::from(vec![1; length]);
    frame
}

/// What a writer that is given `frames` puts on a wire which takes 64 KiB at a time; `later` are queued
/// once the first part of a body has arrived.
pub(super) async fn written(
    lane: Lane,
    frames: Vec<Outgoing>,
    later: Vec<Outgoing>,
) -> Vec<(FrameType, u32)> {
    let (ours, mut theirs) = tokio::io::duplex(PART_BYTES);
    let (queue, receive) = mpsc::channel(1024);
    let max = lane_limit(lane);
    // All of them are in the queue before the first is written.
    for frame in frames {
        queue.try_send(frame).ok().unwrap();
    }
    let writer = tokio::spawn(async move {
        let encoder = FrameEncoder::new(1, max, None);
        let stall = Duration::from_secs(20);
        write_loop(ours, encoder, receive, lane, &Pulse::new(), stall).await
    });
    let mut more = Some((queue, later));
    let mut decoder = FrameDecoder::new(1, max, None);
    let mut buffer = BytesMut::new();
    let mut seen = Vec::new();
    while within(theirs.read_buf(&mut buffer)).await.unwrap() > 0 {
        while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
            seen.push((frame.header.frame_type, frame.header.correlation));
            if frame.header.frame_type == FrameType::Part
                && let Some((queue, later)) = more.take()
            {
                for frame in later {
                    queue.send(frame).await.unwrap();
                }
            }
        }
    }
    within(writer).await.unwrap().unwrap();
    seen
}

#[tokio::test]
async fn a_short_request_goes_between_the_parts_of_a_long_one() {
    let seen = written(
        Lane::Bulk,
        vec![outgoing(1, 4 << 20)],
        vec![outgoing(2, 10)],
    )
    .await;
    let parts = seen.iter().filter(|(kind, _)| *kind == FrameType::Part);
    assert_eq!(parts.count(), 64);
    let short = seen.iter().position(|(_, id)| *id == 2).unwrap();
    // What was in the batch at hand, and the batch in the making: far from all.
    assert!(short < 20, "the short request came as frame {short}");
}

#[tokio::test]
async fn long_bodies_take_turns_and_a_cancelled_one_stops() {
    let many = (1..=6).map(|id| outgoing(id, 2 << 20)).collect();
    let cancel = Outgoing::bare(FrameType::Cancel, 1);
    let seen = written(Lane::Bulk, many, vec![cancel]).await;
    let parts_of = |id| {
        let of = seen
            .iter()
            .filter(move |(kind, i)| *kind == FrameType::Part && *i == id);
        of.count()
    };
    assert!(parts_of(1) < 20, "{} parts after the cancel", parts_of(1));
    assert!((2..=6).all(|id| parts_of(id) == 32));
    let first_of_fifth = seen.iter().position(|(_, id)| *id == 5).unwrap();
    let open = seen[..first_of_fifth]
        .iter()
        .filter(|(kind, _)| *kind == FrameType::Request);
    assert_eq!(open.count(), MAX_OPEN_BODIES);
}

#[tokio::test]
async fn a_body_that_finds_no_memory_is_overloaded_and_harms_nobody() {
    let mut settings = config("b", shared("s"));
    settings.limits.max_node_bytes = limits::MAX_BULK_FRAME_BYTES;
    settings.limits.ping_interval = Duration::from_millis(100);
    let b = start(settings).await;
    let (a, c) = (node("a").await, node("c").await);
    a.knows(&b, "b");
    c.knows(&b, "b");
    let long = |kind| {
        let mut long = request(kind, Lane::Bulk, b"");
        long.body = Bytes::from(vec![3; limits::MAX_BULK_FRAME_BYTES - 1024]);
        long
    };
    let holder = tokio::spawn(a.transport.call(&name("b"), long(GATED)));
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    // The memory is the node's, not the connection's.
    for other in [&a, &c] {
        let outcome = other.call("b", long(ECHO)).await;
        assert!(
            matches!(outcome, Err(RpcError::Overloaded { .. })),
            "{outcome:?}"
        );
        other
            .call("b", request(ECHO, Lane::Bulk, b"short"))
            .await
            .unwrap();
    }
    b.handler.gate.add_permits(1);
    within(holder).await.unwrap().unwrap();
    let answer = c.call("b", long(ECHO)).await.unwrap();
    assert_eq!(answer.body.len(), limits::MAX_BULK_FRAME_BYTES - 1024);
}

#[tokio::test]
async fn an_answer_that_finds_no_memory_fails_as_maybe_executed() {
    let mut settings = config("a", shared("s"));
    settings.limits.max_node_bytes = limits::MAX_BULK_FRAME_BYTES;
    settings.limits.ping_interval = Duration::from_millis(100);
    let (a, b) = (start(settings).await, node("b").await);
    a.knows(&b, "b");
    b.knows(&a, "a");
    let long = |kind| {
        let mut long = request(kind, Lane::Bulk, b"");
        long.body = Bytes::from(vec![3; limits::MAX_BULK_FRAME_BYTES - 1024]);
        long
    };
    // A request from b takes all the memory of a; then a's own call finds none for its answer.
    let holder = tokio::spawn(b.transport.call(&name("a"), long(GATED)));
    within(a.handler.arrived.acquire()).await.unwrap().forget();
    let outcome = a.call("b", long(ECHO)).await;
    assert!(
        matches!(outcome, Err(RpcError::AnswerFailed { .. })),
        "{outcome:?}"
    );
    assert!(outcome.unwrap_err().maybe_executed());
    a.handler.gate.add_permits(1);
    within(holder).await.unwrap().unwrap();
    a.call("b", long(ECHO)).await.unwrap();
}

/// Passes bytes on; counts connections made, and bytes on their way to `to`.
async fn counting(to: std::net::SocketAddr) -> (Address, Arc<[AtomicUsize; 3]>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let counts: Arc<[AtomicUsize; 3]> = Arc::default();
    let counted = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let [made, open, bytes] = &*counted;
            made.fetch_add(1, Ordering::SeqCst);
            open.fetch_add(1, Ordering::SeqCst);
            let far = TcpStream::connect(to).await.unwrap();
            let ((mut near_in, mut near_out), (mut far_in, mut far_out)) =
                (near.into_split(), far.into_split());
            let _ = bytes;
            tokio::spawn(async move { tokio::io::copy(&mut far_in, &mut near_out).await.is_ok() });
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(n @ 1..) = near_in.read(&mut buffer).await {
                    counted[2].fetch_add(n, Ordering::SeqCst);
                    if far_out.write_all(&buffer[..n]).await.is_err() {
                        break;
                    }
                }
                counted[1].fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, counts)
}

#[tokio::test]
async fn an_idle_connection_closes_and_the_next_call_dials_anew() {
    let mut settings = config("a", shared("s"));
    settings.limits.ping_interval = Duration::from_millis(50);
    settings.limits.idle_timeout = Duration::from_millis(200);
    let (a, b) = (start(settings).await, node("b").await);
    let (address, counts) = counting(b.transport.local_addr()).await;
    a.transport.add_peer(name("b"), address);
    // A call in flight is use, however long it takes.
    let call = tokio::spawn(a.transport.call(&name("b"), request(GATED, Lane::Rpc, b"")));
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    let quiet = tokio::time::timeout(Duration::from_millis(600), b.handler.dropped.notified());
    assert!(quiet.await.is_err());
    b.handler.gate.add_permits(1);
    within(call).await.unwrap().unwrap();
    eventually(async || counts[1].load(Ordering::SeqCst), |open| *open == 0).await;
    a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    assert_eq!(counts[0].load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_old_connection_ends_after_its_last_answer_and_no_call_fails() {
    let mut settings = config("a", shared("s"));
    settings.limits.ping_interval = Duration::from_millis(50);
    settings.limits.max_connection_age = Duration::from_millis(1200);
    let (a, b) = (start(settings).await, node("b").await);
    let (address, counts) = counting(b.transport.local_addr()).await;
    a.transport.add_peer(name("b"), address);
    let call = tokio::spawn(a.transport.call(&name("b"), request(GATED, Lane::Rpc, b"")));
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    eventually(
        async || {
            a.call("b", request(ECHO, Lane::Rpc, b"")).await.unwrap();
            counts[0].load(Ordering::SeqCst)
        },
        |made| *made >= 2,
    )
    .await;
    assert!(!call.is_finished());
    b.handler.gate.add_permits(1);
    within(call).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_peer_that_goes_away_has_the_calls_it_did_not_run_made_elsewhere() {
    // The first connection takes two calls and says that it has run only the first one; whoever listens
    // next runs the second.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let peer = tokio::spawn(async move {
        let (mut first, requests) = super::hostile::taken(&listener, 2).await;
        first.say(FrameType::GoAway, requests[0].0, b"").await;
        first
            .say(FrameType::Response, requests[0].0, b"first")
            .await;
        let mut end = [0; 64];
        while first.stream.read(&mut end).await.unwrap_or(0) > 0 {}
        let (mut second, again) = super::hostile::taken(&listener, 1).await;
        second.say(FrameType::Response, again[0].0, b"second").await;
        let _until_closed = second.stream.read(&mut end).await;
        (requests, again)
    });
    let a = start(config("a", Security::InsecureDev)).await;
    a.transport.add_peer(name("b"), address);
    let one = tokio::spawn(
        a.transport
            .call(&name("b"), request(ECHO, Lane::Rpc, b"one")),
    );
    let two = tokio::spawn(
        a.transport
            .call(&name("b"), request(ECHO, Lane::Rpc, b"two")),
    );
    let answers = [within(one).await.unwrap(), within(two).await.unwrap()];
    let mut texts = answers.map(|answer| answer.unwrap().meta);
    texts.sort();
    assert_eq!(texts, ["first", "second"]);
    drop(a);
    let (requests, again) = within(peer).await.unwrap();
    assert_eq!(
        requests[1].1, again[0].1,
        "the call that was not run is the one made again"
    );
}

#[cfg(feature = "compression")]
#[tokio::test]
async fn bodies_that_shrink_are_compressed_except_on_the_control_lane() {
    let compressing = |node: &str| {
        let mut settings = config(node, shared("s"));
        settings.compression = crate::config::Compression::Zstd;
        start(settings)
    };
    let (a, b) = (compressing("a").await, compressing("b").await);
    let (address, counts) = counting(b.transport.local_addr()).await;
    a.transport.add_peer(name("b"), address);
    let lines = (0..30_000).map(|n: u32| format!("line {n} of some text that repeats itself\n"));
    let text = Bytes::from(lines.collect::<String>());
    let mut sent = 0;
    for (lane, least, most) in [
        (Lane::Control, text.len(), text.len() * 2),
        (Lane::Rpc, 0, text.len() / 3),
        (Lane::Bulk, 0, text.len() / 3),
    ] {
        let mut echo = request(ECHO, lane, b"");
        echo.body = text.clone();
        let answer = a.call("b", echo).await.unwrap();
        assert!(answer.body == text);
        let total = counts[2].load(Ordering::SeqCst);
        assert!(
            (least..most).contains(&(total - sent)),
            "{lane:?}: {}",
            total - sent
        );
        sent = total;
    }
}

/// The one thread for such work is taken.
#[cfg(feature = "compression")]
#[test]
fn a_call_whose_body_waits_to_be_compressed_ends_at_its_deadline() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (free, busy) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        let mut settings = config("a", shared("s"));
        settings.compression = crate::config::Compression::Zstd;
        let (a, b) = (start(settings).await, node("b").await);
        a.knows(&b, "b");
        a.call("b", request(ECHO, Lane::Bulk, b"")).await.unwrap();
        let taken = tokio::task::spawn_blocking(move || busy.recv());
        let mut echo = request(ECHO, Lane::Bulk, b"");
        echo.body = Bytes::from(vec![1; 1 << 20]);
        echo.deadline = Duration::from_millis(200);
        let outcome = a.call("b", echo.clone()).await;
        assert!(
            matches!(outcome, Err(RpcError::Overloaded { .. })),
            "{outcome:?}"
        );
        drop(free);
        within(taken).await.unwrap().unwrap_err();
        echo.deadline = Duration::from_secs(10);
        a.call("b", echo).await.unwrap();
    });
}

#[cfg(feature = "compression")]
#[tokio::test]
async fn a_decompression_bomb_closes_the_connection_and_is_not_run() {
    use crate::frame::FrameHeader;

    let b = node("b").await;
    let max = lane_limit(Lane::Rpc);
    let nothing = zstd::bulk::compress(&vec![0; max], 1).unwrap();
    for declared in [u32::try_from(max).unwrap(), u32::MAX, 5000] {
        let mut member = super::hostile::raw(&b, Lane::Rpc).await;
        let mut header = FrameHeader::new(1, FrameType::Request);
        (header.kind, header.correlation, header.budget_ms) = (GATED.0, 1, 10_000);
        header.compressed = true;
        let mut body = declared.to_be_bytes().to_vec();
        body.extend_from_slice(&nothing);
        member.send(header, &Bytes::new(), Bytes::from(body)).await;
        super::hostile::closed(&mut member.stream).await;
    }
    assert_eq!(b.handler.arrived.available_permits(), 0);
}
