//! The course of the demo.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::feed::{Pace, feed};
use super::keep::keep;
use super::options::DemoOptions;
use super::outcome::{Outcome, Summary};
use super::tell::{tell_summary, tell_verdict};
use super::teller::{Teller, rate, thousands};
use crate::check::{compare_replicas, judge};
use crate::failure::{Doing, Failure};
use crate::flights::{self, InputRecord};
use crate::kafka::{
    KafkaClient, Producer, ProducerOptions, Progress, ReadPartition, TopicInfo, partition_of_key,
    read_all,
};
use crate::process::{ClusterOptions, ProcessCluster, node_binary};
use crate::wait;

pub(super) const TOPIC: &str = "flights";
const PARTITIONS: i32 = 6;
const REPLICAS: i16 = 3;
const MIN_ISR: i32 = 2;
/// Fewer records than this are gone before a node can be killed in their midst.
const FEWEST_RECORDS: usize = 400;
/// How long a step of the cluster may take: generous, for loaded machines.
pub(super) const LIMIT: Duration = Duration::from_secs(90);
/// The controller is killed from this per cent of the records on; the producer goes no further than the
/// second figure before.
const FIRST_KILL: (usize, usize) = (15, 40);
/// The same for the leader of the busiest partition.
const SECOND_KILL: (usize, usize) = (45, 72);
/// How long a killed node stays down at least.
const DOWN: Duration = Duration::from_millis(1_500);
/// How long a request to the victim is awaited before a request to any node will do.
const IN_FLIGHT_LIMIT: Duration = Duration::from_secs(3);
/// How often the moment of a kill, and its consequences, are looked at.
const SHARP_LOOK: Duration = Duration::from_millis(5);
/// Partitions with fewer of the records than one in so many are not waited for after a kill.
const BUSY_SHARE: usize = 50;

/// Runs the demo as often as asked for, and tells about it; whether all went well.
pub async fn run_demo(options: DemoOptions) -> bool {
    let teller = Arc::new(Teller::new());
    let mut summary = Summary::default();
    let input = match &options.input {
        Some(path) => flights::from_file(path, options.key.as_deref()),
        None => flights::flights(),
    };
    match input {
        Ok(records) => {
            let records = Arc::new(records);
            for number in 1..=options.runs {
                if options.runs > 1 {
                    teller.line(&format!("\nRun {number} of {}", options.runs));
                }
                let run = run_once(&options, &records, &Arc::new(Teller::new())).await;
                summary.runs.push(run);
            }
        }
        Err(failure) => {
            teller.line(&format!("demo: {failure}"));
            let errors = vec![failure.to_string()];
            summary.runs.push(Outcome {
                errors,
                ..Outcome::default()
            });
        }
    }
    if options.runs > 1 {
        tell_summary(&teller, &summary);
    }
    if options.json {
        teller.line(&summary.to_json());
    }
    summary.is_ok()
}

async fn run_once(
    options: &DemoOptions,
    records: &Arc<Vec<InputRecord>>,
    teller: &Arc<Teller>,
) -> Outcome {
    let mut outcome = Outcome {
        records: records.len(),
        ..Outcome::default()
    };
    let mut run = match Run::start(options, Arc::clone(records), Arc::clone(teller)).await {
        Ok(run) => run,
        Err(failure) => {
            fail(teller, &mut outcome, &failure);
            return outcome;
        }
    };
    let result = run.proceed(&mut outcome).await;
    teller.progress_done();
    let result = match result {
        Ok(()) => run.cluster.check_no_panic(),
        Err(failure) => Err(run.cluster.explain(failure)),
    };
    if let Err(failure) = result {
        fail(teller, &mut outcome, &failure);
    }
    tell_verdict(teller, &outcome);
    if options.keep {
        keep(run.cluster, teller).await;
    }
    outcome
}

fn fail(teller: &Teller, outcome: &mut Outcome, failure: &Failure) {
    teller.event(&format!("FAILED: {failure}"));
    outcome.errors.push(failure.to_string());
}

/// One cluster and what happens to it.
struct Run {
    cluster: ProcessCluster,
    client: KafkaClient,
    records: Arc<Vec<InputRecord>>,
    teller: Arc<Teller>,
}

/// A node that was killed.
struct Kill {
    node: usize,
    broker: i32,
    at: Instant,
    /// The partitions that it led.
    led: Vec<u32>,
}

