//! Those who come over QUIC.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{Connection, RecvStream, SendStream};
use rivven_core_types::RpcHandler;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

use super::{CLOSED, Lane, ended, peer_of};
use crate::driver::admission::Place;
use crate::driver::dial::{Secured, Shaken, respond};
use crate::driver::early;
use crate::driver::lifecycle::{Phase, Shared};
use crate::driver::link::Link;
use crate::driver::metrics;
use crate::driver::server::Serve;
use crate::error::HandshakeError;

/// Strangers in the handshake from which on a new one has to prove its address first (RFC 9000, section
/// 8.1.2).
const CROWD: usize = 64;

/// Accepts until shutdown.
pub(in crate::driver) async fn accept_loop(
    shared: Arc<Shared>,
    handler: Arc<dyn RpcHandler>,
    alive: mpsc::Sender<()>,
) {
    let Some(quic) = &shared.quic else {
        return;
    };
    loop {
        let incoming = tokio::select! {
            incoming = quic.endpoint.accept() => incoming,
            () = shared.reached(Phase::Draining) => return,
        };
        let Some(incoming) = incoming else {
            return;
        };
        let remote = incoming.remote_address();
        if !incoming.remote_address_validated() && shared.door.crowd() >= CROWD {
            // A forged source address never sees the token.
            let _asked = incoming.retry().is_ok();
            continue;
        }
        let Some(place) = shared.door.admit(remote.ip(), shared.limits()) else {
            metrics::handshake_failed("too_many_connections");
            incoming.refuse();
            continue;
        };
        let visit = Visit {
            shared: Arc::clone(&shared),
            handler: Arc::clone(&handler),
            remote,
            alive: alive.clone(),
        };
        tokio::spawn(async move { visit.receive(incoming, place).await });
    }
}

/// One accepted connection.
struct Visit {
    shared: Arc<Shared>,
    handler: Arc<dyn RpcHandler>,
    remote: SocketAddr,
    alive: mpsc::Sender<()>,
}

impl Visit {
    async fn receive(self, incoming: quinn::Incoming, place: Place) {
        let limits = self.shared.limits();
        let shaken = timeout(limits.handshake_timeout, self.shake_hands(incoming)).await;
        drop(place);
        let connection = match shaken.unwrap_or(Err(HandshakeError::Timeout)) {
            Ok(connection) => connection,
            Err(error) => return self.failed(&error),
        };
        loop {
            let stream = tokio::select! {
                stream = connection.accept_bi() => stream,
                () = self.shared.reached(Phase::Draining) => return,
            };
            let Ok(stream) = stream else {
                return;
            };
            if !self.welcome(&connection, stream) {
                return;
            }
        }
    }

    /// The handshake of QUIC. Where early data is taken, one stream of it is looked at meanwhile.
    async fn shake_hands(
        &self,
        incoming: quinn::Incoming,
    ) -> Result<Arc<Connection>, HandshakeError> {
        let connecting = incoming.accept().map_err(|e| ended(&e))?;
        let takes_early = self
            .shared
            .quic
            .as_ref()
            .is_some_and(|q| q.config.early_data);
        let connecting = if takes_early {
            connecting.into_0rtt()
        } else {
            Err(connecting)
        };
        let (connection, mut finished) = match connecting {
            Ok((connection, finished)) => (Arc::new(connection), finished),
            Err(connecting) => return connecting.await.map(Arc::new).map_err(|e| ended(&e)),
        };
        let mut taken = false;
        loop {
            tokio::select! {
                biased;
                _ = &mut finished => break,
                stream = connection.accept_bi(), if !taken => {
                    taken = true;
                    if !self.welcome(&connection, stream.map_err(|e| ended(&e))?) {
                        return Err(HandshakeError::Unexpected);
                    }
                }
            }
        }
        connection
            .close_reason()
            .map_or(Ok(connection), |e| Err(ended(&e)))
    }

    /// Meets the peer on a new stream; whether it is one that we trust.
    fn welcome(&self, connection: &Arc<Connection>, stream: (SendStream, RecvStream)) -> bool {
        let Some(tls) = &self.shared.tls else {
            return false;
        };
        let (proven, chain) = match peer_of(&tls.current(), connection) {
            Ok(peer) => peer,
            Err(error) => {
                connection.close(CLOSED, b"untrusted");
                self.failed(&error);
                return false;
            }
        };
        let Ok(permit) = Arc::clone(&self.shared.accepted).try_acquire_owned() else {
            metrics::handshake_failed("too_many_connections");
            return true;
        };
        let lane = Lane::new(Arc::clone(connection), stream, chain);
        let secured = (Link::Quic(lane), Some(proven));
        tokio::spawn(welcome(
            Arc::clone(&self.shared),
            Arc::clone(&self.handler),
            secured,
            self.remote,
            permit,
            self.alive.clone(),
        ));
        true
    }

    fn failed(&self, error: &HandshakeError) {
        let remote = self.remote.to_string();
        self.shared.handshake_failed("accepted", &remote, error);
    }
}

/// Shakes hands on a stream and serves its lane.
async fn welcome(
    shared: Arc<Shared>,
    handler: Arc<dyn RpcHandler>,
    secured: Secured,
    remote: SocketAddr,
    permit: OwnedSemaphorePermit,
    alive: mpsc::Sender<()>,
) {
    let began = Instant::now();
    let shaken = timeout(shared.limits().handshake_timeout, respond(&shared, secured));
    let shaken: Shaken = match shaken.await.unwrap_or(Err(HandshakeError::Timeout)) {
        Ok(shaken) => shaken,
        Err(error) => {
            shared.handshake_failed("accepted", &remote.to_string(), &error);
            return;
        }
    };
    metrics::shaken_hands("in", "quic", began.elapsed());
    let runtime = shared.runtime(shaken.established.lane).clone();
    if shaken.early {
        let closing = Arc::clone(&shared);
        runtime.spawn(async move {
            tokio::select! {
                () = early::answer(shared, handler, shaken, permit, alive) => {}
                () = closing.reached(Phase::Closed) => {}
            }
        });
        return;
    }
    let peer = shaken.established.peer.clone();
    let serve = Serve {
        shared,
        handler,
        peer,
    };
    runtime.spawn(serve.run(shaken, permit, alive));
}
