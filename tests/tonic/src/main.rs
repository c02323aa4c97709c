//! Unary calls of raw bytes over tonic, between two processes: `server THREADS` prints its address and serves
//! until its standard input closes; `client ADDRESS THREADS WINDOW BYTES SECS` prints calls per second, and
//! the median and the 99th percentile of their times in microseconds.
//!
//! No protobuf: the codec copies bytes, so that tonic is not charged for what we do not do.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tokio::runtime::{Builder, Runtime};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}

#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "bench.Echo";
}

struct Answer;

impl UnaryService<Bytes> for Answer {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

impl tower_service::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Raw).unary(Answer, request).await) })
    }
}

fn runtime(threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder
        .worker_threads(threads)
        .enable_all()
        .build()
        .unwrap()
}

async fn serve() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let nodelay = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let serving = Server::builder()
        .add_service(Echo)
        .serve_with_incoming(nodelay);
    let ended = async {
        let mut line = String::new();
        let mut input = tokio::io::BufReader::new(tokio::io::stdin());
        while tokio::io::AsyncBufReadExt::read_line(&mut input, &mut line)
            .await
            .is_ok_and(|read| read > 0)
        {}
    };
    tokio::select! {
        served = serving => served.unwrap(),
        () = ended => {}
    }
}

async fn call(address: &str, window: usize, length: usize, time: Duration) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = endpoint.tcp_nodelay(true).connect().await.unwrap();
    let began = Instant::now();
    let callers: Vec<_> = (0..window)
        .map(|_| {
            let mut client = tonic::client::Grpc::new(channel.clone());
            let body = Bytes::from(vec![5; length]);
            tokio::spawn(async move {
                let mut times = Vec::new();
                while began.elapsed() < time {
                    let sent = Instant::now();
                    client.ready().await.unwrap();
                    let path = PathAndQuery::from_static("/bench.Echo/Call");
                    let answer = client.unary(Request::new(body.clone()), path, Raw).await;
                    assert_eq!(answer.unwrap().into_inner().len(), length);
                    times.push(u64::try_from(sent.elapsed().as_micros()).unwrap());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for caller in callers {
        times.extend(caller.await.unwrap());
    }
    let took = began.elapsed().as_secs_f64();
    times.sort_unstable();
    let quantile = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let rate = f64::from(u32::try_from(times.len()).unwrap()) / took;
    println!("{rate} {} {}", quantile(50), quantile(99));
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["server", threads] => runtime(threads.parse().unwrap()).block_on(serve()),
        ["client", address, threads, window, length, secs] => {
            let (window, length) = (window.parse().unwrap(), length.parse().unwrap());
            let time = Duration::from_secs_f64(secs.parse().unwrap());
            runtime(threads.parse().unwrap()).block_on(call(address, window, length, time));
        }
        _ => panic!("server THREADS | client ADDRESS THREADS WINDOW BYTES SECS"),
    }
}
