use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rivven_core_types::{Address, HandshakeRefusal, Lane, OsEntropy, RpcError, limits};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::support::*;
use crate::config::Security;
use crate::frame::{
    Frame, FrameDecoder, FrameEncoder, FrameHeader, FrameType, WriteBatch, lane_limit,
};
use crate::handshake::{
    Established, Initiator, InitiatorStep, LocalIdentity, Responder, ResponderStep,
};

fn refusal(outcome: Result<rivven_core_types::RpcResponse, RpcError>) -> HandshakeRefusal {
    match outcome {
        Err(RpcError::Handshake { reason, .. }) => reason,
        other => panic!("expected a refused handshake, found {other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_secret_or_mode_is_an_authentication_failure_in_both_directions() {
    for (a, b) in [
        (shared("one"), shared("two")),
        (shared("one"), Security::InsecureDev),
    ] {
        let (a, b) = (start(config("a", a)).await, start(config("b", b)).await);
        a.knows(&b, "b");
        b.knows(&a, "a");
        for (from, to) in [(&a, "b"), (&b, "a")] {
            let outcome = from.call(to, request(ECHO, Lane::Rpc, b"")).await;
            assert_eq!(refusal(outcome), HandshakeRefusal::Authentication);
        }
    }
}

#[tokio::test]
async fn nodes_in_the_middle_of_a_rotation_still_talk() {
    let rotating = secret("new")
        .with_previous(format!("{:-<32}", "old"))
        .unwrap();
    let rotated = start(config("a", Security::SharedSecret(rotating))).await;
    for other in ["old", "new"] {
        let other = start(config("b", shared(other))).await;
        rotated.knows(&other, "b");
        other.knows(&rotated, "a");
        rotated
            .call("b", request(ECHO, Lane::Rpc, b""))
            .await
            .unwrap();
        other
            .call("a", request(ECHO, Lane::Rpc, b""))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_foreign_cluster_is_refused_and_a_blank_node_is_seen_as_blank() {
    let member = |node: &str, of: u8| {
        let mut settings = config(node, shared("s"));
        settings.cluster_id = Some(cluster(of));
        start(settings)
    };
    let (a, b, blank) = (member("a", 1).await, member("b", 2).await, node("c").await);
    a.knows(&b, "b");
    let outcome = a.call("b", request(ECHO, Lane::Rpc, b"")).await;
    let (ours, theirs) = (cluster(1), cluster(2));
    assert_eq!(
        refusal(outcome),
        HandshakeRefusal::ForeignCluster { ours, theirs }
    );

    blank.knows(&b, "b");
    let who = || request(WHO, Lane::Rpc, b"");
    let answer = blank.call("b", who()).await.unwrap();
    assert_eq!(&answer.meta[..], b"c None");
    // Once it has joined, its peers see it as a member, on a new connection.
    blank.transport.set_cluster_id(cluster(2));
    let answer = blank.call("b", who()).await.unwrap();
    assert_eq!(answer.meta, format!("c Some({})", cluster(2)));

    // Whoever came from another cluster while a node was blank is answered no longer.
    let late = node("d").await;
    a.knows(&late, "d");
    a.call("d", request(ECHO, Lane::Rpc, b"")).await.unwrap();
    late.transport.set_cluster_id(cluster(2));
    let echo = async || a.call("d", request(ECHO, Lane::Rpc, b"")).await;
    eventually(echo, |outcome| {
        assert!(outcome.is_err(), "a foreign peer was answered");
        matches!(outcome, Err(RpcError::Handshake { .. }))
    })
    .await
    .unwrap_err();
}

#[tokio::test]
async fn a_node_of_another_name_at_the_address_is_refused() {
    let (a, b) = (node("a").await, node("b").await);
    a.knows(&b, "c");
    let outcome = a.call("c", request(ECHO, Lane::Control, b"")).await;
    let (expected, found) = (name("c"), name("b"));
    assert_eq!(
        refusal(outcome),
        HandshakeRefusal::WrongNode { expected, found }
    );
}

/// A peer of our own making, below the transport.
pub(super) struct Raw {
    pub(super) stream: TcpStream,
    encoder: FrameEncoder,
    decoder: FrameDecoder,
    buffer: BytesMut,
}

impl Raw {
    /// Announces a body in parts.
    pub(super) async fn announce(&mut self, header: FrameHeader, length: usize) {
        let mut batch = WriteBatch::default();
        let announced = self
            .encoder
            .announce(header, &Bytes::new(), length, &mut batch);
        announced.unwrap();
        self.stream.write_all(&bytes_in(batch)).await.unwrap();
    }

    /// The next frame; `None` when the other side has hung up.
    pub(super) async fn hear(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            if within(self.stream.read_buf(&mut self.buffer))
                .await
                .unwrap()
                == 0
            {
                return None;
            }
        }
    }

    /// The next frame with this id.
    pub(super) async fn hear_from(&mut self, correlation: u32) -> Frame {
        loop {
            let frame = self.hear().await.expect("it hung up");
            if frame.header.correlation == correlation {
                return frame;
            }
        }
    }

    pub(super) async fn send(&mut self, header: FrameHeader, meta: &Bytes, body: Bytes) {
        let bytes = bytes_with(&mut self.encoder, header, meta, body);
        self.stream.write_all(&bytes).await.unwrap();
    }

    pub(super) async fn say(&mut self, what: FrameType, correlation: u32, meta: &'static [u8]) {
        let mut header = FrameHeader::new(1, what);
        header.correlation = correlation;
        self.send(header, &Bytes::from_static(meta), Bytes::new())
            .await;
    }
}

fn bytes_of(encoder: &mut FrameEncoder, header: FrameHeader, meta: &Bytes) -> Bytes {
    bytes_with(encoder, header, meta, Bytes::new())
}

fn bytes_with(encoder: &mut FrameEncoder, header: FrameHeader, meta: &Bytes, body: Bytes) -> Bytes {
    let mut batch = WriteBatch::default();
    encoder.encode(header, meta, body, &mut batch).unwrap();
    bytes_in(batch)
}

fn bytes_in(mut batch: WriteBatch) -> Bytes {
    batch.close_segment();
    let mut room = [std::io::IoSlice::new(&[]); crate::frame::MAX_SLICES];
    let slices = batch.slices(&mut room);
    slices.iter().flat_map(|slice| slice.to_vec()).collect()
}

pub(super) async fn raw(to: &Node, lane: Lane) -> Raw {
    let mut stream = TcpStream::connect(to.transport.local_addr()).await.unwrap();
    let local = LocalIdentity {
        name: name("raw"),
        incarnation: rivven_core_types::Incarnation::from_bytes([3; 16]),
        cluster: None,
        quic: None,
    };
    let (mut initiator, mut message) =
        Initiator::start(local, shared("s"), None, None, lane, &OsEntropy).unwrap();
    let max = limits::MAX_UNAUTHENTICATED_FRAME_BYTES;
    let mut encoder = FrameEncoder::new(0, max, None);
    let mut decoder = FrameDecoder::new(0, max, None);
    let mut buffer = BytesMut::new();
    loop {
        let header = FrameHeader::new(0, FrameType::Handshake);
        let bytes = bytes_of(&mut encoder, header, &message);
        stream.write_all(&bytes).await.unwrap();
        let frame = loop {
            if let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                break frame;
            }
            assert_ne!(within(stream.read_buf(&mut buffer)).await.unwrap(), 0);
        };
        match initiator.receive(&frame.meta).unwrap() {
            InitiatorStep::Send(next) => message = next,
            InitiatorStep::Done(established) => {
                let Established { version, keys, .. } = *established;
                let (send, receive) = keys.unwrap().seals();
                return Raw {
                    stream,
                    encoder: FrameEncoder::new(version, lane_limit(lane), Some(send)),
                    decoder: FrameDecoder::new(version, lane_limit(lane), Some(receive)),
                    buffer,
                };
            }
        }
    }
}

/// Waits until the other side hangs up.
pub(super) async fn closed(stream: &mut TcpStream) {
    let mut sink = [0; 1024];
    while !matches!(within(stream.read(&mut sink)).await, Ok(0) | Err(_)) {}
}

fn bomb(version: u8, meta_len: u32, body_len: u32, sealed: bool) -> [u8; 24] {
    let frame_type = if version == 0 {
        FrameType::Handshake
    } else {
        FrameType::Request
    };
    FrameHeader {
        meta_len,
        body_len,
        sealed,
        ..FrameHeader::new(version, frame_type)
    }
    .encode()
}

#[tokio::test]
async fn a_frame_bomb_closes_the_connection_before_and_after_authentication() {
    let b = node("b").await;
    for header in [
        bomb(0, 1025, 0, false),
        bomb(0, 0, u32::MAX, false),
        [0xFF; 24],
    ] {
        let mut stranger = TcpStream::connect(b.transport.local_addr()).await.unwrap();
        stranger.write_all(&header).await.unwrap();
        closed(&mut stranger).await;
    }
    for header in [
        bomb(1, 0, u32::MAX, true),
        bomb(1, 64 * 1024 + 1, 0, true),
        bomb(1, 0, 10, false),
        bomb(2, 0, 10, true),
    ] {
        let mut member = raw(&b, Lane::Control).await;
        member.stream.write_all(&header).await.unwrap();
        closed(&mut member.stream).await;
    }
    // The node has taken no harm.
    let a = node("a").await;
    a.knows(&b, "b");
    a.call("b", request(ECHO, Lane::Control, b""))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_replayed_or_altered_frame_closes_the_connection_and_is_not_run() {
    for altered in [false, true] {
        let b = node("b").await;
        let mut member = raw(&b, Lane::Rpc).await;
        let mut header = FrameHeader::new(1, FrameType::Request);
        (header.kind, header.correlation, header.budget_ms) = (GATED.0, 1, 10_000);
        let meta = Bytes::from_static(b"transfer 1 to eve");
        let mut frame = bytes_of(&mut member.encoder, header, &meta).to_vec();
        if altered {
            frame[24 + 9] = b'9';
        } else {
            member.stream.write_all(&frame).await.unwrap();
            within(b.handler.arrived.acquire()).await.unwrap().forget();
        }
        member.stream.write_all(&frame).await.unwrap();
        closed(&mut member.stream).await;
        assert_eq!(b.handler.arrived.available_permits(), 0);
    }
}

#[tokio::test]
async fn strangers_who_say_nothing_are_few_and_do_not_stay() {
    let mut settings = config("b", shared("s"));
    settings.limits.max_unauthenticated_per_source = 2;
    settings.limits.handshake_timeout = Duration::from_millis(300);
    let b = start(settings).await;
    let connect = || TcpStream::connect(b.transport.local_addr());
    let mut silent = [connect().await.unwrap(), connect().await.unwrap()];
    let mut one_too_many = connect().await.unwrap();
    closed(&mut one_too_many).await;
    for stranger in &mut silent {
        closed(stranger).await;
    }
    let a = node("a").await;
    a.knows(&b, "b");
    let echo = async || a.call("b", request(ECHO, Lane::Rpc, b"")).await;
    eventually(echo, Result::is_ok).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_accepts_and_hangs_up_is_not_dialled_in_a_tight_loop() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let mut settings = config("a", shared("s"));
    settings.limits.backoff_min = Duration::from_secs(3600);
    settings.limits.backoff_max = Duration::from_secs(3600);
    let a = start(settings).await;
    a.transport.add_peer(name("b"), address);
    let hang_up = tokio::spawn(async move { drop(listener.accept().await.unwrap()) });
    let first = a.call("b", request(ECHO, Lane::Rpc, b"")).await;
    assert!(
        matches!(first, Err(RpcError::Unreachable { .. })),
        "{first:?}"
    );
    within(hang_up).await.unwrap();
    // Nobody listens any more: a second dial would have another reason to fail.
    let second = a.call("b", request(ECHO, Lane::Rpc, b"")).await;
    assert_eq!(first.unwrap_err(), second.unwrap_err());
}

#[tokio::test]
async fn a_request_whose_budget_is_over_is_not_run() {
    let b = node("b").await;
    let mut member = raw(&b, Lane::Rpc).await;
    for (correlation, budget_ms) in [(1, 0), (2, 10_000)] {
        let mut header = FrameHeader::new(1, FrameType::Request);
        (header.kind, header.correlation, header.budget_ms) = (GATED.0, correlation, budget_ms);
        let frame = bytes_of(&mut member.encoder, header, &Bytes::new());
        member.stream.write_all(&frame).await.unwrap();
    }
    within(b.handler.arrived.acquire()).await.unwrap().forget();
    assert_eq!(b.handler.arrived.available_permits(), 0, "only the second");
}

/// Accepts a connection without security, as node b, and takes so many requests: their ids and messages.
pub(super) async fn taken(listener: &TcpListener, count: usize) -> (Raw, Vec<(u32, Bytes)>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let local = LocalIdentity {
        name: name("b"),
        incarnation: rivven_core_types::Incarnation::from_bytes([4; 16]),
        cluster: None,
        quic: None,
    };
    let mut responder = Responder::new(local, Security::InsecureDev, None);
    let mut decoder = FrameDecoder::new(0, limits::MAX_UNAUTHENTICATED_FRAME_BYTES, None);
    let mut encoder = FrameEncoder::new(0, limits::MAX_UNAUTHENTICATED_FRAME_BYTES, None);
    let mut buffer = BytesMut::new();
    let mut requests = Vec::new();
    while requests.len() < count {
        let Some(frame) = decoder.decode(&mut buffer).unwrap() else {
            assert_ne!(stream.read_buf(&mut buffer).await.unwrap(), 0);
            continue;
        };
        if frame.header.frame_type == FrameType::Request {
            requests.push((frame.header.correlation, frame.meta.clone()));
        }
        if frame.header.frame_type != FrameType::Handshake {
            continue;
        }
        let reply = match responder.receive(&frame.meta, &OsEntropy).unwrap() {
            ResponderStep::Send(reply) => reply,
            ResponderStep::Done(reply, _) => {
                decoder = FrameDecoder::new(1, lane_limit(Lane::Rpc), None);
                reply
            }
            ResponderStep::Refuse(..) | ResponderStep::Early(_) => panic!("nothing to refuse"),
        };
        let header = FrameHeader::new(0, FrameType::Handshake);
        let bytes = bytes_of(&mut encoder, header, &reply);
        stream.write_all(&bytes).await.unwrap();
    }
    let encoder = FrameEncoder::new(1, lane_limit(Lane::Rpc), None);
    let raw = Raw {
        stream,
        encoder,
        decoder,
        buffer,
    };
    (raw, requests)
}

/// A peer that answers the first request only after the second has come: late, and twice, and with
/// an answer to a request that never was; then it answers the second.
async fn tardy_peer(listener: TcpListener) {
    let (mut raw, requests) = taken(&listener, 2).await;
    for (correlation, meta) in [
        (requests[0].0, "late"),
        (requests[0].0, "late again"),
        (4711, "to nobody"),
        (requests[1].0, "in time"),
    ] {
        raw.say(FrameType::Response, correlation, meta.as_bytes())
            .await;
    }
    let _until_closed = raw.stream.read(&mut [0; 64]).await;
}

#[tokio::test]
async fn a_late_answer_never_reaches_another_caller() {
    // The public predecessor put a socket back while an answer was still on its way, and handed
    // that answer to the next caller.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let peer = tokio::spawn(tardy_peer(listener));
    let a = start(config("a", Security::InsecureDev)).await;
    a.transport.add_peer(name("b"), address);
    let mut hasty = request(ECHO, Lane::Rpc, b"first");
    hasty.deadline = Duration::from_millis(400);
    let first = a.call("b", hasty).await;
    assert!(matches!(first, Err(RpcError::Timeout { .. })), "{first:?}");
    let second = a.call("b", request(ECHO, Lane::Rpc, b"second")).await;
    assert_eq!(&second.unwrap().meta[..], b"in time");
    peer.abort();
}

/// Slowloris: a byte now and then keeps no place at the door beyond the handshake's time.
#[tokio::test]
async fn a_stranger_who_trickles_bytes_is_cut_off() {
    let mut settings = config("b", shared("s"));
    settings.limits.handshake_timeout = Duration::from_millis(300);
    let b = start(settings).await;
    let mut stranger = TcpStream::connect(b.transport.local_addr()).await.unwrap();
    // The beginning of a Hello of a thousand bytes.
    let header = bomb(0, 1000, 0, false);
    let began = tokio::time::Instant::now();
    let mut bytes = header.iter().chain(std::iter::repeat(&0));
    loop {
        let byte = [*bytes.next().unwrap()];
        let cut_off = stranger.write_all(&byte).await.is_err()
            || matches!(
                tokio::time::timeout(Duration::from_millis(20), stranger.read(&mut [0; 8])).await,
                Ok(Ok(0) | Err(_))
            );
        if cut_off {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "still connected");
    }
    assert!(began.elapsed() >= Duration::from_millis(200));
}

/// A member of the cluster that goes mad after the handshake.
#[tokio::test]
async fn garbage_after_the_handshake_closes_the_connection() {
    let b = node("b").await;
    let mut seed = 7u64;
    for _ in 0..20 {
        let mut member = raw(&b, Lane::Rpc).await;
        let garbage: Vec<u8> = (0..512)
            .map(|_| {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed.to_be_bytes()[0]
            })
            .collect();
        member.stream.write_all(&garbage).await.unwrap();
        closed(&mut member.stream).await;
    }
    // Frames that are well formed, sealed, and make no sense from a caller.
    for what in [
        FrameType::Response,
        FrameType::GoAway,
        FrameType::Handshake,
        FrameType::Part,
    ] {
        let mut member = raw(&b, Lane::Rpc).await;
        member.say(what, 9, b"").await;
        closed(&mut member.stream).await;
    }
    assert_eq!(b.handler.arrived.available_permits(), 0);
}

/// How many sockets a test may hold: the process's limit of descriptors, less what everything else needs.
fn descriptors_to_spare() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|l| l.starts_with("Max open files"));
    let soft = line.and_then(|l| l.split_whitespace().nth(3)?.parse::<usize>().ok());
    soft.map_or(400, |soft| soft.saturating_sub(600).max(400))
}

/// Five thousand sockets that say nothing and stay: members go on, and the places are free again afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_sockets_does_not_reach_those_who_are_in() {
    let mut settings = config("b", shared("s"));
    settings.limits.handshake_timeout = Duration::from_secs(2);
    let (a, b) = (node("a").await, start(settings).await);
    a.knows(&b, "b");
    a.call("b", request(ECHO, Lane::Control, b""))
        .await
        .unwrap();
    let to = b.transport.local_addr();
    let most = descriptors_to_spare();
    let storm = tokio::spawn(async move {
        let mut sockets = tokio::task::JoinSet::new();
        let (mut made, mut kept) = (0, VecDeque::new());
        for _ in 0..5000 {
            // As many at a time as the kernel's queue of the listener takes.
            if sockets.len() >= 100
                && let Some(Ok(Ok(socket))) = sockets.join_next().await
            {
                made += 1;
                kept.push_back(socket);
                // Where a process may not hold them all the latest stay open.
                if kept.len() > most {
                    kept.pop_front();
                }
            }
            sockets.spawn(TcpStream::connect(to));
        }
        (made, kept)
    });
    let mut slowest = Duration::ZERO;
    while !storm.is_finished() {
        let began = tokio::time::Instant::now();
        a.call("b", request(ECHO, Lane::Control, b"hb"))
            .await
            .unwrap();
        slowest = slowest.max(began.elapsed());
    }
    let (made, kept): (usize, VecDeque<TcpStream>) = within(storm).await.unwrap();
    assert!(made > 4000, "only {made} sockets");
    assert!(slowest < Duration::from_secs(2), "a call took {slowest:?}");
    drop(kept);
    let c = node("c").await;
    c.knows(&b, "b");
    let echo = async || c.call("b", request(ECHO, Lane::Rpc, b"")).await;
    eventually(echo, Result::is_ok).await.unwrap();
}
