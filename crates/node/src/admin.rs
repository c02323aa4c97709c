//! The admin port: `/livez`, `/readyz`, `/status`, `/metrics` and `/cluster` over a few lines of
//! HTTP/1.1.
//!
//! Liveness never depends on the cluster: an orchestrator that kills nodes for want of a quorum would
//! finish off the survivors. Requests have no body, are bounded, and each connection carries one. What
//! changes the cluster is a POST with the header `Rivven-Admin`, which no web page can send unasked.

mod cluster;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rivven_cluster::coordinator::{ClusterCoordinator, HealthState};
use rivven_cluster::metrics::PrometheusHandle;

use crate::placement::{self, Refusal, Target};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use cluster::Parameters;

/// Longest request head, in bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Connections answered at once.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take to send its request, and as long to take the answer.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
/// How long finding the answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The header that a changing request must have.
const ADMIN_HEADER: &str = "rivven-admin:";
/// Pause after a failed accept (no file descriptor left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the admin port shows.
#[derive(Clone, Debug)]
pub(crate) struct Admin {
    pub(crate) coordinator: ClusterCoordinator,
    pub(crate) metrics: PrometheusHandle,
}

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

impl Answer {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }
}

/// The head of a request.
enum Head {
    Whole(Vec<u8>),
    TooLong,
}

/// Reads up to the end of the head; `None` when the client goes away before.
async fn read_head(stream: &mut TcpStream) -> Option<Head> {
    let mut head = Vec::with_capacity(1024);
    let mut buffer = [0u8; 1024];
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if head.len() >= MAX_REQUEST_BYTES {
            return Some(Head::TooLong);
        }
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => head.extend_from_slice(buffer.get(..n).unwrap_or_default()),
        }
    }
    Some(Head::Whole(head))
}

/// What placement said, as HTTP.
fn placed(outcome: Result<String, Refusal>, asked: &Target<'_>) -> Answer {
    match outcome {
        Ok(body) if asked.wants_json() => Answer {
            status: "200 OK",
            content_type: "application/json",
            body,
        },
        Ok(body) => Answer::text("200 OK", body),
        Err(Refusal::Bad(reason)) => Answer::text("400 Bad Request", reason + "\n"),
        Err(Refusal::Failed(error)) => Answer::text("409 Conflict", format!("{error}\n")),
        Err(Refusal::Unknown) => {
            Answer::text("404 Not Found", "try /placement or /placement/plan\n")
        }
    }
}

