//! What the admin port says and does about replicas and leaders.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use rivven_cluster::coordinator::{ClusterCoordinator, CoordinatorError};
use rivven_cluster::placement::{Goals, Limits, Plan, Stats};
use rivven_cluster::types::{BrokerId, NodeName, TopicName};

/// How long a command may take. Less than an admin connection may.
const COMMAND_DEADLINE: Duration = Duration::from_secs(4);
/// Most moves that a plan shows one by one, as text.
const MAX_MOVES_SHOWN: usize = 50;

/// Why a request was not carried out.
pub(crate) enum Refusal {
    /// The request makes no sense.
    Bad(String),
    /// The cluster said no, or nothing.
    Failed(CoordinatorError),
    /// There is no such page.
    Unknown,
}

impl From<CoordinatorError> for Refusal {
    fn from(error: CoordinatorError) -> Self {
        Self::Failed(error)
    }
}

/// A target of a request: its path and its parameters.
pub(crate) struct Target<'a> {
    pub(crate) path: &'a str,
    parameters: BTreeMap<&'a str, &'a str>,
}

impl<'a> Target<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        let (path, query) = text.split_once('?').unwrap_or((text, ""));
        Self::new(path, query)
    }

    pub(crate) fn new(path: &'a str, query: &'a str) -> Self {
        let parameters = query.split('&').filter_map(|pair| pair.split_once('='));
        Self {
            path,
            parameters: parameters.collect(),
        }
    }

    fn get(&self, name: &str) -> Result<&'a str, Refusal> {
        let missing = || Refusal::Bad(format!("the parameter {name} is missing"));
        self.parameters.get(name).copied().ok_or_else(missing)
    }

    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<T, Refusal> {
        let bad = |error: T::Err| Refusal::Bad(format!("parameter {name}: {error}"));
        self.get(name)?.parse().map_err(bad)
    }

    pub(crate) fn wants_json(&self) -> bool {
        self.parameters.get("format") == Some(&"json")
    }
}

/// Answers a question about placement.
pub(crate) fn show(
    coordinator: &ClusterCoordinator,
    target: &Target<'_>,
) -> Result<String, Refusal> {
    match target.path {
        "/placement" => Ok(status(coordinator, target.wants_json())),
        "/placement/plan" => {
            let plan = coordinator.placement_plan(&Goals::of(&coordinator.config().placement));
            let names = Names::of(coordinator);
            Ok(if target.wants_json() {
                plan_json(&plan, &names)
            } else {
                plan_text(&plan, &names, &coordinator.config().move_limits)
            })
        }
        _ => Err(Refusal::Unknown),
    }
}

/// Carries out a command about placement.
pub(crate) async fn command(
    coordinator: &ClusterCoordinator,
    target: &Target<'_>,
) -> Result<String, Refusal> {
    match target.path {
        "/placement/drain" => {
            let node: NodeName = target.parsed("node")?;
            let draining: bool = target.parsed("draining")?;
            coordinator
                .set_draining(&node, draining, COMMAND_DEADLINE)
                .await?;
            Ok(if draining {
                format!("{node} is being drained\n")
            } else {
                format!("{node} may be given replicas again\n")
            })
        }
        "/placement/rebalance" => {
            let active: bool = target.parsed("active")?;
            coordinator.rebalance(active, COMMAND_DEADLINE).await?;
            Ok(if active {
                "the cluster is being rebalanced\n".to_owned()
            } else {
                "no further moves are begun\n".to_owned()
            })
        }
        "/placement/elect-preferred" => {
            let changed = coordinator.elect_preferred(COMMAND_DEADLINE).await?;
            Ok(format!("{changed} leaders changed\n"))
        }
        "/placement/reassign" => {
            let topic: TopicName = target.parsed("topic")?;
            let partition: u32 = target.parsed("partition")?;
            let nodes = target.get("nodes")?;
            let parse = |name: &str| name.parse::<NodeName>();
            let names = nodes.split(',').filter(|name| !name.is_empty());
            let names: Vec<NodeName> = names
                .map(parse)
                .collect::<Result<_, _>>()
                .map_err(|error| Refusal::Bad(error.to_string()))?;
            let to = (!names.is_empty()).then_some(names.as_slice());
            coordinator
                .reassign(&topic, partition, to, COMMAND_DEADLINE)
                .await?;
            Ok(match to {
                Some(_) => format!("{topic}-{partition} is on its way to {nodes}\n"),
                None => format!("{topic}-{partition} stays where it was\n"),
            })
        }
        "/placement/add-partitions" => {
            let topic: TopicName = target.parsed("topic")?;
            let total: u32 = target.parsed("total")?;
            coordinator
                .add_partitions(&topic, total, None, COMMAND_DEADLINE)
                .await?;
            Ok(format!("{topic} has {total} partitions\n"))
        }
        _ => Err(Refusal::Unknown),
    }
}

