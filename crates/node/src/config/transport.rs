//! What nodes talk over: from keys to the settings of the transport.

use rivven_cluster::transport::{Compression, Security};
use rivven_cluster::types::Address;

use super::error::ConfigError;
use super::model;
use super::validate::Place;

const QUIC: &str = "cluster.quic_addr";
const ADVERTISED: &str = "cluster.advertised_quic_addr";
const EARLY_DATA: &str = "cluster.quic_early_data";
const UNUSED: &str = "only transport: quic uses it; remove it, or choose that";

/// QUIC beside TCP.
#[derive(Debug, Clone)]
pub struct QuicOptions {
    /// Where to listen.
    pub listen: Address,
    /// Where peers are told to come.
    pub advertised: Address,
    /// Whether calls that only ask may go with the first packet of a reconnection.
    pub early_data: bool,
}

/// The addresses of QUIC, if the file asks for it. Unless it says otherwise they are those of TCP, one
/// port up: the failure detector has the same port on UDP.
pub(super) fn quic(
    place: &Place<'_>,
    cluster: &model::Cluster,
    security: &Security,
    (listen, advertised): (&Address, &Address),
) -> Result<Option<QuicOptions>, ConfigError> {
    let wanted = cluster.transport.as_ref();
    let Some(at) = wanted.filter(|at| at.value == model::Transport::Quic) else {
        for (key, unused) in [
            (QUIC, &cluster.quic_addr),
            (ADVERTISED, &cluster.advertised_quic_addr),
        ] {
            if let Some(unused) = unused {
                return Err(place.invalid(unused, key, UNUSED));
            }
        }
        if let Some(unused) = &cluster.quic_early_data {
            return Err(place.invalid(unused, EARLY_DATA, UNUSED));
        }
        return Ok(None);
    };
    if !matches!(security, Security::MutualTls(_)) {
        let reason = "quic is encrypted and proves peers by certificates: it needs security: { mode: \
                      mutual_tls, .. }";
        return Err(place.invalid(at, "cluster.transport", reason));
    }
    let one_up = |address: &Address| {
        let port = address.port().checked_add(1)?;
        Address::new(address.host(), port).ok()
    };
    let no_port = |key, of| {
        let reason = format!("there is no port above that of {of}");
        place.missing(key, &reason)
    };
    // What the file says needs no default, which there may not be.
    let default = match &cluster.quic_addr {
        Some(_) => String::new(),
        None => {
            let default = one_up(listen).ok_or_else(|| no_port(QUIC, "cluster_addr"))?;
            default.to_string()
        }
    };
    let told = match (&cluster.quic_addr, &cluster.advertised_quic_addr) {
        (None, None) => {
            let told = one_up(advertised);
            let told = told.ok_or_else(|| no_port(ADVERTISED, "advertised_cluster_addr"))?;
            Some(told.to_string())
        }
        _ => None,
    };
    let (quic, advertised) = place.listen_and_advertise(
        cluster.quic_addr.as_ref(),
        cluster.advertised_quic_addr.as_ref(),
        (&default, told.as_deref()),
        (QUIC, ADVERTISED),
    )?;
    if let Some(at) = cluster.quic_addr.as_ref().filter(|_| quic == *listen) {
        let reason =
            "is cluster_addr, whose UDP port belongs to the failure detector; choose another port";
        return Err(place.invalid(at, QUIC, reason));
    }
    Ok(Some(QuicOptions {
        listen: quic,
        advertised,
        early_data: cluster.quic_early_data.as_ref().is_some_and(|at| at.value),
    }))
}

pub(super) const fn compression(compression: Option<model::Compression>) -> Compression {
    match compression {
        Some(model::Compression::Zstd) => Compression::Zstd,
        Some(model::Compression::None) | None => Compression::None,
    }
}
