//! `rivven-node group ...`: what an operator asks about consumer groups, through the Kafka port of any
//! node of the cluster.

use std::path::PathBuf;

use rivven_cluster::types::{Address, TopicName};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::group;

/// What `rivven-node group --help` prints.
pub const HELP: &str = "\
Usage: rivven-node group COMMAND (--bootstrap HOST:PORT[,...] | --config FILE) [options]

Commands:
  list                          All groups with their protocol and state
  describe GROUP...             State, members and, per partition, how far the group has read and how
                                far it lags behind, in messages and in time
  delete GROUP...               Delete groups that have no members, with their committed offsets
  delete-offsets GROUP          Delete committed offsets of the topics named by --topic; refused for
                                topics that a member subscribes to
  reset GROUP                   Show what a reset of the committed offsets would change; with
                                --execute, change it. Refused while the group has members
  remove-member GROUP           Take a member out of its group; it may join again

Options:
  --bootstrap HOST:PORT  The Kafka port of any node; several, separated by commas, are tried in turn
  --config FILE          Take the Kafka port from a node's configuration
  --json                 Print JSON
  --state STATE          list: only groups in this state (Stable, Empty, ...); may be repeated
  --topic TOPIC[:P,...]  reset, delete-offsets: only this topic, or these partitions of it; may be
                         repeated. Without it reset takes every topic with a committed offset
  --to-earliest          reset: to the first record that is there
  --to-latest            reset: to the end, so that only new records are read
  --to-offset N          reset: to this offset
  --to-datetime TIME     reset: to the first record at or after 2026-11-23T10:00:00Z (RFC 3339)
  --shift-by N           reset: by so many records forward, or back if N is negative
  --execute              reset: change the offsets; without it nothing changes
  --member ID            remove-member: the member's id, as describe shows it
  --instance ID          remove-member: its static id, group.instance.id

Lag in time is the age of the oldest batch that the group has not read. Offsets beyond what the
partition holds are moved to its nearest end.

Exit status: 0 done, 1 refused or not reachable (the reason is the last line), 2 wrong usage.
";

/// Where the cluster is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Kafka ports of its nodes.
    Bootstrap(Vec<Address>),
    /// What a node's configuration names.
    Config(PathBuf),
}

/// Whom to take out of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// The member with this id.
    Member(String),
    /// The static member with this id.
    Instance(String),
}

/// Where to a reset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetTo {
    /// The first record that is there.
    Earliest,
    /// The end.
    Latest,
    /// This offset.
    Offset(i64),
    /// The first record at or after this time, Unix milliseconds.
    Time(i64),
    /// So many records further.
    Shift(i64),
}

/// A topic, or some of its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicChoice {
    /// The topic.
    pub name: TopicName,
    /// Its partitions; none stand for all.
    pub partitions: Vec<i32>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Print the groups.
    List {
        /// Only those in one of these states; none stand for all.
        states: Vec<String>,
    },
    /// Print members and offsets.
    Describe {
        /// Of these groups.
        groups: Vec<String>,
    },
    /// Delete groups.
    Delete {
        /// These.
        groups: Vec<String>,
    },
    /// Delete committed offsets.
    DeleteOffsets {
        /// Of this group.
        group: String,
        /// Of these topics.
        topics: Vec<TopicChoice>,
    },
    /// Reset committed offsets.
    Reset {
        /// Of this group.
        group: String,
        /// Where to.
        to: ResetTo,
        /// Only these topics; none stand for all that the group has committed.
        topics: Vec<TopicChoice>,
        /// Do it, and not only show it.
        execute: bool,
    },
    /// Take a member out.
    RemoveMember {
        /// Of this group.
        group: String,
        /// Whom.
        who: Who,
    },
}

/// A parsed `group` command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCommand {
    /// Where the cluster is.
    pub endpoint: Endpoint,
    /// What to do.
    pub action: Action,
    /// Print JSON.
    pub json: bool,
}

#[derive(Default)]
struct Options {
    endpoint: Option<Endpoint>,
    json: bool,
    execute: bool,
    states: Vec<String>,
    topics: Vec<TopicChoice>,
    to: Vec<ResetTo>,
    who: Vec<Who>,
    words: Vec<String>,
}

fn number(key: &str, text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| format!("{key} {text:?} is no number"))
}

fn addresses(text: &str) -> Result<Vec<Address>, String> {
    let parse = |word: &str| word.parse().map_err(|e| format!("--bootstrap {word}: {e}"));
    text.split(',').map(str::trim).map(parse).collect()
}

fn datetime(text: &str) -> Result<i64, String> {
    let parsed = OffsetDateTime::parse(text, &Rfc3339)
        .map_err(|e| format!("--to-datetime {text:?}: {e}; it looks like 2026-11-23T10:00:00Z"))?;
    let millis = i64::try_from(parsed.unix_timestamp_nanos().div_euclid(1_000_000));
    match millis {
        Ok(millis) if millis >= 0 => Ok(millis),
        _ => Err(format!("--to-datetime {text:?} is before 1970")),
    }
}

