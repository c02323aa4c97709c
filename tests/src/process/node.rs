//! One node: its directory, its configuration, its process.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::ports::free_address;
use crate::failure::{Doing, Failure};
use crate::status::Status;
use crate::{http, wait};

/// The file with the cluster's secret, beside the configuration.
pub const SECRET_FILE: &str = "secret";
/// The file with the secret before it: empty, but while secrets are rotated.
pub(super) const PREVIOUS_SECRET_FILE: &str = "previous-secret";
/// Longest tail of a log that is put into a failure, in bytes.
const LOG_TAIL_BYTES: usize = 4_000;

/// The addresses of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// For Kafka clients.
    pub client: SocketAddr,
    /// For peers, TCP and UDP.
    pub cluster: SocketAddr,
    /// For HTTP.
    pub admin: SocketAddr,
}

impl Ports {
    /// Three free ports.
    pub fn free() -> Result<Self, Failure> {
        Ok(Self {
            client: free_address()?,
            cluster: free_address()?,
            admin: free_address()?,
        })
    }
}

/// Where and how a node runs.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its addresses.
    pub ports: Ports,
    /// Where its peers reach it, if something stands between them and its cluster port.
    pub advertised_cluster: Option<SocketAddr>,
    /// What starts the binary, if it is not started by itself: a program and its arguments.
    pub prefix: Vec<OsString>,
    /// Variables of its environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Site {
    /// An ordinary process at these addresses.
    pub const fn plain(ports: Ports) -> Self {
        Self {
            ports,
            advertised_cluster: None,
            prefix: Vec::new(),
            env: Vec::new(),
        }
    }
}

/// A node that may run or not. Killed when dropped, unless detached.
#[derive(Debug)]
pub struct NodeProcess {
    /// Its name in the cluster.
    pub name: String,
    /// Its addresses.
    pub ports: Ports,
    site: Site,
    dir: PathBuf,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node whose files are below `dir`; nothing is written or started.
    pub fn new(name: impl Into<String>, dir: impl Into<PathBuf>, ports: Ports) -> Self {
        Self::at(name, dir, Site::plain(ports))
    }

    /// The same at a place of its own.
    pub fn at(name: impl Into<String>, dir: impl Into<PathBuf>, site: Site) -> Self {
        Self {
            name: name.into(),
            ports: site.ports,
            site,
            dir: dir.into(),
            child: None,
        }
    }

    /// Where its peers reach it.
    pub fn cluster_address(&self) -> SocketAddr {
        self.site.advertised_cluster.unwrap_or(self.ports.cluster)
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Its configuration.
    pub fn config_path(&self) -> PathBuf {
        self.dir.join("node.yaml")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// Everything that it ever wrote to its standard streams.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of [`Self::log`], for messages.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let from = log.len().saturating_sub(LOG_TAIL_BYTES);
        let from = (from..log.len())
            .find(|at| log.is_char_boundary(*at))
            .unwrap_or(0);
        let running = if self.child.is_some() {
            ""
        } else {
            ", not running"
        };
        format!(
            "--- log of {}{running} ---\n{}",
            self.name,
            log.get(from..).unwrap_or("")
        )
    }

    /// Writes the configuration.
    pub fn configure(&self, yaml: &str) -> Result<(), Failure> {
        let what = || format!("writing the configuration of {}", self.name);
        std::fs::create_dir_all(&self.dir).doing(what)?;
        std::fs::write(self.config_path(), yaml).doing(what)
    }

    /// Writes the secret that the configuration refers to, and none before it.
    pub fn set_secret(&self, secret: &str) -> Result<(), Failure> {
        self.set_secrets(secret, "")
    }

    /// Writes the secret and the one before it, as an operator does who rotates them.
    pub fn set_secrets(&self, secret: &str, previous: &str) -> Result<(), Failure> {
        std::fs::create_dir_all(&self.dir)?;
        let what = || format!("writing the secrets of {}", self.name);
        std::fs::write(self.dir.join(PREVIOUS_SECRET_FILE), previous).doing(what)?;
        std::fs::write(self.dir.join(SECRET_FILE), secret).doing(what)
    }

    /// Starts the process. `detached` puts it into a process group of its own, so that an interrupt
    /// typed at the terminal does not reach it.
    pub fn spawn(&mut self, binary: &Path, detached: bool) -> Result<(), Failure> {
        let log: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())?;
        let mut command = match self.site.prefix.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command.envs(self.site.env.iter().map(|(name, value)| (name, value)));
        command.arg("--config").arg(self.config_path());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        command.env("NO_COLOR", "1");
        if detached {
            command.process_group(0);
        }
        let child = command
            .spawn()
            .doing(|| format!("starting {}", binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Its process id, while it has not been waited for.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it was started and has not ended. An end is noticed here.
    pub fn is_running(&mut self) -> bool {
        let ended = match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => true,
        };
        if ended {
            self.child = None;
        }
        !ended
    }

    /// SIGKILL; returns once the process is gone.
    pub fn kill(&mut self) -> Result<(), Failure> {
        let Some(mut child) = self.child.take() else {
            return Err(Failure::new(format!("{} is not running", self.name)));
        };
        child.kill()?;
        let status = child.wait()?;
        if status.signal().is_none() {
            let tail = self.log_tail();
            let text = format!(
                "{} had ended before it was killed: {status}\n{tail}",
                self.name
            );
            return Err(Failure::new(text));
        }
        Ok(())
    }

    /// SIGTERM; [`Self::wait_exit`] tells how it ended.
    pub fn terminate(&self) -> Result<(), Failure> {
        self.signal(Signal::TERM)
    }

    /// SIGSTOP: the process keeps its connections and does nothing.
    pub fn freeze(&self) -> Result<(), Failure> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: the process goes on as if nothing had happened.
    pub fn thaw(&self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), Failure> {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| Failure::new(format!("{} is not running", self.name)))?;
        kill_process(pid, signal).doing(|| format!("{signal:?} to {}", self.name))
    }

    /// Waits until the process has ended by itself.
    pub async fn wait_exit(&mut self, limit: Duration) -> Result<ExitStatus, Failure> {
        let what = format!("{} ends", self.name);
        let child = self.child.as_mut();
        let child = child.ok_or_else(|| Failure::new(format!("{} is not running", self.name)))?;
        let ended = wait::until(&what, limit, async || {
            child
                .try_wait()?
                .ok_or_else(|| Failure::new("it still runs"))
        })
        .await;
        match ended {
            Ok(status) => {
                self.child = None;
                Ok(status)
            }
            Err(failure) => Err(self.explain(failure)),
        }
    }

    /// Its `/status`.
    pub async fn status(&self) -> Result<Status, Failure> {
        Status::parse(&http::get(self.ports.admin, "/status").await?.body)
    }

    /// Succeeds if `/readyz` does.
    pub async fn ready(&self) -> Result<(), Failure> {
        let answer = http::get(self.ports.admin, "/readyz").await?;
        if answer.code == 200 {
            return Ok(());
        }
        let reasons = answer.body.replace('\n', " ");
        Err(Failure::new(format!(
            "{} is not ready: {reasons}",
            self.name
        )))
    }

    /// Adds the end of the log to a failure.
    pub fn explain(&self, failure: Failure) -> Failure {
        Failure::new(format!("{failure}\n{}", self.log_tail()))
    }

    /// Lets the process live on when this value is dropped.
    pub fn detach(&mut self) {
        self.child = None;
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended already.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
