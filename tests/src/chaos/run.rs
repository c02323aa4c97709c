//! One run: start, harm, heal, again; then judge.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use super::creators::{Creators, Races};
use super::librdkafka::{self, Librdkafka};
use super::nemesis::{Episode, Nemesis, Schedule};
use super::options::ChaosOptions;
use super::report::{ChaosReport, Figure};
use super::stage::{LIMIT, NODES, Stage, obstacle};
use super::workload::Workload;
use crate::check::{LogReport, compare_replicas};
use crate::demo::Teller;
use crate::failure::Failure;
use crate::kafka::{KafkaClient, ReadPartition, TopicInfo};
use crate::wait;

/// The topic of our own clients.
const TOPIC: &str = "chaos";
const PARTITIONS: i32 = 6;
/// The topic of librdkafka.
const OTHER_TOPIC: &str = "librdkafka";
const OTHER_PARTITIONS: u32 = 3;
const REPLICAS: i16 = 3;
const MIN_ISR: i32 = 2;
/// The small disk's room for everything but records, what a record takes there, and the most that it may
/// take from memory.
const DISK_MEBIBYTES: u64 = 96;
const BYTES_PER_RECORD: u64 = 200;
const MAX_DISK_MEBIBYTES: u64 = 2_048;
/// What an episode takes on average, with its recovery.
const SECS_PER_EPISODE: u64 = 10;

/// Runs; false if anything was wrong. Only a failure to run at all is an error.
pub async fn run_chaos(options: ChaosOptions) -> Result<bool, Failure> {
    let teller = Teller::new();
    let seed = options
        .seed
        .unwrap_or_else(|| RandomState::new().hash_one("chaos") >> 32);
    let mut report = ChaosReport::new(seed);
    let mut nemeses = Vec::new();
    for nemesis in &options.only {
        match obstacle(*nemesis) {
            None => nemeses.push(*nemesis),
            Some(reason) => report.skip(&teller, nemesis.name(), &reason),
        }
    }
    if nemeses.is_empty() {
        teller.line("every nemesis was skipped");
        return Ok(true);
    }
    let names: Vec<&str> = nemeses.iter().map(|nemesis| nemesis.name()).collect();
    teller.line(&format!("seed {seed}; {}", names.join(", ")));
    let stage = Stage::start(&nemeses, disk_mebibytes(&options), seed).await?;
    let mut run = Run {
        client: KafkaClient::new(stage.cluster.bootstrap()),
        stage,
        teller,
        options,
        report,
        under_way: None,
    };
    let outcome = run.proceed(&nemeses).await;
    let panicked = run.stage.cluster.check_no_panic();
    let Run {
        stage,
        teller,
        options,
        mut report,
        ..
    } = run;
    for failure in [outcome, panicked].into_iter().filter_map(Result::err) {
        report.violation(&teller, "run", &failure.to_string());
    }
    if !report.is_ok() {
        let files = stage.keep();
        teller.line(&format!("logs and data of all nodes: {}", files.display()));
    }
    report.tell(&teller);
    if options.json {
        teller.line(&report.to_json());
    }
    Ok(report.is_ok())
}

struct Run {
    stage: Stage,
    client: KafkaClient,
    teller: Teller,
    options: ChaosOptions,
    report: ChaosReport,
    /// The harm that has not been undone yet, and to which node it was done.
    under_way: Option<(Episode, usize)>,
}

/// All that asks something of the cluster.
struct Clients {
    own: Workload,
    creators: Creators,
    librdkafka: Option<Librdkafka>,
}

impl Run {
    async fn proceed(&mut self, nemeses: &[Nemesis]) -> Result<(), Failure> {
        let mut clients = self.clients().await?;
        self.stage.check_preload()?;
        let started = Instant::now();
        let outcome = self.episodes(nemeses, started, &mut clients).await;
        self.report.secs = started.elapsed().as_secs();
        if let Err(failure) = &outcome {
            // What was acknowledged must be there all the more when something went wrong.
            let text = format!("given up: {failure}; now the final judgement");
            self.teller.line(&text);
            if let Some((episode, target)) = self.under_way.take()
                && let Err(failure) = self.stage.heal(&episode, target).await
            {
                self.teller
                    .line(&format!("           not healed: {failure}"));
            }
        }
        let judged = self.judge(clients).await;
        if let (Err(_), Err(failure)) = (&outcome, &judged) {
            self.report
                .violation(&self.teller, "judgement", &failure.to_string());
        }
        outcome.and(judged)
    }

    async fn episodes(
        &mut self,
        nemeses: &[Nemesis],
        started: Instant,
        clients: &mut Clients,
    ) -> Result<(), Failure> {
        let mut schedule = Schedule::new(self.report.seed, nemeses, NODES);
        let most = self.options.episodes.unwrap_or(usize::MAX);
        let mut done = 0;
        while done < most && started.elapsed() < self.options.time {
            let Some(episode) = schedule.next() else {
                break;
            };
            done += 1;
            self.episode(done, &episode, clients).await?;
        }
        Ok(())
    }

