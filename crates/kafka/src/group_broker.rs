//! What the Kafka port needs of the node's consumer groups.

use std::sync::Arc;

use rivven_coordinator::consumer_groups::{
    Group, GroupError, GroupPhase, GroupsState, Request, Response,
};
use rivven_core_types::{BoxFuture, BrokerId};

/// The consumer groups as the Kafka port sees them. As with [`crate::Broker`] no method blocks.
pub trait GroupBroker: Send + Sync + 'static {
    /// The broker that coordinates the groups; `None` when none is known within a moment.
    fn coordinator(&self) -> BoxFuture<'static, Option<BrokerId>>;

    /// Answers a request of a member. It is taken up before this returns, so that the requests of a
    /// connection are taken up in order. A join may wait as long as its members may take to rejoin.
    fn call(&self, request: Request) -> BoxFuture<'static, Response>;

    /// All that was committed before this call.
    fn read(&self) -> BoxFuture<'static, Result<Arc<GroupsState>, GroupError>>;

    /// The state of a group as its members see it.
    fn phase(&self, group: &Group) -> GroupPhase;

    /// Random bytes for a new member's id.
    fn random_id(&self) -> [u8; 16];
}
