//! Three real node processes: they elect a controller, commit, lose nodes to kill -9, and lose nothing
//! that was acknowledged. Run it by itself with
//! `cargo test -p rivven-cluster --test three_node_cluster -- --nocapture`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use rivven_tests::check::{compare_replicas, judge};
use rivven_tests::flights::{InputRecord, flights};
use rivven_tests::kafka::{KafkaClient, Producer, ProducerOptions, Progress, TopicInfo, read_all};
use rivven_tests::process::{ClusterOptions, ProcessCluster};
use rivven_tests::{Failure, Status};

/// Generous, since the machine may be loaded; nothing waits this long when all is well.
const LIMIT: Duration = Duration::from_secs(90);

async fn started() -> ProcessCluster {
    let cluster = ProcessCluster::start(ClusterOptions::default(), LIMIT).await;
    cluster.unwrap_or_else(|failure| panic!("{failure}"))
}

fn pass<T>(cluster: &ProcessCluster, result: Result<T, Failure>) -> T {
    result.unwrap_or_else(|failure| panic!("{}", cluster.explain(failure)))
}

/// Some of the flights, in order.
fn some_flights(from: usize, count: usize) -> Vec<InputRecord> {
    flights()
        .unwrap()
        .into_iter()
        .skip(from)
        .take(count)
        .collect()
}

async fn produce(
    cluster: &ProcessCluster,
    topic: &TopicInfo,
    records: &[InputRecord],
) -> BTreeMap<u32, i64> {
    let client = KafkaClient::new(cluster.bootstrap());
    let producer = Producer::start(&client, topic, &ProducerOptions::default()).await;
    let mut producer = pass(cluster, producer);
    for (number, record) in records.iter().enumerate() {
        pass(cluster, producer.send(number, record).await);
    }
    let progress = pass(cluster, producer.finish().await);
    assert_eq!(progress.acked(), records.len());
    progress.highest_offsets()
}

