//! How peers prove who they are: from keys to the modes of the transport and of SWIM.

use rivven_cluster::swim::SwimSecurity;
use rivven_cluster::transport::{Security, TlsConfig, TlsFiles};
use rivven_cluster::types::NodeName;
use serde_saphyr::Spanned;

use super::error::ConfigError;
use super::model;
use super::secret_file::{self, SecretFiles, Secrets};
use super::validate::{Place, relative_to};

const SECRET: &str = "cluster.security.secret_file";
const PREVIOUS: &str = "cluster.security.previous_secret_file";
const CA: &str = "cluster.security.ca_file";
const CERTIFICATE: &str = "cluster.security.certificate_file";
const KEY: &str = "cluster.security.key_file";
const DENIED: &str = "cluster.security.denied_file";
const GOSSIP: &str = "cluster.security.gossip_secret_file";
const PREVIOUS_GOSSIP: &str = "cluster.security.previous_gossip_secret_file";

/// What the configuration chose.
pub(super) struct Chosen {
    pub(super) security: Security,
    pub(super) swim: SwimSecurity,
    /// Where its secrets are, if it has some.
    pub(super) secrets: Option<SecretFiles>,
}

impl Chosen {
    const INSECURE: Self = Self {
        security: Security::InsecureDev,
        swim: SwimSecurity::InsecureDev,
        secrets: None,
    };
}

pub(super) fn security(
    place: &Place<'_>,
    security: Option<&model::Security>,
    alone_on_loopback: bool,
    node: &NodeName,
) -> Result<Chosen, ConfigError> {
    let Some(security) = security else {
        if alone_on_loopback {
            return Ok(Chosen::INSECURE);
        }
        let reason = "choose `mode: mutual_tls` with certificates, `mode: shared_secret` with a \
                      `secret_file`, or, for development alone, `mode: insecure_dev`";
        return Err(place.missing("cluster.security", reason));
    };
    refuse_unused(place, security)?;
    match security.mode.value {
        model::SecurityMode::InsecureDev => Ok(Chosen::INSECURE),
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
        (
            PREVIOUS_GOSSIP,
            &security.previous_gossip_secret_file,
            MutualTls,
        ),
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

fn shared_secret(place: &Place<'_>, security: &model::Security) -> Result<Chosen, ConfigError> {
    let reason = "mode: shared_secret needs the path of a file with at least 16 bytes";
    let file = required(place, security.secret_file.as_ref(), SECRET, reason)?;
    let previous = security.previous_secret_file.as_ref();
    let secrets = secrets(place, (file, SECRET), (previous, PREVIOUS))?;
    let secret = secrets.held.transport();
    let secret = secret.map_err(|e| place.invalid(file, SECRET, e))?;
    let swim = secrets.held.swim();
    let swim = swim.map_err(|e| place.invalid(file, SECRET, e))?;
    Ok(Chosen {
        security: Security::SharedSecret(secret),
        swim: SwimSecurity::SharedSecret(swim),
        secrets: Some(secrets),
    })
}

/// Reads a secret and the one before it, each with the key that names its file.
fn secrets(
    place: &Place<'_>,
    (file, key): (&Spanned<String>, &'static str),
    (previous, previous_key): (Option<&Spanned<String>>, &'static str),
) -> Result<SecretFiles, ConfigError> {
    let read = |file: &Spanned<String>, key| {
        let path = relative_to(place.path, &file.value);
        let secret = secret_file::read(&path).map_err(|e| place.invalid(file, key, e))?;
        Ok::<_, ConfigError>((path, secret))
    };
    let (primary, secret) = read(file, key)?;
    let mut files = SecretFiles {
        primary,
        previous: None,
        held: Secrets {
            primary: secret,
            previous: None,
        },
    };
    // On its own first, so that the error names the file that is wrong.
    files.held.swim().map_err(|e| place.invalid(file, key, e))?;
    if let Some(file) = previous {
        let (path, secret) = read(file, previous_key)?;
        files.previous = Some(path);
        files.held.previous = Some(secret).filter(|secret| !secret.is_empty());
        files
            .held
            .swim()
            .map_err(|e| place.invalid(file, previous_key, e))?;
    }
    Ok(files)
}

fn mutual_tls(
    place: &Place<'_>,
    security: &model::Security,
    node: &NodeName,
) -> Result<Chosen, ConfigError> {
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
    let previous = security.previous_gossip_secret_file.as_ref();
    let secrets = secrets(place, (gossip, GOSSIP), (previous, PREVIOUS_GOSSIP))?;
    let swim = secrets.held.swim();
    let swim = swim.map_err(|e| place.invalid(gossip, GOSSIP, e))?;
    Ok(Chosen {
        security: Security::MutualTls(tls),
        swim: SwimSecurity::SharedSecret(swim),
        secrets: Some(secrets),
    })
}
