//! Replicas move between real processes while records are written and a process is killed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_tests::check::judge;
use rivven_tests::flights::{InputRecord, flights};
use rivven_tests::kafka::{
    ClientError, KafkaClient, Producer, ProducerOptions, TopicInfo, read_all,
};
use rivven_tests::process::{ClusterOptions, ProcessCluster, node_binary};
use rivven_tests::{Failure, wait};

/// Generous, since the machine may be loaded; nothing waits this long when all is well.
const LIMIT: Duration = Duration::from_secs(90);
const TOPIC: &str = "flights";

/// Runs a command of the binary against a node; its output.
async fn command(cluster: &ProcessCluster, node: usize, words: &[&str]) -> Result<String, Failure> {
    let binary = node_binary().await?;
    let admin = cluster.node(node).ports.admin.to_string();
    let mut command = tokio::process::Command::new(binary);
    let output = command
        .args(words)
        .args(["--admin", &admin])
        .output()
        .await?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Failure::new(reason));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Repeats a command until it is carried out: while a controller is elected it may not be.
async fn insist(cluster: &ProcessCluster, node: usize, words: &[&str]) -> String {
    let what = words.join(" ");
    let done = wait::until(&what, LIMIT, async || command(cluster, node, words).await);
    done.await
        .unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)))
}

/// Waits until the topic looks as `wanted` says.
async fn topic_until(
    cluster: &ProcessCluster,
    client: &KafkaClient,
    what: &str,
    wanted: impl Fn(&TopicInfo) -> bool,
) -> TopicInfo {
    let looked = wait::until(what, LIMIT, async || {
        let topic = client.led_topic(TOPIC, LIMIT).await?;
        if wanted(&topic) {
            return Ok(topic);
        }
        Err(Failure::new(format!("{topic:?}")))
    });
    looked
        .await
        .unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)))
}

/// Replicas and leaders of each broker.
fn loads(topic: &TopicInfo) -> BTreeMap<i32, (usize, usize)> {
    let mut loads: BTreeMap<i32, (usize, usize)> = BTreeMap::new();
    for partition in &topic.partitions {
        for broker in &partition.replicas {
            loads.entry(*broker).or_default().0 += 1;
        }
        let (leader, _) = partition.leader.unwrap();
        loads.entry(leader).or_default().1 += 1;
    }
    loads
}