/// The names of brokers and topics.
struct Names {
    brokers: BTreeMap<BrokerId, NodeName>,
    topics: BTreeMap<rivven_cluster::types::TopicId, TopicName>,
}

impl Names {
    fn of(coordinator: &ClusterCoordinator) -> Self {
        let state = coordinator.cluster_state();
        Self {
            brokers: state
                .brokers()
                .map(|b| (b.id, b.info.name.clone()))
                .collect(),
            topics: state.topics().map(|t| (t.id, t.name.clone())).collect(),
        }
    }

    fn broker(&self, id: BrokerId) -> String {
        self.brokers
            .get(&id)
            .map_or_else(|| id.to_string(), ToString::to_string)
    }

    fn partition(&self, id: rivven_cluster::types::PartitionId) -> String {
        match self.topics.get(&id.topic) {
            Some(topic) => format!("{topic}-{}", id.index),
            None => id.to_string(),
        }
    }
}

fn status(coordinator: &ClusterCoordinator, json: bool) -> String {
    let status = coordinator.placement_status();
    if json {
        let draining: Vec<String> = status
            .draining
            .iter()
            .map(|(node, left)| format!("{{\"node\":\"{node}\",\"replicas\":{left}}}"))
            .collect();
        return format!(
            "{{\"rebalancing\":{},\"reassigning\":{},\"under_min_isr\":{},\"not_preferred\":{},\
             \"draining\":[{}]}}\n",
            status.rebalancing,
            status.reassigning,
            status.under_min_isr,
            status.not_preferred,
            draining.join(",")
        );
    }
    let mut text = format!(
        "rebalancing          {}\npartitions on the way {}\nleaders not preferred {}\n",
        if status.rebalancing { "yes" } else { "no" },
        status.reassigning,
        status.not_preferred
    );
    if status.under_min_isr > 0 {
        let count = status.under_min_isr;
        line(
            &mut text,
            format_args!("{count} partitions are under min ISR: only lost replicas are replaced"),
        );
    }
    for (node, left) in &status.draining {
        line(
            &mut text,
            format_args!("draining {node}: {left} replicas left"),
        );
    }
    text
}

/// Adds a line; writing to a String cannot fail.
fn line(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(text, "{arguments}").unwrap_or_default();
}

