//! The failure detector's second way to a member: a call over the connections of the cluster, for when
//! its datagrams stay out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rivven_core_types::{
    BoxFuture, Lane, NodeName, PeerRpc, Reply, RpcKind, RpcRequest, RpcResponse,
};
use rivven_swim::{Destination, StreamProbe};

use crate::messages;

/// Asks members over the control lane.
pub(crate) struct MemberProbe {
    pub(crate) rpc: Arc<dyn PeerRpc>,
    /// How long an answer may take: the detector's ping time-out.
    pub(crate) deadline: Duration,
}

impl StreamProbe for MemberProbe {
    fn probe(&self, member: NodeName, boot_id: u64, _to: Destination) -> BoxFuture<'static, bool> {
        let request = RpcRequest {
            kind: RpcKind::MEMBER_PROBE,
            lane: Lane::Control,
            meta: Bytes::new(),
            body: Bytes::new(),
            deadline: self.deadline,
        };
        let answer = self.rpc.call(&member, request);
        Box::pin(async move {
            let answer = answer.await;
            // An earlier or later life behind the same name says nothing about the one in question.
            answer.is_ok_and(|answer| messages::decode::<u64>(&answer.meta) == Ok(boot_id))
        })
    }
}

/// The answer: which life this is.
pub(crate) fn answer(boot_id: u64) -> Reply {
    Reply::Now(messages::encode(&boot_id).map(|meta| RpcResponse {
        meta,
        body: Bytes::new(),
    }))
}

#[cfg(test)]
mod tests {
    use rivven_core_types::RpcError;

    use super::*;

    struct Answers(u64);

    impl PeerRpc for Answers {
        fn call(
            &self,
            _peer: &NodeName,
            request: RpcRequest,
        ) -> BoxFuture<'static, Result<RpcResponse, RpcError>> {
            assert_eq!(request.kind, RpcKind::MEMBER_PROBE);
            let Reply::Now(reply) = answer(self.0) else {
                panic!("it is known at once");
            };
            Box::pin(std::future::ready(reply))
        }
    }

    #[tokio::test]
    async fn only_the_life_that_is_asked_for_counts() {
        let probe = MemberProbe {
            rpc: Arc::new(Answers(7)),
            deadline: Duration::from_millis(50),
        };
        let member = NodeName::new("node-2").unwrap();
        let to = Destination::from(std::net::SocketAddr::from(([127, 0, 0, 1], 1)));
        assert!(probe.probe(member.clone(), 7, to.clone()).await);
        assert!(!probe.probe(member, 8, to).await);
    }
}
