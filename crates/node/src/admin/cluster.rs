//! `/cluster`: who is in the cluster, and changing that.

use std::fmt::Write as _;
use std::time::Duration;

use rivven_cluster::NodeName;
use rivven_cluster::coordinator::{ClusterCoordinator, ClusterNode, CoordinatorError, MemberRole};
use rivven_cluster::types::FencedState;

use super::Answer;

/// How long a removal may take before it is reported as not finished.
const REMOVE_DEADLINE: Duration = Duration::from_secs(20);

/// The parameters of a request: `key=value`, joined by `&`. Names need no escapes.
pub(super) struct Parameters<'a>(pub(super) &'a str);

impl<'a> Parameters<'a> {
    fn get(&self, key: &str) -> Option<&'a str> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .next()
    }

    fn node(&self, key: &str) -> Result<NodeName, Answer> {
        let text = self.get(key).unwrap_or_default();
        NodeName::new(text).map_err(|e| Answer::text("400 Bad Request", format!("{key}: {e}\n")))
    }
}

fn failed(error: &CoordinatorError) -> Answer {
    let status = match error {
        CoordinatorError::InvalidRequest(_) => "404 Not Found",
        CoordinatorError::Rejected(_) | CoordinatorError::RaftStore(_) => "409 Conflict",
        _ => "503 Service Unavailable",
    };
    Answer::text(status, format!("{error}\n"))
}

/// `GET /cluster[?format=table]`.
pub(super) fn show(coordinator: &ClusterCoordinator, parameters: &Parameters<'_>) -> Answer {
    let nodes = match coordinator.nodes() {
        Ok(nodes) => nodes,
        Err(error) => return failed(&error),
    };
    if parameters.get("format") == Some("table") {
        return Answer::text("200 OK", table(&nodes));
    }
    let raft = coordinator.raft_status();
    let state = coordinator.cluster_state();
    let text = |t: Option<String>| t.map_or_else(|| "null".to_owned(), |t| format!("\"{t}\""));
    let nodes: Vec<String> = nodes.iter().map(node).collect();
    let body = format!(
        "{{\"cluster\":{},\"controller\":{},\"term\":{},\"applied\":{},\
         \"metadata_level\":{},\"nodes\":[{}]}}\n",
        text(state.cluster_id().map(|id| id.to_string())),
        text(raft.leader.map(|leader| leader.to_string())),
        raft.term,
        state.applied(),
        state.level(),
        nodes.join(",")
    );
    Answer {
        status: "200 OK",
        content_type: "application/json",
        body,
    }
}

const fn role(node: &ClusterNode) -> &'static str {
    match node.role {
        MemberRole::Leader => "leader",
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::None => "none",
    }
}

const fn state(node: &ClusterNode) -> &'static str {
    match node.broker {
        None => "unregistered",
        Some((_, FencedState::Active)) => "active",
        Some((_, FencedState::Fenced)) => "fenced",
        Some((_, FencedState::ShuttingDown)) => "stopping",
        Some((_, FencedState::Removed)) => "removed",
    }
}

/// For people: one node a line. Only the controller knows how far the others are behind.
fn table(nodes: &[ClusterNode]) -> String {
    let dash = || "-".to_owned();
    let head = [
        "NODE", "BROKER", "ROLE", "STATE", "REPLICAS", "LEADS", "BEHIND", "ADDRESS",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(nodes.iter().map(|node| {
        [
            node.name.to_string(),
            node.broker.map_or_else(dash, |(id, _)| id.to_string()),
            role(node).to_owned(),
            state(node).to_owned(),
            node.replicas.0.to_string(),
            node.replicas.1.to_string(),
            node.behind.map_or_else(dash, |n| n.to_string()),
            node.address.to_string(),
        ]
    }));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells.map(|(c, width)| format!("{c:<width$}")).collect();
        // Writing to a String cannot fail.
        writeln!(text, "{}", cells.join("  ").trim_end()).unwrap_or_default();
    }
    text
}

fn node(node: &ClusterNode) -> String {
    let (role, state) = (role(node), state(node));
    let mut json = format!(
        "{{\"name\":\"{}\",\"role\":\"{role}\",\"state\":\"{state}\",\"raft_id\":{},\"address\":\"{}\",\
         \"replicas\":{},\"leads\":{}",
        node.name, node.raft_id, node.address, node.replicas.0, node.replicas.1
    );
    // Writing to a String cannot fail.
    if let Some((broker, _)) = node.broker {
        write!(json, ",\"broker\":{broker}").unwrap_or_default();
    }
    if let Some(incarnation) = node.incarnation {
        write!(json, ",\"incarnation\":\"{incarnation}\"").unwrap_or_default();
    }
    if let Some(behind) = node.behind {
        write!(json, ",\"behind\":{behind}").unwrap_or_default();
    }
    json.push('}');
    json
}

/// `POST /cluster/remove-node?node=NAME[&accept_loss=true]`.
pub(super) async fn remove_node(
    coordinator: &ClusterCoordinator,
    parameters: &Parameters<'_>,
) -> Answer {
    let name = match parameters.node("node") {
        Ok(name) => name,
        Err(answer) => return answer,
    };
    let accept_loss = match parameters.get("accept_loss") {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Answer::text("400 Bad Request", "accept_loss: true or false\n"),
    };
    let removed = coordinator.remove_node(name.clone(), accept_loss, REMOVE_DEADLINE);
    match removed.await {
        Ok(()) => Answer::text("200 OK", format!("{name} is removed\n")),
        Err(error) => failed(&error),
    }
}

/// `POST /cluster/transfer?node=NAME`.
pub(super) async fn transfer(
    coordinator: &ClusterCoordinator,
    parameters: &Parameters<'_>,
) -> Answer {
    let name = match parameters.node("node") {
        Ok(name) => name,
        Err(answer) => return answer,
    };
    match coordinator.transfer_controller(&name).await {
        Ok(()) => Answer::text("202 Accepted", format!("{name} is asked to lead\n")),
        Err(error) => failed(&error),
    }
}
