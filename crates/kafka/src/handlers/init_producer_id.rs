use kafka_protocol::ResponseError;
use kafka_protocol::messages::InitProducerIdResponse;

use super::{Answer, Context, DEFAULT_TIMEOUT, Outcome, Pending, within};
use crate::api::Call;
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::InitProducerIdRequest;
use crate::wire::{DecodeError, Reader};

/// What the response says when there is no id.
const NO_ID: i64 = -1;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = InitProducerIdRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        // Transactions are not served. 53 is the code that clients take as final; most others would
        // be tried for ever.
        let result = if request.transactional_id.is_some() {
            Err(ResponseError::TransactionalIdAuthorizationFailed.code())
        } else {
            // An id that the client had before is not reused: a fresh one bumps its epoch as well
            // (KIP-360 leaves that to the broker).
            within(DEFAULT_TIMEOUT, context.broker.init_producer_id())
                .await
                .and_then(Result::ok)
                .ok_or(BrokerError::INIT_PRODUCER_ID_CODE)
        };
        let response = InitProducerIdResponse::default();
        let response = match result {
            Ok((id, epoch)) => response
                .with_producer_id(id.get().into())
                .with_producer_epoch(epoch.get()),
            Err(code) => response
                .with_error_code(code)
                .with_producer_id(NO_ID.into())
                .with_producer_epoch(-1),
        };
        let outcome = Outcome::of(response.error_code != 0);
        Ok(Answer::write(Frame::encode(call, &response)?, outcome))
    }))
}
