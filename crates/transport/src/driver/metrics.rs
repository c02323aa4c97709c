//! Metric names, and the few places that touch them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use metrics::{
    Counter, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use rivven_core_types::{Lane, RpcError, RpcKind};

use super::lifecycle::lock;

const CONNECTIONS: &str = "rivven_transport_connections";
const HANDSHAKE_FAILURES: &str = "rivven_transport_handshake_failures_total";
const REQUESTS: &str = "rivven_transport_requests_total";
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
        "Time from the start of a connection to the end of its handshake, by direction (in, out)"
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

pub(super) fn shaken_hands(direction: &'static str, took: Duration) {
    histogram!(HANDSHAKE_SECONDS, "direction" => direction).record(took.as_secs_f64());
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
pub(super) struct Calls(Mutex<BTreeMap<(u16, &'static str), Counter>>);

impl Calls {
    pub(super) fn ended<T>(&self, kind: RpcKind, lane: Lane, result: &Result<T, RpcError>) {
        if matches!(result, Err(RpcError::Overloaded { .. })) {
            counter!(OVERLOAD, "lane" => lane.name()).increment(1);
        }
        let outcome = result.as_ref().map_or_else(outcome, |_| "ok");
        // Unknown kinds share a name, and so they do an entry.
        let known = if kind.name() == "unknown" { 0 } else { kind.0 };
        lock(&self.0)
            .entry((known, outcome))
            .or_insert_with(|| counter!(REQUESTS, "kind" => kind.name(), "outcome" => outcome))
            .increment(1);
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
