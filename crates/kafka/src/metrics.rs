//! The port's metrics, by name in one place.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::api::ApiKey;

/// Counts one request and its time from the end of its frame until its answer was ready.
pub(crate) fn request(api: ApiKey, outcome: &'static str, time: Duration) {
    counter!("rivven_kafka_requests_total", "api" => api.name(), "outcome" => outcome).increment(1);
    histogram!("rivven_kafka_request_seconds", "api" => api.name()).record(time.as_secs_f64());
}

/// Counts bytes on the wire; `direction` is `in` or `out`.
pub(crate) fn bytes(direction: &'static str, count: usize) {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    counter!("rivven_kafka_bytes_total", "direction" => direction).increment(count);
}

/// Counts a connection or request that was refused.
pub(crate) fn rejected(reason: &'static str) {
    counter!("rivven_kafka_rejected_total", "reason" => reason).increment(1);
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
pub(crate) struct OpenConnection(());

impl OpenConnection {
    pub(crate) fn new() -> Self {
        gauge!("rivven_kafka_connections").increment(1.0);
        Self(())
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!("rivven_kafka_connections").decrement(1.0);
    }
}
