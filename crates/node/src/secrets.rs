//! Secrets that are replaced while the node runs: their files are looked at again and again, as those of
//! certificates are.

use std::time::Duration;

use rivven_cluster::coordinator::{ClusterCoordinator, ClusterMode};
use rivven_cluster::transport::Security;

use crate::config::{SecretFiles, Secrets};

/// How often the files are looked at. They are small, and a rotation waits for it twice.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Follows the files; whatever is wrong with new ones, the old secrets stay. Runs until aborted.
pub(crate) async fn watch(
    mut files: SecretFiles,
    security: Security,
    coordinator: ClusterCoordinator,
) {
    let mut seen = files.held.clone();
    let mut complained = String::new();
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        match look(&mut files, &mut seen, &security, &coordinator).await {
            Ok(false) => complained.clear(),
            Ok(true) => {
                complained.clear();
                count("ok");
                tracing::info!(file = %files.primary.display(), "replaced the secrets");
            }
            // What stays wrong is said once.
            Err(reason) if reason == complained => {}
            Err(reason) => {
                count("failed");
                tracing::warn!(%reason, "the new secrets are not used; the old ones stay");
                complained = reason;
            }
        }
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("rivven_secret_reloads_total", "outcome" => outcome).increment(1);
}

/// Uses what the files hold now, if that is something else; whether it was.
async fn look(
    files: &mut SecretFiles,
    seen: &mut Secrets,
    security: &Security,
    coordinator: &ClusterCoordinator,
) -> Result<bool, String> {
    let read = files.clone();
    let found = tokio::task::spawn_blocking(move || read.read()).await;
    let found = found.map_err(|e| e.to_string())??;
    // A file that is just being written, or one of two, is not taken for the whole.
    let settled = found == *seen;
    seen.clone_from(&found);
    if !settled || found == files.held {
        return Ok(false);
    }
    let transport = found.transport().map_err(|e| e.to_string())?;
    let swim = found.swim().map_err(|e| e.to_string())?;
    match coordinator.membership() {
        // The one that can refuse goes first.
        Some(membership) => {
            let replaced = membership.replace_secrets(swim).await;
            replaced.map_err(|e| e.to_string())?;
        }
        None if coordinator.config().mode == ClusterMode::Standalone => {}
        // A node that joins needs it for that; the detector, which starts with the old one, gets it at
        // a look after it has started.
        None => {
            if let Security::SharedSecret(secret) = security {
                secret.replace(&transport);
            }
            return Ok(false);
        }
    }
    if let Security::SharedSecret(secret) = security {
        secret.replace(&transport);
    }
    files.held = found;
    Ok(true)
}
