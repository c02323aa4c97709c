//! The command line of `rivven-node`.

pub mod cluster;
pub mod group;
pub mod placement;
pub mod raft;

use std::path::PathBuf;

use crate::certs::CertsOptions;

/// What `--help` prints.
pub const HELP: &str = "\
rivven-node - one node of a Rivven cluster; Kafka clients are its clients

Usage: rivven-node --config FILE [--check]
       rivven-node cluster COMMAND ...   Show and change a running cluster; see `cluster --help`
       rivven-node raft COMMAND ...      Look at the Raft store of a stopped node; see `raft --help`
       rivven-node group COMMAND ...     Consumer groups: members, lag, resets; see `group --help`
       rivven-node certs --out DIR --cluster NAME --node NAME [--node NAME]... [--days N]
       rivven-node log inspect|verify DATA_DIR
       rivven-node COMMAND --admin HOST:PORT [--json]

Commands about replicas and leaders, answered by any running node over its admin port:
  plan                         Show what a rebalance would move, and how even the cluster is
  placement                    Show what is under way: draining, rebalancing, reassignments
  rebalance [--stop]           Even replicas and leaders out, in waves; or begin nothing more
  drain NODE [--stop]          Move everything off a node (or replace it, if the node is dead)
  reassign TOPIC N NODE...     Move partition N to these nodes, the preferred leader first
  reassign TOPIC N --cancel    Leave it where it was
  elect-preferred              Have the preferred replicas lead where they are in sync
  add-partitions TOPIC TOTAL   Add partitions to a topic

Options:
  --config FILE  The YAML configuration (docs/operations.md describes every key)
  --check        Validate the configuration and exit; touch nothing else
  --version      Print the version and exit
  --help         Print this and exit

certs makes what mode: mutual_tls needs: DIR/ca.pem with ca.key (unless they are there), a certificate
<node>.pem with <node>.key for each --node (valid for N days, default 365), and gossip.secret. Nothing is
overwritten. Keep ca.key away from the nodes.

Commands:
  log inspect DATA_DIR  Show the partition logs of a stopped node; changes nothing
  log verify DATA_DIR   The same, and check every record; exit status 1 if one is damaged

Environment:
  RUST_LOG       Log filter, for example `info,rivven_isr=debug` (default: info,openraft=error)

Signals: SIGTERM and SIGINT hand the leaderships over, flush and stop; a second one stops at once.

Exit status: 0 stopped in order, 1 cannot run (the reason is the last line), 2 wrong usage.
";

/// Validity of certificates unless said otherwise, in days.
const DEFAULT_DAYS: u32 = 365;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a node.
    Run(PathBuf),
    /// Validate a configuration.
    Check(PathBuf),
    /// Look at the logs below a data directory; with the flag, check every record.
    Log {
        /// The data directory.
        data_dir: PathBuf,
        /// Whether to check every record.
        verify: bool,
    },
    /// Show or change a running cluster.
    Cluster(cluster::ClusterCommand),
    /// Look at the Raft store of a stopped node.
    Raft(raft::RaftCommand),
    /// Show or change consumer groups.
    Group(group::GroupCommand),
    /// Make certificates.
    Certs(CertsOptions),
    /// Ask a running node about replicas and leaders, or have it move them.
    Placement(placement::Call),
    /// Print this help.
    Help(&'static str),
    /// Print the version.
    Version,
}

