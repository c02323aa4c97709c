//! What a member says of itself: who, where, and with which keys. Shared by all who hold it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use rivven_core_types::{Address, NodeInfo, NodeName, RackId};
use sha2::{Digest, Sha256};

use crate::codec::{Reader, put_text, put_varint};
use crate::error::SwimError;
use crate::event::DropReason;
use crate::keyring::KeyIds;

/// Longest metadata of a member, in bytes.
pub const MAX_METADATA_BYTES: usize = 512;
/// Longest encoded profile, in bytes: one fits any datagram.
pub(crate) const MAX_PROFILE_BYTES: usize = 1_080;

const HOST_IPV4: u8 = 4;
const HOST_IPV6: u8 = 6;
const HOST_NAME: u8 = 0;

/// A member's name on the wire: the first 64 bits of its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MemberId(pub(crate) u64);

impl MemberId {
    pub(crate) fn of(name: &NodeName) -> Self {
        let digest: [u8; 32] = Sha256::digest(name.as_str().as_bytes()).into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// One life of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) id: MemberId,
    pub(crate) boot_id: u64,
}

/// Where a datagram goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Straight to this address.
    Socket(SocketAddr),
    /// To whatever the name resolves to.
    Name(Arc<Address>),
}

impl From<SocketAddr> for Destination {
    fn from(address: SocketAddr) -> Self {
        Self::Socket(address)
    }
}

impl From<&Address> for Destination {
    fn from(address: &Address) -> Self {
        match address.host().parse::<IpAddr>() {
            Ok(ip) => Self::Socket(SocketAddr::new(ip, address.port())),
            Err(_) => Self::Name(Arc::new(address.clone())),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Name(address) => address.fmt(f),
        }
    }
}

/// What one life of a member says of itself. A greater version replaces a lesser one of that life.
#[derive(Debug)]
pub(crate) struct Profile {
    pub(crate) endpoint: Endpoint,
    pub(crate) version: u32,
    pub(crate) info: Arc<NodeInfo>,
    pub(crate) metadata: Bytes,
    /// The keys that the member holds; empty without authentication.
    pub(crate) keys: KeyIds,
    pub(crate) destination: Destination,
    /// Tells racks apart; zero without one.
    pub(crate) rack: u64,
    /// As it goes over the wire.
    encoded: Box<[u8]>,
}

impl Profile {
    /// # Errors
    /// [`SwimError::InvalidConfig`] if it does not fit a datagram.
    pub(crate) fn new(
        info: NodeInfo,
        boot_id: u64,
        version: u32,
        keys: KeyIds,
        metadata: Bytes,
    ) -> Result<Self, SwimError> {
        if metadata.len() > MAX_METADATA_BYTES {
            let reason = format!(
                "has {} bytes; at most {MAX_METADATA_BYTES} are allowed",
                metadata.len()
            );
            return Err(SwimError::config("metadata", reason));
        }
        let encoded = encode(&info, boot_id, version, keys, &metadata);
        if encoded.len() > MAX_PROFILE_BYTES {
            let reason = format!(
                "name, addresses, rack and metadata take {} bytes; at most {MAX_PROFILE_BYTES} fit a datagram",
                encoded.len()
            );
            return Err(SwimError::config("metadata", reason));
        }
        Ok(Self::assemble(
            info, boot_id, version, keys, metadata, encoded,
        ))
    }

    fn assemble(
        info: NodeInfo,
        boot_id: u64,
        version: u32,
        keys: KeyIds,
        metadata: Bytes,
        encoded: Vec<u8>,
    ) -> Self {
        Self {
            endpoint: Endpoint {
                id: MemberId::of(&info.name),
                boot_id,
            },
            version,
            destination: Destination::from(&info.cluster_addr),
            rack: info.rack.as_ref().map_or(0, rack_number),
            info: Arc::new(info),
            metadata,
            keys,
            encoded: encoded.into_boxed_slice(),
        }
    }

    pub(crate) const fn id(&self) -> MemberId {
        self.endpoint.id
    }

    pub(crate) const fn boot_id(&self) -> u64 {
        self.endpoint.boot_id
    }

    pub(crate) const fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The name at the front of an encoded profile.
    pub(crate) fn peek_name(mut reader: Reader<'_>) -> Result<NodeName, DropReason> {
        NodeName::new(reader.text()?).map_err(|_| DropReason::Malformed)
    }

    /// Passes over an encoded profile and gives its bytes.
    pub(crate) fn skip<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], DropReason> {
        let start = reader.0;
        reader.text()?;
        reader.varint()?;
        reader.varint32()?;
        skip_address(reader)?;
        skip_address(reader)?;
        reader.text()?;
        reader.varint32()?;
        KeyIds::read(reader)?;
        let length = metadata_length(reader)?;
        reader.take(length)?;
        let taken = start.len().saturating_sub(reader.0.len());
        let bytes = start.get(..taken).ok_or(DropReason::Malformed)?;
        if bytes.len() > MAX_PROFILE_BYTES {
            return Err(DropReason::Malformed);
        }
        Ok(bytes)
    }

    /// Decodes what [`Profile::skip`] delimited.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DropReason> {
        let mut reader = Reader(bytes);
        let name = Self::peek_name(reader)?;
        reader.text()?;
        let boot_id = reader.varint()?;
        let version = reader.varint32()?;
        let cluster_addr = read_address(&mut reader)?;
        let client_addr = read_address(&mut reader)?;
        let rack = match reader.text()? {
            "" => None,
            rack => Some(RackId::new(rack).map_err(|_| DropReason::Malformed)?),
        };
        let weight = reader.varint32()?;
        let keys = KeyIds::read(&mut reader)?;
        let length = metadata_length(&mut reader)?;
        let metadata = Bytes::copy_from_slice(reader.take(length)?);
        if !reader.is_empty() || boot_id == 0 {
            return Err(DropReason::Malformed);
        }
        if cluster_addr.is_unspecified() {
            return Err(DropReason::Implausible);
        }
        let mut info = NodeInfo::new(name, client_addr, cluster_addr);
        info.rack = rack;
        info.weight = weight;
        let encoded = bytes.to_vec();
        Ok(Self::assemble(
            info, boot_id, version, keys, metadata, encoded,
        ))
    }
}

