//! Consumer groups of confluent-kafka: members that come and go, coordinators that die, and what an
//! operator sees and changes with `rivven-node group`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rivven_tests::flights::{flights, flights_from};
use rivven_tests::process::node_binary;
use rivven_tests::{Failure, wait};

use super::{Client, LIMIT, Scene, is_there, python, some_flights, works};

/// Records a second that are written while brokers die and restart.
const RATE: &str = "200";
/// Writes and reads every flight instead, as fast as it goes: those of January with the value 1, those of
/// the file (CSV, compressed by zstd) that it names otherwise.
const ALL_FLIGHTS: &str = "RIVVEN_ALL_FLIGHTS";

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/clients")
        .join(name)
}

fn confluent_is_there() -> bool {
    let found = works(Command::new(python()).args(["-c", "import confluent_kafka"]));
    is_there("confluent", "confluent-kafka", found)
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_groups_of_both_protocols_process_every_record_while_members_come_and_go() {
    if !confluent_is_there() {
        return;
    }
    let mut scene = Scene::new().await;
    let script = script("groups.py");
    for arguments in [
        &["consumer"][..],
        &["classic", "range"],
        &["classic", "cooperative-sticky"],
    ] {
        let topic = format!("groups-{}", arguments.join("-"));
        scene.topic(&topic, 6).await;
        let records = fill(&scene, &topic).await;
        let mut reader = Command::new(python());
        let count = records.to_string();
        reader
            .arg(&script)
            .args([scene.brokers.as_str(), &topic, &count]);
        let reader = Client::start(reader.args(arguments));
        assert_eq!(
            reader.finish("a consumer group").await,
            ["ok"],
            "{arguments:?}"
        );
    }
}

/// Writes some records with confluent-kafka; returns how many.
async fn fill(scene: &Scene, topic: &str) -> usize {
    let records = some_flights();
    let mut producer = Command::new(python());
    let write = "import sys; from confluent_kafka import Producer\n\
                 p = Producer({'bootstrap.servers': sys.argv[1], 'acks': 'all'})\n\
                 [p.produce(sys.argv[2], l.strip()) for l in sys.stdin]\n\
                 sys.exit(p.flush(60))";
    producer.args(["-c", write, &scene.brokers, topic]);
    let mut producer = Client::start(&mut producer);
    for record in &records {
        producer.write(&format!("{}\n", record.value));
    }
    producer.finish("writing for a group").await;
    records.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn consumer_groups_of_kafka_python_process_every_record_while_members_come_and_go() {
    let found = works(Command::new(python()).args(["-c", "import kafka.coordinator.assignors"]));
    if !is_there("kafka-python", "kafka-python", found) || !confluent_is_there() {
        return;
    }
    let mut scene = Scene::new().await;
    for strategy in ["range", "sticky", "cooperative-sticky"] {
        let topic = format!("python-{strategy}");
        scene.topic(&topic, 6).await;
        let count = fill(&scene, &topic).await.to_string();
        let mut reader = Command::new(python());
        reader.arg(script("groups_kafka_python.py"));
        let reader = reader.args([scene.brokers.as_str(), &topic, &count, strategy]);
        let reader = Client::start(reader);
        let said = reader.finish("a consumer group of kafka-python").await;
        assert_eq!(said, ["ok"], "{strategy}");
    }
    scene.cluster.check_no_panic().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kcat_reads_all_of_a_topic_as_a_consumer_group() {
    let found = works(Command::new("kcat").arg("-V"));
    if !is_there("kcat", "kcat", found) || !confluent_is_there() {
        return;
    }
    let mut scene = Scene::new().await;
    scene.topic("kcat-group", 6).await;
    let count = fill(&scene, "kcat-group").await;
    // With -e it ends at the ends of all partitions, and commits what it has read.
    let mut reader = Command::new("kcat");
    reader.args(["-b", &scene.brokers, "-G", "kcat-readers", "-e", "-q"]);
    reader.args([
        "-X",
        "auto.offset.reset=earliest",
        "-f",
        "%p:%o\\n",
        "kcat-group",
    ]);
    let read = Client::start(&mut reader).finish("kcat -G").await;
    let distinct: std::collections::BTreeSet<&String> = read.iter().collect();
    assert_eq!((read.len(), distinct.len()), (count, count));
    let described = group(&scene, "describe kcat-readers").await.unwrap();
    assert!(described.contains(", lag 0\n"), "{described}");
}

/// Runs `rivven-node group ...`; its output, or what it complains of.
async fn group(scene: &Scene, arguments: &str) -> Result<String, String> {
    let mut command = Command::new(node_binary().await.unwrap());
    command.arg("group").args(arguments.split(' '));
    command.args(["--bootstrap", &scene.brokers]);
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    if output.status.success() {
        return Ok(text(output.stdout));
    }
    assert_eq!(output.status.code(), Some(1), "{arguments}");
    Err(text(output.stderr))
}

/// The next line of a client, which fails if there is none.
async fn line(mut client: Client, limit: Duration) -> (Client, String) {
    let waited = client.lines.recv_timeout(limit);
    match waited {
        Ok(line) => (client, line),
        Err(error) => {
            drop(client.child.kill());
            client.finish("consumer groups").await;
            panic!("no line: {error}");
        }
    }
}

/// How long the whole scene may take.
const SCENE_LIMIT: Duration = Duration::from_secs(200);

#[tokio::test(flavor = "multi_thread")]
async fn groups_outlive_their_coordinator_and_a_rolling_restart_without_a_rebalance() {
    if !confluent_is_there() {
        return;
    }
    let all = std::env::var_os(ALL_FLIGHTS);
    let mut scene = Scene::new().await;
    scene.topic("flights", 6).await;
    let input = scene.cluster.dir().join("flights");
    let chosen = match all.as_ref().filter(|all| *all != "1") {
        Some(file) => flights_from(Path::new(file)),
        None => flights(),
    };
    let records: Vec<String> = chosen
        .unwrap()
        .into_iter()
        .map(|r| r.value + "\n")
        .collect();
    std::fs::write(&input, records.concat()).unwrap();
    let mut command = Command::new(python());
    command
        .arg(script("failover.py"))
        .args([&scene.brokers, "flights"]);
    command
        .arg(&input)
        .arg(if all.is_some() { "0" } else { RATE });
    let client = Client::start(&mut command);
    let (mut client, said) = line(client, LIMIT).await;
    assert_eq!(said, "stable");

    live_groups_are_described_and_protected(&scene).await;

    let found = scene.client.group_coordinator(LIMIT).await;
    let (coordinator, _) = scene.pass(found);
    let node = scene.cluster.node_of_broker(coordinator).await.unwrap();
    scene.cluster.kill(node).unwrap();
    let elected = wait::until("another node coordinates", LIMIT, async || {
        let (successor, _) = scene.client.group_coordinator(LIMIT).await?;
        if successor == coordinator {
            return Err(Failure::new("the survivors still name the dead one"));
        }
        Ok(())
    });
    let elected = elected.await;
    scene.pass(elected);
    scene.restart(node).await;
    client.write("report\n");
    let (mut client, said) = line(client, LIMIT).await;
    assert_eq!(
        said, "flights-consumer=0 flights-classic=0",
        "kill -9 of the coordinator"
    );

    for node in 0..scene.cluster.nodes().len() {
        scene.cluster.stop(node, LIMIT).await.unwrap();
        scene.restart(node).await;
    }
    client.write("finish\n");
    let said = client.finish_within("consumer groups", SCENE_LIMIT).await;
    let kinds = ["consumer", "classic"];
    let want = kinds.map(|kind| format!("flights-{kind} rebalances=0 missing=0 skipped=0"));
    assert_eq!(said, want);

    left_groups_are_reset_and_deleted(&scene).await;
    scene.cluster.check_no_panic().unwrap();
}

async fn live_groups_are_described_and_protected(scene: &Scene) {
    let listed = group(scene, "list --state Stable").await.unwrap();
    for kind in ["consumer", "classic"] {
        let row = |line: &&str| line.starts_with(&format!("flights-{kind} "));
        let row = listed
            .lines()
            .find(row)
            .unwrap_or_else(|| panic!("{listed}"));
        let words: Vec<&str> = row.split_whitespace().skip(1).collect();
        assert_eq!(words, [kind, "consumer", "Stable"]);
        let name = format!("flights-{kind}");
        let described = group(scene, &format!("describe {name}")).await.unwrap();
        assert!(
            described.starts_with(&format!("GROUP {name}: Stable ({kind}")),
            "{described}"
        );
        let partitions = described
            .lines()
            .filter(|l| l.starts_with("flights "))
            .count();
        assert_eq!(partitions, 6, "{described}");
        let json = group(scene, &format!("describe {name} --json"))
            .await
            .unwrap();
        for key in [
            "\"lag\":",
            "\"time_lag_ms\":",
            "\"members\":[{\"member\":\"",
        ] {
            assert!(json.contains(key), "{key}: {json}");
        }
        let refused = group(scene, &format!("reset {name} --to-earliest --execute")).await;
        assert!(refused.unwrap_err().contains("stop them first"));
        let refused = group(scene, &format!("delete {name}")).await;
        assert!(refused.unwrap_err().contains("not deleted"));
        let refused = group(scene, &format!("delete-offsets {name} --topic flights")).await;
        assert!(
            refused.unwrap_err().contains("flights-0"),
            "a member subscribes to it"
        );
        let refused = group(scene, &format!("remove-member {name} --member nobody")).await;
        assert!(refused.unwrap_err().contains("no member nobody"));
    }
    let refused = group(scene, "describe nothing").await;
    assert!(refused.unwrap_err().contains("nothing does not exist"));
}

async fn left_groups_are_reset_and_deleted(scene: &Scene) {
    let name = "flights-consumer";
    let before = group(scene, &format!("describe {name}")).await.unwrap();
    assert!(
        before.starts_with(&format!("GROUP {name}: Empty")),
        "{before}"
    );
    assert!(before.contains(", lag 0\n"), "{before}");
    let dry = group(scene, &format!("reset {name} --to-earliest"))
        .await
        .unwrap();
    assert!(dry.contains("nothing is changed"), "{dry}");
    assert_eq!(
        group(scene, &format!("describe {name}")).await.unwrap(),
        before
    );
    let shift = format!("reset {name} --shift-by -5 --topic flights:1 --execute");
    let shifted = group(scene, &shift).await.unwrap();
    assert!(shifted.contains("1 offsets of"), "{shifted}");
    let described = group(scene, &format!("describe {name}")).await.unwrap();
    assert!(described.contains(", lag 5\n"), "{described}");
    // Whatever is asked for, an offset lies within the log.
    let beyond = format!("reset {name} --to-offset 1000000000 --execute --json");
    let beyond = group(scene, &beyond).await.unwrap();
    assert!(beyond.contains("\"executed\":true"), "{beyond}");
    let described = group(scene, &format!("describe {name}")).await.unwrap();
    assert!(described.contains(", lag 0\n"), "{described}");
    let since = format!("reset {name} --to-datetime 2020-01-01T00:00:00Z --execute");
    group(scene, &since).await.unwrap();
    let described = group(scene, &format!("describe {name} --json"))
        .await
        .unwrap();
    assert!(described.contains("\"committed\":0"), "{described}");
    assert!(!described.contains("\"time_lag_ms\":0"), "{described}");
    let fresh = "reset unheard-of --topic flights --to-latest --execute";
    group(scene, fresh).await.unwrap();
    let forgotten = group(scene, "delete-offsets unheard-of --topic flights:0,1").await;
    assert_eq!(forgotten.unwrap(), "2 offsets of unheard-of are deleted\n");
    let deleted = group(scene, &format!("delete {name} flights-classic unheard-of")).await;
    assert_eq!(deleted.unwrap().lines().count(), 3);
    assert_eq!(group(scene, "list --json").await.unwrap(), "[]\n");
}
