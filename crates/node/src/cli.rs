//! The command line of `rivven-node`.

pub mod cluster;

use std::path::PathBuf;

/// What `--help` prints.
pub const HELP: &str = "\
rivven-node - one node of a Rivven cluster; Kafka clients are its clients

Usage: rivven-node --config FILE [--check]
       rivven-node cluster COMMAND ...   Show and change a running cluster; see `cluster --help`

Options:
  --config FILE  The YAML configuration (docs/operations.md describes every key)
  --check        Validate the configuration and exit; touch nothing else
  --version      Print the version and exit
  --help         Print this and exit

Environment:
  RUST_LOG       Log filter, for example `info,rivven_isr=debug` (default: info,openraft=error)

Signals: SIGTERM and SIGINT hand the leaderships over, flush and stop; a second one stops at once.

Exit status: 0 stopped in order, 1 cannot run (the reason is the last line), 2 wrong usage.
";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a node.
    Run(PathBuf),
    /// Validate a configuration.
    Check(PathBuf),
    /// Show or change a running cluster.
    Cluster(cluster::ClusterCommand),
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
    }
}
