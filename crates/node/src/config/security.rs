//! How peers prove who they are: from keys to the modes of the transport and of SWIM.

use rivven_cluster::swim::{SharedSecret, SwimSecurity};
use rivven_cluster::transport::{Secret, Security, TlsConfig, TlsFiles};
use rivven_cluster::types::NodeName;
use serde_saphyr::Spanned;

use super::error::ConfigError;
use super::model;
use super::validate::{Place, read_secret, relative_to};

const SECRET: &str = "cluster.security.secret_file";
const PREVIOUS: &str = "cluster.security.previous_secret_file";
const CA: &str = "cluster.security.ca_file";
const CERTIFICATE: &str = "cluster.security.certificate_file";
const KEY: &str = "cluster.security.key_file";
const DENIED: &str = "cluster.security.denied_file";
const GOSSIP: &str = "cluster.security.gossip_secret_file";

pub(super) fn security(
    place: &Place<'_>,
    security: Option<&model::Security>,
    alone_on_loopback: bool,
    node: &NodeName,
) -> Result<(Security, SwimSecurity), ConfigError> {
    let Some(security) = security else {
        if alone_on_loopback {
            return Ok((Security::InsecureDev, SwimSecurity::InsecureDev));
        }
        let reason = "choose `mode: mutual_tls` with certificates, `mode: shared_secret` with a \
                      `secret_file`, or, for development alone, `mode: insecure_dev`";
        return Err(place.missing("cluster.security", reason));
    };
    refuse_unused(place, security)?;
    match security.mode.value {
        model::SecurityMode::InsecureDev => Ok((Security::InsecureDev, SwimSecurity::InsecureDev)),
        model::SecurityMode::SharedSecret => shared_secret(place, security),
        model::SecurityMode::MutualTls => mutual_tls(place, security, node),
    }
}

/// A key that the mode does not use is a mistake about what protects the cluster.
fn refuse_unused(place: &Place<'_>, security: &model::Security) -> Result<(), ConfigError> {
    use model::SecurityMode::{InsecureDev, MutualTls, SharedSecret};
    let mode = security.mode.value;
    let name = match mode {
        InsecureDev => "insecure_dev",
        SharedSecret => "shared_secret",
        MutualTls => "mutual_tls",
    };
    for (key, file, of) in [
        (SECRET, &security.secret_file, SharedSecret),
        (PREVIOUS, &security.previous_secret_file, SharedSecret),
        (CA, &security.ca_file, MutualTls),
        (CERTIFICATE, &security.certificate_file, MutualTls),
        (KEY, &security.key_file, MutualTls),
        (DENIED, &security.denied_file, MutualTls),
        (GOSSIP, &security.gossip_secret_file, MutualTls),
    ] {
        if let Some(file) = file.as_ref().filter(|_| of != mode) {
            let reason = format!("mode: {name} does not use it; remove it, or change the mode");
            return Err(place.invalid(file, key, reason));
        }
    }
    Ok(())
}

fn required<'a>(
    place: &Place<'_>,
    file: Option<&'a Spanned<String>>,
    key: &'static str,
    what: &'static str,
) -> Result<&'a Spanned<String>, ConfigError> {
    file.ok_or_else(|| place.missing(key, what))
}

fn shared_secret(
    place: &Place<'_>,
    security: &model::Security,
) -> Result<(Security, SwimSecurity), ConfigError> {
    let reason = "mode: shared_secret needs the path of a file with at least 16 bytes";
    let file = required(place, security.secret_file.as_ref(), SECRET, reason)?;
    let primary = read_secret(place, file, SECRET)?;
    let mut secret = Secret::new(&primary).map_err(|e| place.invalid(file, SECRET, e))?;
    let mut swim = SharedSecret::new(primary).map_err(|e| place.invalid(file, SECRET, e))?;
    if let Some(file) = &security.previous_secret_file {
        let previous = read_secret(place, file, PREVIOUS)?;
        secret = secret
            .with_previous(&previous)
            .map_err(|e| place.invalid(file, PREVIOUS, e))?;
        swim = swim
            .with_previous(previous)
            .map_err(|e| place.invalid(file, PREVIOUS, e))?;
    }
    Ok((
        Security::SharedSecret(secret),
        SwimSecurity::SharedSecret(swim),
    ))
}

fn mutual_tls(
    place: &Place<'_>,
    security: &model::Security,
    node: &NodeName,
) -> Result<(Security, SwimSecurity), ConfigError> {
    let file = |file, key, what| required(place, file, key, what);
    let ca = "mode: mutual_tls needs the CAs to trust (PEM)";
    let ca = file(security.ca_file.as_ref(), CA, ca)?;
    let certificate = "mode: mutual_tls needs this node's certificate (PEM)";
    let certificate = file(security.certificate_file.as_ref(), CERTIFICATE, certificate)?;
    let key = "mode: mutual_tls needs the certificate's private key (PEM, mode 600)";
    let key = file(security.key_file.as_ref(), KEY, key)?;
    let gossip = "TLS does not cover the failure detector's datagrams: name a file with at least 16 \
                  bytes, the same on all nodes";
    let gossip = file(security.gossip_secret_file.as_ref(), GOSSIP, gossip)?;
    let path = |file: &Spanned<String>| relative_to(place.path, &file.value);
    let tls = TlsConfig::files(TlsFiles {
        ca: path(ca),
        certificate: path(certificate),
        key: path(key),
        denied: security.denied_file.as_ref().map(path),
    });
    tls.check(node)
        .map_err(|e| place.invalid(certificate, CERTIFICATE, e))?;
    let secret = read_secret(place, gossip, GOSSIP)?;
    let swim = SharedSecret::new(secret).map_err(|e| place.invalid(gossip, GOSSIP, e))?;
    Ok((Security::MutualTls(tls), SwimSecurity::SharedSecret(swim)))
}
