//! Network namespaces: each node has its own host on a bridge, with a packet filter and a queue that can
//! lose, cut and slow down what the nodes say to each other.

use std::ffi::OsString;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};

use rustix::process::{geteuid, getpid};

use crate::failure::{Doing, Failure};
use crate::process::Ports;

const CLIENT_PORT: u16 = 9092;
const CLUSTER_PORT: u16 = 9093;
const ADMIN_PORT: u16 = 9094;

/// Why namespaces cannot be used here, if they cannot.
pub(super) fn obstacle() -> Option<String> {
    if !geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    for (tool, argument) in [("ip", "-V"), ("nft", "--version"), ("tc", "-V")] {
        let found = Command::new(tool).arg(argument).output();
        if !found.is_ok_and(|output| output.status.success()) {
            return Some(format!("{tool} is not installed"));
        }
    }
    None
}

fn run(program: &str, arguments: &[&str]) -> Result<(), Failure> {
    feed(program, arguments, "")
}

/// Runs a program with a text on its standard input.
fn feed(program: &str, arguments: &[&str], input: &str) -> Result<(), Failure> {
    let what = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .doing(what)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).doing(what)?;
    }
    let output = child.wait_with_output().doing(what)?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!("{}: {}", what(), errors.trim())))
}

/// A bridge with one namespace per node; removed when dropped.
#[derive(Debug)]
pub(super) struct Namespaces {
    bridge: String,
    /// The first two bytes of all addresses are 10 and this, the third is `subnet`.
    net: u8,
    subnet: u8,
    names: Vec<String>,
}

impl Namespaces {
    /// Sets up the hosts of `nodes` nodes.
    pub(super) fn new(nodes: usize) -> Result<Self, Failure> {
        let pid = getpid().as_raw_nonzero().get();
        let byte = |shift: i32| u8::try_from(pid >> shift & 0x7f).unwrap_or(0);
        let mut this = Self {
            bridge: format!("rvc{pid}"),
            net: 100 + byte(7),
            subnet: byte(0),
            names: Vec::new(),
        };
        let bridge = this.bridge.clone();
        run("ip", &["link", "add", &bridge, "type", "bridge"])?;
        let own = format!("{}/24", this.ip(253));
        run("ip", &["addr", "add", &own, "dev", &bridge])?;
        run("ip", &["link", "set", &bridge, "up"])?;
        for node in 0..nodes {
            this.add(node)?;
        }
        Ok(this)
    }

    fn add(&mut self, node: usize) -> Result<(), Failure> {
        let name = format!("{}-{}", self.bridge, node + 1);
        run("ip", &["netns", "add", &name])?;
        // From here on it is removed with the others.
        self.names.push(name.clone());
        let veth = format!("{}v{node}", self.bridge);
        let pair = ["link", "add", &veth, "type", "veth", "peer", "name", "eth0"];
        run("ip", &[&pair[..], &["netns", &name]].concat())?;
        run("ip", &["link", "set", &veth, "master", &self.bridge, "up"])?;
        let address = format!("{}/24", self.address(node));
        run("ip", &["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        run("ip", &["-n", &name, "link", "set", "eth0", "up"])?;
        run("ip", &["-n", &name, "link", "set", "lo", "up"])?;
        let table = "table inet chaos { chain input { type filter hook input priority 0; }\n }\n";
        feed("ip", &["netns", "exec", &name, "nft", "-f", "-"], table)
    }

    fn ip(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.net, self.subnet, last)
    }

    fn address(&self, node: usize) -> Ipv4Addr {
        self.ip(u8::try_from(node + 1).unwrap_or(0))
    }

    /// Where a node listens.
    pub(super) fn ports(&self, node: usize) -> Ports {
        let at = |port| SocketAddr::from((self.address(node), port));
        Ports {
            client: at(CLIENT_PORT),
            cluster: at(CLUSTER_PORT),
            admin: at(ADMIN_PORT),
        }
    }

    /// What runs a program on a node's host.
    pub(super) fn prefix(&self, node: usize) -> Vec<OsString> {
        let name = self.names.get(node).map_or("", String::as_str);
        ["ip", "netns", "exec", name].map(OsString::from).to_vec()
    }

    fn nft(&self, node: usize, commands: &str) -> Result<(), Failure> {
        let name = self.names.get(node).map_or("", String::as_str);
        feed("ip", &["netns", "exec", name, "nft", "-f", "-"], commands)
    }

    /// What `from` sends to `to` vanishes.
    pub(super) fn cut(&self, from: usize, to: usize) -> Result<(), Failure> {
        let source = self.address(from);
        self.nft(
            to,
            &format!("add rule inet chaos input ip saddr {source} drop\n"),
        )
    }

    /// Of what other nodes send to `node`, so many in a hundred packets vanish.
    pub(super) fn lose(&self, node: usize, percent: u64) -> Result<(), Failure> {
        for other in (0..self.names.len()).filter(|other| *other != node) {
            let source = self.address(other);
            let rule = format!(
                "add rule inet chaos input ip saddr {source} numgen random mod 100 < {percent} drop\n"
            );
            self.nft(node, &rule)?;
        }
        Ok(())
    }

    /// Everything that `node` sends, to clients too, goes through a slow link with a long queue.
    pub(super) fn slow(&self, node: usize, kbit_per_s: u64) -> Result<(), Failure> {
        let name = self.names.get(node).map_or("", String::as_str);
        let rate = format!("{kbit_per_s}kbit");
        let at = ["-n", name, "qdisc", "replace", "dev", "eth0", "root", "tbf"];
        let how = ["rate", &rate, "burst", "16kb", "latency", "400ms"];
        run("tc", &[&at[..], &how[..]].concat())
    }

    /// Takes all faults of the network back.
    pub(super) fn heal(&self) -> Result<(), Failure> {
        for (node, name) in self.names.iter().enumerate() {
            self.nft(node, "flush chain inet chaos input\n")?;
            // An error means that there is no queue to be taken away.
            drop(run(
                "tc",
                &["-n", name, "qdisc", "del", "dev", "eth0", "root"],
            ));
        }
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.names {
            drop(run("ip", &["netns", "del", name]));
        }
        drop(run("ip", &["link", "del", &self.bridge]));
    }
}

/// A small disk of its own, in memory; unmounted when dropped.
#[derive(Debug)]
pub(super) struct SmallDisk {
    dir: tempfile::TempDir,
}

/// What is written to fill the disk, at a time.
const FILLER_BYTES: usize = 1 << 20;

impl SmallDisk {
    /// Mounts one of so many MiB.
    pub(super) fn new(mebibytes: u64) -> Result<Self, Failure> {
        let dir = tempfile::Builder::new().prefix("rivven-disk-").tempdir()?;
        let path = dir.path().display().to_string();
        let size = format!("size={mebibytes}m");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &size, "rivven-chaos", &path],
        )?;
        Ok(Self { dir })
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Writes until nothing more fits.
    pub(super) fn fill(&self) -> Result<u64, Failure> {
        let mut file = std::fs::File::create(self.path().join("filler"))?;
        let (block, mut written) = (vec![0; FILLER_BYTES], 0);
        loop {
            match file.write(&block) {
                Ok(0) => return Ok(written),
                Ok(n) => written += u64::try_from(n).unwrap_or(0),
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    return Ok(written);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes room again.
    pub(super) fn free(&self) -> Result<(), Failure> {
        Ok(std::fs::remove_file(self.path().join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, in case something still has a file open; the directory goes with its own value.
        let path = self.dir.path().display().to_string();
        drop(run("umount", &["-l", &path]));
    }
}
