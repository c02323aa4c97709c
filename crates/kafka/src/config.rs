//! Configuration of the Kafka port.

use std::time::Duration;

use rivven_core_types::limits::MAX_RECORD_BATCH_BYTES;

use crate::error::KafkaError;

/// Room that a frame needs besides one batch of greatest length.
const FRAME_OVERHEAD_BYTES: usize = 64 * 1024;
/// Longest frame that Kafka's signed 32-bit length can announce.
const MAX_FRAME_BYTES: usize = 0x7fff_ffff;

/// Limits and time-outs of the Kafka port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    /// Most connections at a time. One above it is closed at once.
    pub max_connections: usize,
    /// Most connections at a time from one IP address.
    pub max_connections_per_source: usize,
    /// Longest request frame, in bytes. Must hold a batch of greatest length.
    pub max_frame_bytes: usize,
    /// Most bytes of records in one Fetch response, whatever the client allows.
    pub max_fetch_bytes: usize,
    /// Bytes that all requests being received or handled may hold together. A connection that finds
    /// none left stops reading until there are.
    pub request_memory_bytes: usize,
    /// Requests of one connection that are handled or wait for their turn to be answered. A connection
    /// that has so many is not read.
    pub max_in_flight: usize,
    /// A connection without a request, and without one in flight, is closed after this time.
    pub idle_timeout: Duration,
    /// A frame must be whole this long after its length has been read.
    pub frame_timeout: Duration,
    /// A client that takes no byte of a response for this long is closed.
    pub write_timeout: Duration,
    /// Longest wait of a Fetch long poll, whatever the client asks for.
    pub max_fetch_wait: Duration,
    /// How long a shutdown waits for requests in flight to be answered.
    pub shutdown_grace: Duration,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_source: 1_000,
            max_frame_bytes: 16 * 1024 * 1024,
            max_fetch_bytes: 16 * 1024 * 1024,
            request_memory_bytes: 256 * 1024 * 1024,
            max_in_flight: 64,
            // Kafka's connections.max.idle.ms.
            idle_timeout: Duration::from_secs(600),
            frame_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            max_fetch_wait: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(2),
        }
    }
}

impl KafkaConfig {
    /// Checks that every value makes sense, alone and with the others.
    pub fn validate(&self) -> Result<(), KafkaError> {
        let check = |ok: bool, field, reason| {
            if ok {
                Ok(())
            } else {
                Err(KafkaError::Config { field, reason })
            }
        };
        check(
            self.max_connections > 0,
            "max_connections",
            "must be at least 1",
        )?;
        check(
            self.max_connections_per_source > 0,
            "max_connections_per_source",
            "must be at least 1",
        )?;
        check(
            self.max_frame_bytes >= MAX_RECORD_BATCH_BYTES + FRAME_OVERHEAD_BYTES,
            "max_frame_bytes",
            "must hold a record batch of 1 MiB and 64 KiB around it",
        )?;
        check(
            self.max_frame_bytes <= MAX_FRAME_BYTES,
            "max_frame_bytes",
            "must be below 2 GiB",
        )?;
        check(
            (MAX_RECORD_BATCH_BYTES..=MAX_FRAME_BYTES / 2).contains(&self.max_fetch_bytes),
            "max_fetch_bytes",
            "must hold a record batch of 1 MiB and be below 1 GiB",
        )?;
        check(
            self.request_memory_bytes >= self.max_frame_bytes,
            "request_memory_bytes",
            "must be at least max_frame_bytes",
        )?;
        check(
            self.request_memory_bytes <= tokio::sync::Semaphore::MAX_PERMITS,
            "request_memory_bytes",
            "is beyond what can be counted",
        )?;
        check(
            (1..=10_000).contains(&self.max_in_flight),
            "max_in_flight",
            "must be in 1..=10000",
        )?;
        let times = [
            ("idle_timeout", self.idle_timeout),
            ("frame_timeout", self.frame_timeout),
            ("write_timeout", self.write_timeout),
            ("max_fetch_wait", self.max_fetch_wait),
            ("shutdown_grace", self.shutdown_grace),
        ];
        times
            .into_iter()
            .try_for_each(|(field, time)| check(!time.is_zero(), field, "must not be zero"))
    }
}
