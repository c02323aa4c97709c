//! Making certificates: for development, for small clusters, and for the memory of one process.

use std::fmt;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rivven_core_types::NodeName;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::identity::{CertificateIdentity, ClusterName};
use crate::error::TransportError;

/// Clocks of two hosts may differ by this much.
const SKEW: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);
/// Longest validity, in days.
const MAX_DAYS: u32 = 36_500;

/// A CA for one cluster, with its private key.
pub struct CertificateAuthority {
    cluster: ClusterName,
    certificate_pem: String,
    key_pem: Zeroizing<String>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its private key.
pub struct IssuedCertificate {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PEM; wiped when dropped.
    pub key_pem: Zeroizing<String>,
}

impl fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IssuedCertificate(redacted)")
    }
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("cluster", &self.cluster)
            .finish_non_exhaustive()
    }
}

fn failed(error: impl fmt::Display) -> TransportError {
    TransportError::Certificate(error.to_string())
}

/// Parameters that every certificate of ours has.
fn parameters(common_name: &str, days: u32) -> Result<CertificateParams, TransportError> {
    if !(1..=MAX_DAYS).contains(&days) {
        return Err(failed(format!(
            "a certificate is valid for 1 to {MAX_DAYS} days, not {days}"
        )));
    }
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    parameters.not_before = (now - SKEW).into();
    parameters.not_after = (now + DAY * days).into();
    Ok(parameters)
}

impl CertificateAuthority {
    /// Makes a CA that is valid for `days` from now.
    pub fn create(cluster: ClusterName, days: u32) -> Result<Self, TransportError> {
        let mut parameters = parameters(&format!("rivven CA of {cluster}"), days)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Tells the CA's cluster to whoever loads it again.
        parameters
            .distinguished_name
            .push(DnType::OrganizationName, cluster.as_str());
        let key = KeyPair::generate().map_err(failed)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        let certificate_pem = parameters.self_signed(&key).map_err(failed)?.pem();
        Ok(Self {
            cluster,
            certificate_pem,
            key_pem,
            issuer: Issuer::new(parameters, key),
        })
    }

    /// A CA made before, from its two PEM texts. The key must belong to the certificate.
    pub fn from_pem(
        cluster: ClusterName,
        certificate_pem: &str,
        key_pem: &str,
    ) -> Result<Self, TransportError> {
        let key = KeyPair::from_pem(key_pem).map_err(failed)?;
        let mut parameters = parameters(&format!("rivven CA of {cluster}"), 1)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters
            .distinguished_name
            .push(DnType::OrganizationName, cluster.as_str());
        // A certificate names its issuer by these fields; with another CA's it would not verify.
        let loaded = Self {
            cluster,
            certificate_pem: certificate_pem.to_owned(),
            key_pem: Zeroizing::new(key_pem.to_owned()),
            issuer: Issuer::new(parameters, key),
        };
        let probe = loaded.issue(&NodeName::new("probe").map_err(failed)?, 1)?;
        super::verify::check_issued(certificate_pem, &probe.certificate_pem)?;
        Ok(loaded)
    }

    /// Makes a certificate for a node, for both roles, valid for `days` from now.
    pub fn issue(&self, node: &NodeName, days: u32) -> Result<IssuedCertificate, TransportError> {
        // A node is a server to those who dial it and a client to those whom it dials.
        let roles = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        self.issue_for(node, days, roles)
    }

    fn issue_for(
        &self,
        node: &NodeName,
        days: u32,
        roles: Vec<ExtendedKeyUsagePurpose>,
    ) -> Result<IssuedCertificate, TransportError> {
        let identity = CertificateIdentity {
            cluster: self.cluster.clone(),
            node: node.clone(),
        };
        let mut parameters = parameters(node.as_str(), days)?;
        let uri = identity.uri().as_str().try_into().map_err(failed)?;
        parameters.subject_alt_names = vec![SanType::URI(uri)];
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = roles;
        parameters.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = parameters.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok(IssuedCertificate {
            certificate_pem: certificate.pem(),
            key_pem: Zeroizing::new(key.serialize_pem()),
        })
    }

    /// The cluster that it signs for.
    pub const fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// Its certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its private key, PEM.
    pub fn key_pem(&self) -> &Zeroizing<String> {
        &self.key_pem
    }
}

/// Certificates of a PEM text; none is an error.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let parsed = parsed.map_err(|e| format!("not PEM: {e}"))?;
    if parsed.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(parsed)
}

/// The private key of a PEM text.
pub(super) fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| format!("it holds no private key: {e}"))
}

#[cfg(test)]
mod tests {
    use super::super::verify::check_issued;
    use super::*;

    #[test]
    fn a_certificate_for_one_role_alone_is_refused() {
        let ca = CertificateAuthority::create("orders".parse().unwrap(), 1).unwrap();
        let node = NodeName::new("a").unwrap();
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let judged = |roles: &[ExtendedKeyUsagePurpose]| {
            let issued = ca.issue_for(&node, 1, roles.to_vec()).unwrap();
            check_issued(ca.certificate_pem(), &issued.certificate_pem)
        };
        judged(&[server.clone(), client.clone()]).unwrap();
        for one in [server, client] {
            let error = judged(&[one]).unwrap_err().to_string();
            assert!(error.contains("serverAuth and clientAuth"), "{error}");
        }
    }
}
