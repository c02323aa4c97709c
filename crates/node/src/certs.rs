//! `rivven-node certs`: a CA, certificates for nodes, and the secret of the failure detector.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rivven_cluster::transport::{CertificateAuthority, TransportError};
use rivven_cluster::types::{Entropy as _, NodeName, OsEntropy};

/// Validity of a CA, in days.
const CA_DAYS: u32 = 3650;
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const GOSSIP: &str = "gossip.secret";
/// Bytes of the secret, before they become digits.
const GOSSIP_BYTES: usize = 32;

/// What to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertsOptions {
    /// Where everything is written.
    pub out: PathBuf,
    /// The cluster's name (or id); every certificate carries it.
    pub cluster: String,
    /// The nodes to make certificates for.
    pub nodes: Vec<String>,
    /// Validity of the nodes' certificates, in days.
    pub days: u32,
}

/// Why certificates could not be made. Files that were written before stay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A certificate is there already; it is never overwritten.
    #[error("{0} exists; remove it to make a new one")]
    Exists(PathBuf),
    /// A node's name cannot be one.
    #[error("--node {name:?}: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The CA cannot be used.
    #[error(transparent)]
    Certificate(#[from] TransportError),
}

/// Makes what is missing; says what it wrote. An existing CA in the folder signs the new certificates.
pub fn make(options: &CertsOptions) -> Result<String, CertsError> {
    let nodes = options.nodes.iter().map(|name| {
        NodeName::new(name).map_err(|e| CertsError::Name {
            name: name.clone(),
            reason: e.to_string(),
        })
    });
    let nodes: Vec<NodeName> = nodes.collect::<Result<_, _>>()?;
    fs::create_dir_all(&options.out).map_err(|source| CertsError::File {
        path: options.out.clone(),
        source,
    })?;
    let mut said = String::new();
    let authority = authority(options, &mut said)?;
    for node in &nodes {
        let certificate = options.out.join(format!("{node}.pem"));
        let key = options.out.join(format!("{node}.key"));
        if let Some(there) = [&certificate, &key].into_iter().find(|path| path.exists()) {
            return Err(CertsError::Exists(there.clone()));
        }
        let issued = authority.issue(node, options.days)?;
        write(&key, issued.key_pem.as_bytes(), true, &mut said)?;
        let pem = issued.certificate_pem.as_bytes();
        write(&certificate, pem, false, &mut said)?;
    }
    let gossip = options.out.join(GOSSIP);
    if !gossip.exists() {
        let mut bytes = [0; GOSSIP_BYTES];
        OsEntropy.fill(&mut bytes);
        let mut text = String::new();
        for byte in bytes {
            // Writing to a String cannot fail.
            write!(text, "{byte:02x}").unwrap_or_default();
        }
        text.push('\n');
        write(&gossip, text.as_bytes(), true, &mut said)?;
    }
    Ok(said)
}

fn authority(
    options: &CertsOptions,
    said: &mut String,
) -> Result<CertificateAuthority, CertsError> {
    let (certificate, key) = (options.out.join(CA), options.out.join(CA_KEY));
    let cluster = options
        .cluster
        .parse()
        .map_err(TransportError::Certificate)?;
    if certificate.exists() || key.exists() {
        let (pem, key) = (read(&certificate)?, read(&key)?);
        return Ok(CertificateAuthority::from_pem(cluster, &pem, &key)?);
    }
    let authority = CertificateAuthority::create(cluster, CA_DAYS)?;
    write(&key, authority.key_pem().as_bytes(), true, said)?;
    let pem = authority.certificate_pem().as_bytes();
    write(&certificate, pem, false, said)?;
    Ok(authority)
}

fn read(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|source| CertsError::File {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that was not there; a private one is its owner's from the first byte.
fn write(path: &Path, bytes: &[u8], private: bool, said: &mut String) -> Result<(), CertsError> {
    let create = || -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        if private {
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        #[cfg(not(unix))]
        let _not_on_this_system = private;
        options.open(path)
    };
    let written = create().and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    written.map_err(|source| CertsError::File {
        path: path.to_owned(),
        source,
    })?;
    // Writing to a String cannot fail.
    writeln!(said, "{}", path.display()).unwrap_or_default();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_made_added_to_and_never_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let options = |nodes: &[&str]| CertsOptions {
            out: dir.path().join("certs"),
            cluster: "orders".to_owned(),
            nodes: nodes.iter().map(ToString::to_string).collect(),
            days: 30,
        };
        let said = make(&options(&["node-1", "node-2"])).unwrap();
        assert_eq!(said.lines().count(), 7, "{said}");
        for private in ["ca.key", "node-1.key", "gossip.secret"] {
            let metadata = fs::metadata(dir.path().join("certs").join(private)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{private}");
        }
        assert_eq!(make(&options(&["node-3"])).unwrap().lines().count(), 2);
        assert!(matches!(
            make(&options(&["node-3"])),
            Err(CertsError::Exists(_))
        ));
        assert!(matches!(
            make(&options(&["no/name"])),
            Err(CertsError::Name { .. })
        ));
        let other = CertsOptions {
            cluster: "payments".to_owned(),
            ..options(&["node-4"])
        };
        let error = make(&other).unwrap_err().to_string();
        assert!(error.contains("do not fit"), "{error}");
    }
}
