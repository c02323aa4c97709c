//! librdkafka as a client, through a program in Python that says line by line what it sees.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::workload::Shared;
use crate::check::Stamp;
use crate::failure::{Doing, Failure};
use crate::process::workspace_root;
use crate::wait;

/// The producer and the consumer, as the checker knows them.
const PRODUCER: u32 = 7;
const CONSUMER: u32 = 7;
/// From one burst of records to the next.
const TICK: Duration = Duration::from_millis(50);
/// Records per burst.
const BURST: u32 = 10;
const RECORD_BYTES: usize = 120;
/// Warnings that are kept.
const MAX_WARNINGS: usize = 20;
/// Lines that may wait for their acknowledgement before no more are written.
const MAX_UNACKED: usize = 50_000;

/// The Python that has confluent-kafka, if there is one.
pub(super) async fn python() -> Option<String> {
    let python = std::env::var("RIVVEN_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut check = Command::new(&python);
    check.args(["-c", "import confluent_kafka"]);
    check.stdout(Stdio::null()).stderr(Stdio::null());
    let works = check.status().await.is_ok_and(|status| status.success());
    works.then_some(python)
}

/// What was sent and not acknowledged yet, by line.
#[derive(Debug, Default)]
struct Lines {
    sent: Vec<(Stamp, u32, Instant)>,
    settled: usize,
    warnings: Vec<String>,
}

/// The client at work.
#[derive(Debug)]
pub(super) struct Librdkafka {
    pub(super) seen: Shared,
    child: Child,
    stop: watch::Sender<bool>,
    tasks: JoinSet<Result<(), Failure>>,
    lines: Arc<Mutex<Lines>>,
}

impl Librdkafka {
    /// Starts it on a topic of so many partitions.
    pub(super) fn start(
        python: &str,
        brokers: &[SocketAddr],
        topic: &str,
        partitions: u32,
    ) -> Result<Self, Failure> {
        let brokers: Vec<String> = brokers.iter().map(ToString::to_string).collect();
        let mut child = Command::new(python)
            .arg(workspace_root().join("tests/data/librdkafka_client.py"))
            .args([brokers.join(","), topic.to_owned(), partitions.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .doing(|| format!("starting {python}"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or_else(|| Failure::new("a child without pipes"))?;
        let (seen, lines) = (Shared::default(), Arc::new(Mutex::new(Lines::default())));
        for partition in 0..partitions {
            seen.lock().log.seek(CONSUMER, partition, 0);
        }
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(feed(
            stdin,
            partitions,
            seen.clone(),
            Arc::clone(&lines),
            stopped,
        ));
        tasks.spawn(listen(stdout, seen.clone(), Arc::clone(&lines)));
        Ok(Self {
            seen,
            child,
            stop,
            tasks,
            lines,
        })
    }

    /// Lets it finish; returns what was seen, and its warnings.
    pub(super) async fn stop(mut self, limit: Duration) -> Result<(Shared, Vec<String>), Failure> {
        self.stop.send_replace(true);
        let ending = async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.doing(|| "a task of librdkafka's".to_owned())??;
            }
            self.child.wait().await.doing(|| "librdkafka".to_owned())
        };
        let ended = tokio::time::timeout(limit, ending).await;
        let late = |_| Failure::new("librdkafka does not end");
        let status = ended.map_err(late)??;
        let lines = std::mem::take(&mut *lock(&self.lines));
        if !status.success() {
            let said = lines.warnings.join("\n");
            return Err(Failure::new(format!(
                "librdkafka ended with {status}\n{said}"
            )));
        }
        Ok((self.seen, lines.warnings))
    }
}

fn lock(lines: &Mutex<Lines>) -> std::sync::MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes lines until told to stop; the end of its input tells the client.
async fn feed(
    mut stdin: ChildStdin,
    partitions: u32,
    seen: Shared,
    lines: Arc<Mutex<Lines>>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Failure> {
    while !*stopped.borrow() {
        let unacked = {
            let lines = lock(&lines);
            lines.sent.len() - lines.settled
        };
        for _ in 0..if unacked < MAX_UNACKED { BURST } else { 0 } {
            let line = {
                let mut seen = seen.lock();
                let partition = seen.log.sent_by(PRODUCER) % partitions;
                let stamp = seen.log.send(PRODUCER, partition);
                lock(&lines).sent.push((stamp, partition, Instant::now()));
                format!("{partition} {}\n", stamp.encode(RECORD_BYTES))
            };
            let written = stdin.write_all(line.as_bytes()).await;
            written.doing(|| "writing to librdkafka".to_owned())?;
        }
        wait::pause(TICK).await;
    }
    Ok(())
}

/// Takes in what the client says.
async fn listen(
    stdout: ChildStdout,
    seen: Shared,
    lines: Arc<Mutex<Lines>>,
) -> Result<(), Failure> {
    let mut said = BufReader::new(stdout).lines();
    while let Some(line) = said.next_line().await? {
        let not_understood = || Failure::new(format!("librdkafka said {line:?}"));
        let (kind, rest) = line.split_once(' ').ok_or_else(not_understood)?;
        let mut words = rest.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<i64>().ok());
        match kind {
            "a" | "f" => {
                let (index, value) = number().zip(number()).ok_or_else(not_understood)?;
                let (stamp, partition, at) = {
                    let mut lines = lock(&lines);
                    lines.settled += 1;
                    let index = usize::try_from(index).ok();
                    let sent = index.and_then(|index| lines.sent.get(index));
                    *sent.ok_or_else(not_understood)?
                };
                if kind == "a" {
                    seen.acked(stamp, partition, Some(value), at.elapsed());
                } else {
                    // A failure says that it is not known to have been written, no more.
                    *seen
                        .lock()
                        .setbacks
                        .entry(format!("code {value}"))
                        .or_default() += 1;
                }
            }
            "r" => {
                let (partition, offset) = number().zip(number()).ok_or_else(not_understood)?;
                let partition = u32::try_from(partition).map_err(|_| not_understood())?;
                let stamp = Stamp::decode(words.next().unwrap_or_default().as_bytes());
                let mut seen = seen.lock();
                seen.log.polled(CONSUMER, partition, offset, stamp);
            }
            "w" => {
                let mut lines = lock(&lines);
                if lines.warnings.len() < MAX_WARNINGS {
                    lines.warnings.push(rest.to_owned());
                }
            }
            _ => return Err(not_understood()),
        }
    }
    Ok(())
}