/// The producer at work.
struct Feeding {
    pace: Arc<Pace>,
    progress: Arc<Progress>,
    started: Instant,
    task: JoinSet<Result<Producer, Failure>>,
    /// The producer, once it has been given everything.
    done: Option<Producer>,
}

impl Run {
    async fn start(
        options: &DemoOptions,
        records: Arc<Vec<InputRecord>>,
        teller: Arc<Teller>,
    ) -> Result<Self, Failure> {
        if records.len() < FEWEST_RECORDS {
            let text = format!("{} records; the demo needs {FEWEST_RECORDS}", records.len());
            return Err(Failure::new(text));
        }
        node_binary().await?;
        let cluster = ClusterOptions {
            detached: options.keep,
            ..ClusterOptions::default()
        };
        let started = Instant::now();
        let mut cluster = ProcessCluster::start(cluster, LIMIT).await?;
        let controller = cluster.controller(LIMIT).await?;
        let node = cluster.node(controller);
        let term = node.status().await?.term;
        teller.event(&format!(
            "three nodes run in {}; after {} ms {} is the controller, term {term}",
            cluster.dir().display(),
            started.elapsed().as_millis(),
            node.name
        ));
        let client = KafkaClient::new(cluster.bootstrap());
        Ok(Self {
            cluster,
            client,
            records,
            teller,
        })
    }

    async fn proceed(&mut self, outcome: &mut Outcome) -> Result<(), Failure> {
        let topic = self
            .client
            .create_topic(TOPIC, PARTITIONS, REPLICAS, MIN_ISR, LIMIT)
            .await?;
        self.cluster.wait_in_sync(LIMIT).await?;
        self.teller.event(&format!(
            "topic {TOPIC}: {PARTITIONS} partitions, {REPLICAS} replicas, min.insync.replicas {MIN_ISR}"
        ));
        let mut feeding = self.feed(&topic).await?;
        let first = self.kill_controller(&mut feeding, outcome).await?;
        self.restart(&first, &mut feeding).await?;
        self.cluster.wait_in_sync(LIMIT).await?;
        self.teller
            .event(&format!("{} is back in sync", self.name(first.node)));
        let second = self.kill_busiest_leader(&mut feeding, outcome).await?;
        feeding.pace.set_limit(self.records.len());
        self.restart(&second, &mut feeding).await?;
        let progress = self.finish(feeding, &[first, second], outcome).await?;
        self.cluster.wait_in_sync(LIMIT).await?;
        self.teller.event("all replicas are in sync");
        let read = self.read_back(&progress, outcome).await?;
        self.compare(&read).await?;
        outcome.replicas_identical = true;
        Ok(())
    }

    fn name(&self, node: usize) -> String {
        self.cluster.node(node).name.clone()
    }

    fn share(&self, percent: usize) -> usize {
        self.records.len() * percent / 100
    }

    async fn feed(&self, topic: &TopicInfo) -> Result<Feeding, Failure> {
        let producer = Producer::start(&self.client, topic, &ProducerOptions::default()).await?;
        let pace = Arc::new(Pace::new(self.records.len(), self.share(FIRST_KILL.1)));
        let progress = producer.progress();
        self.teller.event(&format!(
            "writing {} records, acks=all, idempotent",
            thousands(self.records.len())
        ));
        let mut task = JoinSet::new();
        let (records, teller) = (Arc::clone(&self.records), Arc::clone(&self.teller));
        task.spawn(feed(producer, records, Arc::clone(&pace), teller));
        Ok(Feeding {
            pace,
            progress,
            started: Instant::now(),
            task,
            done: None,
        })
    }

    async fn kill_controller(
        &mut self,
        feeding: &mut Feeding,
        outcome: &mut Outcome,
    ) -> Result<Kill, Failure> {
        self.wait_sent(feeding, FIRST_KILL.0).await?;
        let node = self.cluster.controller(LIMIT).await?;
        let kill = self.kill(node, "the controller", feeding, outcome).await?;
        let victim = self.name(node);
        let (at, limit) = (kill.at, LIMIT);
        let (elected, after) = self
            .cluster
            .until(
                "a survivor names a new controller",
                limit,
                async |cluster| {
                    for index in cluster.running() {
                        let status = cluster.node(index).status().await?;
                        let named = status.controller.filter(|named| *named != victim);
                        if let Some(named) = named {
                            return Ok((named, at.elapsed()));
                        }
                    }
                    Err(Failure::new("no survivor does"))
                },
            )
            .await?;
        outcome.election_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.teller.event(&format!(
            "{elected} is the controller, {} ms after the kill",
            after.as_millis()
        ));
        Ok(kill)
    }