fn topic(text: &str) -> Result<TopicChoice, String> {
    let (name, partitions) = match text.split_once(':') {
        Some((name, partitions)) => (name, Some(partitions)),
        None => (text, None),
    };
    let name = TopicName::new(name).map_err(|e| format!("--topic {text}: {e}"))?;
    let parse = |word: &str| match word.parse::<i32>() {
        Ok(index) if index >= 0 => Ok(index),
        _ => Err(format!("--topic {text}: {word:?} is no partition")),
    };
    // All of them only where no colon is: `t:$UNSET` must not mean everything.
    let words = partitions.into_iter().flat_map(|words| words.split(','));
    let partitions = words.map(parse).collect::<Result<_, _>>()?;
    Ok(TopicChoice { name, partitions })
}

impl Options {
    /// Reads the arguments; `None` asks for the help.
    fn read(arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut found = Self::default();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let (key, given) = match argument.split_once('=') {
                Some((key, value)) if key.starts_with("--") => {
                    (key.to_owned(), Some(value.to_owned()))
                }
                _ => (argument, None),
            };
            if matches!(key.as_str(), "--help" | "-h") {
                return Ok(None);
            }
            if given.is_none() && found.flag(&key) {
                continue;
            }
            if !key.starts_with('-') {
                found.words.push(key);
                continue;
            }
            let value = given.or_else(|| arguments.next());
            found.take(&key, value)?;
        }
        Ok(Some(found))
    }

    /// Takes an option without a value; says whether it is one.
    fn flag(&mut self, key: &str) -> bool {
        match key {
            "--json" => self.json = true,
            "--execute" => self.execute = true,
            "--to-earliest" => self.to.push(ResetTo::Earliest),
            "--to-latest" => self.to.push(ResetTo::Latest),
            _ => return false,
        }
        true
    }

    fn take(&mut self, key: &str, value: Option<String>) -> Result<(), String> {
        let known = [
            "--bootstrap",
            "--config",
            "-c",
            "--state",
            "--topic",
            "--to-offset",
            "--to-datetime",
            "--shift-by",
            "--member",
            "--instance",
        ];
        if !known.contains(&key) {
            return Err(format!("unknown option {key}"));
        }
        let value = value.ok_or_else(|| format!("{key} needs a value"))?;
        match key {
            "--bootstrap" => self.endpoint = Some(Endpoint::Bootstrap(addresses(&value)?)),
            "--state" => self.states.push(value),
            "--topic" => self.topics.push(topic(&value)?),
            "--to-offset" => self.to.push(ResetTo::Offset(number(key, &value)?)),
            "--to-datetime" => self.to.push(ResetTo::Time(datetime(&value)?)),
            "--shift-by" => self.to.push(ResetTo::Shift(number(key, &value)?)),
            "--member" => self.who.push(Who::Member(value)),
            "--instance" => self.who.push(Who::Instance(value)),
            _ => self.endpoint = Some(Endpoint::Config(value.into())),
        }
        Ok(())
    }

    /// An option that the command has no use for is a mistake, not something to pass over.
    fn check(&self, command: &str) -> Result<(), String> {
        let resets = command == "reset";
        let misplaced = [
            (!self.states.is_empty() && command != "list", "--state"),
            (self.execute && !resets, "--execute"),
            (!self.to.is_empty() && !resets, "--to-... and --shift-by"),
            (
                !self.topics.is_empty() && !resets && command != "delete-offsets",
                "--topic",
            ),
            (
                !self.who.is_empty() && command != "remove-member",
                "--member and --instance",
            ),
        ];
        match misplaced.into_iter().find(|(misplaced, _)| *misplaced) {
            Some((_, option)) => Err(format!("{option}: not an option of group {command}")),
            None => Ok(()),
        }
    }
}

