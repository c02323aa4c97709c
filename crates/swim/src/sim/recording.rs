//! What happened to single nodes of a run, so that it can happen to detectors by themselves.

use std::net::SocketAddr;

use bytes::Bytes;
use rivven_core_types::MonoTime;

use super::network::{Simulation, at};
use crate::envelope::Binding;

/// What happened to one node: when on its clock, and the datagram if it was one.
pub type Recorded = (MonoTime, Option<(SocketAddr, Bytes)>);

impl Simulation {
    /// Keeps what happens to this node from now on.
    pub fn record(&mut self, node: u32) {
        self.recorded.insert(node, Vec::new());
    }

    /// What happened to a node since [`Simulation::record`]: its timers and datagrams.
    pub fn recorded(&self, node: u32) -> &[Recorded] {
        self.recorded.get(&node).map_or(&[], Vec::as_slice)
    }

    pub(super) fn keep(&mut self, node: u32, datagram: Option<(SocketAddr, Bytes)>) {
        let now = self.now;
        let local = self.node_mut(node).map(|node| at(node.local(now)));
        if let (Some(local), Some(recorded)) = (local, self.recorded.get_mut(&node)) {
            recorded.push((local, datagram));
        }
    }

    /// What the envelope alone takes of a message: opens a datagram of a node's, and seals one with the
    /// same body to its sender. `None` if it does not open.
    pub fn open_and_seal(&mut self, node: u32, payload: &[u8]) -> Option<Bytes> {
        let envelope = &mut self.node_mut(node)?.detector.envelope;
        let opened = envelope.open(payload).ok()?;
        let binding = Binding {
            receiver: Some(opened.sender),
            key: opened.key,
        };
        let mut bytes = envelope.begin(&binding);
        bytes.extend_from_slice(opened.body);
        Some(envelope.seal(bytes, &binding))
    }
}
