//! What a command answers.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use rivven_core_types::wire::{self, WireError};
use rivven_core_types::{
    AlterPartitionOutcome, BrokerId, ClusterId, FencedState, NodeEpoch, PartitionState, ProducerId,
    TopicId,
};

use crate::levels::MetadataLevel;
use crate::rejection::Rejection;

/// Version of the encoding of [`CommandResult`].
const RESULT_VERSION: u8 = 1;

/// Longest encoded result, in bytes: room for
/// [`rivven_core_types::limits::MAX_PARTITIONS_PER_REQUEST`] partition records with the greatest
/// replication factor.
pub const MAX_RESULT_BYTES: usize = 8 * 1024 * 1024;

/// How many producer ids one [`crate::Command::AllocateProducerIds`] hands out.
pub const PRODUCER_ID_BLOCK: u32 = 1000;

/// The outcome of one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum CommandResult {
    /// The cluster bears this id.
    ClusterFormed {
        /// The cluster's id.
        cluster_id: ClusterId,
    },
    /// The broker is registered and fenced.
    Registered {
        /// Its number, stable for its name.
        broker: BrokerId,
        /// The epoch of this life: the log index of the registration.
        node_epoch: NodeEpoch,
    },
    /// A broker is now in this state (or was already).
    BrokerChanged {
        /// The broker.
        broker: BrokerId,
        /// Its state.
        state: FencedState,
        /// How many partition records changed with it.
        partitions_changed: u32,
    },
    /// The topic exists now.
    TopicCreated {
        /// Its id.
        id: TopicId,
    },
    /// The topic is gone.
    TopicDeleted {
        /// The id it had.
        id: TopicId,
    },
    /// One outcome for each proposal, in their order.
    PartitionsAltered {
        /// The outcomes, with the partitions' new records.
        outcomes: Vec<AlterPartitionOutcome>,
    },
    /// The ids `first .. first + len` belong to the asking broker.
    ProducerIdBlock {
        /// The first id.
        first: ProducerId,
        /// How many.
        len: u32,
    },
    /// A partition elected a leader from claims or by the operator's will.
    PartitionElected {
        /// Its new record.
        partition: PartitionState,
    },
    /// Refused; the state is as it was.
    Rejected(Rejection),
    /// The topic has these settings now (or had them already).
    TopicAltered {
        /// Its id.
        id: TopicId,
    },
    /// Replicas, leaderships or what is to become of them have changed.
    Placed {
        /// How many partition records changed with it.
        partitions_changed: u32,
    },
    /// This metadata level is active now (or was already).
    LevelActive {
        /// The level.
        level: MetadataLevel,
    },
}

impl CommandResult {
    /// Encodes the result.
    pub fn encode(&self) -> Result<Bytes, WireError> {
        wire::encode(RESULT_VERSION, self, MAX_RESULT_BYTES)
    }

    /// Decodes a result.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        wire::decode(RESULT_VERSION, bytes, MAX_RESULT_BYTES)
    }

    /// Turns a rejection into an error, leaving every other result as it is.
    pub fn into_result(self) -> Result<Self, Rejection> {
        if let Self::Rejected(rejection) = self {
            return Err(rejection);
        }
        Ok(self)
    }
}