/// Waits until all nodes show the same metadata at the same index, and returns what they agree on.
async fn agreed(cluster: &mut ProcessCluster) -> Status {
    let agreed = cluster.until("all nodes have the same metadata", LIMIT, async |cluster| {
        let statuses = cluster.statuses().await?;
        let first = statuses
            .first()
            .cloned()
            .ok_or_else(|| Failure::new("no node runs"))?;
        let same = |status: &Status| {
            (
                status.applied,
                &status.metadata_hash,
                &status.cluster,
                &status.controller,
            ) == (
                first.applied,
                &first.metadata_hash,
                &first.cluster,
                &first.controller,
            )
        };
        if statuses.len() == 3 && first.controller.is_some() && statuses.iter().all(same) {
            return Ok(first);
        }
        Err(Failure::new(format!("{statuses:?}")))
    });
    agreed.await.unwrap_or_else(|failure| panic!("{failure}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_processes_elect_commit_and_survive_kill_9() {
    let mut cluster = started().await;
    let client = KafkaClient::new(cluster.bootstrap());
    let first = agreed(&mut cluster).await;
    println!(
        "{} is the controller of {:?}, term {}",
        first.controller.clone().unwrap(),
        first.cluster,
        first.term
    );

    // Commit: every node knows the topic.
    let created = client.create_topic("flights", 6, 3, 2, LIMIT).await;
    let topic = pass(&cluster, created);
    assert_eq!(topic.partitions.len(), 6);
    assert!(
        topic
            .partitions
            .iter()
            .all(|partition| partition.replicas.len() == 3),
        "{topic:?}"
    );
    let with_topic = agreed(&mut cluster).await;
    assert_ne!(with_topic.metadata_hash, first.metadata_hash);

    // Kill -9 of the controller: another one is elected, in a later term, and commits.
    let controller = cluster.controller(LIMIT).await.unwrap();
    cluster.kill(controller).unwrap();
    let next = cluster.controller(LIMIT).await.unwrap();
    assert_ne!(next, controller);
    let term = cluster.node(next).status().await.unwrap().term;
    assert!(
        term > with_topic.term,
        "term {term} after {}",
        with_topic.term
    );
    println!(
        "{} was killed; {} is the controller, term {term}",
        cluster.node(controller).name,
        cluster.node(next).name
    );
    let created = client.create_topic("made-by-two", 1, 2, 1, LIMIT).await;
    pass(&cluster, created);

    // Records across a leader kill are in the test of this name; here all nodes die at once.
    cluster.spawn(controller).unwrap();
    cluster.wait_in_sync(LIMIT).await.unwrap();
    let before = agreed(&mut cluster).await;
    let records = some_flights(0, 3_000);
    let acknowledged = produce(&cluster, &topic, &records).await;
    for node in 0..3 {
        cluster.kill(node).unwrap();
    }
    for node in 0..3 {
        cluster.spawn(node).unwrap();
    }
    cluster.wait_in_sync(LIMIT).await.unwrap();
    let after = agreed(&mut cluster).await;
    assert_eq!(after.cluster, before.cluster);
    assert!(after.applied >= before.applied);
    let known = client.led_topic("flights", LIMIT).await.unwrap();
    assert_eq!(known.id, topic.id);
    let read = read_all(&client, "flights", &acknowledged, LIMIT).await;
    let read = pass(&cluster, read);
    let verdict = judge(&records, &read);
    assert!(verdict.is_clean(), "{verdict:?}");
    println!(
        "all three were killed; {} records are there, {verdict:?}",
        records.len()
    );

    // In order: exit status 0, and three equal logs.
    for node in 0..3 {
        cluster.stop(node, LIMIT).await.unwrap();
    }
    let dirs: Vec<_> = cluster.nodes().iter().map(|node| node.data_dir()).collect();
    let dirs: Vec<_> = dirs.iter().map(std::path::PathBuf::as_path).collect();
    pass(&cluster, compare_replicas(&dirs, &read));
    cluster.check_no_panic().unwrap();
}

/// Writes records one after the other, so that some are written at any moment of a failover.
async fn trickle(
    mut producer: Producer,
    records: Vec<InputRecord>,
    stop_at_acked: impl Fn(&Progress) -> bool,
) -> Result<(Producer, usize), Failure> {
    let progress = producer.progress();
    for (number, record) in records.iter().enumerate() {
        producer.send(number, record).await?;
        rivven_tests::wait::pause(Duration::from_millis(2)).await;
        if stop_at_acked(&progress) {
            return Ok((producer, number + 1));
        }
    }
    Ok((producer, records.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn records_written_while_their_leader_is_killed_are_there_once_and_in_order() {
    let mut cluster = started().await;
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = pass(
        &cluster,
        client.create_topic("flights", 1, 3, 2, LIMIT).await,
    );
    cluster.wait_in_sync(LIMIT).await.unwrap();
    let producer = Producer::start(&client, &topic, &ProducerOptions::default()).await;
    let producer = pass(&cluster, producer);
    let progress = producer.progress();
    let (leader, _) = topic.partitions[0].leader.unwrap();

    // Writes until the new leader has acknowledged a hundred records.
    let records = some_flights(0, 27_004);
    let by_others = move |progress: &Progress| {
        progress
            .acks()
            .iter()
            .rev()
            .take(100)
            .filter(|ack| ack.broker != leader)
            .count()
            == 100
    };
    let writing = tokio::spawn(trickle(producer, records.clone(), by_others));
    cluster
        .until(
            "a hundred records are acknowledged and a request is in flight",
            LIMIT,
            async |_| {
                if progress.acked() >= 100 && progress.in_flight(Some(leader)) > 0 {
                    return Ok(());
                }
                Err(Failure::new(format!(
                    "{} are acknowledged",
                    progress.acked()
                )))
            },
        )
        .await
        .unwrap();
    let victim = cluster.node_of_broker(leader).await.unwrap();
    cluster.kill(victim).unwrap();
    let (producer, written) = pass(&cluster, writing.await.unwrap());
    let progress = pass(&cluster, producer.finish().await);
    assert_eq!(progress.acked(), written);
    println!(
        "{written} records written while {} was killed; tried again: {:?}",
        cluster.node(victim).name,
        progress.setbacks()
    );

    let read = read_all(&client, "flights", &progress.highest_offsets(), LIMIT).await;
    let read = pass(&cluster, read);
    let verdict = judge(&records[..written], &read);
    assert!(verdict.is_clean(), "{verdict:?}");

    // The killed node comes back with the same log as the others.
    cluster.spawn(victim).unwrap();
    cluster.wait_in_sync(LIMIT).await.unwrap();
    for node in 0..3 {
        cluster.stop(node, LIMIT).await.unwrap();
    }
    let dirs: Vec<_> = cluster.nodes().iter().map(|node| node.data_dir()).collect();
    let dirs: Vec<_> = dirs.iter().map(std::path::PathBuf::as_path).collect();
    pass(&cluster, compare_replicas(&dirs, &read));
    cluster.check_no_panic().unwrap();
}

/// How long frozen followers are watched. Nothing may happen in this time, so there is nothing else to
/// wait for; an acknowledgement that needs no follower comes within milliseconds.
const FROZEN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_no_follower_holds_is_not_acknowledged_and_its_leaders_death_loses_nothing() {
    let mut cluster = started().await;
    let client = KafkaClient::new(cluster.bootstrap());
    let topic = pass(
        &cluster,
        client.create_topic("flights", 1, 3, 2, LIMIT).await,
    );
    cluster.wait_in_sync(LIMIT).await.unwrap();
    let producer = Producer::start(&client, &topic, &ProducerOptions::default()).await;
    let mut producer = pass(&cluster, producer);
    let progress = producer.progress();
    let records = some_flights(0, 600);
    for (number, record) in records.iter().enumerate().take(300) {
        pass(&cluster, producer.send(number, record).await);
    }
    let acked = cluster.until("300 records are acknowledged", LIMIT, async |_| {
        let acked = progress.acked();
        if acked == 300 {
            Ok(())
        } else {
            Err(Failure::new(format!("{acked} are")))
        }
    });
    acked.await.unwrap();

    // The followers hold still; the leader writes alone, and may not say that it is done.
    let (leader, _) = topic.partitions[0].leader.unwrap();
    let leading = cluster.node_of_broker(leader).await.unwrap();
    let followers: Vec<usize> = (0..3).filter(|node| *node != leading).collect();
    for node in &followers {
        cluster.node(*node).freeze().unwrap();
    }
    for (number, record) in records.iter().enumerate().skip(300) {
        pass(&cluster, producer.send(number, record).await);
    }
    let asked = cluster.until("the leader is asked to write", LIMIT, async |_| {
        if progress.in_flight(Some(leader)) > 0 || progress.acked() > 300 {
            return Ok(());
        }
        Err(Failure::new("nothing is in flight"))
    });
    asked.await.unwrap();
    rivven_tests::wait::pause(FROZEN).await;
    assert_eq!(
        progress.acked(),
        300,
        "acknowledged although no follower holds it"
    );

    // The leader dies with them; the followers go on without them, and take them from the producer.
    cluster.kill(leading).unwrap();
    for node in &followers {
        cluster.node(*node).thaw().unwrap();
    }
    let progress = pass(&cluster, producer.finish().await);
    assert_eq!(progress.acked(), records.len());
    cluster.spawn(leading).unwrap();
    cluster.wait_in_sync(LIMIT).await.unwrap();
    let read = read_all(&client, "flights", &progress.highest_offsets(), LIMIT).await;
    let read = pass(&cluster, read);
    let verdict = judge(&records, &read);
    assert!(verdict.is_clean(), "{verdict:?}");
    for node in 0..3 {
        cluster.stop(node, LIMIT).await.unwrap();
    }
    // The old leader's own tail is cut off: its log is that of the others.
    let dirs: Vec<_> = cluster.nodes().iter().map(|node| node.data_dir()).collect();
    let dirs: Vec<_> = dirs.iter().map(std::path::PathBuf::as_path).collect();
    pass(&cluster, compare_replicas(&dirs, &read));
    cluster.check_no_panic().unwrap();
}
