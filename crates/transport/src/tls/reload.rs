//! Certificates that are replaced while the node runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rivven_core_types::NodeName;

use super::bundle::TlsBundle;
use super::config::{Source, TlsConfig};
use crate::error::TransportError;

/// How often the files are looked at.
pub(crate) const WATCH_INTERVAL: Duration = Duration::from_secs(10);

/// What files look like from outside, to notice that one was replaced.
type Stamp = Vec<Option<(SystemTime, u64)>>;

/// The current certificates, and how to read them again.
pub(crate) struct Reloader {
    config: TlsConfig,
    node: NodeName,
    current: ArcSwap<TlsBundle>,
    stamp: Mutex<Stamp>,
}

impl Reloader {
    pub(crate) fn start(config: TlsConfig, node: NodeName) -> Result<Self, TransportError> {
        let stamp = Mutex::new(stamp(&config));
        let bundle = TlsBundle::load(&config, &node)?;
        Ok(Self {
            config,
            node,
            current: ArcSwap::from_pointee(bundle),
            stamp,
        })
    }

    pub(crate) fn current(&self) -> Arc<TlsBundle> {
        self.current.load_full()
    }

    /// Reads the files again and swaps everything at once, if all of it is good; otherwise the old
    /// certificates stay.
    pub(crate) fn reload(&self) -> Result<(), TransportError> {
        let seen = stamp(&self.config);
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        let bundle = TlsBundle::load(&self.config, &self.node)?;
        self.current.store(Arc::new(bundle));
        Ok(())
    }

    /// Whether a file looks different from when it was last read.
    pub(crate) fn is_stale(&self) -> bool {
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) != stamp(&self.config)
    }
}

fn stamp(config: &TlsConfig) -> Stamp {
    let Source::Files(files) = &config.0 else {
        return Stamp::new();
    };
    let paths: [Option<&PathBuf>; 4] = [
        Some(&files.ca),
        Some(&files.certificate),
        Some(&files.key),
        files.denied.as_ref(),
    ];
    paths
        .into_iter()
        .flatten()
        .map(|path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
        .collect()
}
