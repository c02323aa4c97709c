//! Members on real sockets of this host, in one process.

use std::time::{Duration, Instant};

use rivven_core_types::test_util::{Figure, Target};
use rivven_core_types::{NodeInfo, NodeName};
use rivven_swim::{
    Delivery, Event, MemberState, Membership, SharedSecret, SwimConfig, SwimSecurity,
};
use tokio::sync::watch;

use crate::cost::computed_by_all;

pub(crate) fn run(seconds: u64, members_alone: Option<usize>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let counts = members_alone.map_or_else(|| vec![3, 16, 64], |count| vec![count]);
    for count in counts {
        eprintln!("swim: {count} members on sockets for {seconds} s");
        runtime.block_on(members(count, seconds));
    }
}

struct Running {
    membership: Membership,
    stop: watch::Sender<bool>,
}

async fn start(number: usize) -> Running {
    let (stop, shutdown) = watch::channel(false);
    let address: rivven_core_types::Address = "127.0.0.1:0".parse().unwrap();
    let name = NodeName::new(format!("member-{number}")).unwrap();
    let secret = SharedSecret::new("the secret of the benchmark").unwrap();
    let config = SwimConfig {
        security: SwimSecurity::SharedSecret(secret),
        ..SwimConfig::default()
    };
    let info = NodeInfo::new(name, address.clone(), address);
    let membership = Membership::new(info, config, shutdown).await.unwrap();
    Running { membership, stop }
}

async fn until(all: &[Running], what: impl Fn(&Membership) -> bool) -> Option<Duration> {
    let start = Instant::now();
    while !all.iter().all(|running| what(&running.membership)) {
        if start.elapsed() > Duration::from_secs(30) {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(2)).await; // sleep-ok: a poll with a deadline
    }
    Some(start.elapsed())
}

async fn members(count: usize, seconds: u64) {
    let mut all = Vec::new();
    for number in 0..count {
        all.push(start(number).await);
    }
    let seed = all[0].membership.local_addr().to_string();
    for running in &all[1..] {
        running.membership.join(&[&seed]).await.unwrap();
    }
    let joined = until(&all, |m| m.view().live().count() == count).await;
    let mut readers = Vec::new();
    for running in &all {
        readers.push(running.membership.subscribe().await.unwrap());
    }
    let start = computed_by_all();
    tokio::time::sleep(Duration::from_secs(seconds)).await; // sleep-ok: the span that is measured
    let cpu = computed_by_all().saturating_sub(start).as_secs_f64() / seconds as f64 / count as f64;
    let mut deaths = 0;
    for reader in &mut readers {
        while let Ok(Some(delivery)) =
            tokio::time::timeout(Duration::from_millis(1), reader.next()).await
        {
            deaths += u32::from(matches!(
                delivery,
                Delivery::Event(Event::MemberChanged {
                    state: MemberState::Dead,
                    ..
                })
            ));
        }
    }
    let victim = all.pop().unwrap();
    let name = victim.membership.view().local.clone();
    victim.stop.send(true).unwrap();
    let dead = |m: &Membership| m.state_of(&name) == Some(MemberState::Dead);
    let noticed = until(&all, dead).await;
    let case = format!("{count} members on sockets, {seconds} s");
    let seconds = |span: Option<Duration>| span.map_or(f64::INFINITY, |s| s.as_secs_f64() * 1e3);
    for (metric, value, unit, target) in [
        ("all know all", seconds(joined), "ms", None),
        ("false deaths", f64::from(deaths), "events", Some(0.0)),
        ("CPU per member", cpu * 1e3, "ms/s", None),
        ("a crash is known everywhere", seconds(noticed), "ms", None),
    ] {
        Figure {
            case: &case,
            metric,
            value,
            unit,
            target: target.map(Target::AtMost),
            baseline: None,
        }
        .print();
    }
}
