//! `rivven-node raft ...`: looking at the Raft store of a node that does not run.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use rivven_cluster::raft::offline::{self, LogPosition, StoreReport};
use rivven_cluster::types::{OsVfs, RaftGroupId, Vfs};

/// What `rivven-node raft --help` prints.
pub const HELP: &str = "\
Usage: rivven-node raft COMMAND (--data-dir DIR | --config FILE) [options]

Commands, for a node that does not run:
  inspect       What the store holds: identity, vote, log, membership, snapshots
  verify        Check every record, checksum and reference; print what is wrong
  dump          One line for each entry of the log
  force-single  Make this node the only voter of one group: the way back when a majority is lost for good.
                Run it once for the metadata and once with --group 1. What only the lost ones held is
                lost. Never start another former member with its old data again

Options:
  --data-dir DIR  The node's data directory
  --config FILE   Take it from the node's configuration
  --group N       The Raft group (default 0, the metadata)
  --json          inspect, verify: print JSON
  --yes           force-single: really do it

All but force-single read alone. Exit status: 0 sound or done, 1 cannot look or refused, 2 wrong usage,
3 the store contradicts itself.
";

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Print what is there.
    Inspect,
    /// Print what is wrong.
    Verify,
    /// Print the log.
    Dump,
    /// Become the only voter.
    ForceSingle,
}

/// A parsed `raft` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftCommand {
    /// What to do.
    pub action: Action,
    /// The data directory, or a configuration that names it.
    pub place: Place,
    /// The group.
    pub group: RaftGroupId,
    /// As JSON.
    pub json: bool,
    /// The operator means it.
    pub yes: bool,
}

/// Where the store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// This directory.
    DataDir(PathBuf),
    /// The one that a configuration names.
    Config(PathBuf),
}

/// What to print, and how the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// For standard output.
    pub text: String,
    /// Whether nothing contradicts itself.
    pub is_sound: bool,
}