fn in_sync(topic: &TopicInfo) -> bool {
    let settled =
        |p: &rivven_tests::kafka::PartitionInfo| p.replicas.len() == 3 && p.isr.len() == 3;
    topic.partitions.iter().all(settled)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_under_load_and_a_kill_and_filled_again_and_nothing_is_lost() {
    let options = ClusterOptions {
        nodes: 4,
        ..ClusterOptions::default()
    };
    let mut cluster = ProcessCluster::start(options, LIMIT).await.unwrap();
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = client.create_topic(TOPIC, 8, 3, 2, LIMIT).await.unwrap();
    let victim = cluster.controller(LIMIT).await.unwrap();
    let drained = (victim + 1) % 4;
    let asked = (victim + 2) % 4;
    let name = cluster.node(drained).name.clone();

    // Records are written all the time.
    let records: Vec<InputRecord> = flights().unwrap();
    let producer = Producer::start(&client, &topic, &ProducerOptions::default()).await;
    let mut producer = producer.unwrap();
    let progress = producer.progress();
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let input = records.clone();
    let writing = tokio::spawn(async move {
        let mut written = 0;
        for (number, record) in input.iter().enumerate() {
            if stopped.try_recv().is_ok() {
                break;
            }
            producer.send(number, record).await?;
            written = number + 1;
            wait::pause(Duration::from_millis(2)).await;
        }
        Ok::<_, Failure>((producer.finish().await?, written))
    });

    let plan = insist(&cluster, asked, &["plan"]).await;
    assert!(plan.contains("NODE") && plan.contains(&name), "{plan}");
    insist(&cluster, asked, &["drain", &name]).await;
    let json = insist(&cluster, asked, &["placement", "--json"]).await;
    assert!(json.contains(&format!("\"node\":\"{name}\"")), "{json}");

    // The controller dies in the middle of it; the next one goes on.
    let moving = wait::until("a move is under way or done", LIMIT, async || {
        let now = client.led_topic(TOPIC, LIMIT).await?;
        if loads(&now) == loads(&topic) {
            return Err(Failure::new("nothing has moved"));
        }
        Ok(())
    });
    moving.await.unwrap();
    cluster.kill(victim).unwrap();
    cluster.controller(LIMIT).await.unwrap();
    cluster.spawn(victim).unwrap();
    let empty = wait::until("the node is empty", LIMIT, async || {
        let status = command(&cluster, asked, &["placement"]).await?;
        if status.contains(&format!("draining {name}: 0 replicas left")) {
            return Ok(());
        }
        Err(Failure::new(status))
    });
    empty
        .await
        .unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)));
    let after = topic_until(
        &cluster,
        &client,
        "three replicas each are in sync",
        in_sync,
    )
    .await;
    assert_eq!(loads(&after).len(), 3, "{after:?}");

    // It takes part again, and everything is even: 24 replicas and 8 leaders on four nodes.
    insist(&cluster, asked, &["drain", &name, "--stop"]).await;
    insist(&cluster, asked, &["rebalance"]).await;
    let even = |t: &TopicInfo| in_sync(t) && loads(t).values().all(|l| *l == (6, 2));
    let end = topic_until(&cluster, &client, "replicas and leaders are even", even).await;
    assert_eq!(loads(&end).len(), 4);

    stop.send(()).unwrap();
    let (progress_end, written) = writing.await.unwrap().unwrap();
    assert_eq!(progress_end.acked(), written);
    assert!(progress.acked() >= 300, "{}", progress.acked());
    let read = read_all(&client, TOPIC, &progress_end.highest_offsets(), LIMIT).await;
    let read = read.unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)));
    let verdict = judge(&records[..written], &read);
    assert!(verdict.is_clean(), "{verdict:?}");
    cluster.check_no_panic().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_added_moved_by_name_and_bad_commands_are_refused() {
    let cluster = ProcessCluster::start(ClusterOptions::default(), LIMIT)
        .await
        .unwrap();
    let client = KafkaClient::new(cluster.bootstrap());
    client.create_topic(TOPIC, 1, 1, 1, LIMIT).await.unwrap();
    insist(&cluster, 0, &["add-partitions", TOPIC, "3"]).await;
    let grown = topic_until(&cluster, &client, "three partitions", |t| {
        t.partitions.len() == 3
    })
    .await;
    assert_eq!(loads(&grown).len(), 3, "{grown:?}");
    for node in ["node-1", "node-2", "node-3"] {
        insist(&cluster, 1, &["reassign", TOPIC, "2", node]).await;
    }
    let broker = topic_until(&cluster, &client, "the last word counts", |t| {
        t.partitions[2].replicas.len() == 1 && t.partitions[2].leader.is_some()
    });
    let broker = broker.await.partitions[2].replicas[0];
    assert_ne!(broker, 0);
    for (words, reason) in [
        (&["drain", "node-9"][..], "no node is called node-9"),
        (&["add-partitions", TOPIC, "2"], "partitions"),
        (&["reassign", TOPIC, "9", "node-1"], "unknown partition"),
        (
            &["reassign", TOPIC, "0", "node-1", "node-1"],
            "no valid set",
        ),
    ] {
        let failure = command(&cluster, 0, words).await.unwrap_err().to_string();
        assert!(failure.contains(reason), "{failure}");
    }
    cluster.check_no_panic().unwrap();
}

/// The code of an answer.
fn code(answer: Result<(), ClientError>) -> i16 {
    match answer {
        Ok(()) => 0,
        Err(ClientError::Answered { code, .. }) => code,
        Err(error) => panic!("{error}"),
    }
}