    async fn kill_busiest_leader(
        &mut self,
        feeding: &mut Feeding,
        outcome: &mut Outcome,
    ) -> Result<Kill, Failure> {
        feeding.pace.set_limit(self.share(SECOND_KILL.1));
        self.wait_sent(feeding, SECOND_KILL.0).await?;
        let loads = self.loads();
        let busiest = loads
            .iter()
            .max_by_key(|(_, load)| **load)
            .map_or(0, |(index, _)| *index);
        let topic = self.client.led_topic(TOPIC, LIMIT).await?;
        let is_busiest = |index: u32| index == busiest;
        let partition = topic
            .partitions
            .iter()
            .find(|p| is_busiest(p.id.index.get()));
        let leader = partition.and_then(|partition| partition.leader);
        let (broker, _) =
            leader.ok_or_else(|| Failure::new("the busiest partition has no leader"))?;
        let node = self.cluster.node_of_broker(broker).await?;
        let role = format!("the leader of partition {busiest}, the busiest");
        self.kill(node, &role, feeding, outcome).await
    }

    /// Records of the whole input by partition.
    fn loads(&self) -> BTreeMap<u32, usize> {
        let partitions = PARTITIONS.unsigned_abs();
        let mut loads: BTreeMap<u32, usize> = (0..partitions).map(|index| (index, 0)).collect();
        for (number, record) in self.records.iter().enumerate() {
            let partition = match &record.key {
                Some(key) => partition_of_key(key.as_bytes(), partitions),
                None => u32::try_from(number % loads.len()).unwrap_or(0),
            };
            *loads.entry(partition).or_default() += 1;
        }
        loads
    }

    async fn wait_sent(&mut self, feeding: &mut Feeding, percent: usize) -> Result<(), Failure> {
        let wanted = self.share(percent);
        self.cluster
            .until("the producer gets on", LIMIT, async |_| {
                feeding.check()?;
                if feeding.pace.sent() >= wanted {
                    return Ok(());
                }
                Err(Failure::new(format!(
                    "{} of {wanted} records are sent",
                    feeding.pace.sent()
                )))
            })
            .await
    }

    /// Waits for a request in flight and kills the node at that moment.
    async fn kill(
        &mut self,
        node: usize,
        role: &str,
        feeding: &mut Feeding,
        outcome: &mut Outcome,
    ) -> Result<Kill, Failure> {
        let broker = self.cluster.node(node).status().await?.broker;
        let broker = broker.ok_or_else(|| Failure::new("the victim has no broker id"))?;
        let topic = self.client.led_topic(TOPIC, LIMIT).await?;
        let leads = |partition: &&crate::kafka::PartitionInfo| {
            partition.leader.is_some_and(|(leader, _)| leader == broker)
        };
        let led = topic
            .partitions
            .iter()
            .filter(leads)
            .map(|p| p.id.index.get())
            .collect();
        let waiting = Instant::now();
        let in_flight = loop {
            feeding.check()?;
            let of_victim = waiting.elapsed() < IN_FLIGHT_LIMIT;
            let in_flight = feeding.progress.in_flight(of_victim.then_some(broker));
            if in_flight > 0 {
                break in_flight;
            }
            if waiting.elapsed() > LIMIT {
                return Err(Failure::new("there was never a request in flight"));
            }
            // Finer than a pause: a request may be answered within a millisecond.
            tokio::task::yield_now().await;
        };
        let unsent = feeding.pace.unsent();
        let at = Instant::now();
        self.cluster.kill(node)?;
        outcome.unsent_at_kill.push(unsent);
        outcome.inflight_at_kill.push(in_flight);
        let kill = Kill {
            node,
            broker,
            at,
            led,
        };
        self.teller.event(&format!(
            "kill -9 {}, {role}; it led {} partitions; {} records unsent, {in_flight} requests in flight",
            self.name(node),
            kill.led.len(),
            thousands(unsent)
        ));
        Ok(kill)
    }

