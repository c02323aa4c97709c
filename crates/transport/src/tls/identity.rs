//! What a certificate says about its holder.

use std::fmt;
use std::str::FromStr;

use rivven_core_types::{ClusterId, NodeName};
use rustls_pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Longest name of a cluster in a certificate, in bytes.
const MAX_CLUSTER_NAME_BYTES: usize = 63;
const SCHEME: &str = "rivven://";
const NODE: &str = "/node/";

/// The cluster that a certificate is for: 1 to 63 letters, digits, `.`, `_` or `-`. A name that is a
/// UUID is the cluster's id, and the id of the handshake must be that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

impl ClusterName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The cluster id, if the name is one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.0.parse().ok()
    }
}

impl FromStr for ClusterName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let known = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > MAX_CLUSTER_NAME_BYTES || !text.bytes().all(known) {
            return Err(format!(
                "a cluster's name has 1 to {MAX_CLUSTER_NAME_BYTES} letters, digits, `.`, `_` or `-`; \
                 {text:?} is none"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateIdentity {
    /// The cluster.
    pub cluster: ClusterName,
    /// The node.
    pub node: NodeName,
}

impl CertificateIdentity {
    /// The URI in the certificate.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}{NODE}{}", self.cluster, self.node)
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let (cluster, node) = uri.strip_prefix(SCHEME)?.split_once(NODE)?;
        Some(Self {
            cluster: cluster.parse().ok()?,
            node: NodeName::new(node).ok()?,
        })
    }

    /// Reads the one `rivven://` URI of a certificate. None, or more than one, is an error: a holder
    /// has one name.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = EndEntityCert::try_from(certificate)
            .map_err(|e| format!("the certificate cannot be read: {e}"))?;
        let mut found = parsed
            .valid_uri_names()
            .filter(|uri| uri.starts_with(SCHEME));
        let (Some(uri), None) = (found.next(), found.next()) else {
            return Err(
                "the certificate must have exactly one URI rivven://<cluster>/node/<name>"
                    .to_owned(),
            );
        };
        Self::from_uri(uri).ok_or_else(|| {
            format!("the certificate's URI {uri:?} is not rivven://<cluster>/node/<name>")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_its_uri_and_nothing_else_is_one() {
        let identity = CertificateIdentity {
            cluster: "orders".parse().unwrap(),
            node: NodeName::new("node-1").unwrap(),
        };
        assert_eq!(identity.uri(), "rivven://orders/node/node-1");
        assert_eq!(
            CertificateIdentity::from_uri(&identity.uri()),
            Some(identity)
        );
        for odd in [
            "rivven://orders/node/",
            "rivven:///node/a",
            "rivven://a/b/node/c",
            "rivven://a/node/b/node/c",
            "https://orders/node/a",
            "rivven://orders/nodes/a",
        ] {
            assert_eq!(CertificateIdentity::from_uri(odd), None, "{odd}");
        }
        let id = "0d9f6f6e-6a3f-4a39-9f1e-0f6f3d1c2b3a";
        let named: ClusterName = id.parse().unwrap();
        assert_eq!(named.cluster_id().unwrap().to_string(), id);
        assert_eq!("orders".parse::<ClusterName>().unwrap().cluster_id(), None);
    }
}
