//! Metric names, and the few places that touch them.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use rivven_core_types::{Lane, RpcError, RpcKind};

const CONNECTIONS: &str = "rivven_transport_connections";
const HANDSHAKE_FAILURES: &str = "rivven_transport_handshake_failures_total";
const REQUESTS: &str = "rivven_transport_requests_total";
const BYTES: &str = "rivven_transport_bytes_total";
const LATE_RESPONSES: &str = "rivven_transport_late_responses_total";
const OVERLOAD: &str = "rivven_transport_overload_total";
#[cfg(feature = "tls")]
const CERT_EXPIRY: &str = "rivven_tls_cert_expiry_timestamp_seconds";
#[cfg(feature = "tls")]
const TLS_RELOADS: &str = "rivven_tls_reloads_total";

/// Describes every metric of this crate to the installed recorder.
pub fn describe_metrics() {
    describe_gauge!(
        CONNECTIONS,
        Unit::Count,
        "Authenticated connections, by lane and direction (in, out)"
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
pub(super) struct ConnectionGauge(Lane, &'static str);

impl ConnectionGauge {
    pub(super) fn new(lane: Lane, direction: &'static str) -> Self {
        gauge!(CONNECTIONS, "lane" => lane.name(), "direction" => direction).increment(1.0);
        Self(lane, direction)
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        gauge!(CONNECTIONS, "lane" => self.0.name(), "direction" => self.1).decrement(1.0);
    }
}

pub(super) fn handshake_failed(reason: &'static str) {
    counter!(HANDSHAKE_FAILURES, "reason" => reason).increment(1);
}

pub(super) fn call_ended<T>(kind: RpcKind, lane: Lane, result: &Result<T, RpcError>) {
    if matches!(result, Err(RpcError::Overloaded { .. })) {
        counter!(OVERLOAD, "lane" => lane.name()).increment(1);
    }
    let outcome = result.as_ref().map_or_else(outcome, |_| "ok");
    counter!(REQUESTS, "kind" => kind.name(), "outcome" => outcome).increment(1);
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

pub(super) fn bytes_moved(direction: &'static str, bytes: usize) {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    counter!(BYTES, "direction" => direction).increment(bytes);
}

pub(super) fn late_response() {
    counter!(LATE_RESPONSES).increment(1);
}
