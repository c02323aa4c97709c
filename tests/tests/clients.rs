//! Real clients that nobody here wrote: kcat and confluent-kafka produce and consume against a cluster
//! of processes, also while a leader is killed. A client that is not installed is reported as skipped;
//! with its name in the environment variable REQUIRE its absence is a failure.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "clients/groups.rs"]
mod groups;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rivven_tests::check::judge;
use rivven_tests::flights::{InputRecord, flights};
use rivven_tests::kafka::{KafkaClient, TopicInfo, read_all};
use rivven_tests::process::{ClusterOptions, ProcessCluster};
use rivven_tests::{Failure, wait};

const LIMIT: Duration = Duration::from_secs(90);
/// Records that each client writes; enough that a kill comes between.
const RECORDS: usize = 2_000;

fn works(command: &mut Command) -> bool {
    let command = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Whether the client is there. Says that it is skipped otherwise, or fails if it is required.
fn is_there(tool: &str, package: &str, found: bool) -> bool {
    let required = std::env::var("REQUIRE").unwrap_or_default();
    let required = required.split(',').any(|name| name.trim() == tool);
    assert!(
        found || !required,
        "REQUIRE names {tool}, but {package} is not installed"
    );
    if !found {
        // Past the capture of the test harness: a skip must be seen in a run that passes.
        let text = format!("SKIPPED {tool}: {package} is not installed\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    found
}

fn python() -> String {
    std::env::var("RIVVEN_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

fn some_flights() -> Vec<InputRecord> {
    flights().unwrap().into_iter().take(RECORDS).collect()
}

/// A client's process: its output line by line, killed when dropped.
struct Client {
    child: Child,
    lines: mpsc::Receiver<String>,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Client {
    fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
                .unwrap_or_default();
        });
        let mut stderr = child.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            stderr.read_to_end(&mut text).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        });
        Self {
            child,
            lines,
            errors: Some(errors),
        }
    }

    fn write(&mut self, text: &str) {
        self.child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    /// Waits until it has ended well, and returns the lines that it printed.
    async fn finish(self, what: &str) -> Vec<String> {
        self.finish_within(what, LIMIT).await
    }

    async fn finish_within(mut self, what: &str, limit: Duration) -> Vec<String> {
        drop(self.child.stdin.take());
        let ended = wait::until(what, limit, async || {
            self.child
                .try_wait()?
                .ok_or_else(|| Failure::new("it still runs"))
        });
        let ended = ended.await;
        // Ends the threads that read, also if it did not end by itself.
        drop(self.child.kill());
        let errors = self.errors.take().unwrap().join().unwrap();
        let lines = self.lines.iter().collect();
        match ended {
            Ok(status) => assert!(status.success(), "{what}: {status}\n{errors}"),
            Err(failure) => panic!("{failure}\n{errors}"),
        }
        lines
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // An error means that it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A running cluster with one topic.
struct Scene {
    cluster: ProcessCluster,
    client: KafkaClient,
    brokers: String,
}

impl Scene {
    async fn new() -> Self {
        let cluster = ProcessCluster::start(ClusterOptions::default(), LIMIT).await;
        let cluster = cluster.unwrap_or_else(|failure| panic!("{failure}"));
        let brokers: Vec<String> = cluster
            .bootstrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        let client = KafkaClient::new(cluster.bootstrap());
        Self {
            cluster,
            client,
            brokers: brokers.join(","),
        }
    }

    async fn topic(&mut self, name: &str, partitions: i32) -> TopicInfo {
        let created = self
            .client
            .create_topic(name, partitions, 3, 2, LIMIT)
            .await;
        let topic = self.pass(created);
        self.cluster.wait_in_sync(LIMIT).await.unwrap();
        topic
    }

    fn pass<T>(&self, result: Result<T, Failure>) -> T {
        result.unwrap_or_else(|failure| panic!("{}", self.cluster.explain(failure)))
    }

    /// Everything in a topic, judged against what a client wrote.
    async fn check(&self, topic: &str, written: &[InputRecord]) {
        let read = read_all(
            &self.client,
            topic,
            &std::collections::BTreeMap::new(),
            LIMIT,
        )
        .await;
        let read = self.pass(read);
        let verdict = judge(written, &read);
        assert!(verdict.is_clean(), "{topic}: {verdict:?}");
    }

    /// Waits until the first partition holds `count` records.
    async fn wait_records(&self, topic: &str, count: usize) {
        let what = format!("{topic} holds {count} records");
        let held = wait::until(&what, LIMIT, async || {
            let read = read_all(
                &self.client,
                topic,
                &std::collections::BTreeMap::new(),
                LIMIT,
            )
            .await?;
            let held: usize = read.iter().map(|partition| partition.records.len()).sum();
            if held >= count {
                Ok(())
            } else {
                Err(Failure::new(format!("it holds {held}")))
            }
        });
        let held = held.await;
        self.pass(held);
    }

    /// Kill -9 of the leader of the only partition; returns the node.
    async fn kill_leader(&mut self, topic: &str) -> usize {
        let info = self.client.led_topic(topic, LIMIT).await;
        let (leader, _) = self.pass(info).partitions[0].leader.unwrap();
        let node = self.cluster.node_of_broker(leader).await.unwrap();
        self.cluster.kill(node).unwrap();
        node
    }

    async fn restart(&mut self, node: usize) {
        self.cluster.spawn(node).unwrap();
        self.cluster.wait_in_sync(LIMIT).await.unwrap();
    }
}

/// The lines that kcat prints with [`KCAT_FORMAT`] as records.
const KCAT_FORMAT: &str = "%k\t%s\n";

fn parse(lines: &[String]) -> Vec<InputRecord> {
    let record = |line: &String| {
        let (key, value) = line.split_once('\t').unwrap();
        InputRecord {
            key: Some(key.to_owned()),
            value: value.to_owned(),
        }
    };
    lines.iter().map(record).collect()
}

fn print(records: &[InputRecord]) -> String {
    records
        .iter()
        .map(|r| format!("{}\t{}\n", r.key.as_deref().unwrap(), r.value))
        .collect()
}

/// The values of each key, in the order of reading.
fn by_key(records: &[InputRecord]) -> std::collections::BTreeMap<&str, Vec<&str>> {
    let mut by_key: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
    for record in records {
        by_key
            .entry(record.key.as_deref().unwrap())
            .or_default()
            .push(&record.value);
    }
    by_key
}

fn kcat(scene: &Scene, arguments: &[&str]) -> Command {
    let mut command = Command::new("kcat");
    command
        .args(["-b", &scene.brokers, "-X", "retry.backoff.ms=50"])
        .args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn kcat_writes_and_reads_also_while_a_leader_is_killed() {
    if !is_there("kcat", "kcat", works(Command::new("kcat").arg("-V"))) {
        return;
    }
    let mut scene = Scene::new().await;
    scene.topic("quiet", 3).await;
    scene.topic("killed", 1).await;
    let records = some_flights();
    let produce = [
        "-P",
        "-K",
        "\t",
        "-X",
        "acks=all",
        "-X",
        "enable.idempotence=true",
        "-t",
    ];
    let consume = ["-C", "-f", KCAT_FORMAT, "-o", "beginning", "-t"];

    let listed = Client::start(&mut kcat(&scene, &["-L"]))
        .finish("kcat -L")
        .await
        .join("\n");
    assert!(
        listed.contains("3 brokers") && listed.contains("\"quiet\" with 3 partitions"),
        "{listed}"
    );

    let mut writer = Client::start(&mut kcat(&scene, &[&produce[..], &["quiet"]].concat()));
    writer.write(&print(&records));
    writer.finish("kcat -P").await;
    scene.check("quiet", &records).await;
    let mut reader = kcat(&scene, &[&consume[..], &["quiet", "-e"]].concat());
    let read = parse(&Client::start(&mut reader).finish("kcat -C").await);
    assert_eq!(by_key(&read), by_key(&records));

    // Half of the records, the kill, the other half; a reader is there all the while.
    let count = RECORDS.to_string();
    let mut reader = kcat(
        &scene,
        &[&consume[..], &["killed", "-u", "-c", &count]].concat(),
    );
    let reader = Client::start(&mut reader);
    let mut writer = Client::start(&mut kcat(&scene, &[&produce[..], &["killed"]].concat()));
    let (before, after) = records.split_at(RECORDS / 2);
    writer.write(&print(before));
    scene.wait_records("killed", 100).await;
    let killed = scene.kill_leader("killed").await;
    writer.write(&print(after));
    writer.finish("kcat -P while a leader is killed").await;
    let read = parse(&reader.finish("kcat -C while a leader is killed").await);
    assert_eq!(by_key(&read), by_key(&records));
    scene.check("killed", &records).await;
    scene.restart(killed).await;
    scene.cluster.check_no_panic().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn confluent_kafka_writes_and_reads_also_while_a_leader_is_killed() {
    let found = works(Command::new(python()).args(["-c", "import confluent_kafka"]));
    if !is_there("confluent", "confluent-kafka", found) {
        return;
    }
    let mut scene = Scene::new().await;
    scene.topic("killed", 1).await;
    let records = some_flights();
    let script: PathBuf = [
        env!("CARGO_MANIFEST_DIR"),
        "tests",
        "clients",
        "confluent.py",
    ]
    .iter()
    .collect();
    let mut client = Command::new(python());
    client
        .arg(script)
        .args([scene.brokers.as_str(), "killed", &RECORDS.to_string()]);

    // It reads the records from its standard input, writes them, and prints what it reads.
    let mut client = Client::start(&mut client);
    let (before, after) = records.split_at(RECORDS / 2);
    client.write(&print(before));
    let started = Instant::now();
    let mut read = Vec::new();
    while read.len() < 100 {
        let waited = LIMIT.saturating_sub(started.elapsed());
        match client.lines.recv_timeout(waited) {
            Ok(line) => read.push(line),
            Err(error) => {
                client.finish("confluent-kafka").await;
                panic!("{} records were read, then: {error}", read.len());
            }
        }
    }
    let killed = scene.kill_leader("killed").await;
    client.write(&print(after));
    read.extend(client.finish("confluent-kafka").await);
    assert_eq!(by_key(&parse(&read)), by_key(&records));
    scene.check("killed", &records).await;
    scene.restart(killed).await;
    scene.cluster.check_no_panic().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn confluent_kafka_sets_up_and_takes_down_a_topic() {
    let found = works(Command::new(python()).args(["-c", "import confluent_kafka"]));
    if !is_there("confluent", "confluent-kafka", found) {
        return;
    }
    let scene = Scene::new().await;
    let mut client = Command::new(python());
    let script = [
        env!("CARGO_MANIFEST_DIR"),
        "tests/clients/administration.py",
    ];
    client
        .arg(script.iter().collect::<PathBuf>())
        .args([scene.brokers.as_str(), "operated"]);
    let steps = Client::start(&mut client).finish("administration.py").await;
    assert_eq!(
        steps,
        [
            "created with settings",
            "settings changed",
            "records deleted",
            "partitions added",
            "the preferred leader leads",
            "no unclean election while there is a leader",
            "deleted",
        ]
    );
    scene.cluster.check_no_panic().unwrap();
}
