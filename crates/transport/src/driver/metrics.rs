//! Metric names, and the few places that touch them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use rivven_core_types::{Lane, RpcError, RpcKind};

use super::lifecycle::lock;

const CONNECTIONS: &str = "rivven_transport_connections";
const HANDSHAKE_FAILURES: &str = "rivven_transport_handshake_failures_total";
const REQUESTS: &str = "rivven_transport_requests_total";
const REQUEST_SECONDS: &str = "rivven_transport_request_seconds";
const HANDLER_SECONDS: &str = "rivven_transport_handler_seconds";
const QUEUE_SECONDS: &str = "rivven_transport_queue_seconds";
const IN_FLIGHT: &str = "rivven_transport_inflight_requests";
const SEND_QUEUE: &str = "rivven_transport_send_queue_frames";
const CONNECTS: &str = "rivven_transport_connects_total";
const HANDSHAKE_SECONDS: &str = "rivven_transport_handshake_seconds";
const DISCONNECTS: &str = "rivven_transport_disconnects_total";
const REJECTED: &str = "rivven_transport_frames_rejected_total";
const CANCELLED: &str = "rivven_transport_cancelled_total";
const PEER_RTT: &str = "rivven_transport_peer_rtt_seconds";
const NODE_BYTES: &str = "rivven_transport_memory_bytes";
const BYTES: &str = "rivven_transport_bytes_total";
const LATE_RESPONSES: &str = "rivven_transport_late_responses_total";
const OVERLOAD: &str = "rivven_transport_overload_total";
#[cfg(feature = "quic")]
const EARLY: &str = "rivven_quic_zero_rtt_total";
#[cfg(feature = "tls")]
const CERT_EXPIRY: &str = "rivven_tls_cert_expiry_timestamp_seconds";
#[cfg(feature = "tls")]
const TLS_RELOADS: &str = "rivven_tls_reloads_total";

/// Describes every metric of this crate to the installed recorder.
pub fn describe_metrics() {
    describe_gauge!(
        CONNECTIONS,
        Unit::Count,
        "Authenticated connections, by lane, direction (in, out) and carrier (tcp, tls, quic)"
    );
    describe_counter!(
        HANDSHAKE_FAILURES,
        Unit::Count,
        "Handshakes that failed, on either side, by reason"
    );
    describe_counter!(
        REQUESTS,
        Unit::Count,
        "Calls that ended, at the caller, by kind and outcome; outcome expired is counted where \
         the request was served"
    );
    describe_histogram!(
        HANDSHAKE_SECONDS,
        Unit::Seconds,
        "Time from the start of a connection to the end of its handshake, by direction (in, out) and carrier"
    );
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "Time of a call, at the caller, by kind and lane; dialling and queueing included"
    );
    describe_histogram!(
        HANDLER_SECONDS,
        Unit::Seconds,
        "Time from the start of a handler to its answer, by kind and lane"
    );
    describe_histogram!(
        QUEUE_SECONDS,
        Unit::Seconds,
        "Time from the first byte of a request to the start of its handler, by kind and lane"
    );
    describe_gauge!(
        IN_FLIGHT,
        Unit::Count,
        "Calls that wait for their answers, by peer and lane, over all connections to it; looked at twice per ping interval"
    );
    describe_gauge!(
        SEND_QUEUE,
        Unit::Count,
        "Frames in the send queues of the connections to a peer, by peer and lane, looked at as often"
    );
    describe_counter!(
        CONNECTS,
        Unit::Count,
        "Connections dialled, by lane, carrier and outcome: ok, or why not"
    );
    describe_counter!(
        DISCONNECTS,
        Unit::Count,
        "Authenticated connections that ended, by direction (in, out) and reason"
    );
    describe_counter!(
        REJECTED,
        Unit::Count,
        "Frames for which a connection was closed, by reason"
    );
    describe_counter!(
        CANCELLED,
        Unit::Count,
        "Requests whose callers gave them up, where they were served"
    );
    describe_histogram!(
        PEER_RTT,
        Unit::Seconds,
        "Time from a ping to the next sign of life, by peer"
    );
    describe_gauge!(
        NODE_BYTES,
        Unit::Bytes,
        "Memory held for peers' requests and long bodies, of max_node_bytes and 64 MiB on the control lane"
    );
    describe_counter!(
        BYTES,
        Unit::Bytes,
        "Bytes on authenticated connections, by direction (in, out)"
    );
    describe_counter!(
        LATE_RESPONSES,
        Unit::Count,
        "Answers that nobody waited for any more"
    );
    describe_counter!(
        OVERLOAD,
        Unit::Count,
        "Calls refused because a queue was full, by lane"
    );
    #[cfg(feature = "quic")]
    describe_counter!(
        EARLY,
        Unit::Count,
        "Early data of QUIC, by outcome: accepted or rejected, seen by the caller; refused, a request that \
         must not come early, seen where it came"
    );
    #[cfg(feature = "tls")]
    {
        describe_gauge!(
            CERT_EXPIRY,
            Unit::Seconds,
            "When this node's certificate ends, in seconds since 1970"
        );
        describe_counter!(
            TLS_RELOADS,
            Unit::Count,
            "Times that the certificates were read again, by outcome (ok, failed: the old ones stay)"
        );
    }
}

