//! The decoders of what peers send, for a fuzzer that feeds them anything. Only with feature `fuzzing`.

use bytes::Bytes;
use openraft::EntryPayload;
use rivven_core_types::limits::MAX_RPC_META_BYTES;
use rivven_core_types::{Address, NodeName, wire};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::messages::{
    AppendAnswer, AppendMessage, SnapshotAnswer, SnapshotMessage, TransferAnswer, TransferMessage,
    VERSION, VoteAnswer, VoteMessage, decode_entries, encode_entries,
};
use crate::types::{
    Command, Entry, LastMembership, LastMembershipRecord, LogId, LogIdRecord, Membership, PeerNode,
    VoteRecord,
};

/// How many kinds of messages there are.
pub const KINDS: u8 = 9;

/// Whether `bytes` are a message of this kind, with everything in it decoded.
pub fn decodes(kind: u8, bytes: &[u8]) -> bool {
    match kind % KINDS {
        0 => is::<AppendMessage>(bytes),
        1 => decode_entries(&Bytes::copy_from_slice(bytes)).is_ok(),
        2 => is::<VoteMessage>(bytes),
        3 => decode::<SnapshotMessage>(bytes)
            .is_some_and(|message| message.membership.decode().is_ok()),
        4 => is::<TransferMessage>(bytes),
        5 => is::<AppendAnswer>(bytes),
        6 => is::<VoteAnswer>(bytes),
        7 => is::<SnapshotAnswer>(bytes),
        _ => is::<TransferAnswer>(bytes),
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    wire::decode(VERSION, bytes, MAX_RPC_META_BYTES).ok()
}

fn is<T: DeserializeOwned>(bytes: &[u8]) -> bool {
    decode::<T>(bytes).is_some()
}

/// One valid message of each kind.
pub fn samples() -> Vec<(u8, Vec<u8>)> {
    let id = LogIdRecord { term: 3, index: 70 };
    let vote = VoteRecord {
        term: 3,
        node: 9,
        committed: true,
    };
    let (last, target, commit, prev) = (Some(id), 5, Some(id), Some(id));
    let nodes = [(9, peer("a")), (5, peer("b"))]
        .into_iter()
        .flat_map(|(id, peer): (u64, Option<PeerNode>)| peer.map(|peer| (id, peer)));
    let nodes: std::collections::BTreeMap<u64, PeerNode> = nodes.collect();
    let config = nodes
        .keys()
        .copied()
        .collect::<std::collections::BTreeSet<u64>>();
    let membership = Membership::new(vec![config], nodes).unwrap_or_default();
    let known = LastMembership::new(Some(LogId::from(id)), membership.clone());
    let entries = [
        EntryPayload::Blank,
        EntryPayload::Normal(Command(Bytes::from_static(b"a command"))),
        EntryPayload::Membership(membership),
    ]
    .map(|payload| Entry {
        log_id: id.into(),
        payload,
    });
    let snapshot = SnapshotMessage {
        target,
        vote,
        last,
        membership: LastMembershipRecord::from(&known),
        transfer: 77,
        offset: 0,
        total: 1_000,
    };
    let append = AppendMessage {
        target,
        vote,
        prev,
        commit,
    };
    let ask = VoteMessage {
        target,
        vote,
        last,
        transfer: false,
    };
    let transfer = TransferMessage {
        target,
        from: vote,
        to: 5,
        last,
    };
    let granted = VoteAnswer {
        vote,
        granted: true,
        last,
    };
    let refused = TransferAnswer::VoteChanged {
        expected: vote,
        actual: vote,
    };
    let encoded = [
        encode(&append),
        encode_entries(&entries)
            .map(|bytes| bytes.to_vec())
            .unwrap_or_default(),
        encode(&ask),
        encode(&snapshot),
        encode(&transfer),
        encode(&AppendAnswer::PartialSuccess(last)),
        encode(&granted),
        encode(&SnapshotAnswer::Installed(vote)),
        encode(&refused),
    ];
    (0..KINDS).zip(encoded).collect()
}

fn peer(name: &str) -> Option<PeerNode> {
    let (name, address) = NodeName::new(name)
        .ok()
        .zip(Address::new(name, 9093).ok())?;
    Some(PeerNode { name, address })
}

fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    let encoded = wire::encode(VERSION, message, MAX_RPC_META_BYTES);
    encoded.map(|bytes| bytes.to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_decodes() {
        let samples = samples();
        assert_eq!(samples.len(), usize::from(KINDS));
        for (kind, bytes) in samples {
            assert!(!bytes.is_empty() && decodes(kind, &bytes), "kind {kind}");
            assert!(!decodes(kind, &bytes[1..]), "kind {kind}");
        }
    }
}
