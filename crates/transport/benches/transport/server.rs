//! The other process.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rivven_core_types::{
    PeerIdentity, Reply, RpcError, RpcHandler, RpcKind, RpcRequest, RpcResponse,
};
use rivven_transport::TransportRuntimes;
use tokio::runtime::{Builder, Runtime};

use crate::bare;
use crate::mode::Mode;

/// Answers at once with what it was sent.
pub(crate) const ECHO: RpcKind = RpcKind(0x7001);
/// The same from a task.
pub(crate) const ECHO_SPAWNED: RpcKind = RpcKind(0x7002);
/// Takes a body and answers with nothing.
pub(crate) const SINK: RpcKind = RpcKind(0x7003);

struct Handler;

impl RpcHandler for Handler {
    fn handle(&self, _peer: &PeerIdentity, request: RpcRequest) -> Reply {
        let echo = RpcResponse {
            meta: request.meta,
            body: request.body,
        };
        match request.kind {
            ECHO => Reply::Now(Ok(echo)),
            ECHO_SPAWNED => Reply::Later(Box::pin(async move { Ok(echo) })),
            SINK => Reply::Now(Ok(RpcResponse::default())),
            kind => Reply::Now(Err(RpcError::UnknownKind { kind })),
        }
    }
}

/// A node's runtimes.
pub(crate) struct Runtimes {
    pub(crate) control: Runtime,
    pub(crate) data: Runtime,
}

impl Runtimes {
    pub(crate) fn new() -> Self {
        let runtime = |threads| {
            let mut builder = Builder::new_multi_thread();
            builder
                .worker_threads(threads)
                .enable_all()
                .build()
                .unwrap()
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            control: runtime(1),
            data: runtime(cores),
        }
    }

    pub(crate) fn handles(&self) -> TransportRuntimes {
        TransportRuntimes {
            control: self.control.handle().clone(),
            data: self.data.handle().clone(),
        }
    }
}

/// Serves until standard input is closed.
pub(crate) fn run(mode: &str, files: Option<&str>) {
    if mode == "bare" {
        bare::serve();
        return;
    }
    let runtimes = Runtimes::new();
    let handles = runtimes.handles();
    let bind = Mode::named(mode).bind("server", files.map(Path::new), handles);
    let transport = runtimes.control.block_on(bind);
    transport.serve(Arc::new(Handler));
    println!("{}", transport.local_addr());
    wait_for_end();
}

/// The parent closes our standard input when it is done, or dead.
pub(crate) fn wait_for_end() {
    std::io::stdout().flush().unwrap();
    let mut line = String::new();
    while std::io::stdin()
        .read_line(&mut line)
        .is_ok_and(|read| read > 0)
    {}
}

/// A server process, stopped when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start(mode: &str, files: Option<&Path>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--server", mode]);
        if let Some(files) = files {
            command.arg(files);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        Self {
            child,
            address: line.trim().parse().unwrap(),
        }
    }

    /// Processor time that this process and the server have used, in seconds. Unlike a rate it says
    /// the same on a busy machine.
    pub(crate) fn cpu(&self) -> f64 {
        cpu_of("self") + cpu_of(&self.child.id().to_string())
    }
}

impl Server {
    /// Memory of the server process, in KiB.
    pub(crate) fn memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn cpu_of(process: &str) -> f64 {
    // Nanoseconds on the processor; the threads of a process one by one.
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let spent = tasks.flatten().map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().and_then(|n| n.parse::<f64>().ok());
        first.unwrap_or(0.0)
    });
    spent.sum::<f64>() / 1e9
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        drop(self.child.wait());
    }
}
