//! Stateless resets (RFC 9000, section 10.3): a node that was killed and is back tells its peers at once
//! that their connections are gone, instead of leaving them to their timers.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use quinn_proto::crypto::{CryptoError, HmacKey};
use rivven_core_types::NodeName;
use sha2::Sha256;
use zeroize::Zeroizing;

/// What a node's endpoint must remember over a restart to recognise the connections of its former life.
/// Derived from the private key of its certificate, which no stranger has, and from the node's name: where
/// one key is used for several nodes, they must not share resets, or whoever sends one node a packet of a
/// connection to another gets back what ends that connection (RFC 9000, section 21.11).
#[derive(Clone)]
pub(crate) struct ResetSecret(Zeroizing<[u8; 32]>);

impl ResetSecret {
    pub(crate) fn of_private_key(der: &[u8], node: &NodeName) -> Self {
        // No name has a zero byte: where it ends is plain.
        let key = keyed(b"rivven quic 1 stateless reset")
            .chain_update(node.as_str())
            .chain_update([0])
            .chain_update(der);
        Self(Zeroizing::new(key.finalize().into_bytes().into()))
    }

    /// Settings of an endpoint with that memory.
    pub(crate) fn endpoint_config(&self) -> EndpointConfig {
        let ids = keyed(self.0.as_slice()).chain_update(b"connection ids");
        let ids = ids.finalize().into_bytes();
        let ids = u64::from_be_bytes(*ids.first_chunk().unwrap_or(&[0; 8]));
        let mut config = EndpointConfig::new(Arc::new(ResetKey(keyed(self.0.as_slice()))));
        config.cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)));
        config
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// HMAC-SHA256 as quinn wants it.
struct ResetKey(Hmac<Sha256>);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let signature = self.0.clone().chain_update(data).finalize().into_bytes();
        for (out, byte) in signature_out.iter_mut().zip(signature) {
            *out = byte;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mac = self.0.clone().chain_update(data);
        mac.verify_slice(signature).map_err(|_| CryptoError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_knows_its_own_resets_again_and_nobody_elses() {
        let secret = |key: &[u8], node| {
            let node = NodeName::new(node).unwrap();
            ResetSecret::of_private_key(key, &node).0
        };
        let ours = secret(b"key", "a");
        assert_eq!(ours, secret(b"key", "a"));
        assert_ne!(ours, secret(b"key", "b"));
        assert_ne!(ours, secret(b"another key", "a"));
    }
}