impl Admin {
    /// Answers until aborted.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let this = self.clone();
                    tokio::spawn(async move {
                        this.answer(stream).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an admin connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn answer(&self, mut stream: TcpStream) {
        let late = |_| tracing::debug!("an admin connection took too long");
        let head = match timeout(CONNECTION_TIMEOUT, read_head(&mut stream)).await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(elapsed) => return late(elapsed),
        };
        let answer = match head {
            Head::Whole(head) => match timeout(ANSWER_TIMEOUT, self.route(&head)).await {
                Ok(answer) => answer,
                Err(_) => Answer::text("504 Gateway Timeout", "the cluster has not answered\n"),
            },
            Head::TooLong => Answer::text("431 Request Header Fields Too Large", "too long\n"),
        };
        let response = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            answer.status,
            answer.content_type,
            answer.body.len(),
            answer.body
        );
        match timeout(CONNECTION_TIMEOUT, stream.write_all(response.as_bytes())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "an admin client went away"),
            Err(elapsed) => late(elapsed),
        }
    }

    async fn route(&self, head: &[u8]) -> Answer {
        let head = String::from_utf8_lossy(head);
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let (path, parameters) = target.split_once('?').unwrap_or((target, ""));
        match method {
            "GET" if path.starts_with("/placement") => {
                let asked = Target::parse(target);
                placed(placement::show(&self.coordinator, &asked), &asked)
            }
            "GET" => self.show(path, &Parameters(parameters)),
            "POST" if lines.any(|line| line.to_ascii_lowercase().starts_with(ADMIN_HEADER)) => {
                self.change(path, &Parameters(parameters)).await
            }
            "POST" => Answer::text("403 Forbidden", "the header Rivven-Admin: 1 is missing\n"),
            _ => Answer::text("405 Method Not Allowed", "only GET and POST\n"),
        }
    }

    fn show(&self, path: &str, parameters: &Parameters<'_>) -> Answer {
        match path {
            "/livez" => Answer::text("200 OK", "ok\n"),
            "/readyz" => self.readiness(),
            "/status" => self.status(),
            "/cluster" => cluster::show(&self.coordinator, parameters),
            "/metrics" => Answer {
                status: "200 OK",
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: self.metrics.render(),
            },
            _ => Answer::text(
                "404 Not Found",
                "try /livez, /readyz, /status, /cluster or /metrics\n",
            ),
        }
    }

    async fn change(&self, path: &str, parameters: &Parameters<'_>) -> Answer {
        match path {
            _ if path.starts_with("/placement") => {
                let asked = Target::new(path, parameters.0);
                let done = placement::command(&self.coordinator, &asked).await;
                placed(done, &asked)
            }
            "/cluster/remove-node" => cluster::remove_node(&self.coordinator, parameters).await,
            "/cluster/transfer" => cluster::transfer(&self.coordinator, parameters).await,
            _ => Answer::text("404 Not Found", "nothing can be changed there\n"),
        }
    }

    fn readiness(&self) -> Answer {
        let health = self.coordinator.health();
        let session = self.coordinator.session();
        let checks = [
            ("controller known", health.has_controller),
            ("registered", session.local.is_some()),
            ("not fenced", !session.fenced),
            ("logs sound", health.failed_local_logs == 0),
            (
                "no failure",
                self.coordinator.watch_failure().borrow().is_none(),
            ),
        ];
        let mut body = String::new();
        for (name, ok) in checks {
            // Writing to a String cannot fail.
            writeln!(body, "[{}] {name}", if ok { '+' } else { '-' }).unwrap_or_default();
        }
        if checks.iter().all(|(_, ok)| *ok) {
            Answer::text("200 OK", body)
        } else {
            Answer::text("503 Service Unavailable", body)
        }
    }

    fn status(&self) -> Answer {
        let health = self.coordinator.health();
        let raft = self.coordinator.raft_status();
        let state = self.coordinator.cluster_state();
        let local = self.coordinator.session().local;
        let levels = local.map(|local| state.levels_of(local.id));
        let verdict = match health.state {
            HealthState::Healthy => "healthy",
            HealthState::Degraded => "degraded",
            HealthState::Unhealthy => "unhealthy",
        };
        let or_null = |text: Option<String>| text.unwrap_or_else(|| "null".to_owned());
        let quoted = |text: Option<String>| or_null(text.map(|t| format!("\"{t}\"")));
        let body = format!(
            "{{\"node\":\"{}\",\"broker\":{},\"node_epoch\":{},\"cluster\":{},\"health\":\"{verdict}\",\
             \"controller\":{},\"term\":{},\"applied\":{},\"metadata_hash\":\"{:016x}\",\
             \"brokers\":{},\"active_brokers\":{},\"topics\":{},\"partitions\":{},\
             \"offline_partitions\":{},\"under_replicated_partitions\":{},\
             \"under_min_isr_partitions\":{},\"fenced\":{},\"metadata_level\":{},\"levels\":{}}}\n",
            self.coordinator.config().node.name,
            or_null(local.map(|l| l.id.to_string())),
            or_null(local.map(|l| l.node_epoch.to_string())),
            quoted(state.cluster_id().map(|id| id.to_string())),
            quoted(raft.leader.map(|leader| leader.to_string())),
            raft.term,
            state.applied(),
            state.hash(),
            health.node_count,
            health.healthy_nodes,
            health.topic_count,
            health.partition_count,
            health.offline_partitions,
            health.under_replicated_partitions,
            health.under_min_isr_partitions,
            !health.is_active,
            state.level(),
            or_null(levels.map(|l| format!("[{},{}]", l.min, l.max))),
        );
        Answer {
            status: "200 OK",
            content_type: "application/json",
            body,
        }
    }
}
