//! The cases, each in every mode.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rivven_core_types::test_util::{Figure, Target};
use rivven_core_types::{Address, Lane, NodeName, PeerRpc, RpcKind, RpcRequest};
use rivven_transport::Transport;

use crate::bare::Limits;
use crate::figures::{median, quantile};
use crate::mode::Mode;
use crate::server::{ECHO, ECHO_SPAWNED, Runtimes, SINK, Server};

/// Calls in flight.
pub(crate) const WINDOWS: [usize; 3] = [1, 32, 256];
const RUNS: usize = 3;

/// What to run, and for how long.
pub(crate) struct Bench {
    pub(crate) wanted: String,
    pub(crate) length: Duration,
}

impl Bench {
    fn wants(&self, case: &str) -> bool {
        case.contains(&self.wanted)
    }
}

/// A client with its server.
struct Pair {
    runtimes: Runtimes,
    transport: Transport,
    server: Server,
}

fn name() -> NodeName {
    NodeName::new("server").unwrap()
}

fn request(kind: RpcKind, lane: Lane, body: &Bytes) -> RpcRequest {
    RpcRequest {
        kind,
        lane,
        meta: Bytes::new(),
        body: body.clone(),
        deadline: Duration::from_secs(10),
    }
}

impl Pair {
    fn start(mode: Mode, files: Option<&Path>) -> Self {
        let runtimes = Runtimes::new();
        let server = Server::start(mode.name(), files);
        let bind = mode.bind("client", files, runtimes.handles());
        let transport = runtimes.control.block_on(bind);
        let pair = Self {
            runtimes,
            transport,
            server,
        };
        pair.transport
            .add_peer(name(), Address::from(pair.server.address));
        for lane in Lane::ALL {
            let call = pair
                .transport
                .call(&name(), request(ECHO, lane, &Bytes::new()));
            pair.runtimes.control.block_on(call).unwrap();
        }
        pair
    }

    /// Calls with `window` in flight for `length`; the microseconds of each.
    fn flood(
        &self,
        kind: RpcKind,
        lane: Lane,
        body: &Bytes,
        window: usize,
        length: Duration,
    ) -> (Vec<u64>, Duration) {
        let handle = match lane {
            Lane::Control | Lane::Rpc => self.runtimes.control.handle(),
            Lane::Bulk => self.runtimes.data.handle(),
        };
        let began = Instant::now();
        let callers: Vec<_> = (0..window)
            .map(|_| {
                let (transport, body) = (self.transport.clone(), body.clone());
                handle.spawn(async move {
                    let mut times = Vec::new();
                    let server = name();
                    while began.elapsed() < length {
                        let sent = Instant::now();
                        let call = transport.call(&server, request(kind, lane, &body));
                        call.await.unwrap();
                        times.push(u64::try_from(sent.elapsed().as_micros()).unwrap());
                    }
                    times
                })
            })
            .collect();
        let times = self.runtimes.data.block_on(async {
            let mut all = Vec::new();
            for caller in callers {
                all.extend(caller.await.unwrap());
            }
            all
        });
        (times, began.elapsed())
    }

    /// Calls on the control lane one by one while the bulk lane is as full as it gets.
    fn heartbeat(&self, length: Duration) -> (Vec<u64>, f64) {
        let done = Arc::new(AtomicBool::new(false));
        let beat = {
            let (transport, done) = (self.transport.clone(), Arc::clone(&done));
            self.runtimes.control.spawn(async move {
                let mut times = Vec::new();
                let mut ticker = tokio::time::interval(Duration::from_millis(5));
                while !done.load(Ordering::Relaxed) {
                    ticker.tick().await;
                    let sent = Instant::now();
                    let body = Bytes::from_static(&[1; 64]);
                    let call = transport.call(&name(), request(ECHO, Lane::Control, &body));
                    call.await.unwrap();
                    times.push(u64::try_from(sent.elapsed().as_micros()).unwrap());
                }
                times
            })
        };
        let body = Bytes::from(vec![3; 1 << 20]);
        let (bulk, took) = self.flood(SINK, Lane::Bulk, &body, 16, length);
        done.store(true, Ordering::Relaxed);
        let times = self.runtimes.data.block_on(beat).unwrap();
        (times, rate(bulk.len(), took) * 1.048_576)
    }
}