fn metadata_length(reader: &mut Reader<'_>) -> Result<usize, DropReason> {
    let length = usize::from(reader.u16()?);
    if length > MAX_METADATA_BYTES {
        return Err(DropReason::Malformed);
    }
    Ok(length)
}

fn encode(info: &NodeInfo, boot_id: u64, version: u32, keys: KeyIds, metadata: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + metadata.len());
    put_text(&mut out, info.name.as_str());
    put_varint(&mut out, boot_id);
    put_varint(&mut out, u64::from(version));
    put_address(&mut out, &info.cluster_addr);
    put_address(&mut out, &info.client_addr);
    put_text(&mut out, info.rack.as_ref().map_or("", RackId::as_str));
    put_varint(&mut out, u64::from(info.weight));
    keys.put(&mut out);
    let length = u16::try_from(metadata.len()).unwrap_or(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(metadata);
    out
}

fn put_address(out: &mut Vec<u8>, address: &Address) {
    match address.host().parse::<IpAddr>() {
        // Only the form that prints the same: an address must come back as it was written.
        Ok(IpAddr::V4(ip)) if ip.to_string() == address.host() => {
            out.push(HOST_IPV4);
            out.extend_from_slice(&ip.octets());
        }
        Ok(IpAddr::V6(ip)) if ip.to_string() == address.host() => {
            out.push(HOST_IPV6);
            out.extend_from_slice(&ip.octets());
        }
        _ => {
            out.push(HOST_NAME);
            put_text(out, address.host());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}

fn read_address(reader: &mut Reader<'_>) -> Result<Address, DropReason> {
    let host = match reader.u8()? {
        HOST_IPV4 => IpAddr::from(reader.array::<4>()?).to_string(),
        HOST_IPV6 => IpAddr::from(reader.array::<16>()?).to_string(),
        HOST_NAME => reader.text()?.to_owned(),
        _ => return Err(DropReason::Malformed),
    };
    Address::new(host, reader.u16()?).map_err(|_| DropReason::Malformed)
}

fn skip_address(reader: &mut Reader<'_>) -> Result<(), DropReason> {
    match reader.u8()? {
        HOST_IPV4 => drop(reader.array::<4>()?),
        HOST_IPV6 => drop(reader.array::<16>()?),
        HOST_NAME => drop(reader.text()?),
        _ => return Err(DropReason::Malformed),
    }
    reader.u16().map(drop)
}

fn rack_number(rack: &RackId) -> u64 {
    crate::config::fnv1a(rack.as_str().as_bytes()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_comes_back_from_its_bytes() {
        for address in ["10.0.0.7:9093", "[::1]:9093", "node-2.internal:9093"] {
            let mut info = NodeInfo::new(
                NodeName::new("node-2").unwrap(),
                "client.example:9092".parse().unwrap(),
                address.parse().unwrap(),
            );
            info.rack = Some(RackId::new("rack-1").unwrap());
            info.weight = 250;
            let keys: KeyIds = [3, 200].into_iter().collect();
            let metadata = Bytes::from_static(b"protocols=1..3");
            let profile = Profile::new(info, 1_700_000_000_000, 5, keys, metadata).unwrap();
            let mut reader = Reader(profile.encoded());
            let bytes = Profile::skip(&mut reader).unwrap();
            assert!(reader.is_empty());
            let again = Profile::decode(bytes).unwrap();
            assert_eq!(again.info, profile.info);
            assert_eq!(again.endpoint, profile.endpoint);
            assert_eq!(again.metadata, profile.metadata);
            assert_eq!(again.keys, profile.keys);
            assert_eq!(again.destination, profile.destination);
            assert_eq!((again.version, again.rack), (5, profile.rack));
        }
    }

    #[test]
    fn too_much_metadata_is_refused_with_the_bound() {
        let info = |name: &str| {
            let address: Address = "127.0.0.1:1".parse().unwrap();
            NodeInfo::new(NodeName::new(name).unwrap(), address.clone(), address)
        };
        let metadata = Bytes::from(vec![0; MAX_METADATA_BYTES + 1]);
        let refused = Profile::new(info("a"), 1, 0, KeyIds::default(), metadata);
        assert!(refused.unwrap_err().to_string().contains("512"));
        let metadata = Bytes::from(vec![0; MAX_METADATA_BYTES]);
        Profile::new(info("a"), 1, 0, KeyIds::default(), metadata).unwrap();
    }
}