/// What became of early data.
#[cfg(feature = "quic")]
#[derive(Debug, Clone, Copy)]
pub(super) enum EarlyData {
    Accepted,
    Rejected,
    Refused,
}

#[cfg(feature = "quic")]
pub(super) fn early_data(outcome: EarlyData) {
    let outcome = match outcome {
        EarlyData::Accepted => "accepted",
        EarlyData::Rejected => "rejected",
        EarlyData::Refused => "refused",
    };
    counter!(EARLY, "outcome" => outcome).increment(1);
}

#[cfg(feature = "tls")]
pub(super) fn certificates_reloaded(ok: bool) {
    let outcome = if ok { "ok" } else { "failed" };
    counter!(TLS_RELOADS, "outcome" => outcome).increment(1);
}

#[cfg(feature = "tls")]
pub(super) fn certificate_ends(at: Option<std::time::SystemTime>) {
    let since = at.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    if let Some(since) = since {
        gauge!(CERT_EXPIRY).set(since.as_secs_f64());
    }
}

/// Counts a connection for as long as it lives.
#[derive(Debug)]
pub(super) struct ConnectionGauge {
    lane: Lane,
    direction: &'static str,
    carrier: &'static str,
}

impl ConnectionGauge {
    pub(super) fn new(lane: Lane, direction: &'static str, carrier: &'static str) -> Self {
        let this = Self {
            lane,
            direction,
            carrier,
        };
        this.gauge().increment(1.0);
        this
    }

    fn gauge(&self) -> metrics::Gauge {
        gauge!(
            CONNECTIONS,
            "lane" => self.lane.name(),
            "direction" => self.direction,
            "carrier" => self.carrier
        )
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        self.gauge().decrement(1.0);
    }
}

pub(super) fn handshake_failed(reason: &'static str) {
    counter!(HANDSHAKE_FAILURES, "reason" => reason).increment(1);
}

pub(super) fn shaken_hands(direction: &'static str, carrier: &'static str, took: Duration) {
    histogram!(HANDSHAKE_SECONDS, "direction" => direction, "carrier" => carrier)
        .record(took.as_secs_f64());
}

pub(super) fn connected(lane: Lane, carrier: &'static str, outcome: &'static str) {
    let lane = lane.name();
    counter!(CONNECTS, "lane" => lane, "carrier" => carrier, "outcome" => outcome).increment(1);
}

/// What one outgoing connection has to do; nothing any more once this is dropped. A peer may have two for a
/// while, an old one that ends and the new one, so that each adds its part to a figure that is theirs together.
pub(super) struct Load {
    in_flight: Part,
    queued: Part,
}

