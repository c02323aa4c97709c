//! A cluster of node processes in a temporary directory.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::binary::node_binary;
use super::node::{NodeProcess, PREVIOUS_SECRET_FILE, Ports, SECRET_FILE, Site};
use crate::failure::{Doing, Failure};
use crate::status::Status;
use crate::wait;

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How many nodes.
    pub nodes: usize,
    /// The secret that all nodes share.
    pub secret: String,
    /// Mutual TLS instead of the secret, with certificates made by the binary.
    pub mutual_tls: bool,
    /// QUIC beside TCP, on ports of its own; needs `mutual_tls`.
    pub quic: bool,
    /// Lines that are appended to each configuration, below `cluster:`.
    pub extra: String,
    /// Where the nodes run; those without a site get free ports on the loopback address.
    pub sites: Vec<Site>,
    /// Whether the processes outlive an interrupt typed at the terminal.
    pub detached: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            secret: "a secret for tests on loopback".to_owned(),
            mutual_tls: false,
            quic: false,
            extra: String::new(),
            sites: Vec::new(),
            detached: false,
        }
    }
}

/// A cluster of node processes. Dropping it kills them and removes the directory.
#[derive(Debug)]
pub struct ProcessCluster {
    // Before the directory: the processes are gone when it is removed.
    nodes: Vec<NodeProcess>,
    binary: PathBuf,
    options: ClusterOptions,
    dir: TempDir,
}

impl ProcessCluster {
    /// Builds the binary and writes the configurations of `options.nodes` nodes; starts nothing.
    pub async fn prepare(options: ClusterOptions) -> Result<Self, Failure> {
        let binary = node_binary().await?;
        let dir = tempfile::Builder::new().prefix("rivven-").tempdir()?;
        let mut nodes = Vec::with_capacity(options.nodes);
        for number in 1..=options.nodes {
            let name = format!("node-{number}");
            let files = dir.path().join(&name);
            let site = match options.sites.get(number - 1) {
                Some(site) => site.clone(),
                None => Site::plain(Ports::free()?),
            };
            nodes.push(NodeProcess::at(name, files, site));
        }
        let this = Self {
            nodes,
            binary,
            options,
            dir,
        };
        if this.options.mutual_tls {
            this.make_certificates()?;
        }
        for node in &this.nodes {
            node.set_secret(&this.options.secret)?;
            node.configure(&this.yaml(node))?;
        }
        Ok(this)
    }

    /// Starts all nodes and waits until each is ready and sees all others.
    pub async fn start(options: ClusterOptions, limit: Duration) -> Result<Self, Failure> {
        let mut this = Self::prepare(options).await?;
        for node in 0..this.nodes.len() {
            this.spawn(node)?;
        }
        this.wait_ready(limit).await?;
        Ok(this)
    }

