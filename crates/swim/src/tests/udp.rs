//! Real sockets on loopback.

use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{NodeInfo, NodeName};
use tokio::sync::watch;

use super::peer::secret;
use crate::{
    Delivery, Event, Member, MemberState, Membership, MembershipView, SharedSecret, SwimConfig,
    SwimError,
};

/// How long a condition may take on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(20);

fn node(name: &str, address: &str) -> NodeInfo {
    let client = "127.0.0.1:9092".parse().unwrap();
    NodeInfo::new(
        NodeName::new(name).unwrap(),
        client,
        address.parse().unwrap(),
    )
}

async fn start(name: &str, address: &str, boot_id: u64) -> (Membership, watch::Sender<bool>) {
    let (stop, shutdown_rx) = watch::channel(false);
    let config = SwimConfig {
        security: secret(),
        boot_id: Some(boot_id),
        ..Default::default()
    };
    let membership = Membership::new(node(name, address), config, shutdown_rx);
    (membership.await.unwrap(), stop)
}

async fn until(membership: &Membership, condition: impl Fn(&MembershipView) -> bool) {
    let mut events = membership.events();
    let reached = events.wait_for(|view| condition(view));
    let reached = tokio::time::timeout(DEADLINE, reached).await;
    assert!(
        matches!(reached, Ok(Ok(_))),
        "not reached: {:?}",
        membership.view()
    );
}