    /// Waits until others acknowledge for the killed node, and a while, and starts it again.
    async fn restart(&mut self, kill: &Kill, feeding: &mut Feeding) -> Result<(), Failure> {
        let loads = self.loads();
        let busy =
            |index: &u32| loads.get(index).copied().unwrap_or(0) * BUSY_SHARE > self.records.len();
        let awaited: Vec<u32> = kill.led.iter().copied().filter(busy).collect();
        loop {
            feeding.check()?;
            let acknowledged = |index: &u32| {
                feeding
                    .progress
                    .first_ack_after(*index, kill.at, kill.broker)
                    .is_some()
            };
            if awaited.iter().all(acknowledged) {
                break;
            }
            if kill.at.elapsed() > LIMIT {
                return Err(Failure::new(
                    "no other node took over the partitions of the killed one",
                ));
            }
            wait::pause(SHARP_LOOK).await;
        }
        if let Some(longest) = kill.failover(&feeding.progress) {
            let longest = longest.as_millis();
            self.teller.event(&format!(
                "its partitions acknowledge again, after at most {longest} ms"
            ));
        }
        wait::pause(DOWN.saturating_sub(kill.at.elapsed())).await;
        self.cluster.spawn(kill.node)?;
        self.teller
            .event(&format!("{} is started again", self.name(kill.node)));
        Ok(())
    }

    async fn finish(
        &self,
        mut feeding: Feeding,
        kills: &[Kill],
        outcome: &mut Outcome,
    ) -> Result<Arc<Progress>, Failure> {
        if let Some(fed) = feeding.task.join_next().await {
            feeding.done = Some(fed.doing(|| "the producer".to_owned())??);
        }
        let producer = feeding.done.take();
        let producer = producer.ok_or_else(|| Failure::new("the producer is gone"))?;
        let progress = producer.finish().await?;
        self.teller.progress_done();
        let acks = progress.acks();
        let last = acks
            .iter()
            .map(|ack| ack.at)
            .max()
            .unwrap_or(feeding.started);
        let took = last - feeding.started;
        let distinct: std::collections::BTreeSet<usize> =
            acks.iter().map(|ack| ack.number).collect();
        outcome.acked = distinct.len();
        outcome.records_per_s = rate(outcome.acked, took);
        let failovers = kills.iter().filter_map(|kill| kill.failover(&progress));
        let longest = failovers.max().unwrap_or_default();
        outcome.failover_ms_max = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        self.teller.event(&format!(
            "{} records acknowledged in {:.1} s",
            thousands(outcome.acked),
            took.as_secs_f64()
        ));
        let setbacks = progress.setbacks();
        if !setbacks.is_empty() {
            let list: Vec<String> = setbacks
                .iter()
                .map(|(reason, count)| format!("{reason}: {count}"))
                .collect();
            self.teller.event(&format!(
                "the producer had to try again ({})",
                list.join(", ")
            ));
        }
        Ok(progress)
    }

    async fn read_back(
        &self,
        progress: &Progress,
        outcome: &mut Outcome,
    ) -> Result<Vec<ReadPartition>, Failure> {
        let acknowledged = progress.highest_offsets();
        let read = read_all(&self.client, TOPIC, &acknowledged, LIMIT).await?;
        outcome.verdict = Some(judge(&self.records, &read));
        let count: usize = read.iter().map(|partition| partition.records.len()).sum();
        self.teller
            .event(&format!("read back {} records", thousands(count)));
        Ok(read)
    }

    /// Stops all nodes in order and compares what they leave behind.
    async fn compare(&mut self, read: &[ReadPartition]) -> Result<(), Failure> {
        for node in 0..self.cluster.nodes().len() {
            self.cluster.stop(node, LIMIT).await?;
        }
        self.teller.event("the nodes have stopped in order");
        let dirs: Vec<_> = self
            .cluster
            .nodes()
            .iter()
            .map(|node| node.data_dir())
            .collect();
        let dirs: Vec<_> = dirs.iter().map(std::path::PathBuf::as_path).collect();
        compare_replicas(&dirs, read)?;
        self.teller.event("their logs are compared");
        Ok(())
    }
}

impl Kill {
    /// The longest time until another broker acknowledged something in a partition that this one led,
    /// from the kill, or from when there was something to write.
    fn failover(&self, progress: &Progress) -> Option<Duration> {
        let first = |index: &u32| progress.first_ack_after(*index, self.at, self.broker);
        let acks = self.led.iter().filter_map(first);
        acks.map(|ack| ack.at - ack.queued.max(self.at)).max()
    }
}

impl Feeding {
    /// Fails if the producer has failed.
    fn check(&mut self) -> Result<(), Failure> {
        match self.task.try_join_next() {
            None => Ok(()),
            Some(Ok(Err(failure))) => Err(failure),
            Some(Ok(Ok(producer))) => {
                self.done = Some(producer);
                Ok(())
            }
            Some(Err(error)) => Err(Failure::new(format!("the producer died: {error}"))),
        }
    }
}