/// Parses the arguments behind the program's name; the error says what is wrong.
pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Request, String> {
    let mut config = None;
    let mut check = false;
    let mut arguments = arguments.into_iter().peekable();
    if arguments.next_if_eq("cluster").is_some() {
        let command = cluster::parse(arguments)?;
        return Ok(command.map_or(Request::Help(cluster::HELP), Request::Cluster));
    }
    if arguments.next_if_eq("raft").is_some() {
        let command = raft::parse(arguments)?;
        return Ok(command.map_or(Request::Help(raft::HELP), Request::Raft));
    }
    if arguments.next_if_eq("group").is_some() {
        let command = group::parse(arguments)?;
        return Ok(command.map_or(Request::Help(group::HELP), Request::Group));
    }
    if arguments.next_if(|word| word == "certs").is_some() {
        return certs(arguments);
    }
    if arguments.next_if_eq("log").is_some() {
        return parse_log(arguments);
    }
    if let Some(command) = arguments.next_if(|word| placement::COMMANDS.contains(&word.as_str())) {
        let rest: Vec<String> = arguments.collect();
        if rest.iter().any(|word| word == "--help" || word == "-h") {
            return Ok(Request::Help(HELP));
        }
        return placement::parse(&command, rest.into_iter()).map(Request::Placement);
    }
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--help" | "-h" => return Ok(Request::Help(HELP)),
            "--version" | "-V" => return Ok(Request::Version),
            "--check" => check = true,
            "--config" | "-c" => {
                config = Some(
                    arguments
                        .next()
                        .ok_or("--config needs the path of a file")?,
                );
            }
            other => match other.strip_prefix("--config=") {
                Some(path) => config = Some(path.to_owned()),
                None => return Err(format!("unknown argument {other:?}")),
            },
        }
    }
    let path = PathBuf::from(config.ok_or("--config FILE is required")?);
    Ok(if check {
        Request::Check(path)
    } else {
        Request::Run(path)
    })
}

fn certs(mut arguments: impl Iterator<Item = String>) -> Result<Request, String> {
    let (mut out, mut cluster, mut nodes, mut days) = (None, None, Vec::new(), DEFAULT_DAYS);
    while let Some(argument) = arguments.next() {
        if matches!(argument.as_str(), "--help" | "-h") {
            return Ok(Request::Help(HELP));
        }
        let value = arguments.next();
        let value = value.ok_or_else(|| format!("{argument} needs a value, or is unknown"))?;
        match argument.as_str() {
            "--out" => out = Some(PathBuf::from(value)),
            "--cluster" => cluster = Some(value),
            "--node" => nodes.push(value),
            "--days" => {
                days = value
                    .parse()
                    .map_err(|_| format!("--days {value:?} is no number"))?;
            }
            other => return Err(format!("unknown argument {other:?}")),
        }
    }
    if nodes.is_empty() {
        return Err("certs needs at least one --node NAME".to_owned());
    }
    Ok(Request::Certs(CertsOptions {
        out: out.ok_or("certs needs --out DIR")?,
        cluster: cluster.ok_or("certs needs --cluster NAME")?,
        nodes,
        days,
    }))
}

fn parse_log(mut arguments: impl Iterator<Item = String>) -> Result<Request, String> {
    let verify = match arguments.next().as_deref() {
        Some("inspect") => false,
        Some("verify") => true,
        Some("--help" | "-h") => return Ok(Request::Help(HELP)),
        Some(other) => return Err(format!("unknown command log {other:?}")),
        None => return Err("log needs inspect or verify".to_owned()),
    };
    let data_dir = arguments
        .next()
        .ok_or("the data directory is missing")?
        .into();
    match arguments.next() {
        None => Ok(Request::Log { data_dir, verify }),
        Some(extra) => Err(format!("unknown argument {extra:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Request, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_are_understood_or_named() {
        assert_eq!(parsed("--config a.yaml"), Ok(Request::Run("a.yaml".into())));
        assert_eq!(
            parsed("--check --config=a.yaml"),
            Ok(Request::Check("a.yaml".into()))
        );
        assert_eq!(parsed("--config a --help"), Ok(Request::Help(HELP)));
        assert!(parsed("").unwrap_err().contains("--config FILE"));
        assert!(parsed("--config").unwrap_err().contains("path"));
        assert!(parsed("--frob").unwrap_err().contains("--frob"));
        let certs = parsed("certs --out d --cluster c --node a --node b --days 7");
        let Ok(Request::Certs(options)) = certs else {
            panic!("{certs:?}");
        };
        assert_eq!((options.nodes.len(), options.days), (2, 7));
        assert!(
            parsed("certs --out d --cluster c")
                .unwrap_err()
                .contains("--node")
        );
        assert!(
            parsed("certs --node a --out")
                .unwrap_err()
                .contains("--out")
        );
        let (data_dir, verify) = ("d".into(), true);
        assert_eq!(
            parsed("log verify d"),
            Ok(Request::Log { data_dir, verify })
        );
        assert!(parsed("log mend d").unwrap_err().contains("mend"));
        assert!(parsed("log inspect").unwrap_err().contains("directory"));
        assert!(parsed("log inspect d e").unwrap_err().contains('e'));
    }
}
