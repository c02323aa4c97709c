//! A stranger who sends as fast as one core can: junk, forgeries, and captures of real datagrams.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rivven_core_types::test_util::{Figure, Target};
use rivven_core_types::{BoxFuture, Datagram, NodeInfo, NodeName, OsEntropy, Rng, SystemClock};
use rivven_swim::{
    Delivery, Event, MemberState, Membership, SharedSecret, SwimConfig, SwimPorts, SwimSecurity,
    UdpDatagram,
};

const MEMBERS: usize = 3;
const SECONDS: u64 = 10;
/// Captures that the stranger sends again and again.
const CAPTURES: usize = 1_000;

/// A socket whose incoming datagrams somebody reads along.
struct Tapped {
    socket: UdpDatagram,
    captured: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Datagram for Tapped {
    fn send_to<'a>(
        &'a self,
        payload: &'a [u8],
        to: SocketAddr,
    ) -> BoxFuture<'a, std::io::Result<()>> {
        self.socket.send_to(payload, to)
    }

    fn recv_from<'a>(
        &'a self,
        buffer: &'a mut [u8],
    ) -> BoxFuture<'a, std::io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let (length, from) = self.socket.recv_from(buffer).await?;
            let mut captured = self.captured.lock().unwrap();
            if captured.len() < CAPTURES {
                captured.push(buffer[..length].to_vec());
            }
            Ok((length, from))
        })
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

async fn start(number: usize, captured: Arc<Mutex<Vec<Vec<u8>>>>) -> Membership {
    let address = "127.0.0.1:0".parse().unwrap();
    let socket = UdpDatagram::bind(address).await.unwrap();
    let name = NodeName::new(format!("member-{number}")).unwrap();
    let secret = SharedSecret::new("the secret of the benchmark").unwrap();
    let config = SwimConfig {
        security: SwimSecurity::SharedSecret(secret),
        ..SwimConfig::default()
    };
    let ports = SwimPorts {
        datagram: Arc::new(Tapped { socket, captured }),
        clock: Arc::new(SystemClock::default()),
        entropy: Arc::new(OsEntropy),
        stream: None,
    };
    // Nobody ends it but the end of this process.
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let info = NodeInfo::new(name, address.into(), address.into());
    Membership::with_ports(info, config, ports, shutdown)
        .await
        .unwrap()
}

/// Sends until it is told to stop: in turn junk, a capture with a bit flipped, and a capture.
fn stranger(to: SocketAddr, captured: &[Vec<u8>], stop: &AtomicBool, sent: &AtomicU64) {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut rng = Rng::new(1);
    let mut junk = vec![0u8; 1_200];
    while !stop.load(Ordering::Relaxed) {
        let capture = &captured[rng.below(captured.len() as u64) as usize];
        let length = rng.below(1_200) as usize;
        junk[..8].copy_from_slice(&rng.next_u64().to_be_bytes());
        let mut forged = capture.clone();
        let place = rng.below(forged.len() as u64) as usize;
        forged[place] ^= 1 << rng.below(8);
        for payload in [&junk[..length], &forged, capture] {
            // A full buffer over there is what it is after.
            if socket.send_to(payload, to).is_ok() {
                sent.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

pub(crate) fn run() {
    eprintln!("swim: a stranger sends to one of {MEMBERS} members as fast as he can");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(flooded());
}

async fn flooded() {
    let captured = Arc::new(Mutex::new(Vec::new()));
    let mut all = vec![start(0, Arc::clone(&captured)).await];
    for number in 1..MEMBERS {
        all.push(start(number, Arc::default()).await);
    }
    let seed = all[0].local_addr().to_string();
    for membership in &all[1..] {
        membership.join(&[&seed]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(5)).await; // sleep-ok: the span that is listened to
    let mut readers = Vec::new();
    for membership in &all {
        assert_eq!(membership.view().live().count(), MEMBERS);
        readers.push(membership.subscribe().await.unwrap());
    }
    let captured = captured.lock().unwrap().clone();
    let target = SocketAddr::from(([127, 0, 0, 1], all[0].local_addr().port()));
    let (stop, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let thread = {
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        std::thread::spawn(move || stranger(target, &captured, &stop, &sent))
    };
    let before = crate::cost::computed_by_all();
    tokio::time::sleep(Duration::from_secs(SECONDS)).await; // sleep-ok: the span that is measured
    let cpu = crate::cost::computed_by_all().saturating_sub(before);
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    let (mut changes, mut deaths) = (0u32, 0u32);
    for reader in &mut readers {
        let soon = Duration::from_millis(1);
        while let Ok(Some(delivery)) = tokio::time::timeout(soon, reader.next()).await {
            if let Delivery::Event(Event::MemberChanged { state, .. }) = delivery {
                changes += 1;
                deaths += u32::from(state == MemberState::Dead);
            }
        }
    }
    let sent = sent.load(Ordering::Relaxed) as f64;
    let case = format!("{MEMBERS} members on sockets, one of them flooded for {SECONDS} s");
    for (metric, value, unit, target) in [
        (
            "datagrams of the stranger",
            sent / SECONDS as f64,
            "1/s",
            None,
        ),
        ("changes of state", f64::from(changes), "events", Some(0.0)),
        ("false deaths", f64::from(deaths), "events", Some(0.0)),
        (
            "cores busy, the stranger's included",
            cpu.as_secs_f64() / SECONDS as f64,
            "cores",
            Some(2.0),
        ),
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
