//! The randomness of election and retry times.

use std::convert::Infallible;

use openraft::rt::AsyncRuntime;
use openraft_rt_tokio::TokioRuntime;
use rand_core::TryRng;

use super::scope::{self, NodeScope};

type OsSeeded = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;

/// The node's seeded sequence under a scope; else a generator seeded by the operating system.
pub(crate) enum NodeRng {
    Os(OsSeeded),
    Node(NodeScope),
}

impl NodeRng {
    pub(super) fn current() -> Self {
        scope::current().map_or_else(|| Self::Os(TokioRuntime::thread_rng()), Self::Node)
    }
}

impl TryRng for NodeRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        match self {
            Self::Os(rng) => rng.try_next_u32(),
            Self::Node(scope) => {
                let [a, b, c, d, ..] = scope.draw().to_le_bytes();
                Ok(u32::from_le_bytes([a, b, c, d]))
            }
        }
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        match self {
            Self::Os(rng) => rng.try_next_u64(),
            Self::Node(scope) => Ok(scope.draw()),
        }
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        match self {
            Self::Os(rng) => rng.try_fill_bytes(bytes),
            Self::Node(scope) => {
                for chunk in bytes.chunks_mut(8) {
                    let drawn = scope.draw().to_le_bytes();
                    chunk
                        .iter_mut()
                        .zip(drawn)
                        .for_each(|(to, from)| *to = from);
                }
                Ok(())
            }
        }
    }
}
