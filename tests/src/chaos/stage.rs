//! The cluster with everything that can harm it.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;

use super::faults::{self, EIO, Faults, Word};
use super::nemesis::{Episode, Need, Nemesis, Target};
use super::network::{self, Namespaces, SmallDisk};
use super::proxy::{Mischief, Proxy};
use crate::failure::{Doing, Failure};
use crate::kafka::KafkaClient;
use crate::process::{ClusterOptions, Ports, ProcessCluster, Site, free_address};
use crate::wait;

pub(super) const NODES: usize = 3;
/// How long the cluster may take to be whole again after any harm.
pub(super) const LIMIT: Duration = Duration::from_secs(120);
/// The port behind the proxy, on hosts of their own.
const INNER_PORT: u16 = 9193;
/// The node whose disk can be filled.
const SMALL_DISK: usize = 2;
/// Longest jump of the wall clock, in ms.
const DAY_MS: u64 = 86_400_000;

/// A cluster, its network, its disks and its clocks.
#[derive(Debug)]
pub(super) struct Stage {
    // In this order: the processes end before what they stand on is removed.
    pub(super) cluster: ProcessCluster,
    proxies: Vec<Proxy>,
    faults: Vec<Faults>,
    network: Option<Namespaces>,
    disk: Option<SmallDisk>,
    _files: TempDir,
}

/// Whether a nemesis can do its work here; otherwise why not.
pub(super) fn obstacle(nemesis: Nemesis) -> Option<String> {
    match nemesis.need() {
        Need::Nothing => None,
        Need::Namespaces => network::obstacle(),
        Need::Mount => network::obstacle(),
        Need::Preload => {
            let found = std::process::Command::new("cc").arg("--version").output();
            let works = found.is_ok_and(|output| output.status.success());
            (!works).then(|| "cc is not installed".to_owned())
        }
    }
}

impl Stage {
    /// Starts the cluster with what `nemeses` need. `disk_mebibytes` is the size of the small disk.
    pub(super) async fn start(
        nemeses: &[Nemesis],
        disk_mebibytes: u64,
        seed: u64,
    ) -> Result<Self, Failure> {
        let needs = |need| nemeses.iter().any(|nemesis| nemesis.need() == need);
        let files = tempfile::Builder::new().prefix("rivven-chaos-").tempdir()?;
        let network = needs(Need::Namespaces).then(|| Namespaces::new(NODES));
        let network = network.transpose()?;
        let library = if needs(Need::Preload) {
            faults::build(files.path())?
        } else {
            None
        };
        let program = std::env::current_exe()?;
        let (mut sites, mut proxies, mut all_faults) = (Vec::new(), Vec::new(), Vec::new());
        for (node, seed) in (0..NODES).zip(seed..) {
            let (ports, inner, prefix) = match &network {
                Some(network) => {
                    let ports = network.ports(node);
                    let inner = (ports.cluster.ip(), INNER_PORT).into();
                    (ports, inner, network.prefix(node))
                }
                None => (Ports::free()?, free_address()?, Vec::new()),
            };
            let outer = ports.cluster;
            proxies.push(Proxy::start(&program, &prefix, outer, inner, seed)?);
            let mut site = Site {
                ports: Ports {
                    cluster: inner,
                    ..ports
                },
                advertised_cluster: Some(outer),
                prefix,
                env: Vec::new(),
            };
            if let Some(library) = &library {
                let control = files.path().join(format!("faults-{node}"));
                let faults = Faults::new(control, library.clone())?;
                site.env = faults.env();
                all_faults.push(faults);
            }
            sites.push(site);
        }
        let options = ClusterOptions {
            nodes: NODES,
            sites,
            detached: true,
            ..ClusterOptions::default()
        };
        let mut cluster = ProcessCluster::prepare(options).await?;
        let disk = needs(Need::Mount).then(|| SmallDisk::new(disk_mebibytes));
        let disk = disk.transpose()?;
        if let Some(disk) = &disk {
            let link = cluster.node(SMALL_DISK).data_dir();
            let what = || format!("linking {}", link.display());
            std::os::unix::fs::symlink(disk.path(), &link).doing(what)?;
        }
        for node in 0..NODES {
            cluster.spawn(node)?;
        }
        let mut this = Self {
            cluster,
            proxies,
            faults: all_faults,
            network,
            disk,
            _files: files,
        };
        this.cluster.wait_ready(LIMIT).await?;
        Ok(this)
    }

