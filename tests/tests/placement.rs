//! Replicas move between real processes while records are written and a process is killed.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rivven_tests::check::judge;
use rivven_tests::flights::{InputRecord, flights};
use rivven_tests::kafka::{
    ClientError, KafkaClient, Producer, ProducerOptions, Progress, TopicInfo, read_all,
};
use rivven_tests::process::{ClusterOptions, ProcessCluster, node_binary};
use rivven_tests::{Failure, wait};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

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

/// A client that writes one record after the other, acks=all, until it is told to stop.
struct Writing {
    records: Vec<InputRecord>,
    progress: Arc<Progress>,
    stop: oneshot::Sender<()>,
    /// How many records it has written in the end.
    task: JoinHandle<Result<usize, Failure>>,
}

impl Writing {
    async fn start(client: &KafkaClient, topic: &TopicInfo) -> Self {
        let records: Vec<InputRecord> = flights().unwrap();
        let producer = Producer::start(client, topic, &ProducerOptions::default()).await;
        let mut producer = producer.unwrap();
        let progress = producer.progress();
        let (stop, mut stopped) = oneshot::channel::<()>();
        let input = records.clone();
        let task = tokio::spawn(async move {
            let mut written = 0;
            for (number, record) in input.iter().enumerate() {
                if stopped.try_recv().is_ok() {
                    break;
                }
                producer.send(number, record).await?;
                written = number + 1;
                wait::pause(Duration::from_millis(2)).await;
            }
            producer.finish().await?;
            Ok(written)
        });
        Self {
            records,
            progress,
            stop,
            task,
        }
    }

    /// Waits until some more records are acknowledged.
    async fn goes_on(&self, cluster: &ProcessCluster) {
        let before = self.progress.acked();
        let more = wait::until("more records are acknowledged", LIMIT, async || {
            let now = self.progress.acked();
            let enough = (now > before + 20).then_some(());
            enough.ok_or_else(|| Failure::new(format!("{before}, then {now}")))
        });
        more.await
            .unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)));
    }

    /// Ends it and reads everything: all that was written was acknowledged, and is there once and in order.
    async fn finish(self, cluster: &ProcessCluster, client: &KafkaClient, least: usize) {
        self.stop.send(()).unwrap();
        let written = self.task.await.unwrap();
        let written = written.unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)));
        assert_eq!(self.progress.acked(), written);
        assert!(written >= least, "{written}");
        let read = read_all(client, TOPIC, &self.progress.highest_offsets(), LIMIT).await;
        let read = read.unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)));
        let verdict = judge(&self.records[..written], &read);
        assert!(verdict.is_clean(), "{verdict:?}");
    }
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

    let writing = Writing::start(&client, &topic).await;
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

    writing.finish(&cluster, &client, 300).await;
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

/// Asks for these replicas of the only partition and waits until they are all there is, and in sync.
async fn reassign_and_wait(cluster: &ProcessCluster, client: &KafkaClient, target: &[i32]) {
    assert_eq!(code(client.reassign(TOPIC, 0, Some(target)).await), 0);
    reassigned(cluster, client, target).await;
}

/// Asks for them until somebody takes it up: the controller may just have died.
async fn begin_to_reassign(client: &KafkaClient, target: &[i32]) {
    let begun = wait::until("the reassignment is begun", LIMIT, async || {
        let begun = client.reassign(TOPIC, 0, Some(target)).await;
        begun.map_err(|error| Failure::new(error.to_string()))
    });
    begun.await.unwrap();
}

async fn reassigned(cluster: &ProcessCluster, client: &KafkaClient, target: &[i32]) {
    let what = format!("{target:?} are the replicas, in sync");
    topic_until(cluster, client, &what, |t| {
        let partition = &t.partitions[0];
        partition.replicas == target && partition.isr.len() == target.len()
    })
    .await;
    // Whoever is asked may have heard of it a moment later.
    let over = wait::until("no reassignment is listed", LIMIT, async || {
        let listed = client.reassignments().await;
        let listed = listed.map_err(|error| Failure::new(error.to_string()))?;
        let over = listed.is_empty().then_some(());
        over.ok_or_else(|| Failure::new(format!("{listed:?}")))
    });
    over.await.unwrap();
}