/// The moves of a plan for a person.
fn plan_text(plan: &Plan, names: &Names, limits: &Limits) -> String {
    let mut text = String::new();
    if plan.is_empty() && plan.shortages.is_empty() {
        text.push_str("Nothing to be done.\n\n");
    }
    let width = names.brokers.values().map(|n| n.as_str().len()).max();
    let width = width.unwrap_or(0).max(4);
    line(
        &mut text,
        format_args!(
            "{:width$}  {:>17}  {:>17}  {:>4}  {:>4}",
            "NODE", "REPLICAS", "LEADERS", "IN", "OUT"
        ),
    );
    for node in &plan.nodes {
        let pair = |(before, after): (u64, u64)| format!("{before} -> {after}");
        line(
            &mut text,
            format_args!(
                "{:width$}  {:>17}  {:>17}  {:>4}  {:>4}",
                names.broker(node.node),
                pair(node.replicas),
                pair(node.leaders),
                node.incoming,
                node.outgoing
            ),
        );
    }
    line(&mut text, format_args!(""));
    let pair = |what: &str, pick: fn(&Stats) -> String| {
        format!("{what:22} {} -> {}", pick(&plan.before), pick(&plan.after))
    };
    for row in [
        pair("replicas per node", |s| {
            format!("{}..{}", s.replicas.0, s.replicas.1)
        }),
        pair("leaders per node", |s| {
            format!("{}..{}", s.leaders.0, s.leaders.1)
        }),
        pair("missing replicas", |s| s.missing.to_string()),
        pair("replicas to drain", |s| s.to_drain.to_string()),
        pair("rack violations", |s| s.rack_violations.to_string()),
    ] {
        line(&mut text, format_args!("{row}"));
    }
    let waves = plan.waves(limits).len();
    // Leaders tell the controller alone how long their logs are.
    let bytes = match plan.bytes() {
        0 => String::new(),
        bytes => format!(" ({bytes} bytes)"),
    };
    line(
        &mut text,
        format_args!(
            "\n{} replicas move{bytes} in {waves} waves, {} preferred leaders change",
            plan.moves.len(),
            plan.leader_moves.len()
        ),
    );
    for step in plan.moves.iter().take(MAX_MOVES_SHOWN) {
        let from = step
            .from
            .map_or_else(|| "(missing)".to_owned(), |id| names.broker(id));
        line(
            &mut text,
            format_args!(
                "  {:8} {}: {from} -> {}",
                step.phase.to_string(),
                names.partition(step.partition),
                names.broker(step.to)
            ),
        );
    }
    if let Some(more) = plan.moves.len().checked_sub(MAX_MOVES_SHOWN + 1) {
        line(
            &mut text,
            format_args!("  and {} more (--json shows all)", more + 1),
        );
    }
    for shortage in &plan.shortages {
        line(&mut text, format_args!("SHORTAGE: {shortage}"));
    }
    text
}

fn stats_json(stats: &Stats) -> String {
    format!(
        "{{\"replicas_min\":{},\"replicas_max\":{},\"leaders_min\":{},\"leaders_max\":{},\
         \"missing\":{},\"to_drain\":{},\"rack_violations\":{}}}",
        stats.replicas.0,
        stats.replicas.1,
        stats.leaders.0,
        stats.leaders.1,
        stats.missing,
        stats.to_drain,
        stats.rack_violations
    )
}

fn plan_json(plan: &Plan, names: &Names) -> String {
    // Names hold no character that would have to be escaped.
    let moves: Vec<String> = plan
        .moves
        .iter()
        .map(|step| {
            let from = step.from.map_or_else(
                || "null".to_owned(),
                |id| format!("\"{}\"", names.broker(id)),
            );
            format!(
                "{{\"partition\":\"{}\",\"from\":{from},\"to\":\"{}\",\"phase\":\"{}\",\"bytes\":{}}}",
                names.partition(step.partition),
                names.broker(step.to),
                step.phase,
                step.bytes
            )
        })
        .collect();
    let leaders: Vec<String> = plan
        .leader_moves
        .iter()
        .map(|step| {
            format!(
                "{{\"partition\":\"{}\",\"from\":\"{}\",\"to\":\"{}\"}}",
                names.partition(step.partition),
                names.broker(step.from),
                names.broker(step.to)
            )
        })
        .collect();
    let shortages: Vec<String> = plan.shortages.iter().map(|s| format!("\"{s}\"")).collect();
    format!(
        "{{\"version\":{},\"moves\":[{}],\"leader_moves\":[{}],\"before\":{},\"after\":{},\"shortages\":[{}]}}\n",
        plan.base_version,
        moves.join(","),
        leaders.join(","),
        stats_json(&plan.before),
        stats_json(&plan.after),
        shortages.join(",")
    )
}