/// Parses what follows `group`; `None` asks for the help.
pub(super) fn parse(
    arguments: impl Iterator<Item = String>,
) -> Result<Option<GroupCommand>, String> {
    let Some(mut found) = Options::read(arguments)? else {
        return Ok(None);
    };
    let words = std::mem::take(&mut found.words);
    let Some((command, names)) = words.split_first() else {
        return Err("a command is needed; see rivven-node group --help".to_owned());
    };
    found.check(command)?;
    let one = || match names {
        [group] => Ok(group.clone()),
        _ => Err(format!("{command} needs the name of one group")),
    };
    let some = || match names {
        [] => Err(format!("{command} needs the name of a group")),
        _ => Ok(names.to_vec()),
    };
    let action = match command.as_str() {
        "list" if names.is_empty() => Action::List {
            states: found.states,
        },
        "list" => return Err("list takes no names".to_owned()),
        "describe" => Action::Describe { groups: some()? },
        "delete" => Action::Delete { groups: some()? },
        "delete-offsets" if found.topics.is_empty() => {
            return Err("delete-offsets needs at least one --topic".to_owned());
        }
        "delete-offsets" => Action::DeleteOffsets {
            group: one()?,
            topics: found.topics,
        },
        "reset" => Action::Reset {
            group: one()?,
            to: match found.to.as_slice() {
                [to] => *to,
                _ => {
                    return Err(
                        "reset needs one of --to-earliest, --to-latest, --to-offset, \
                                --to-datetime and --shift-by"
                            .to_owned(),
                    );
                }
            },
            topics: found.topics,
            execute: found.execute,
        },
        "remove-member" => Action::RemoveMember {
            group: one()?,
            who: match <[Who; 1]>::try_from(found.who) {
                Ok([who]) => who,
                Err(_) => return Err("remove-member needs --member or --instance".to_owned()),
            },
        },
        other => return Err(format!("unknown group command {other:?}")),
    };
    let missing = "--bootstrap HOST:PORT or --config FILE is required";
    let endpoint = found.endpoint.ok_or(missing)?;
    Ok(Some(GroupCommand {
        endpoint,
        action,
        json: found.json,
    }))
}

/// Runs a command; the answer is text for standard output.
pub fn run(command: &GroupCommand) -> Result<String, String> {
    let bootstrap = match &command.endpoint {
        Endpoint::Bootstrap(addresses) => addresses.clone(),
        Endpoint::Config(path) => {
            let options = crate::config::load(path).map_err(|e| e.to_string())?;
            vec![options.coordinator.node.client_addr]
        }
    };
    group::run(bootstrap, &command.action, command.json).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Option<GroupCommand>, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    fn action(line: &str) -> Action {
        let line = format!("{line} --bootstrap h:1,i:2");
        parsed(&line).unwrap().unwrap().action
    }

    #[test]
    fn commands_are_understood() {
        let states = vec!["Stable".to_owned()];
        assert_eq!(action("list --state Stable"), Action::List { states });
        let groups = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(action("describe a b"), Action::Describe { groups });
        let reset = action("reset g --topic t:0,2 --topic u --shift-by -5 --execute");
        let Action::Reset {
            to,
            topics,
            execute,
            ..
        } = reset
        else {
            panic!("{reset:?}");
        };
        assert_eq!((to, execute), (ResetTo::Shift(-5), true));
        assert_eq!(topics[0].partitions, [0, 2]);
        assert!(topics[1].partitions.is_empty());
        let reset = action("reset g --to-datetime=1970-01-01T01:00:01.5+01:00");
        assert!(matches!(
            reset,
            Action::Reset {
                to: ResetTo::Time(1_500),
                execute: false,
                ..
            }
        ));
        let who = Who::Instance("i".to_owned());
        let group = "g".to_owned();
        let removal = action("remove-member g --instance i");
        assert_eq!(removal, Action::RemoveMember { group, who });
        let command = parsed("list --config=n.yaml --json").unwrap().unwrap();
        assert_eq!(command.endpoint, Endpoint::Config("n.yaml".into()));
        assert!(command.json);
        assert_eq!(parsed("reset --help"), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, word) in [
            ("", "command"),
            ("frob", "frob"),
            ("list", "--bootstrap"),
            ("list a --bootstrap h:1", "names"),
            ("list --bootstrap nowhere", "nowhere"),
            ("list --bootstrap", "value"),
            ("list --wat x --bootstrap h:1", "--wat"),
            ("list --execute --bootstrap h:1", "--execute"),
            ("describe --bootstrap h:1", "name"),
            ("describe g --topic t --bootstrap h:1", "--topic"),
            ("reset g --bootstrap h:1", "--to-earliest"),
            ("reset g --to-latest --shift-by 1 --bootstrap h:1", "one of"),
            ("reset g h --to-latest --bootstrap h:1", "one group"),
            ("reset g --to-offset x --bootstrap h:1", "number"),
            ("reset g --to-datetime yesterday --bootstrap h:1", "2026"),
            (
                "reset g --to-datetime 1960-01-01T00:00:00Z --bootstrap h:1",
                "1970",
            ),
            (
                "reset g --to-latest --topic t: --bootstrap h:1",
                "no partition",
            ),
            (
                "reset g --to-latest --topic t:-1 --bootstrap h:1",
                "partition",
            ),
            ("reset g --to-latest --topic a/b --bootstrap h:1", "a/b"),
            ("delete-offsets g --bootstrap h:1", "--topic"),
            ("remove-member g --bootstrap h:1", "--member"),
        ] {
            let error = parsed(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