/// Parses what follows `raft`; `None` asks for the help.
pub(super) fn parse(
    mut arguments: impl Iterator<Item = String>,
) -> Result<Option<RaftCommand>, String> {
    let (mut place, mut group, mut action) = (None, RaftGroupId::METADATA, None);
    let (mut json, mut yes) = (false, false);
    while let Some(argument) = arguments.next() {
        let (key, given) = match argument.split_once('=') {
            Some((key, value)) if key.starts_with("--") => (key, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = |what: &str| {
            let next = given.clone().or_else(|| arguments.next());
            next.ok_or_else(|| format!("{key} needs {what}"))
        };
        match key {
            "--help" | "-h" => return Ok(None),
            "--json" => json = true,
            "--yes" => yes = true,
            "--data-dir" => place = Some(Place::DataDir(value("a directory")?.into())),
            "--config" | "-c" => place = Some(Place::Config(value("the path of a file")?.into())),
            "--group" => {
                let text = value("a number")?;
                let number = text.parse().map_err(|e| format!("--group {text}: {e}"))?;
                group = RaftGroupId::new(number);
            }
            "inspect" => action = Some(Action::Inspect),
            "verify" => action = Some(Action::Verify),
            "dump" => action = Some(Action::Dump),
            "force-single" => action = Some(Action::ForceSingle),
            other => return Err(format!("unknown raft command or option {other:?}")),
        }
    }
    let action = action.ok_or("a command is needed: inspect, verify, dump or force-single")?;
    let place = place.ok_or("--data-dir DIR or --config FILE is required")?;
    if action == Action::ForceSingle && !yes {
        return Err("force-single gives up what only other nodes hold: say --yes".to_owned());
    }
    Ok(Some(RaftCommand {
        action,
        place,
        group,
        json,
        yes,
    }))
}

/// Runs a command.
pub fn run(command: &RaftCommand) -> Result<Outcome, String> {
    let dir = match &command.place {
        Place::DataDir(dir) => dir.clone(),
        Place::Config(path) => {
            let options = crate::config::load(path).map_err(|e| e.to_string())?;
            options.coordinator.data_dir
        }
    };
    let vfs: Arc<dyn Vfs> = Arc::new(OsVfs);
    let sound = |text: String| Outcome {
        text,
        is_sound: true,
    };
    match command.action {
        Action::Inspect | Action::Verify => {
            let report = offline::inspect(&vfs, &dir, command.group).map_err(|e| e.to_string())?;
            let text = match (command.json, command.action) {
                (true, _) => json(&report),
                (false, Action::Verify) => problems(&report),
                (false, _) => describe(&report),
            };
            let is_sound = report.problems.is_empty();
            Ok(Outcome { text, is_sound })
        }
        Action::Dump => {
            let mut text = String::new();
            let told = offline::dump(&vfs, &dir, command.group, |entry| {
                let (at, kind) = (position(Some(entry.at)), entry.kind);
                // Writing to a String cannot fail.
                writeln!(text, "{at} {kind} {}", entry.bytes).unwrap_or_default();
            });
            told.map_err(|e| e.to_string()).map(|()| sound(text))
        }
        Action::ForceSingle => {
            let done = offline::force_single(&vfs, &dir, command.group);
            let at = done.map_err(|e| e.to_string())?;
            let at = position(Some(at));
            Ok(sound(format!(
                "this node is the only voter from entry {at} on; never start another former member \
                 with its old data directory\n"
            )))
        }
    }
}

fn position(at: Option<LogPosition>) -> String {
    at.map_or_else(
        || "none".to_owned(),
        |at| format!("{}/{}", at.term, at.index),
    )
}

fn problems(report: &StoreReport) -> String {
    if report.problems.is_empty() {
        return format!("sound: {} entries\n", report.entries);
    }
    report.problems.join("\n") + "\n"
}

/// For people. Positions are term/index.
fn describe(report: &StoreReport) -> String {
    let cluster = report
        .cluster
        .map_or_else(|| "none".to_owned(), |id| id.to_string());
    let vote = report.vote.map_or_else(
        || "none".to_owned(),
        |(term, of, elected)| {
            let how = if elected { "elected" } else { "voted for" };
            format!("term {term}, {how} {of}")
        },
    );
    let mut text = format!(
        "node        {} ({})\nincarnation {}\ncluster     {cluster}\ngroup       {}\nvote        {vote}\n\
         log         {} entries from {} to {}, {} bytes\ncommitted   {}\npurged      {}\n",
        report.node,
        report.raft_id,
        report.incarnation,
        report.group,
        report.entries,
        report.first,
        position(report.last),
        report.database_bytes,
        position(report.committed),
        position(report.purged),
    );
    let members = report.voters.iter().map(|m| (m, "voter"));
    let members = members.chain(report.learners.iter().map(|m| (m, "learner")));
    // Writing to a String cannot fail.
    for (member, role) in members {
        let (name, id, address) = (&member.name, member.raft_id, &member.address);
        writeln!(text, "{role:<11} {name} ({id}) at {address}").unwrap_or_default();
    }
    for snapshot in &report.snapshots {
        let last = match &snapshot.last {
            Ok(last) => position(*last),
            Err(reason) => reason.clone(),
        };
        let recorded = if snapshot.is_recorded {
            ""
        } else if snapshot.is_previous {
            " (the one before)"
        } else {
            " (not in use)"
        };
        let (path, bytes) = (snapshot.path.display(), snapshot.bytes);
        writeln!(text, "snapshot    {path}: {last}, {bytes} bytes{recorded}").unwrap_or_default();
    }
    for problem in &report.problems {
        writeln!(text, "PROBLEM     {problem}").unwrap_or_default();
    }
    text
}

/// A JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => {
                let code = u32::from(c);
                // Writing to a String cannot fail.
                write!(out, "\\u{code:04x}").unwrap_or_default();
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn json(report: &StoreReport) -> String {
    let list = |items: Vec<String>| format!("[{}]", items.join(","));
    let at = |at: Option<LogPosition>| {
        at.map_or_else(
            || "null".to_owned(),
            |at| format!("{{\"term\":{},\"index\":{}}}", at.term, at.index),
        )
    };
    let names = |members: &[rivven_cluster::raft::Member]| {
        list(members.iter().map(|m| quoted(m.name.as_str())).collect())
    };
    let cluster = report.cluster.map(|id| quoted(&id.to_string()));
    let problems = report.problems.iter().map(|p| quoted(p)).collect();
    format!(
        "{{\"node\":{},\"raft_id\":{},\"incarnation\":\"{}\",\"cluster\":{},\"group\":{},\"entries\":{},\
         \"first\":{},\"last\":{},\"committed\":{},\"purged\":{},\"database_bytes\":{},\"voters\":{},\
         \"learners\":{},\"snapshots\":{},\"problems\":{}}}\n",
        quoted(report.node.as_str()),
        report.raft_id,
        report.incarnation,
        cluster.unwrap_or_else(|| "null".to_owned()),
        report.group,
        report.entries,
        report.first,
        at(report.last),
        at(report.committed),
        at(report.purged),
        report.database_bytes,
        names(&report.voters),
        names(&report.learners),
        report.snapshots.len(),
        list(problems),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<RaftCommand>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn commands_are_understood_or_what_is_wrong_is_named() {
        let command = parsed("verify --data-dir /d --json --group=1")
            .unwrap()
            .unwrap();
        assert_eq!(command.action, Action::Verify);
        assert_eq!(command.place, Place::DataDir("/d".into()));
        assert_eq!(command.group, RaftGroupId::new(1));
        assert_eq!(parsed("inspect -h"), Ok(None));
        for (line, word) in [
            ("", "inspect"),
            ("inspect", "--data-dir"),
            ("frob", "frob"),
            ("dump --group x --data-dir d", "--group"),
            ("force-single --data-dir d", "--yes"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
        assert_eq!(quoted("a\"b\\c\n"), "\"a\\\"b\\\\c\\u000a\"");
    }
}
