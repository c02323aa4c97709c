//! What `rivven-node group` does: a client of the Kafka port, so that it asks what every other tool
//! asks, and is told what every other tool is told.

mod change;
mod client;
mod describe;
mod output;
mod positions;
mod reset;

use kafka_protocol::messages::ListGroupsRequest;
use rivven_cluster::types::Address;
use serde::Serialize;

use crate::cli::group::Action;
use client::{Client, check, text};
use output::{Row, render};

use client::Result;

const LIST_GROUPS_VERSION: i16 = 5;

/// Carries a command out; the result is what is printed.
pub(crate) fn run(bootstrap: Vec<Address>, action: &Action, json: bool) -> Result<String> {
    let mut client = Client::new(bootstrap);
    let client = &mut client;
    match action {
        Action::List { states } => list(client, states, json),
        Action::Describe { groups } => describe::run(client, groups, json),
        Action::Delete { groups } => change::delete(client, groups, json),
        Action::DeleteOffsets { group, topics } => {
            change::delete_offsets(client, group, topics, json)
        }
        Action::Reset {
            group,
            to,
            topics,
            execute,
        } => reset::run(client, group, *to, topics, *execute, json),
        Action::RemoveMember { group, who } => change::remove_member(client, group, who, json),
    }
}

#[derive(Serialize)]
struct Listed {
    group: String,
    #[serde(rename = "type")]
    kind: String,
    protocol: String,
    state: String,
}

impl Row for Listed {
    const HEAD: &'static [&'static str] = &["GROUP", "TYPE", "PROTOCOL", "STATE"];

    fn cells(&self) -> Vec<String> {
        [&self.group, &self.kind, &self.protocol, &self.state]
            .map(|cell| output::or_dash(cell))
            .to_vec()
    }
}

fn list(client: &mut Client, states: &[String], json: bool) -> Result<String> {
    let request = ListGroupsRequest::default()
        .with_states_filter(states.iter().map(|state| text(state)).collect());
    // Whoever coordinates one group coordinates all of them.
    let found = client.at_coordinator("-", LIST_GROUPS_VERSION, &request, |a| a.error_code)?;
    check(found.error_code, || "the groups are not listed".to_owned())?;
    let listed = found.groups.into_iter().map(|group| Listed {
        group: group.group_id.to_string(),
        kind: group.group_type.to_string(),
        protocol: group.protocol_type.to_string(),
        state: group.group_state.to_string(),
    });
    let listed: Vec<Listed> = listed.collect();
    if json {
        return output::json(&listed);
    }
    Ok(render(&listed))
}
