use kafka_protocol::ResponseError;
use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::api_versions_response::ApiVersion;

use super::{Answer, Outcome, Pending};
use crate::api::{ApiKey, Call};
use crate::frame::{EncodeError, Frame};
use crate::requests::ApiVersionsRequest;
use crate::wire::{DecodeError, Reader};

pub(super) fn start(call: Call, reader: &mut Reader) -> Result<Pending, DecodeError> {
    let request = ApiVersionsRequest::decode(reader, call.version)?;
    tracing::debug!(
        client = %request.client_software_name,
        version = %request.client_software_version,
        "a Kafka client introduced itself"
    );
    Ok(Box::pin(async move {
        Ok(Answer::write(
            Frame::encode(call, &response(0))?,
            Outcome::Ok,
        ))
    }))
}

/// The answer to an ApiVersions request of a version that is not served: code 35 in the shape of
/// version 0, with all ranges, so that the client can choose another (KIP-511).
pub(crate) fn unsupported_version(correlation: i32) -> Result<Answer, EncodeError> {
    let call = Call {
        api: ApiKey::ApiVersions,
        version: 0,
        correlation,
    };
    let response = response(ResponseError::UnsupportedVersion.code());
    Ok(Answer::write(
        Frame::encode(call, &response)?,
        Outcome::Error,
    ))
}

fn response(error: i16) -> ApiVersionsResponse {
    let keys = ApiKey::ALL.into_iter().map(|api| {
        ApiVersion::default()
            .with_api_key(api.key())
            .with_min_version(*api.versions().start())
            .with_max_version(*api.versions().end())
    });
    ApiVersionsResponse::default()
        .with_error_code(error)
        .with_api_keys(keys.collect())
}
