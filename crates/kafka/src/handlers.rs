//! One handler per API: from a decoded request to a response frame.
//!
//! A handler is started in the order of a connection's requests and answers with a future. What must
//! happen in that order (appends) happens before it returns; the rest when its turn to answer comes.

mod api_versions;
mod configs;
mod create_partitions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod describe_configs;
mod elect_leaders;
mod fetch;
mod groups;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod offset_for_leader_epoch;
mod produce;
mod reassignments;

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::BoxFuture;

use crate::api::{ApiKey, Call};
use crate::broker::Broker;
use crate::config::KafkaConfig;
use crate::frame::{EncodeError, Frame};
use crate::wire::DecodeError;

pub(crate) use api_versions::unsupported_version;

/// Longest time-out of a request, whatever the client asks for.
const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Time-out of requests that name none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// How much longer than its time-out a request waits for the broker before the port answers for it.
const BROKER_GRACE: Duration = Duration::from_secs(5);

/// How a request ended, as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// No error code in the response.
    Ok,
    /// Some error code in the response.
    Error,
}

impl Outcome {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Error => "error",
        }
    }

    pub(crate) const fn of(failed: bool) -> Self {
        if failed { Self::Error } else { Self::Ok }
    }
}

/// What follows from a request.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What to write; `None` for `acks=0`.
    pub(crate) frame: Option<Frame>,
    pub(crate) outcome: Outcome,
    /// Close the connection: the only way to tell of a failed `acks=0`, as Kafka does.
    pub(crate) close: bool,
}

impl Answer {
    pub(crate) const fn write(frame: Frame, outcome: Outcome) -> Self {
        Self {
            frame: Some(frame),
            outcome,
            close: false,
        }
    }
}

/// A request's answer, in time.
pub(crate) type Pending = BoxFuture<'static, Result<Answer, EncodeError>>;

/// What a handler works with.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) config: Arc<KafkaConfig>,
    /// Where the client is, if the connection could tell.
    pub(crate) peer: Option<IpAddr>,
}

/// Decodes the request behind the fixed header and starts its handler.
pub(crate) fn start(context: &Context, call: Call, rest: Bytes) -> Result<Pending, DecodeError> {
    let mut reader = call.open(rest)?;
    match call.api {
        ApiKey::Produce => produce::start(context, call, &mut reader),
        ApiKey::Fetch => fetch::start(context, call, &mut reader),
        ApiKey::ListOffsets => list_offsets::start(context, call, &mut reader),
        ApiKey::Metadata => metadata::start(context, call, &mut reader),
        ApiKey::ApiVersions => api_versions::start(call, &mut reader),
        ApiKey::CreateTopics => create_topics::start(context, call, &mut reader),
        ApiKey::InitProducerId => init_producer_id::start(context, call, &mut reader),
        ApiKey::DeleteTopics => delete_topics::start(context, call, &mut reader),
        ApiKey::DeleteRecords => delete_records::start(context, call, &mut reader),
        ApiKey::DescribeConfigs => describe_configs::start(context, call, &mut reader),
        ApiKey::CreatePartitions => create_partitions::start(context, call, &mut reader),
        ApiKey::ElectLeaders => elect_leaders::start(context, call, &mut reader),
        ApiKey::AlterPartitionReassignments => reassignments::alter(context, call, &mut reader),
        ApiKey::ListPartitionReassignments => reassignments::list(context, call, &mut reader),
        ApiKey::IncrementalAlterConfigs => configs::start(context, call, &mut reader),
        ApiKey::FindCoordinator => groups::find_coordinator(context, call, &mut reader),
        ApiKey::JoinGroup => groups::join(context, call, &mut reader),
        ApiKey::SyncGroup => groups::sync(context, call, &mut reader),
        ApiKey::Heartbeat => groups::heartbeat(context, call, &mut reader),
        ApiKey::LeaveGroup => groups::leave(context, call, &mut reader),
        ApiKey::OffsetCommit => groups::commit(context, call, &mut reader),
        ApiKey::OffsetFetch => groups::offset_fetch(context, call, &mut reader),
        ApiKey::OffsetDelete => groups::offset_delete(context, call, &mut reader),
        ApiKey::OffsetForLeaderEpoch => offset_for_leader_epoch::start(context, call, &mut reader),
        ApiKey::ListGroups => groups::list(context, call, &mut reader),
        ApiKey::DescribeGroups => groups::describe(context, call, &mut reader),
        ApiKey::DeleteGroups => groups::delete(context, call, &mut reader),
        ApiKey::ConsumerGroupHeartbeat => groups::consumer_heartbeat(context, call, &mut reader),
        ApiKey::ConsumerGroupDescribe => groups::consumer_describe(context, call, &mut reader),
    }
}

/// A client's time-out in milliseconds, kept within bounds.
fn bounded_timeout(millis: i32) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0)).min(MAX_REQUEST_TIMEOUT)
}

/// Waits for the broker, but no longer than `limit` and a grace; `None` when it is late.
async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(limit + BROKER_GRACE, future)
        .await
        .ok()
}

/// Waits for all of `futures` at once; the results are in their order. One that is not ready when
/// `limit` and a grace have passed gives `late`.
async fn all_within<T: Clone + Send + 'static>(
    limit: Duration,
    futures: Vec<BoxFuture<'static, T>>,
    late: T,
) -> Vec<T> {
    let mut slots: Vec<Result<T, BoxFuture<'static, T>>> = futures.into_iter().map(Err).collect();
    let all = poll_fn(|context| {
        let mut pending = false;
        for slot in &mut slots {
            if let Err(future) = slot {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *slot = Ok(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending {
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    });
    // When it is late the slots that are still futures tell so below.
    if within(limit, all).await.is_none() {
        tracing::warn!(?limit, "the broker did not answer in time");
    }
    slots
        .into_iter()
        .map(|slot| slot.unwrap_or_else(|_| late.clone()))
        .collect()
}