fn rate(done: usize, took: Duration) -> f64 {
    f64::from(u32::try_from(done).unwrap()) / took.as_secs_f64()
}

impl Bench {
    pub(crate) fn run(&self, mode: Mode, limits: &Limits) {
        let files = mode.files();
        let files = files.as_ref().map(|dir| dir.path());
        self.echoes(mode, files, limits);
        self.bulks(mode, files, limits);
        self.heartbeats(mode, files);
        self.connects(mode, files);
        self.idles(mode, files);
    }

    fn echoes(&self, mode: Mode, files: Option<&Path>, limits: &Limits) {
        let pair = std::cell::LazyCell::new(|| Pair::start(mode, files));
        for (size, label) in [(64, "64 B"), (16 * 1024, "16 KiB")] {
            for (i, window) in WINDOWS.into_iter().enumerate() {
                for (kind, how) in [(ECHO, "inline"), (ECHO_SPAWNED, "spawned")] {
                    let case = format!("{} echo {label} x{window} {how}", mode.name());
                    let spare = kind == ECHO_SPAWNED && (window != 256 || size != 64);
                    if spare || !self.wants(&case) {
                        continue;
                    }
                    let body = Bytes::from(vec![5; size]);
                    let (mut rates, mut p50, mut p99) = (Vec::new(), Vec::new(), Vec::new());
                    let mut cpu = Vec::new();
                    for _ in 0..RUNS {
                        let before = pair.server.cpu();
                        let (mut times, took) =
                            pair.flood(kind, Lane::Rpc, &body, window, self.length);
                        let spent = (pair.server.cpu() - before) * 1e6;
                        cpu.push(spent / f64::from(u32::try_from(times.len()).unwrap()));
                        times.sort_unstable();
                        rates.push(rate(times.len(), took));
                        p50.push(quantile(&times, 0.5));
                        p99.push(quantile(&times, 0.99));
                    }
                    let figure = |metric, value, unit, target| Figure {
                        case: &case,
                        metric,
                        value,
                        unit,
                        target,
                        baseline: (metric == "rate" && size == 64).then_some(limits.echo[i]),
                    };
                    let inline = kind == ECHO && size == 64;
                    let (rate, time) = match (mode, window) {
                        (Mode::Tcp, 256) if inline => (Some(Target::AtLeast(450_000.0)), None),
                        (Mode::Tcp, 1) if inline => (None, Some(Target::AtMost(110.0))),
                        (Mode::Tls, 32) if inline => (Some(Target::AtLeast(140_000.0)), None),
                        _ => (None, None),
                    };
                    figure("rate", median(&mut rates), "req/s", rate).print();
                    figure("cpu of both sides", median(&mut cpu), "us/req", None).print();
                    figure("p50", median(&mut p50), "us", time).print();
                    figure("p99", median(&mut p99), "us", None).print();
                    if let (Mode::Tcp, 64, Some(tonic)) = (mode, size, limits.tonic) {
                        let ratio = median(&mut rates) / tonic[i];
                        let target = match (window, kind) {
                            (256, ECHO) => Some(Target::AtLeast(10.0)),
                            (256, _) => Some(Target::AtLeast(4.0)),
                            _ => None,
                        };
                        figure("times the rate of tonic", ratio, "x", target).print();
                    }
                }
            }
        }
    }

