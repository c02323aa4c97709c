//! Every bound that more than one crate must agree on. A bound is reached with a typed error.

/// Longest [`crate::NodeName`], in bytes.
pub const MAX_NODE_NAME_BYTES: usize = 128;
/// Longest [`crate::TopicName`], in bytes (Kafka's limit, so that it fits a file name).
pub const MAX_TOPIC_NAME_BYTES: usize = 249;
/// Longest [`crate::RackId`], in bytes.
pub const MAX_RACK_BYTES: usize = 128;
/// Longest `host:port` of an advertised address, in bytes (a DNS name has at most 253).
pub const MAX_ADDRESS_BYTES: usize = 260;

/// Longest record batch, in bytes, header included (Kafka's `message.max.bytes`, 1 MiB + header).
pub const MAX_RECORD_BATCH_BYTES: usize = 1024 * 1024 + 61;
/// Most records in one batch.
pub const MAX_RECORDS_PER_BATCH: usize = 1_000_000;

/// Longest message part of an RPC (postcard), in bytes.
pub const MAX_RPC_META_BYTES: usize = 64 * 1024;
/// Longest frame on the control lane, in bytes.
pub const MAX_CONTROL_FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Longest frame on the rpc lane, in bytes.
pub const MAX_RPC_FRAME_BYTES: usize = 8 * 1024 * 1024;
/// Longest frame on the bulk lane, in bytes.
pub const MAX_BULK_FRAME_BYTES: usize = 16 * 1024 * 1024;
/// Longest frame before authentication, in bytes.
pub const MAX_UNAUTHENTICATED_FRAME_BYTES: usize = 1024;

/// Longest command that may be proposed to Raft, in bytes.
pub const MAX_COMMAND_BYTES: usize = 4 * 1024 * 1024;

/// Most replicas of a partition.
pub const MAX_REPLICATION_FACTOR: usize = 15;
/// Most partitions of one topic.
pub const MAX_PARTITIONS_PER_TOPIC: u32 = 100_000;
/// Most partitions in one batched request between nodes.
pub const MAX_PARTITIONS_PER_REQUEST: usize = 10_000;
/// Most brokers of a cluster.
pub const MAX_BROKERS: usize = 1_000;
/// Most user datagram payload, in bytes: fits an IPv6 minimum-MTU path with room for tunnels.
pub const MAX_DATAGRAM_BYTES: usize = 1_400;