fn is(view: &MembershipView, name: &str, state: MemberState, boot_id: u64) -> bool {
    let member = view.get(&NodeName::new(name).unwrap());
    member.is_some_and(|m: &Member| m.state == state && m.boot_id == boot_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_join_detect_a_crash_and_take_the_restarted_one_back() {
    let (a, _stop_a) = start("a", "127.0.0.1:0", 1).await;
    let (b, _stop_b) = start("b", "127.0.0.1:0", 1).await;
    let (c, stop_c) = start("c", "127.0.0.1:0", 1).await;
    let address = c.local_addr().to_string();
    let seeds = vec![a.local_addr().to_string()];
    a.join::<String>(&[]).await.unwrap();
    b.join(&seeds).await.unwrap();
    c.join(&seeds).await.unwrap();
    for membership in [&a, &b, &c] {
        until(membership, |view| view.live().count() == 3).await;
    }
    let before = a.view();

    stop_c.send(true).unwrap();
    for membership in [&a, &b] {
        until(membership, |view| is(view, "c", MemberState::Dead, 1)).await;
    }
    assert_eq!(
        a.state_of(&NodeName::new("b").unwrap()),
        Some(MemberState::Alive)
    );
    let changes = a.view().changes_since(&before);
    assert!(changes.iter().any(|change| change.name.as_str() == "c"));
    assert!(matches!(c.join(&seeds).await, Err(SwimError::Stopped)));

    let (c, _stop_c) = start("c", &address, 2).await;
    c.join(&seeds).await.unwrap();
    for membership in [&a, &b, &c] {
        until(membership, |view| is(view, "c", MemberState::Alive, 2)).await;
    }

    b.leave().await.unwrap();
    for membership in [&a, &c] {
        until(membership, |view| is(view, "b", MemberState::Left, 1)).await;
    }
    assert!(matches!(b.leave().await, Err(SwimError::Stopped)));
}

#[tokio::test]
async fn the_example_of_the_readme_runs_on_loopback_without_security() {
    let (_stop, shutdown_rx) = watch::channel(false);
    let local_node = node("alone", "127.0.0.1:0");
    let seeds: Vec<String> = Vec::new();
    let config = SwimConfig {
        ping_interval: Duration::from_millis(100),
        ping_timeout: Duration::from_millis(50),
        indirect_probes: 3,
        suspicion_multiplier: 3,
        ..Default::default()
    };
    let membership = Membership::new(local_node, config, shutdown_rx)
        .await
        .unwrap();
    membership.join(&seeds).await.unwrap();
    assert_eq!(membership.members().len(), 1);
}

#[tokio::test]
async fn seeds_are_checked_and_silence_is_a_retriable_error() {
    let (_stop, shutdown_rx) = watch::channel(false);
    let config = SwimConfig {
        join_timeout: Duration::from_millis(50),
        ..Default::default()
    };
    let membership = Membership::new(node("a", "127.0.0.1:0"), config, shutdown_rx);
    let membership = membership.await.unwrap();
    let invalid = membership.join(&["no-port"]).await;
    assert!(matches!(invalid, Err(SwimError::InvalidSeed { .. })));
    // A bound socket that nobody reads: nothing else can answer there.
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let seed = silent.local_addr().unwrap();
    let error = membership.join(&[seed]).await.unwrap_err();
    assert!(matches!(error, SwimError::NoSeedAnswered { .. }) && error.is_retriable());
    let own = membership.local_addr().clone();
    membership.join(&[own]).await.unwrap();
}

#[tokio::test]
async fn seeds_may_be_names() {
    let (a, _stop_a) = start("a", "localhost:0", 1).await;
    let (b, _stop_b) = start("b", "127.0.0.1:0", 1).await;
    let seed = format!("localhost:{}", a.local_addr().port());
    // Whether `localhost` is 127.0.0.1 or ::1 first is the machine's; both ends must agree.
    let found: Vec<_> = tokio::net::lookup_host(seed.clone())
        .await
        .unwrap()
        .collect();
    if found.first().is_some_and(std::net::SocketAddr::is_ipv4) {
        b.join(&[seed]).await.unwrap();
        until(&a, |view| view.live().count() == 2).await;
    }
}

#[tokio::test]
async fn events_come_in_order_and_keys_rotate_while_running() {
    let (a, _stop_a) = start("a", "127.0.0.1:0", 1).await;
    let (b, _stop_b) = start("b", "127.0.0.1:0", 1).await;
    let mut events = a.subscribe().await.unwrap();
    assert!(matches!(events.next().await, Some(Delivery::Resync(_))));
    b.join(&[a.local_addr().to_string()]).await.unwrap();
    until(&a, |view| view.live().count() == 2).await;
    let fresh = SharedSecret::new("a fresh secret of some length").unwrap();
    let mut key = 0;
    for node in [&a, &b] {
        key = node.install_secret(fresh.clone()).await.unwrap();
    }
    for node in [&a, &b] {
        node.use_key(key).await.unwrap();
    }
    b.set_metadata(Bytes::from_static(b"zone=1")).await.unwrap();
    b.broadcast(Bytes::from_static(b"hello")).await.unwrap();
    assert!(b.broadcast(Bytes::from(vec![0; 513])).await.is_err());
    let mut heard = false;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !heard {
        let next = tokio::time::timeout_at(deadline, events.next()).await;
        let delivery = next.expect("in time").expect("still running");
        heard =
            matches!(delivery, Delivery::Event(Event::User { payload, .. }) if payload == "hello");
    }
    until(&a, |view| {
        let b = view.get(&NodeName::new("b").unwrap());
        b.is_some_and(|member| member.metadata == "zone=1")
    })
    .await;
}

#[tokio::test]
async fn the_next_life_is_newer_and_remembers_where_the_others_were() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("swim-state");
    let mut boot_ids = Vec::new();
    let mut last = 0;
    for _ in 0..3 {
        let (_stop, shutdown_rx) = watch::channel(false);
        let config = SwimConfig {
            security: secret(),
            state_file: Some(path.clone()),
            ..Default::default()
        };
        let membership = Membership::new(node("a", "127.0.0.1:0"), config, shutdown_rx);
        let boot_id = membership.await.unwrap().members()[0].boot_id;
        assert!(boot_id > last);
        last = boot_id;
        boot_ids.push(boot_id);
    }
    std::fs::write(&path, "rivven-swim-state 1\nboot 5\nsum 0\n").unwrap();
    let (_stop, shutdown_rx) = watch::channel(false);
    let config = SwimConfig {
        state_file: Some(path),
        ..Default::default()
    };
    let refused = Membership::new(node("a", "127.0.0.1:0"), config, shutdown_rx).await;
    assert!(matches!(refused, Err(SwimError::State { .. })));
}
