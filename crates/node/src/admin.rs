//! The admin port: `/livez`, `/readyz`, `/status` and `/metrics` over a few lines of HTTP/1.1.
//!
//! Liveness never depends on the cluster: an orchestrator that kills nodes for want of a quorum would
//! finish off the survivors. Only GET is answered, requests are bounded, and each connection carries
//! one.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rivven_cluster::coordinator::{ClusterCoordinator, HealthState};
use rivven_cluster::metrics::PrometheusHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Longest request head, in bytes.
const MAX_REQUEST_BYTES: usize = 8 * 1024;
/// Connections answered at once.
const MAX_CONNECTIONS: usize = 64;
/// How long one connection may take in all.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);
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
                        let answered = this.answer(stream);
                        if tokio::time::timeout(CONNECTION_TIMEOUT, answered)
                            .await
                            .is_err()
                        {
                            tracing::debug!("an admin connection took too long");
                        }
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
        let mut head = Vec::with_capacity(1024);
        let mut buffer = [0u8; 1024];
        let answer = loop {
            if head.windows(4).any(|w| w == b"\r\n\r\n") {
                break self.route(&head);
            }
            if head.len() >= MAX_REQUEST_BYTES {
                break Answer::text("431 Request Header Fields Too Large", "too long\n");
            }
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => head.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            }
        };
        let response = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}",
            answer.status,
            answer.content_type,
            answer.body.len(),
            answer.body
        );
        if let Err(error) = stream.write_all(response.as_bytes()).await {
            tracing::debug!(%error, "an admin client went away");
        }
    }

    fn route(&self, head: &[u8]) -> Answer {
        let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        if method != "GET" {
            return Answer::text("405 Method Not Allowed", "only GET\n");
        }
        match target.split('?').next().unwrap_or("") {
            "/livez" => Answer::text("200 OK", "ok\n"),
            "/readyz" => self.readiness(),
            "/status" => self.status(),
            "/metrics" => Answer {
                status: "200 OK",
                content_type: "text/plain; version=0.0.4; charset=utf-8",
                body: self.metrics.render(),
            },
            _ => Answer::text(
                "404 Not Found",
                "try /livez, /readyz, /status or /metrics\n",
            ),
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
             \"under_min_isr_partitions\":{},\"fenced\":{}}}\n",
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
        );
        Answer {
            status: "200 OK",
            content_type: "application/json",
            body,
        }
    }
}