/// A part of a gauge.
struct Part {
    whole: metrics::Gauge,
    now: f64,
}

impl Part {
    fn is(&mut self, now: usize) {
        let now = f64::from(u32::try_from(now).unwrap_or(u32::MAX));
        self.whole.increment(now - self.now);
        self.now = now;
    }
}

impl Load {
    pub(super) fn of(peer: &str, lane: Lane) -> Self {
        let part = |name| Part {
            whole: gauge!(name, "peer" => peer.to_owned(), "lane" => lane.name()),
            now: 0.0,
        };
        Self {
            in_flight: part(IN_FLIGHT),
            queued: part(SEND_QUEUE),
        }
    }

    pub(super) fn is(&mut self, in_flight: usize, queued: usize) {
        self.in_flight.is(in_flight);
        self.queued.is(queued);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is(0, 0);
    }
}

pub(super) fn disconnected(direction: &'static str, reason: &'static str) {
    counter!(DISCONNECTS, "direction" => direction, "reason" => reason).increment(1);
}

pub(super) fn frame_rejected(reason: &'static str) {
    counter!(REJECTED, "reason" => reason).increment(1);
}

pub(super) fn request_cancelled() {
    counter!(CANCELLED).increment(1);
}

pub(super) fn round_trip(peer: &str, took: Duration) {
    histogram!(PEER_RTT, "peer" => peer.to_owned()).record(took.as_secs_f64());
}

pub(super) fn memory_held(bytes: usize) {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    gauge!(NODE_BYTES).set(f64::from(bytes));
}

/// Counts calls that ended. Handles are looked up once: a call costs microseconds in all, and the lookup
/// would be a good part of that.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<BTreeMap<(u16, Lane), Ended>>);

/// Calls of one kind on one lane.
#[derive(Debug)]
struct Ended {
    took: Histogram,
    ok: Counter,
    failed: BTreeMap<&'static str, Counter>,
}

impl Calls {
    pub(super) fn ended<T>(
        &self,
        (kind, lane): (RpcKind, Lane),
        result: &Result<T, RpcError>,
        took: Duration,
    ) {
        let outcomes = |outcome| counter!(REQUESTS, "kind" => kind.name(), "outcome" => outcome);
        let mut calls = lock(&self.0);
        let calls = calls.entry((known(kind), lane)).or_insert_with(|| Ended {
            took: times(REQUEST_SECONDS, kind, lane),
            ok: outcomes("ok"),
            failed: BTreeMap::new(),
        });
        calls.took.record(took.as_secs_f64());
        let Err(error) = result else {
            calls.ok.increment(1);
            return;
        };
        if matches!(error, RpcError::Overloaded { .. }) {
            counter!(OVERLOAD, "lane" => lane.name()).increment(1);
        }
        let outcome = outcome(error);
        let failed = &mut calls.failed;
        let failed = failed.entry(outcome).or_insert_with(|| outcomes(outcome));
        failed.increment(1);
    }
}

/// Unknown kinds share a name, and so they do an entry.
fn known(kind: RpcKind) -> u16 {
    if kind.name() == "unknown" { 0 } else { kind.0 }
}

fn times(name: &'static str, kind: RpcKind, lane: Lane) -> Histogram {
    histogram!(name, "kind" => kind.name(), "lane" => lane.name())
}

/// Times of requests of one kind on one lane where they are served.
#[derive(Debug)]
pub(super) struct Served {
    queued: Histogram,
    handled: Histogram,
}

impl Served {
    pub(super) fn of(kind: RpcKind, lane: Lane) -> Self {
        Self {
            queued: times(QUEUE_SECONDS, kind, lane),
            handled: times(HANDLER_SECONDS, kind, lane),
        }
    }