    /// Fails if the preloaded library has counted no fsync: its faults would do nothing.
    pub(super) fn check_preload(&self) -> Result<(), Failure> {
        for faults in &self.faults {
            if faults.get(Word::Syncs)? == 0 {
                return Err(Failure::new("the preloaded library is not in use"));
            }
        }
        Ok(())
    }

    /// The index of the node that an episode is aimed at.
    pub(super) async fn aim(
        &mut self,
        episode: &Episode,
        client: &KafkaClient,
        topic: &str,
    ) -> Result<usize, Failure> {
        if episode.nemesis == Nemesis::FullDisk {
            return Ok(SMALL_DISK);
        }
        match episode.target {
            Target::Node(node) => Ok(node),
            Target::Controller => self.cluster.controller(LIMIT).await,
            Target::Leader(number) => {
                let partitions = client.led_topic(topic, LIMIT).await?.partitions;
                let count = u32::try_from(partitions.len()).unwrap_or(1).max(1);
                let at = usize::try_from(number % count).unwrap_or(0);
                let leader = partitions.get(at).and_then(|partition| partition.leader);
                let (broker, _) = leader.ok_or_else(|| Failure::new("no leader"))?;
                self.cluster.node_of_broker(broker).await
            }
        }
    }

    fn network(&self) -> Result<&Namespaces, Failure> {
        let network = self.network.as_ref();
        network.ok_or_else(|| Failure::new("there are no namespaces"))
    }

    fn faults(&self, node: usize) -> Result<&Faults, Failure> {
        let faults = self.faults.get(node);
        faults.ok_or_else(|| Failure::new("nothing is preloaded"))
    }

    fn proxy(&mut self, node: usize) -> Result<&mut Proxy, Failure> {
        let proxy = self.proxies.get_mut(node);
        proxy.ok_or_else(|| Failure::new(format!("no proxy {node}")))
    }

    /// Does the harm; says what exactly it was.
    pub(super) async fn strike(
        &mut self,
        episode: &Episode,
        node: usize,
    ) -> Result<String, Failure> {
        let strength = episode.strength;
        let others = (0..NODES).filter(|other| *other != node);
        match episode.nemesis {
            Nemesis::Kill => self.cluster.kill(node)?,
            Nemesis::KillAll => {
                for node in 0..NODES {
                    self.cluster.kill(node)?;
                }
            }
            Nemesis::Restart => self.cluster.stop(node, LIMIT).await?,
            Nemesis::Storm => return self.storm(node, strength).await,
            Nemesis::Pause => self.cluster.node(node).freeze()?,
            Nemesis::Isolate | Nemesis::Mute | Nemesis::Deaf => {
                for other in others {
                    if episode.nemesis != Nemesis::Deaf {
                        self.network()?.cut(node, other)?;
                    }
                    if episode.nemesis != Nemesis::Mute {
                        self.network()?.cut(other, node)?;
                    }
                }
            }
            Nemesis::Link => {
                let other = (node + 1) % NODES;
                self.network()?.cut(node, other)?;
                self.network()?.cut(other, node)?;
                return Ok(format!("to node-{}", other + 1));
            }
            Nemesis::Loss => {
                let percent = 5 + strength % 31;
                for node in 0..NODES {
                    self.network()?.lose(node, percent)?;
                }
                return Ok(format!("{percent} % everywhere"));
            }
            Nemesis::Slow => {
                let rate = 500 << (strength % 4);
                self.network()?.slow(node, rate)?;
                return Ok(format!("{rate} kbit/s"));
            }
            Nemesis::Delay | Nemesis::Stall | Nemesis::Reset | Nemesis::Datagrams => {
                return self.interfere(episode, node).await;
            }
            Nemesis::FullDisk => {
                let disk = self.disk.as_ref();
                let disk = disk.ok_or_else(|| Failure::new("there is no small disk"))?;
                return Ok(format!("{} KiB left until now", disk.fill()? >> 10));
            }
            Nemesis::SyncError => self.faults(node)?.set(Word::SyncErrno, EIO)?,
            Nemesis::WriteError => self.faults(node)?.set(Word::WriteErrno, EIO)?,
            Nemesis::SlowSync => {
                let delay = i64::try_from(50 + strength % 751).unwrap_or(50);
                self.faults(node)?.set(Word::SyncDelayMs, delay)?;
                return Ok(format!("{delay} ms"));
            }
            Nemesis::Clock => {
                let shift = i64::try_from(strength % (2 * DAY_MS)).unwrap_or(0);
                let shift = shift - i64::try_from(DAY_MS).unwrap_or(0);
                self.faults(node)?.set(Word::RealtimeShiftMs, shift)?;
                return Ok(format!("{shift} ms"));
            }
        }
        Ok(String::new())
    }

