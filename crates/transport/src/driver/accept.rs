//! The accept loop, and the handshakes of those who come.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rivven_core_types::RpcHandler;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::dial::{Shaken, respond, secure_incoming};
use super::lifecycle::{Phase, Shared};
use super::server::Serve;
use super::{metrics, socket};
use crate::error::HandshakeError;

/// Pauses after a failed accept (no file descriptors left, say), which would otherwise spin.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts until shutdown.
pub(super) async fn accept_loop(
    shared: Arc<Shared>,
    listener: std::net::TcpListener,
    handler: Arc<dyn RpcHandler>,
    alive: mpsc::Sender<()>,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => {
            tracing::error!("cannot accept connections: {e}");
            return;
        }
    };
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.reached(Phase::Draining) => return,
        };
        match accepted {
            Ok((stream, remote)) => {
                pause = ACCEPT_PAUSE_MIN;
                let place = shared.door.admit(remote.ip(), shared.limits());
                let permit = Arc::clone(&shared.accepted).try_acquire_owned();
                // Both are taken before anything is spawned or read.
                let (Some(place), Ok(permit)) = (place, permit) else {
                    metrics::handshake_failed("too_many_connections");
                    if shared.may_warn("too_many_connections") {
                        tracing::warn!(address = %remote, "too many connections; closed this one");
                    }
                    continue;
                };
                let (shared, handler) = (Arc::clone(&shared), Arc::clone(&handler));
                let alive = alive.clone();
                tokio::spawn(async move {
                    let welcomed = welcome(&shared, stream, remote).await;
                    drop(place);
                    if let Some(shaken) = welcomed {
                        let runtime = shared.runtime(shaken.established.lane).clone();
                        let serve = Serve {
                            shared,
                            handler,
                            peer: shaken.established.peer.clone(),
                        };
                        runtime.spawn(serve.run(shaken, permit, alive));
                    }
                });
            }
            Err(e) => {
                if shared.may_warn("accept") {
                    tracing::warn!("cannot accept a connection, trying again in {pause:?}: {e}");
                }
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

/// Shakes hands. The socket comes back without a runtime, for its lane may live on another one.
async fn welcome(shared: &Shared, stream: TcpStream, remote: SocketAddr) -> Option<Shaken> {
    let limits = shared.limits();
    let began = Instant::now();
    let io = |e: std::io::Error| HandshakeError::Io(e.to_string());
    let shaken = async {
        socket::configure(&stream, limits.write_stall).map_err(io)?;
        let shaken = timeout(limits.handshake_timeout, async {
            respond(shared, secure_incoming(shared, stream).await?).await
        });
        let mut shaken = shaken.await.unwrap_or(Err(HandshakeError::Timeout))?;
        metrics::shaken_hands("in", shaken.link.carrier(), began.elapsed());
        shaken.link.park().map_err(io)?;
        Ok(shaken)
    };
    let shaken = tokio::select! {
        shaken = shaken => shaken,
        () = shared.reached(Phase::Draining) => return None,
    };
    shaken
        .map_err(|error| shared.handshake_failed("accepted", &remote.to_string(), &error))
        .ok()
}