    /// A request has waited this long for its handler.
    pub(super) fn begun(&self, waited: Duration) {
        self.queued.record(waited.as_secs_f64());
    }

    /// Its handler has taken this long.
    pub(super) fn answered(&self, took: Duration) {
        self.handled.record(took.as_secs_f64());
    }
}

/// The same of every kind on one connection, looked up once and without a lock.
#[derive(Debug)]
pub(super) struct ServedHere {
    lane: Lane,
    kinds: BTreeMap<u16, Arc<Served>>,
}

impl ServedHere {
    pub(super) const fn on(lane: Lane) -> Self {
        let kinds = BTreeMap::new();
        Self { lane, kinds }
    }

    pub(super) fn of(&mut self, kind: RpcKind) -> &Arc<Served> {
        let lane = self.lane;
        let kinds = self.kinds.entry(known(kind));
        kinds.or_insert_with(|| Arc::new(Served::of(kind, lane)))
    }
}

const fn outcome(error: &RpcError) -> &'static str {
    match error {
        RpcError::UnknownPeer { .. } => "unknown_peer",
        RpcError::Unreachable { .. } => "unreachable",
        RpcError::ConnectionLost { .. } => "connection_lost",
        RpcError::Timeout { .. } => "timeout",
        RpcError::Overloaded { .. } => "overloaded",
        RpcError::Handshake { .. } => "handshake",
        RpcError::TooLarge { .. } => "too_large",
        RpcError::UnknownKind { .. } => "unknown_kind",
        RpcError::Malformed(_) => "malformed",
        RpcError::Refused(_) => "refused",
        RpcError::AnswerFailed { .. } => "answer_failed",
        RpcError::Shutdown => "shutdown",
        // The error is non-exhaustive; a new variant counts as this until it is named here.
        _ => "other",
    }
}

pub(super) fn request_expired(kind: RpcKind) {
    counter!(REQUESTS, "kind" => kind.name(), "outcome" => "expired").increment(1);
}

/// Counts the bytes of one direction of one connection.
pub(super) struct Moved(Counter);

impl Moved {
    pub(super) fn new(direction: &'static str) -> Self {
        Self(counter!(BYTES, "direction" => direction))
    }

    pub(super) fn by(&self, bytes: usize) {
        self.0.increment(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

pub(super) fn late_response() {
    counter!(LATE_RESPONSES).increment(1);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use metrics::{Gauge, Key, KeyName, Metadata, Recorder, SharedString};

    use super::*;

    /// Keeps one gauge for each name.
    #[derive(Default)]
    struct Gauges(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

    impl Gauges {
        fn get(&self, name: &str) -> f64 {
            f64::from_bits(lock(&self.0)[name].load(Ordering::Relaxed))
        }
    }

    impl Recorder for Gauges {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::noop()
        }

        fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
            let mut gauges = lock(&self.0);
            let gauge = gauges.entry(key.name().to_owned()).or_default();
            Gauge::from_arc(Arc::clone(gauge))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    #[test]
    fn two_connections_to_one_peer_are_counted_together() {
        let gauges = Gauges::default();
        metrics::with_local_recorder(&gauges, || {
            let mut old = Load::of("b", Lane::Rpc);
            old.is(7, 2);
            // The peer has a new address, say; the calls on the old connection end there.
            let mut new = Load::of("b", Lane::Rpc);
            new.is(3, 1);
            assert_eq!((gauges.get(IN_FLIGHT), gauges.get(SEND_QUEUE)), (10.0, 3.0));
            old.is(1, 0);
            assert_eq!((gauges.get(IN_FLIGHT), gauges.get(SEND_QUEUE)), (4.0, 1.0));
            drop(old);
            assert_eq!((gauges.get(IN_FLIGHT), gauges.get(SEND_QUEUE)), (3.0, 1.0));
            drop(new);
            assert_eq!((gauges.get(IN_FLIGHT), gauges.get(SEND_QUEUE)), (0.0, 0.0));
        });
    }
}