    async fn clients(&mut self) -> Result<Clients, Failure> {
        let create = |topic: &'static str, partitions| {
            self.client
                .create_topic(topic, partitions, REPLICAS, MIN_ISR, LIMIT)
        };
        let topic: TopicInfo = create(TOPIC, PARTITIONS).await?;
        let librdkafka = match librdkafka::python().await {
            None => {
                let reason = "confluent-kafka is not installed";
                self.report.skip(&self.teller, "librdkafka", reason);
                None
            }
            Some(python) => {
                let partitions = i32::try_from(OTHER_PARTITIONS).unwrap_or(1);
                create(OTHER_TOPIC, partitions).await?;
                let brokers = self.stage.cluster.bootstrap();
                let client = Librdkafka::start(&python, &brokers, OTHER_TOPIC, OTHER_PARTITIONS)?;
                Some(client)
            }
        };
        let own = Workload::start(&self.client, &topic, self.options.rate).await?;
        let creators = Creators::start(self.stage.cluster.bootstrap());
        Ok(Clients {
            own,
            creators,
            librdkafka,
        })
    }

    async fn episode(
        &mut self,
        number: usize,
        episode: &Episode,
        clients: &mut Clients,
    ) -> Result<(), Failure> {
        let name = episode.nemesis.name();
        let during = |failure: Failure| failure.during(&format!("episode {number}, {name}"));
        wait::pause(episode.calm).await;
        clients.own.check().map_err(during)?;
        let target = self.stage.aim(episode, &self.client, TOPIC).await;
        let target = target.map_err(during)?;
        clients.own.seen.take_longest_wait();
        self.under_way = Some((*episode, target));
        let what = self.stage.strike(episode, target).await.map_err(during)?;
        wait::pause(episode.hold).await;
        let healed = Instant::now();
        let said = self.stage.heal(episode, target).await.map_err(during)?;
        self.under_way = None;
        let whole = self.stage.cluster.wait_in_sync(LIMIT).await;
        whole.map_err(during)?;
        clients.own.check().map_err(during)?;
        let took = healed.elapsed();
        let wait = clients.own.seen.take_longest_wait();
        let acked = clients.own.seen.lock().acked;
        let mut text = format!("{number:4} {name:<11} node-{} ", target + 1);
        for part in [what.as_str(), said.as_str()] {
            if !part.is_empty() {
                text.push_str(part);
                text.push_str("; ");
            }
        }
        text.push_str(&format!(
            "held {:.1} s, whole again after {:.1} s, longest wait for an ack {:.1} s, {acked} acked",
            episode.hold.as_secs_f64(),
            took.as_secs_f64(),
            wait.as_secs_f64()
        ));
        self.teller.event(&text);
        self.report.episode(episode.nemesis, took, wait);
        Ok(())
    }

    async fn judge(&mut self, clients: Clients) -> Result<(), Failure> {
        let races = clients.creators.finish().await?;
        self.judge_races(&races);
        let seen = clients.own.stop().await?;
        let (log, mut read) = seen.finish(&self.client, TOPIC, LIMIT).await?;
        self.judge_log("own clients", &log);
        if let Some(librdkafka) = clients.librdkafka {
            let (seen, warnings) = librdkafka.stop(2 * LIMIT).await?;
            for warning in warnings {
                self.teller
                    .line(&format!("           librdkafka: {warning}"));
            }
            let failed: BTreeMap<String, usize> = seen.lock().setbacks.clone();
            let (log, others) = seen.finish(&self.client, OTHER_TOPIC, LIMIT).await?;
            self.judge_log("librdkafka", &log);
            if !failed.is_empty() {
                let text = format!("librdkafka gave up records: {failed:?}");
                self.report.violation(&self.teller, "librdkafka", &text);
            }
            read.extend(others);
        }
        self.compare(&read).await
    }

    fn judge_races(&mut self, races: &Races) {
        self.report.figures.extend([
            Figure::count("create races", "topics", races.topics),
            Figure::count("create races", "operations", races.operations),
            Figure::count("create races", "unknown", races.unknown),
        ]);
        if let Some(violation) = &races.violation {
            let text = format!("CreateTopics is not linearizable: {violation}");
            self.report.violation(&self.teller, "create races", &text);
        }
    }

    fn judge_log(&mut self, who: &str, log: &LogReport) {
        self.report.log(who, log);
        for example in &log.examples {
            self.report.violation(&self.teller, who, example);
        }
    }

    /// Stops all nodes in order and compares what they leave behind.
    async fn compare(&mut self, read: &[ReadPartition]) -> Result<(), Failure> {
        self.stage.cluster.wait_in_sync(LIMIT).await?;
        for node in 0..NODES {
            self.stage.cluster.stop(node, LIMIT).await?;
        }
        let nodes = self.stage.cluster.nodes();
        let dirs: Vec<_> = nodes.iter().map(|node| node.data_dir()).collect();
        let dirs: Vec<_> = dirs.iter().map(std::path::PathBuf::as_path).collect();
        match compare_replicas(&dirs, read) {
            Ok(()) => self.report.replicas_are_equal = true,
            Err(failure) => {
                let text = failure.to_string();
                self.report.violation(&self.teller, "replicas", &text);
            }
        }
        Ok(())
    }
}

/// The size of the disk that is filled: enough for everything that a run writes.
fn disk_mebibytes(options: &ChaosOptions) -> u64 {
    let most = |episodes| u64::try_from(episodes).unwrap_or(u64::MAX);
    let secs = options.episodes.map_or(u64::MAX, |episodes| {
        most(episodes).saturating_mul(SECS_PER_EPISODE)
    });
    let secs = secs.min(options.time.as_secs());
    let records = (secs * options.rate * BYTES_PER_RECORD) >> 20;
    (DISK_MEBIBYTES + records).min(MAX_DISK_MEBIBYTES)
}

/// The figure of a duration, in ms.
pub(super) fn millis(duration: Duration) -> usize {
    usize::try_from(duration.as_millis()).unwrap_or(usize::MAX)
}
