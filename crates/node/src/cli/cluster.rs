//! `rivven-node cluster ...`: what an operator asks of a running cluster, through the admin port of any
//! of its nodes.

use std::path::PathBuf;

use rivven_cluster::NodeName;
use rivven_cluster::types::Address;

use crate::remote::{self, Method};

/// What `rivven-node cluster --help` prints.
pub const HELP: &str = "\
Usage: rivven-node cluster COMMAND (--admin HOST:PORT | --config FILE) [options]

Commands:
  status              Who is in the cluster: role, state, replicas, lag of the metadata
  remove-node NAME    Remove a node for good: its disk is lost, or it is to leave. Its data directory
                      never comes back; started with an empty one, the node joins anew and takes its
                      replicas over. Refused while it serves and holds replicas
  transfer NAME       Have the voter NAME lead the metadata group; ask the present controller

Options:
  --admin HOST:PORT   The admin port of any node that runs
  --config FILE       Take the admin port from a node's configuration
  --json              status: print JSON
  --accept-loss       remove-node: even where no other electable replica holds a partition's records

Exit status: 0 done, 1 refused or not reachable (the reason is the last line), 2 wrong usage.
";

/// Which admin port to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// This one.
    Address(Address),
    /// The one that a configuration names.
    Config(PathBuf),
}

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Print the nodes.
    Status {
        /// As JSON.
        json: bool,
    },
    /// Remove a node for good.
    RemoveNode {
        /// The node.
        name: NodeName,
        /// Even if records are lost.
        accept_loss: bool,
    },
    /// Move the leadership of the metadata group.
    Transfer {
        /// The voter that is to lead.
        name: NodeName,
    },
}

/// A parsed `cluster` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterCommand {
    /// Which admin port to ask.
    pub endpoint: Endpoint,
    /// What to ask.
    pub action: Action,
}

#[derive(Default)]
struct Options {
    endpoint: Option<Endpoint>,
    json: bool,
    accept_loss: bool,
    words: Vec<String>,
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let mut found = Options::default();
    let mut arguments = arguments.map(|a| match a.split_once('=') {
        Some((key, value)) if key.starts_with("--") => (key.to_owned(), Some(value.to_owned())),
        _ => (a, None),
    });
    while let Some((key, given)) = arguments.next() {
        let mut value = |what: &str| {
            given
                .clone()
                .or_else(|| arguments.next().map(|(word, _)| word))
                .ok_or_else(|| format!("{key} needs {what}"))
        };
        match key.as_str() {
            "--help" | "-h" => return Ok(None),
            "--json" => found.json = true,
            "--accept-loss" => found.accept_loss = true,
            "--admin" => {
                let text = value("HOST:PORT")?;
                let address = text.parse().map_err(|e| format!("--admin {text}: {e}"))?;
                found.endpoint = Some(Endpoint::Address(address));
            }
            "--config" | "-c" => {
                found.endpoint = Some(Endpoint::Config(value("the path of a file")?.into()));
            }
            word if word.starts_with('-') => return Err(format!("unknown option {word}")),
            _ => found.words.push(key),
        }
    }
    Ok(Some(found))
}

/// Parses what follows `cluster`; `None` asks for the help.
pub(super) fn parse(
    arguments: impl Iterator<Item = String>,
) -> Result<Option<ClusterCommand>, String> {
    let Some(found) = options(arguments)? else {
        return Ok(None);
    };
    let name = |text: &str| NodeName::new(text).map_err(|e| e.to_string());
    let words: Vec<&str> = found.words.iter().map(String::as_str).collect();
    let action = match words.as_slice() {
        ["status"] => Action::Status { json: found.json },
        ["remove-node", node] => Action::RemoveNode {
            name: name(node)?,
            accept_loss: found.accept_loss,
        },
        ["transfer", node] => Action::Transfer { name: name(node)? },
        ["remove-node" | "transfer", ..] => return Err("one node's name is needed".to_owned()),
        [] => return Err("a command is needed: status, remove-node or transfer".to_owned()),
        [other, ..] => return Err(format!("unknown cluster command {other:?}")),
    };
    let missing = "--admin HOST:PORT or --config FILE is required";
    let endpoint = found.endpoint.ok_or(missing)?;
    Ok(Some(ClusterCommand { endpoint, action }))
}

/// Runs a command; the answer is text for standard output.
pub fn run(command: &ClusterCommand) -> Result<String, String> {
    let admin = match &command.endpoint {
        Endpoint::Address(address) => address.clone(),
        Endpoint::Config(path) => {
            let options = crate::config::load(path).map_err(|e| e.to_string())?;
            let missing = || format!("{}: cluster.admin_addr is missing", path.display());
            options.admin.listen.ok_or_else(missing)?
        }
    };
    let (method, path) = match &command.action {
        Action::Status { json: true } => (Method::Get, "/cluster".to_owned()),
        Action::Status { json: false } => (Method::Get, "/cluster?format=table".to_owned()),
        Action::RemoveNode { name, accept_loss } => (
            Method::Post,
            format!("/cluster/remove-node?node={name}&accept_loss={accept_loss}"),
        ),
        Action::Transfer { name } => (Method::Post, format!("/cluster/transfer?node={name}")),
    };
    remote::ask(&admin, method, &path).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<ClusterCommand>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn commands_are_understood_or_what_is_wrong_is_named() {
        let command = parsed("remove-node node-3 --admin 127.0.0.1:1 --accept-loss");
        let name = NodeName::new("node-3").unwrap();
        let action = Action::RemoveNode {
            name: name.clone(),
            accept_loss: true,
        };
        assert_eq!(command.unwrap().unwrap().action, action);
        let command = parsed("--config=n.yaml transfer node-3").unwrap().unwrap();
        assert_eq!(command.action, Action::Transfer { name });
        assert_eq!(command.endpoint, Endpoint::Config("n.yaml".into()));
        assert_eq!(parsed("status --help"), Ok(None));
        for (line, word) in [
            ("", "command"),
            ("frob", "frob"),
            ("status", "--admin"),
            ("status --admin nowhere", "nowhere"),
            ("remove-node --admin h:1", "name"),
            ("remove-node a/b --admin h:1", "a/b"),
            ("status --wat", "--wat"),
            ("status --config", "path"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