/// A partition gets more replicas and then fewer, until none of the first is left, and more again, while a
/// client writes to all that are in sync: what was acknowledged is there in the end.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_replicas_changes_under_load_and_nothing_is_lost() {
    let cluster = ProcessCluster::start(ClusterOptions::default(), LIMIT)
        .await
        .unwrap();
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = client.create_topic(TOPIC, 1, 1, 1, LIMIT).await.unwrap();
    let first = topic.partitions[0].replicas[0];
    let others: Vec<i32> = (1..=3).filter(|id| *id != first).collect();
    let writing = Writing::start(&client, &topic).await;
    for target in [
        vec![first, others[0], others[1]],
        vec![others[0], others[1]],
        vec![others[1]],
        vec![first, others[0]],
    ] {
        writing.goes_on(&cluster).await;
        reassign_and_wait(&cluster, &client, &target).await;
    }
    writing.goes_on(&cluster).await;
    // New partitions have as many replicas as the first one.
    assert_eq!(code(client.create_partitions(TOPIC, 2).await), 0);
    topic_until(&cluster, &client, "two partitions", |t| {
        t.partitions.len() == 2 && t.partitions[1].replicas.len() == 2
    })
    .await;
    writing.finish(&cluster, &client, 100).await;
    cluster.check_no_panic().unwrap();
}

/// The leader dies while its partition gets more replicas, of which one is not there yet: the one that has
/// caught up leads, and the reassignment goes on to its end. Fewer are had without one that is dead, whose
/// copy of old counts for nothing when it is a replica again.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_die_while_the_number_of_replicas_changes_and_nothing_is_lost() {
    let mut cluster = ProcessCluster::start(ClusterOptions::default(), LIMIT)
        .await
        .unwrap();
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = client.create_topic(TOPIC, 1, 1, 1, LIMIT).await.unwrap();
    let first = topic.partitions[0].replicas[0];
    let others: Vec<i32> = (1..=3).filter(|id| *id != first).collect();
    let all = [first, others[0], others[1]];
    let leader = cluster.node_of_broker(first).await.unwrap();
    let late = cluster.node_of_broker(others[1]).await.unwrap();
    let writing = Writing::start(&client, &topic).await;
    writing.goes_on(&cluster).await;

    cluster.kill(late).unwrap();
    begin_to_reassign(&client, &all).await;
    topic_until(&cluster, &client, "the second replica is in sync", |t| {
        t.partitions[0].isr.contains(&others[0])
    })
    .await;
    assert_eq!(client.reassignments().await.unwrap().len(), 1);
    // Without the late one there is no majority now: nothing can have been completed.
    cluster.kill(leader).unwrap();
    cluster.spawn(late).unwrap();
    topic_until(&cluster, &client, "the second replica leads", |t| {
        let leader = t.partitions[0].leader;
        leader.is_some_and(|(leader, _)| leader == others[0])
    })
    .await;
    assert_eq!(client.reassignments().await.unwrap().len(), 1);
    writing.goes_on(&cluster).await;
    cluster.spawn(leader).unwrap();
    reassigned(&cluster, &client, &all).await;
    writing.goes_on(&cluster).await;

    cluster.kill(late).unwrap();
    let fewer = [others[0], first];
    begin_to_reassign(&client, &fewer).await;
    reassigned(&cluster, &client, &fewer).await;
    writing.goes_on(&cluster).await;
    cluster.spawn(late).unwrap();
    cluster.wait_ready(LIMIT).await.unwrap();
    reassign_and_wait(&cluster, &client, &[others[1], others[0]]).await;
    reassign_and_wait(&cluster, &client, &[others[1]]).await;
    writing.finish(&cluster, &client, 100).await;
    cluster.check_no_panic().unwrap();
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