    /// What the proxies can do.
    async fn interfere(&mut self, episode: &Episode, node: usize) -> Result<String, Failure> {
        let strength = episode.strength;
        let mut mischief = Mischief::default();
        match episode.nemesis {
            Nemesis::Delay => mischief.delay_ms = 20 + strength % 131,
            Nemesis::Stall => mischief.stalls = true,
            Nemesis::Reset => {
                for _ in 0..5 {
                    self.proxy(node)?.reset()?;
                    wait::pause(Duration::from_millis(200)).await;
                }
            }
            _ => {
                mischief.loss_percent = strength % 31;
                mischief.twice_percent = (strength >> 8) % 31;
                mischief.late_percent = (strength >> 16) % 51;
                for proxy in &mut self.proxies {
                    proxy.set(mischief)?;
                }
                return Ok(format!(
                    "{} % lost, {} % twice, {} % late, everywhere",
                    mischief.loss_percent, mischief.twice_percent, mischief.late_percent
                ));
            }
        }
        self.proxy(node)?.set(mischief)?;
        Ok(match mischief.delay_ms {
            0 => String::new(),
            delay => format!("{delay} ms"),
        })
    }

    async fn storm(&mut self, node: usize, strength: u64) -> Result<String, Failure> {
        let kills = 3 + strength % 4;
        for kill in 0..kills {
            self.cluster.kill(node)?;
            self.cluster.spawn(node)?;
            let alive = (strength >> (8 * kill)) % 600;
            wait::pause(Duration::from_millis(alive)).await;
        }
        Ok(format!("{kills} times"))
    }

    /// Takes the harm back and starts what does not run. A node that had to stop is replaced by a new
    /// process; any other that ended is a failure.
    pub(super) async fn heal(&mut self, episode: &Episode, node: usize) -> Result<String, Failure> {
        let mut said = String::new();
        match episode.nemesis {
            Nemesis::Kill | Nemesis::Restart => self.cluster.spawn(node)?,
            Nemesis::KillAll => {
                for node in 0..NODES {
                    self.cluster.spawn(node)?;
                }
            }
            Nemesis::Pause => self.cluster.node(node).thaw()?,
            _ => {}
        }
        if let Some(network) = &self.network {
            network.heal()?;
        }
        for proxy in &mut self.proxies {
            proxy.set(Mischief::default())?;
        }
        if episode.nemesis.is_fatal() {
            said = self.replace(episode.nemesis, node)?;
        }
        for faults in &self.faults {
            faults.clear()?;
        }
        let running = self.cluster.running().len();
        if running < NODES {
            let failure = Failure::new(format!(
                "{running} of {NODES} nodes run: one ended by itself"
            ));
            return Err(self.cluster.explain(failure));
        }
        Ok(said)
    }

    /// Replaces the process of a node whose disk failed.
    fn replace(&mut self, nemesis: Nemesis, node: usize) -> Result<String, Failure> {
        let ended = !self.cluster.running().contains(&node);
        if !ended {
            self.cluster.kill(node)?;
        }
        let mut said = if ended {
            "it had ended"
        } else {
            "it was killed"
        }
        .to_owned();
        if nemesis == Nemesis::FullDisk {
            if let Some(disk) = &self.disk {
                disk.free()?;
            }
        } else {
            let faults = self.faults(node)?;
            let failed = faults.get(Word::Failed)?;
            said.push_str(&format!(", {failed} calls had failed so far"));
            faults.clear()?;
        }
        self.cluster.spawn(node)?;
        Ok(said)
    }

    /// Ends the processes and keeps their files, which includes their logs.
    pub(super) fn keep(self) -> PathBuf {
        self.cluster.keep()
    }
}
