//! The processes of a group, and the one connection that the load uses to each of them.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rivven_core_types::{
    Address, Incarnation, Lane, NodeName, OsEntropy, PeerRpc, RpcKind, RpcRequest, RpcResponse,
};
use rivven_tests::{Failure, process::Ports, wait};
use rivven_transport::{
    Compression, Transport, TransportConfig, TransportLimits, TransportRuntimes,
};
use tempfile::TempDir;

use crate::node::{ADD, FORM, STATUS, security};

const LIMIT: Duration = Duration::from_secs(60);

/// A node's process.
pub(crate) struct Node {
    pub(crate) name: NodeName,
    address: SocketAddr,
    dir: PathBuf,
    raft_id: String,
    child: Option<(Child, ChildStdin)>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Node {
    fn spawn(&mut self, preset: &str) -> Result<(), Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["--node", self.name.as_str(), &self.address.to_string()]);
        command.arg(&self.dir).arg(preset);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(Failure::new("a node without pipes"));
        };
        let mut line = String::new();
        std::io::BufReader::new(stdout).read_line(&mut line)?;
        line.trim_end().clone_into(&mut self.raft_id);
        self.child = Some((child, stdin));
        if self.raft_id.is_empty() {
            return Err(Failure::new(format!("{} has not started", self.name)));
        }
        Ok(())
    }

    /// SIGKILL; returns once the process is gone.
    pub(crate) fn kill(&mut self) {
        if let Some((mut child, _)) = self.child.take() {
            // An error means that it has ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }

    fn line(&self) -> String {
        format!("{} {} {}", self.name, self.raft_id, self.address)
    }
}

/// A group of processes.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) transport: Transport,
    preset: &'static str,
    dir: TempDir,
}

impl Cluster {
    /// Starts `count` nodes and forms their group.
    pub(crate) async fn start(count: usize, preset: &'static str) -> Result<Self, Failure> {
        let config = TransportConfig {
            name: NodeName::new("load").map_err(|e| Failure::new(e.to_string()))?,
            incarnation: Incarnation::from_bytes([1; 16]),
            cluster_id: None,
            listen: Ports::free()?.client,
            security: security()?,
            compression: Compression::default(),
            limits: TransportLimits::default(),
        };
        let runtimes = TransportRuntimes::current();
        let transport = Transport::bind(config, runtimes, Arc::new(OsEntropy)).await;
        let mut this = Self {
            nodes: Vec::new(),
            transport: transport.map_err(|e| Failure::new(e.to_string()))?,
            preset,
            dir: tempfile::Builder::new().prefix("bench-raft-").tempdir()?,
        };
        for _ in 0..count {
            this.add()?;
        }
        let lines: Vec<String> = this.nodes.iter().map(Node::line).collect();
        this.call(0, FORM, Bytes::from(lines.join("\n")), LIMIT)
            .await?;
        this.leader().await?;
        Ok(this)
    }

    /// Starts one more node, blank.
    pub(crate) fn add(&mut self) -> Result<usize, Failure> {
        let index = self.nodes.len();
        let name = NodeName::new(format!("node-{}", index + 1));
        let name = name.map_err(|e| Failure::new(e.to_string()))?;
        let mut node = Node {
            dir: self.dir.path().join(name.as_str()),
            name,
            address: Ports::free()?.cluster,
            raft_id: String::new(),
            child: None,
        };
        node.spawn(self.preset)?;
        let address = Address::new(node.address.ip().to_string(), node.address.port());
        let address = address.map_err(|e| Failure::new(e.to_string()))?;
        self.transport.add_peer(node.name.clone(), address);
        self.nodes.push(node);
        Ok(index)
    }

    /// Has the leader add a node as a learner.
    pub(crate) async fn admit(&self, leader: usize, node: usize) -> Result<(), Failure> {
        let line = Bytes::from(self.nodes[node].line());
        self.call(leader, ADD, line, LIMIT).await.map(drop)
    }

    pub(crate) fn spawn(&mut self, index: usize) -> Result<(), Failure> {
        let preset = self.preset;
        self.nodes[index].spawn(preset)
    }

    /// One call to a node.
    pub(crate) async fn call(
        &self,
        node: usize,
        kind: RpcKind,
        body: Bytes,
        deadline: Duration,
    ) -> Result<RpcResponse, Failure> {
        let request = request(kind, body, deadline);
        let answer = self.transport.call(&self.nodes[node].name, request).await;
        answer.map_err(|e| Failure::new(e.to_string()))
    }

    /// Who leads by a node's word, and up to where it has applied the log.
    pub(crate) async fn status(&self, node: usize) -> Result<(String, u64), Failure> {
        let deadline = Duration::from_millis(500);
        let answer = self.call(node, STATUS, Bytes::new(), deadline).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let (leader, applied) = text.split_once(' ').unwrap_or(("-", "0"));
        Ok((leader.to_owned(), applied.parse().unwrap_or(0)))
    }

    /// The node that leads, once one does.
    pub(crate) async fn leader(&self) -> Result<usize, Failure> {
        wait::until("a leader", LIMIT, async || {
            for node in self.running() {
                let Ok((leader, _)) = self.status(node).await else {
                    continue;
                };
                let found = self.nodes.iter().position(|n| n.name.as_str() == leader);
                if let Some(found) = found.filter(|found| self.running().contains(found)) {
                    return Ok(found);
                }
            }
            Err(Failure::new("nobody names one"))
        })
        .await
    }

    pub(crate) fn running(&self) -> Vec<usize> {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, n)| n.child.is_some())
            .map(|(at, _)| at)
            .collect()
    }

    /// Waits until a node has applied the log up to `index`; returns how long that took.
    pub(crate) async fn applied(&self, node: usize, index: u64) -> Result<Duration, Failure> {
        let started = Instant::now();
        let what = format!("{} has applied {index}", self.nodes[node].name);
        wait::until(&what, LIMIT, async || {
            let (_, applied) = self.status(node).await?;
            let behind = || Failure::new(format!("it is at {applied}"));
            (applied >= index).then_some(()).ok_or_else(behind)
        })
        .await?;
        Ok(started.elapsed())
    }
}

pub(crate) fn request(kind: RpcKind, body: Bytes, deadline: Duration) -> RpcRequest {
    RpcRequest {
        kind,
        lane: Lane::Rpc,
        meta: Bytes::new(),
        body,
        deadline,
    }
}