    /// Prepares one more node, which finds the cluster through the others as its seeds; returns its
    /// index. It does not run yet.
    pub fn add_node(&mut self) -> Result<usize, Failure> {
        let name = format!("node-{}", self.nodes.len() + 1);
        let files = self.dir.path().join(&name);
        let node = NodeProcess::new(name, files, Ports::free()?);
        let yaml = self.yaml(&node);
        let (common, _) = yaml.split_once("  initial_members:").unwrap_or((&yaml, ""));
        let seeds = self
            .nodes
            .iter()
            .map(|node| format!("\"{}\"", node.ports.cluster));
        let seeds = seeds.collect::<Vec<_>>().join(", ");
        node.configure(&format!(
            "{common}  seeds: [{seeds}]\n{}",
            self.options.extra
        ))?;
        node.set_secret(&self.options.secret)?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    /// The configuration of a node of this cluster.
    pub fn yaml(&self, node: &NodeProcess) -> String {
        let ports = &node.ports;
        let mut yaml = format!(
            "cluster:\n  node_id: {}\n  data_dir: data\n  client_addr: {}\n  cluster_addr: {}\n  \
             admin_addr: {}\n{}  initial_members:\n",
            node.name,
            ports.client,
            ports.cluster,
            ports.admin,
            self.security(node)
        );
        if node.cluster_address() != ports.cluster {
            yaml.insert_str(
                "cluster:\n".len(),
                &format!("  advertised_cluster_addr: {}\n", node.cluster_address()),
            );
        }
        for member in &self.nodes {
            let (name, address) = (&member.name, member.cluster_address());
            // Writing to a String cannot fail.
            writeln!(
                yaml,
                "    - {{ node_id: {name}, cluster_addr: \"{address}\" }}"
            )
            .unwrap_or_default();
        }
        yaml.push_str(&self.options.extra);
        yaml
    }

    fn security(&self, node: &NodeProcess) -> String {
        if !self.options.mutual_tls {
            return format!(
                "  security:\n    mode: shared_secret\n    secret_file: {SECRET_FILE}\n    \
                 previous_secret_file: {PREVIOUS_SECRET_FILE}\n"
            );
        }
        let (certs, name) = (self.certificates(), &node.name);
        let certs = certs.display();
        format!(
            "  security:\n    mode: mutual_tls\n    ca_file: {certs}/ca.pem\n    \
             certificate_file: {certs}/{name}.pem\n    key_file: {certs}/{name}.key\n    \
             gossip_secret_file: {certs}/gossip.secret\n{}",
            self.quic(node)
        )
    }

    /// The client port's number is free on UDP.
    fn quic(&self, node: &NodeProcess) -> String {
        if self.options.quic {
            format!("  transport: quic\n  quic_addr: {}\n", node.ports.client)
        } else {
            String::new()
        }
    }

    /// Where the certificates are.
    pub fn certificates(&self) -> PathBuf {
        self.dir.path().join("certs")
    }

    /// Makes the certificates that are missing, with the node's own command.
    pub fn make_certificates(&self) -> Result<(), Failure> {
        let mut command = std::process::Command::new(&self.binary);
        command.args(["certs", "--cluster", "tests", "--out"]);
        command.arg(self.certificates());
        for node in &self.nodes {
            command.args(["--node", &node.name]);
        }
        let output = command.output()?;
        if output.status.success() {
            return Ok(());
        }
        let reason = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::new(format!("no certificates: {reason}")))
    }

    /// Where everything is.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// The nodes, in the order of their names.
    pub fn nodes(&self) -> &[NodeProcess] {
        &self.nodes
    }