    fn bulks(&self, mode: Mode, files: Option<&Path>, limits: &Limits) {
        let pair = std::cell::LazyCell::new(|| Pair::start(mode, files));
        for (size, label) in [(64 * 1024, "64 KiB"), (1024 * 1024, "1 MiB")] {
            let case = format!("{} bulk {label} x16", mode.name());
            if !self.wants(&case) {
                continue;
            }
            let body = Bytes::from(vec![5; size]);
            let mut runs: Vec<f64> = (0..RUNS)
                .map(|_| {
                    let (times, took) = pair.flood(SINK, Lane::Bulk, &body, 16, self.length);
                    rate(times.len(), took) * f64::from(u32::try_from(size).unwrap()) / 1e6
                })
                .collect();
            let target = match mode {
                _ if size < 1024 * 1024 => None,
                Mode::Tcp => Some(Target::AtLeast(2400.0)),
                Mode::Tls => Some(Target::AtLeast(1300.0)),
                Mode::Quic => Some(Target::AtLeast(380.0)),
                Mode::Secret => None,
            };
            Figure {
                case: &case,
                metric: "throughput",
                value: median(&mut runs),
                unit: "MB/s",
                target,
                baseline: Some(limits.bulk),
            }
            .print();
        }
    }

    fn heartbeats(&self, mode: Mode, files: Option<&Path>) {
        let case = format!("{} heartbeat under bulk", mode.name());
        if !self.wants(&case) {
            return;
        }
        let pair = Pair::start(mode, files);
        let (mut p50, mut p99, mut bulk) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (mut times, throughput) = pair.heartbeat(self.length);
            times.sort_unstable();
            p50.push(quantile(&times, 0.5));
            p99.push(quantile(&times, 0.99));
            bulk.push(throughput);
        }
        let figure = |metric, value, unit, target| Figure {
            case: &case,
            metric,
            value,
            unit,
            target,
            baseline: None,
        };
        figure("p50", median(&mut p50), "us", None).print();
        figure(
            "p99",
            median(&mut p99),
            "us",
            Some(Target::AtMost(10_000.0)),
        )
        .print();
        figure("bulk beside it", median(&mut bulk), "MB/s", None).print();
    }

    /// What a connection costs the accepting side while nothing happens on it.
    fn idles(&self, mode: Mode, files: Option<&Path>) {
        const CLIENTS: u32 = 100;
        let case = format!("{} idle connection", mode.name());
        if !self.wants(&case) {
            return;
        }
        let pair = Pair::start(mode, files);
        let before = pair.server.memory();
        let clients: Vec<Transport> = (0..CLIENTS)
            .map(|_| {
                let bind = mode.bind("client", files, pair.runtimes.handles());
                let client = pair.runtimes.control.block_on(bind);
                client.add_peer(name(), Address::from(pair.server.address));
                for lane in Lane::ALL {
                    let call = client.call(&name(), request(ECHO, lane, &Bytes::new()));
                    pair.runtimes.control.block_on(call).unwrap();
                }
                client
            })
            .collect();
        // A ping's time and more: what an idle connection gives back it has given back.
        // sleep-ok: there is no other sign of it
        let rest = async { tokio::time::sleep(Duration::from_secs(3)).await };
        pair.runtimes.control.block_on(rest);
        let each = (pair.server.memory() - before) / (3.0 * f64::from(CLIENTS));
        drop(clients);
        Figure {
            case: &case,
            metric: "memory of the accepting side",
            value: each,
            unit: "KiB",
            target: Some(Target::AtMost(64.0)),
            baseline: None,
        }
        .print();
    }

    /// Connections by address: dialled, shaken hands on, called over, closed.
    fn connects(&self, mode: Mode, files: Option<&Path>) {
        let case = format!("{} connect and first call", mode.name());
        if !self.wants(&case) {
            return;
        }
        let pair = Pair::start(mode, files);
        let address = Address::from(pair.server.address);
        let mut times: Vec<u64> = (0..200)
            .map(|_| {
                let sent = Instant::now();
                let request = request(ECHO, Lane::Rpc, &Bytes::new());
                let call = pair.transport.call_address(&address, request);
                pair.runtimes.control.block_on(call).unwrap();
                u64::try_from(sent.elapsed().as_micros()).unwrap()
            })
            .collect();
        times.sort_unstable();
        Figure {
            case: &case,
            metric: "p50",
            value: quantile(&times, 0.5),
            unit: "us",
            target: None,
            baseline: None,
        }
        .print();
    }
}
