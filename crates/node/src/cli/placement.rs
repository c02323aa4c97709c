//! The commands about replicas and leaders, which any running node answers over its admin port.

use rivven_cluster::types::{Address, NodeName, TopicName};

use crate::remote::{self, Method};

/// A request to a running node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Its admin address.
    pub admin: Address,
    /// Whether it changes anything.
    pub changes: bool,
    /// Path and parameters.
    pub target: String,
}

/// The names of the commands, as `--help` shows them.
pub(super) const COMMANDS: [&str; 7] = [
    "plan",
    "placement",
    "rebalance",
    "drain",
    "reassign",
    "elect-preferred",
    "add-partitions",
];

/// Parses the arguments behind the name of a command.
pub(super) fn parse(
    command: &str,
    arguments: impl Iterator<Item = String>,
) -> Result<Call, String> {
    let (mut admin, mut json, mut stop, mut words) = (None::<String>, false, false, Vec::new());
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--stop" | "--cancel" => stop = true,
            "--admin" => admin = Some(arguments.next().ok_or("--admin needs HOST:PORT")?),
            other => match other.strip_prefix("--admin=") {
                Some(address) => admin = Some(address.to_owned()),
                None if other.starts_with('-') => {
                    return Err(format!("unknown argument {other:?}"));
                }
                None => words.push(argument),
            },
        }
    }
    let admin = admin.ok_or("--admin HOST:PORT of a running node is required")?;
    let admin: Address = admin.parse().map_err(|e| format!("--admin {admin}: {e}"))?;
    let format = if json { "?format=json" } else { "" };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let node = |text: &str| NodeName::new(text).map_err(|e| e.to_string());
    let topic = |text: &str| TopicName::new(text).map_err(|e| e.to_string());
    let number = |text: &str| text.parse::<u32>().map_err(|e| format!("{text:?}: {e}"));
    let (changes, target) = match (command, words.as_slice()) {
        ("plan", []) => (false, format!("/placement/plan{format}")),
        ("placement", []) => (false, format!("/placement{format}")),
        ("rebalance", []) => (true, format!("/placement/rebalance?active={}", !stop)),
        ("drain", [name]) => {
            let name = node(name)?;
            (
                true,
                format!("/placement/drain?node={name}&draining={}", !stop),
            )
        }
        ("elect-preferred", []) => (true, "/placement/elect-preferred".to_owned()),
        ("reassign", [name, partition, to @ ..]) if to.is_empty() == stop => {
            let names: Result<Vec<NodeName>, String> = to.iter().map(|name| node(name)).collect();
            let names: Vec<String> = names?.iter().map(ToString::to_string).collect();
            let (name, partition) = (topic(name)?, number(partition)?);
            let nodes = names.join(",");
            (
                true,
                format!("/placement/reassign?topic={name}&partition={partition}&nodes={nodes}"),
            )
        }
        ("add-partitions", [name, total]) => {
            let (name, total) = (topic(name)?, number(total)?);
            (
                true,
                format!("/placement/add-partitions?topic={name}&total={total}"),
            )
        }
        _ => return Err(format!("{command}: wrong number of arguments")),
    };
    Ok(Call {
        admin,
        changes,
        target,
    })
}

/// Asks the node; the answer is text for standard output.
pub fn run(call: &Call) -> Result<String, String> {
    let method = if call.changes {
        Method::Post
    } else {
        Method::Get
    };
    remote::ask(&call.admin, method, &call.target).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(line: &str) -> Result<String, String> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let command = words.next().unwrap();
        let with_address = words.chain(["--admin".to_owned(), "h:1".to_owned()]);
        parse(&command, with_address).map(|call| call.target)
    }

    #[test]
    fn commands_are_understood_or_named() {
        assert_eq!(
            target("plan --json").unwrap(),
            "/placement/plan?format=json"
        );
        assert_eq!(
            target("drain n1").unwrap(),
            "/placement/drain?node=n1&draining=true"
        );
        assert_eq!(
            target("drain n1 --stop").unwrap(),
            "/placement/drain?node=n1&draining=false"
        );
        assert_eq!(
            target("reassign t 3 a b").unwrap(),
            "/placement/reassign?topic=t&partition=3&nodes=a,b"
        );
        assert_eq!(
            target("reassign t 3 --cancel").unwrap(),
            "/placement/reassign?topic=t&partition=3&nodes="
        );
        assert!(target("reassign t 3").is_err());
        assert!(target("drain n&x").is_err());
        assert!(target("drain").unwrap_err().contains("arguments"));
        assert!(target("add-partitions t many").is_err());
        assert!(
            parse("plan", std::iter::empty())
                .unwrap_err()
                .contains("--admin")
        );
    }
}
