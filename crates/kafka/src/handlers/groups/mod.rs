//! Consumer groups: members of both protocols, offsets, and what tools ask.

mod classic;
mod consumer;
mod describe;
mod find_coordinator;
mod offsets;

use kafka_protocol::protocol::StrBytes;
use rivven_coordinator::consumer_groups::{
    ClientInfo, GroupError, GroupId, InstanceId, MemberId, Response,
};

use crate::handlers::Context;
use crate::wire::Reader;

pub(super) use classic::{heartbeat, join, leave, sync};
pub(super) use consumer::heartbeat as consumer_heartbeat;
pub(super) use describe::{consumer_describe, delete, describe, list};
pub(super) use find_coordinator::start as find_coordinator;
pub(super) use offsets::{commit, delete as offset_delete, fetch as offset_fetch};

/// Longest client id that is kept, in bytes.
const MAX_CLIENT_ID_BYTES: usize = 255;

fn group_id(text: &str) -> Result<GroupId, GroupError> {
    GroupId::new(text).map_err(|e| GroupError::InvalidGroupId(e.to_string()))
}

/// A member id; a client that has none sends an empty one.
fn member_id(text: &str) -> Result<Option<MemberId>, GroupError> {
    if text.is_empty() {
        return Ok(None);
    }
    let id = MemberId::new(text).map_err(|e| GroupError::InvalidRequest(e.to_string()))?;
    Ok(Some(id))
}

fn instance_id(text: Option<&StrBytes>) -> Result<Option<InstanceId>, GroupError> {
    text.map(|text| {
        InstanceId::new(text.as_str()).map_err(|e| GroupError::InvalidRequest(e.to_string()))
    })
    .transpose()
}

/// Who the client is, for people: its address is written as Kafka does.
fn client(context: &Context, reader: &Reader) -> ClientInfo {
    let id = reader.client_id().map_or("", |id| id.as_str());
    let mut end = id.len().min(MAX_CLIENT_ID_BYTES);
    while !id.is_char_boundary(end) {
        end -= 1;
    }
    ClientInfo {
        id: id.get(..end).unwrap_or_default().to_owned(),
        host: context.peer.map_or_else(String::new, |ip| format!("/{ip}")),
    }
}

/// A member id that no other member has had: the client id for people, then random digits.
fn fresh_id(client: &ClientInfo, random: [u8; 16]) -> MemberId {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(client.id.len() + 33);
    text.push_str(&client.id);
    text.push('-');
    for byte in random {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
    }
    // It is never empty, and the client id is far below the limit.
    MemberId::new(&text).expect("a client id is shorter than a member id may be")
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// The outcome of a call that only has one.
fn done(response: Response) -> Result<(), GroupError> {
    match response {
        Response::Done(outcome) => outcome,
        // The coordinator answers in the kind of the request.
        _ => Err(GroupError::LoadInProgress),
    }
}
