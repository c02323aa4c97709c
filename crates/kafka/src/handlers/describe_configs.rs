use kafka_protocol::messages::DescribeConfigsResponse;
use kafka_protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use kafka_protocol::protocol::StrBytes;

use super::configs::{BROKER, TOPIC};
use super::{Answer, Context, Outcome, Pending};
use crate::api::Call;
use crate::error::BrokerError;
use crate::frame::Frame;
use crate::requests::{DescribeConfigsRequest, DescribeResource};
use crate::topic_config::{self, Shown};
use crate::wire::{DecodeError, Reader};

/// Where a value comes from, as DescribeConfigs numbers it.
const DYNAMIC_TOPIC_CONFIG: i8 = 1;
const DEFAULT_CONFIG: i8 = 5;

pub(super) fn start(
    context: &Context,
    call: Call,
    reader: &mut Reader,
) -> Result<Pending, DecodeError> {
    let request = DescribeConfigsRequest::decode(reader, call.version)?;
    let context = context.clone();
    Ok(Box::pin(async move {
        let results: Vec<_> = request
            .resources
            .iter()
            .map(|resource| describe(&context, &request, resource))
            .collect();
        let failed = results.iter().any(|result| result.error_code != 0);
        let response = DescribeConfigsResponse::default().with_results(results);
        Ok(Answer::write(
            Frame::encode(call, &response)?,
            Outcome::of(failed),
        ))
    }))
}

fn describe(
    context: &Context,
    request: &DescribeConfigsRequest,
    resource: &DescribeResource,
) -> DescribeConfigsResult {
    let result = DescribeConfigsResult::default()
        .with_resource_type(resource.kind)
        .with_resource_name(resource.name.clone());
    let refused = |error: BrokerError, message: String| {
        result
            .clone()
            .with_error_code(error.code())
            .with_error_message(Some(StrBytes::from_string(message)))
    };
    if resource.kind == BROKER {
        // A broker is configured by its file alone.
        return result.with_error_message(None);
    }
    if resource.kind != TOPIC {
        let message = format!("resources of type {} have no configuration", resource.kind);
        return refused(BrokerError::InvalidRequest, message);
    }
    let cluster = context.broker.cluster();
    let Some(topic) = cluster.topic(&resource.name) else {
        let message = format!("there is no topic {:?}", resource.name.as_str());
        return refused(BrokerError::UnknownPartition, message);
    };
    let wanted = |shown: &Shown| {
        let keys = resource.keys.as_ref();
        keys.is_none_or(|keys| keys.iter().any(|key| key.as_str() == shown.name))
    };
    let shown = topic_config::show(&topic.settings, context.broker.default_min_isr());
    let configs = shown.into_iter().filter(wanted);
    result
        .with_error_message(None)
        .with_configs(configs.map(|shown| respond(request, shown)).collect())
}

fn respond(request: &DescribeConfigsRequest, shown: Shown) -> DescribeConfigsResourceResult {
    let source = if shown.is_default {
        DEFAULT_CONFIG
    } else {
        DYNAMIC_TOPIC_CONFIG
    };
    let name = StrBytes::from_static_str(shown.name);
    let value = Some(StrBytes::from_string(shown.value));
    let documentation = StrBytes::from_static_str(shown.documentation);
    let synonym = DescribeConfigsSynonym::default()
        .with_name(name.clone())
        .with_value(value.clone())
        .with_source(source);
    DescribeConfigsResourceResult::default()
        .with_name(name)
        .with_value(value)
        .with_read_only(shown.read_only)
        .with_config_source(source)
        .with_synonyms(
            request
                .include_synonyms
                .then_some(synonym)
                .into_iter()
                .collect(),
        )
        .with_config_type(shown.value_type as i8)
        .with_documentation(request.include_documentation.then_some(documentation))
}
