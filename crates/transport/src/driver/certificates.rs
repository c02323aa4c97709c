//! Certificates that change, or end, while connections live.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::lifecycle::{Phase, Shared};
use super::secure::identify;
use crate::tls::{TlsBundle, WATCH_INTERVAL};

/// A connection's peer is judged again this often, and at once when our certificates changed.
const JUDGE_EVERY: Duration = Duration::from_secs(60);
/// From this long before the end of our certificate on, a warning an hour.
const WARN_BEFORE: Duration = Duration::from_secs(14 * 86_400);
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// Reads the certificates again whenever a file has changed, until shutdown.
pub(super) async fn watch(shared: Arc<Shared>, _alive: mpsc::Sender<()>) {
    let Some(tls) = &shared.tls else {
        return;
    };
    super::metrics::certificate_ends(tls.current().not_after);
    let mut ticker = interval(WATCH_INTERVAL);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut warned: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shared.reached(Phase::Draining) => return,
        }
        let ends_soon = tls
            .current()
            .not_after
            .is_some_and(|at| at < SystemTime::now() + WARN_BEFORE);
        if ends_soon && warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
            warned = Some(Instant::now());
            tracing::warn!("this node's certificate ends within 14 days; replace its files");
        }
        let again = Arc::clone(&shared);
        let reload = tokio::task::spawn_blocking(move || {
            let tls = again.tls.as_ref()?;
            tls.is_stale().then(|| again.reload_certificates())
        });
        match reload.await {
            Ok(Some(Ok(()))) => tracing::info!("read the new certificates"),
            Ok(Some(Err(error))) => {
                tracing::warn!("the new certificates are not used, the old ones stay: {error}");
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// The peer of one connection, judged again and again.
pub(super) struct Judge {
    chain: Vec<CertificateDer<'static>>,
    by: Option<Arc<TlsBundle>>,
    at: Instant,
}

impl Judge {
    pub(super) fn new(shared: &Shared, chain: Vec<CertificateDer<'static>>) -> Self {
        Self {
            chain,
            by: shared
                .tls
                .as_ref()
                .map(super::super::tls::Reloader::current),
            at: Instant::now(),
        }
    }

    /// Why the peer is trusted no longer, if so.
    pub(super) fn objection(&mut self, shared: &Shared) -> Option<String> {
        let current = shared.tls.as_ref()?.current();
        let by = self.by.as_ref()?;
        if Arc::ptr_eq(by, &current) && self.at.elapsed() < JUDGE_EVERY {
            return None;
        }
        let judged = identify(&current, &self.chain);
        (self.by, self.at) = (Some(current), Instant::now());
        judged.err().map(|e| format!("trusted no longer: {e}"))
    }
}
