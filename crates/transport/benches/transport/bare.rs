//! The limit: tokio's sockets alone, with messages of known length, no frames, no calls, no answers to
//! match.

use std::time::Instant;

use rivven_core_types::test_util::Figure;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};

use crate::cases::{Bench, WINDOWS};
use crate::figures::median;
use crate::server::{Server, wait_for_end};

/// Header and payload of an echo of 64 bytes.
const SMALL: usize = 24 + 64;
const CHUNK: usize = 64 * 1024;
const ECHO: u8 = 0;
const SINK: u8 = 1;

/// What the machine gives.
pub(crate) struct Limits {
    /// Requests per second by window.
    pub(crate) echo: [f64; 3],
    /// MB/s.
    pub(crate) bulk: f64,
    /// Calls per second over tonic by window, if it was asked for.
    pub(crate) tonic: Option<[f64; 3]>,
}

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

pub(crate) fn serve() {
    let runtime = runtime();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    println!("{}", listener.local_addr().unwrap());
    runtime.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                let what = stream.read_u8().await.unwrap();
                let mut buffer = vec![0; CHUNK];
                let mut total = 0u64;
                loop {
                    let read = stream.read(&mut buffer).await.unwrap_or(0);
                    if read == 0 {
                        break;
                    }
                    total += u64::try_from(read).unwrap();
                    if what == ECHO && stream.write_all(&buffer[..read]).await.is_err() {
                        return;
                    }
                }
                if what == SINK {
                    stream.write_u64(total).await.unwrap();
                }
            });
        }
    });
    wait_for_end();
}

pub(crate) fn measure(bench: &Bench) -> Limits {
    let server = Server::start("bare", None);
    let runtime = runtime();
    let mut limits = Limits {
        echo: [0.0; 3],
        bulk: 0.0,
        tonic: None,
    };
    for (window, slot) in WINDOWS.into_iter().zip(&mut limits.echo) {
        let mut runs: Vec<f64> = (0..3)
            .map(|_| runtime.block_on(echo(&server, window, bench)))
            .collect();
        *slot = median(&mut runs);
        let case = format!("bare echo 64 B x{window}");
        Figure {
            case: &case,
            metric: "rate",
            value: *slot,
            unit: "req/s",
            target: None,
            baseline: None,
        }
        .print();
    }
    let mut runs: Vec<f64> = (0..3)
        .map(|_| runtime.block_on(bulk(&server, bench)))
        .collect();
    limits.bulk = median(&mut runs);
    Figure {
        case: "bare bulk 64 KiB",
        metric: "throughput",
        value: limits.bulk,
        unit: "MB/s",
        target: None,
        baseline: None,
    }
    .print();
    limits
}

async fn connect(server: &Server, what: u8) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_u8(what).await.unwrap();
    stream
}

async fn echo(server: &Server, window: usize, bench: &Bench) -> f64 {
    let mut stream = connect(server, ECHO).await;
    let mut buffer = vec![0; SMALL * window];
    let began = Instant::now();
    let mut done = 0usize;
    while began.elapsed() < bench.length {
        stream.write_all(&buffer).await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        done += window;
    }
    f64::from(u32::try_from(done).unwrap()) / began.elapsed().as_secs_f64()
}

async fn bulk(server: &Server, bench: &Bench) -> f64 {
    let mut stream = connect(server, SINK).await;
    let chunk = vec![7; CHUNK];
    let began = Instant::now();
    while began.elapsed() < bench.length {
        stream.write_all(&chunk).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    let total = stream.read_u64().await.unwrap();
    #[allow(clippy::cast_precision_loss, reason = "a figure")]
    let total = total as f64;
    total / 1e6 / began.elapsed().as_secs_f64()
}
