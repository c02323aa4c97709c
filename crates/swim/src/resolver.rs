//! Names to addresses, in the background: a slow name server never holds up a probe.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use rivven_core_types::{Address, MonoTime};
use tokio::task::JoinSet;

/// How long an answer is used before it is asked for again; a peer that moves is found by then.
const REFRESH: Duration = Duration::from_secs(30);
/// Pause after a failed lookup.
const RETRY: Duration = Duration::from_secs(1);
/// Most addresses kept of one name.
const MAX_ADDRESSES_PER_NAME: usize = 4;
/// Most names kept.
const MAX_NAMES: usize = 16 * 1024;
/// Most lookups at once.
const MAX_LOOKUPS: usize = 64;

/// What a finished lookup brings.
pub(crate) type Resolved = (Address, Vec<SocketAddr>);

#[derive(Debug, Default)]
struct Cached {
    addresses: Vec<SocketAddr>,
    ask_again_at: MonoTime,
    in_flight: bool,
}

/// A cache of names, filled by background lookups.
#[derive(Debug)]
pub(crate) struct Resolver {
    ipv4: bool,
    names: BTreeMap<Address, Cached>,
    lookups: JoinSet<Resolved>,
}

impl Resolver {
    /// A resolver of addresses that a socket bound to `local` can send to.
    pub(crate) fn new(local: SocketAddr) -> Self {
        Self {
            ipv4: local.is_ipv4(),
            names: BTreeMap::new(),
            lookups: JoinSet::new(),
        }
    }

    /// The addresses known of `to` now. A name not known yet has none: its lookup is started, and
    /// whoever sends will send again.
    pub(crate) fn addresses(&mut self, now: MonoTime, to: &Address) -> Vec<SocketAddr> {
        if !self.names.contains_key(to) {
            if self.names.len() >= MAX_NAMES {
                self.names.pop_first();
            }
            self.names.insert(to.clone(), Cached::default());
        }
        let Some(cached) = self.names.get_mut(to) else {
            return Vec::new();
        };
        let due = cached.addresses.is_empty() || cached.ask_again_at <= now;
        let allowed = !cached.in_flight && cached.ask_again_at <= now;
        if due && allowed && self.lookups.len() < MAX_LOOKUPS {
            cached.in_flight = true;
            self.lookups.spawn(look_up(to.clone(), self.ipv4));
        }
        cached.addresses.clone()
    }

    /// The next finished lookup; never, while none runs. Cancel safe.
    pub(crate) async fn next(&mut self) -> Resolved {
        loop {
            match self.lookups.join_next().await {
                Some(Ok(resolved)) => return resolved,
                // A lookup ends in a join error only when the runtime shuts down.
                Some(Err(_)) => {}
                None => return std::future::pending().await,
            }
        }
    }

    /// Keeps what a lookup brought; a failed one keeps the old answer and is tried again.
    pub(crate) fn store(&mut self, now: MonoTime, (name, addresses): Resolved) {
        let Some(cached) = self.names.get_mut(&name) else {
            return;
        };
        cached.in_flight = false;
        let failed = addresses.is_empty();
        cached.ask_again_at = now + if failed { RETRY } else { REFRESH };
        if !failed {
            cached.addresses = addresses;
        }
    }
}

async fn look_up(name: Address, ipv4: bool) -> Resolved {
    let host = name.host().to_owned();
    let found = tokio::net::lookup_host((host.as_str(), name.port())).await;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    match found {
        Ok(found) => addresses.extend(
            found
                .filter(|address| address.is_ipv4() == ipv4)
                .take(MAX_ADDRESSES_PER_NAME),
        ),
        Err(error) => tracing::debug!(%name, %error, "cannot resolve a peer"),
    }
    (name, addresses)
}
