use kafka_protocol::ResponseError;
use kafka_protocol::messages::FindCoordinatorResponse;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::protocol::StrBytes;
use rivven_core_types::BrokerId;

use super::text;
use crate::api::Call;
use crate::frame::Frame;
use crate::handlers::{Answer, Context, Outcome, Pending};
use crate::requests::FindCoordinatorRequest;
use crate::wire::{DecodeError, Reader};

const GROUP: i8 = 0;
const NO_BROKER: BrokerId = BrokerId::new(-1);

pub(in crate::handlers) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = FindCoordinatorRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        // One node coordinates all groups.
        let found = if request.key_type == GROUP {
            context.broker.groups().coordinator().await
        } else {
            None
        };
        let cluster = context.broker.cluster();
        let broker = found.and_then(|id| cluster.broker(id));
        let (id, host, port) = match broker {
            Some(b) => (b.id, text(&b.host), i32::from(b.port)),
            None => (NO_BROKER, StrBytes::default(), -1),
        };
        // Transactions and share groups have no coordinator here; for groups it is a matter of time.
        let code = match broker {
            Some(_) => 0,
            None if request.key_type == GROUP => ResponseError::CoordinatorNotAvailable.code(),
            None => ResponseError::InvalidRequest.code(),
        };
        let response = FindCoordinatorResponse::default();
        let response = if call.version >= 4 {
            let coordinator = |key: StrBytes| {
                Coordinator::default()
                    .with_key(key)
                    .with_node_id(id.get().into())
                    .with_host(host.clone())
                    .with_port(port)
                    .with_error_code(code)
            };
            response.with_coordinators(request.keys.into_iter().map(coordinator).collect())
        } else {
            response
                .with_node_id(id.get().into())
                .with_host(host)
                .with_port(port)
                .with_error_code(code)
        };
        let frame = Frame::encode(call, &response)?;
        Ok(Answer::write(frame, Outcome::of(code != 0)))
    }))
}
