//! Why the coordinator refused or failed.

use std::io;

use rivven_core_types::{
    BrokerId, Incarnation, LogError, NodeName, PartitionId, ProposeError, RpcError,
};
use rivven_isr::ReplicationError;
use rivven_metadata::Rejection;
use rivven_placement::PlacementError;
use rivven_raft_store::RaftStoreError;
use rivven_segment_log::SegmentLogError;
use rivven_swim::SwimError;
use rivven_transport::TransportError;

/// Why a coordinator call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CoordinatorError {
    /// The data directory cannot be used. Nothing was started.
    #[error("cannot use the data directory: {0}")]
    DataDir(#[source] io::Error),
    /// A thread or a task of this node ended before its time. What it was doing is unknown.
    #[error("a task of this node was lost: {0}")]
    Task(#[source] io::Error),
    /// The consensus store refused to open or failed.
    #[error(transparent)]
    RaftStore(#[from] RaftStoreError),
    /// The transport could not be bound.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The failure detector could not be started.
    #[error(transparent)]
    Swim(#[from] SwimError),
    /// The directory of the partition logs cannot be used.
    #[error(transparent)]
    LogStore(#[from] SegmentLogError),
    /// A partition log could not be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Replication refused.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    /// The cluster knows this node's name with another data directory: this one is blank, or is not
    /// the one that belongs to the node. Nothing changed; a person must restore the data directory, or
    /// remove the old one from the cluster.
    #[error(
        "{name} is a member of the cluster already, with the data directory of incarnation {known} \
         (says {by}); the one given here is of incarnation {found}. Restore the old data directory; if \
         it is lost, run `rivven-node cluster remove-node {name}` against another node, then start this \
         one again: it joins as a new member"
    )]
    NameTaken {
        /// This node.
        name: NodeName,
        /// Who knows it.
        by: NodeName,
        /// The incarnation known to the cluster.
        known: Incarnation,
        /// The incarnation of this data directory.
        found: Incarnation,
    },
    /// An operator has removed this life of the data directory from the cluster. It never comes back.
    #[error(
        "{name} was removed from the cluster (says {by}). To join again as a new member, move the whole \
         data directory away and start with an empty one"
    )]
    Removed {
        /// This node.
        name: NodeName,
        /// Who knows it.
        by: NodeName,
    },
    /// The command did not get through. See the source for whether it may still be executed.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The controller refused the command. Nothing changed.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// No valid placement exists. Nothing changed.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// A peer could not be called.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// A request contradicts itself. Nothing changed.
    #[error("invalid request: {0}")]
    InvalidRequest(String),
    /// The replicas that the caller names for new partitions do not fit. Nothing changed.
    #[error("invalid replica assignment: {0}")]
    InvalidAssignment(String),
    /// The preferred replica of a partition cannot lead now. Nothing changed; retriable once it has caught
    /// up.
    #[error(
        "broker {broker}, which partition {partition} prefers as leader, is not in sync or not active"
    )]
    PreferredLeaderNotAvailable {
        /// The partition.
        partition: PartitionId,
        /// Its first replica.
        broker: BrokerId,
    },
    /// The command did not get through in time. It may still be executed; asking again is harmless.
    #[error("not done in time; it may still happen")]
    NotYet,
    /// This broker is not registered with the controller yet. Nothing changed; retriable.
    #[error("this broker is not registered yet")]
    NotRegistered,
    /// The answer of the state machine is not of this version.
    #[error("unexpected answer of the metadata state machine: {0}")]
    UnexpectedAnswer(String),
    /// The node is shutting down.
    #[error("shutting down")]
    Shutdown,
}