/// What Kafka's own tools ask for: partitions are added, moved, listed while they move, moved back, and
/// led by the first of their replicas.
#[tokio::test(flavor = "multi_thread")]
async fn the_kafka_port_grows_topics_moves_replicas_and_elects_preferred_leaders() {
    let mut cluster = ProcessCluster::start(ClusterOptions::default(), LIMIT)
        .await
        .unwrap();
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = client.create_topic(TOPIC, 1, 2, 1, LIMIT).await.unwrap();
    assert_eq!(code(client.create_partitions(TOPIC, 4).await), 0);
    assert_eq!(code(client.create_partitions(TOPIC, 4).await), 37);
    assert_eq!(code(client.create_partitions("nope", 4).await), 3);
    topic_until(&cluster, &client, "four partitions", |t| {
        t.partitions.len() == 4
    })
    .await;

    let before = topic.partitions[0].replicas.clone();
    let third = (1..=3).find(|id| !before.contains(id)).unwrap();
    let target = [third, before[0]];
    assert_eq!(code(client.reassign(TOPIC, 0, None).await), 85);
    assert_eq!(code(client.reassign(TOPIC, 9, None).await), 3);
    assert_eq!(
        code(client.reassign(TOPIC, 0, Some(&[99, third])).await),
        39
    );
    assert_eq!(code(client.reassign(TOPIC, 0, Some(&target)).await), 0);
    let moved = topic_until(&cluster, &client, "the replica has moved", |t| {
        t.partitions[0].replicas == target && t.partitions[0].isr.len() == 2
    });
    moved.await;
    assert_eq!(client.reassignments().await.unwrap(), []);

    // A node that is down holds a reassignment up: it is listed, and can be taken back.
    let down = cluster.node_of_broker(before[1]).await.unwrap();
    let preferred = cluster.node_of_broker(third).await.unwrap();
    cluster.kill(down).unwrap();
    let asked = wait::until("the move is begun", LIMIT, async || {
        let target = [third, before[1]];
        let begun = client.reassign(TOPIC, 0, Some(&target)).await;
        begun.map_err(|error| Failure::new(error.to_string()))
    });
    asked.await.unwrap();
    let listed = client.reassignments().await.unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!((listed[0].topic.as_str(), listed[0].index), (TOPIC, 0));
    assert_eq!(
        (&listed[0].adding[..], &listed[0].removing[..]),
        (&before[1..], &before[..1])
    );
    assert_eq!(code(client.reassign(TOPIC, 0, None).await), 0);
    assert_eq!(client.reassignments().await.unwrap(), []);
    cluster.spawn(down).unwrap();

    // The leader goes; when it is back it is preferred, but somebody else leads.
    cluster.kill(preferred).unwrap();
    let other = before[0];
    topic_until(&cluster, &client, "the other replica leads", |t| {
        t.partitions[0]
            .leader
            .is_some_and(|(leader, _)| leader == other)
    })
    .await;
    let refused = wait::until("the preferred one cannot lead", LIMIT, async || match code(
        client.elect_preferred(TOPIC, 0).await,
    ) {
        80 => Ok(()),
        code => Err(Failure::new(code.to_string())),
    });
    refused.await.unwrap();
    cluster.spawn(preferred).unwrap();
    let elected = wait::until("the preferred one leads again", LIMIT, async || match code(
        client.elect_preferred(TOPIC, 0).await,
    ) {
        0 => Ok(()),
        code => Err(Failure::new(code.to_string())),
    });
    elected.await.unwrap();
    assert_eq!(code(client.elect_preferred(TOPIC, 0).await), 84);
    let led = client.led_topic(TOPIC, LIMIT).await.unwrap();
    assert_eq!(
        led.partitions[0].leader.map(|(leader, _)| leader),
        Some(third)
    );
    cluster.check_no_panic().unwrap();
}