    /// The node at `index`.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node(&self, index: usize) -> &NodeProcess {
        &self.nodes[index]
    }

    /// The node at `index`, to change it.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node_mut(&mut self, index: usize) -> &mut NodeProcess {
        &mut self.nodes[index]
    }

    /// The client addresses of all nodes.
    pub fn bootstrap(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| node.ports.client).collect()
    }

    /// Starts a node that does not run.
    pub fn spawn(&mut self, index: usize) -> Result<(), Failure> {
        let (binary, detached) = (self.binary.clone(), self.options.detached);
        self.nodes[index].spawn(&binary, detached)
    }

    /// SIGKILL to a node.
    pub fn kill(&mut self, index: usize) -> Result<(), Failure> {
        self.nodes[index].kill()
    }

    /// The indices of the nodes that run.
    pub fn running(&mut self) -> Vec<usize> {
        let nodes = self.nodes.iter_mut().enumerate();
        nodes
            .filter_map(|(index, node)| node.is_running().then_some(index))
            .collect()
    }

    /// The statuses of the nodes that run.
    pub async fn statuses(&mut self) -> Result<Vec<Status>, Failure> {
        let mut statuses = Vec::new();
        for index in self.running() {
            statuses.push(self.nodes[index].status().await?);
        }
        Ok(statuses)
    }

    /// [`wait::until`], with the ends of all logs in the failure; fails at once if a node ended that
    /// nobody stopped.
    pub async fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl AsyncFnMut(&mut Self) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let expected = self
            .nodes
            .iter()
            .filter(|node| node.pid().is_some())
            .count();
        let looked = wait::until(what, limit, async || {
            if self.running().len() < expected {
                return Ok(Err(Failure::new(format!("{what}: a node ended by itself"))));
            }
            look(self).await.map(Ok)
        })
        .await;
        looked
            .and_then(|inner| inner)
            .map_err(|failure| self.explain(failure))
    }

    /// Waits until every running node is ready and sees as many active brokers as nodes run.
    pub async fn wait_ready(&mut self, limit: Duration) -> Result<(), Failure> {
        self.until("all nodes are ready", limit, async |this| {
            let running = this.running();
            for index in &running {
                this.nodes[*index].ready().await?;
                let status = this.nodes[*index].status().await?;
                if usize::try_from(status.active_brokers) != Ok(running.len()) {
                    return Err(Failure::new(format!("{status:?}")));
                }
            }
            Ok(())
        })
        .await
    }

    /// Waits until all nodes run, are ready, and no partition lacks a replica or a leader.
    pub async fn wait_in_sync(&mut self, limit: Duration) -> Result<(), Failure> {
        self.wait_ready(limit).await?;
        self.until("all replicas are in sync", limit, async |this| {
            for status in this.statuses().await? {
                if status.under_replicated_partitions + status.offline_partitions > 0 {
                    return Err(Failure::new(format!("{status:?}")));
                }
            }
            Ok(())
        })
        .await
    }

    /// The index of the node that all running nodes call the controller, once they agree.
    pub async fn controller(&mut self, limit: Duration) -> Result<usize, Failure> {
        self.until("all nodes agree on the controller", limit, async |this| {
            let statuses = this.statuses().await?;
            let named = statuses
                .first()
                .and_then(|status| status.controller.clone());
            let agreed = statuses.iter().all(|status| status.controller == named);
            let index = this
                .nodes
                .iter()
                .position(|node| Some(&node.name) == named.as_ref());
            let index = index.filter(|index| agreed && this.nodes[*index].pid().is_some());
            index.ok_or_else(|| Failure::new(format!("{statuses:?}")))
        })
        .await
    }

    /// The index of the node with this broker id.
    pub async fn node_of_broker(&mut self, broker: i32) -> Result<usize, Failure> {
        for index in self.running() {
            if self.nodes[index].status().await?.broker == Some(broker) {
                return Ok(index);
            }
        }
        Err(Failure::new(format!("no running node is broker {broker}")))
    }

    /// SIGTERM to a node, and waits until it has ended; fails unless its exit status is 0.
    pub async fn stop(&mut self, index: usize, limit: Duration) -> Result<(), Failure> {
        let node = &mut self.nodes[index];
        node.terminate()?;
        let status = node.wait_exit(limit).await?;
        if status.success() {
            return Ok(());
        }
        let failure = Failure::new(format!("{} did not end in order: {status}", node.name));
        Err(node.explain(failure))
    }

    /// Fails if any node ever panicked.
    pub fn check_no_panic(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            if let Some(line) = node.log().lines().find(|line| line.contains("panicked at")) {
                let failure = Failure::new(format!("{} panicked: {line}", node.name));
                return Err(node.explain(failure));
            }
        }
        Ok(())
    }

    /// Adds the ends of all logs to a failure.
    pub fn explain(&self, failure: Failure) -> Failure {
        self.nodes
            .iter()
            .fold(failure, |failure, node| node.explain(failure))
    }

    /// Kills what runs and keeps the directory, which is returned.
    pub fn keep(mut self) -> PathBuf {
        self.nodes.clear();
        self.dir.keep()
    }

    /// Lets the processes live on and keeps the directory, which is returned.
    pub fn detach(mut self) -> PathBuf {
        for node in &mut self.nodes {
            node.detach();
        }
        self.dir.keep()
    }

    /// Removes the data directory of a node that does not run.
    pub fn wipe(&mut self, index: usize) -> Result<(), Failure> {
        let dir = self.nodes[index].data_dir();
        std::fs::remove_dir_all(&dir).doing(|| format!("removing {}", dir.display()))
    }
}
