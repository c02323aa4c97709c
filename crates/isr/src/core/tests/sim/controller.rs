//! The model controller: sessions, elections, in-sync sets.

use rivven_core_types::{
    AlterPartitionError, AlterPartitionProposal, BrokerId, NodeEpoch, PartitionState,
};

use super::{AlterResult, NODES, Sim, id};

impl Sim {
    pub(super) fn fence_crashed(&mut self) {
        for i in 0..NODES {
            if self.down(i) && !self.view.ineligible.contains(&id(i)) {
                self.fence(i);
            }
        }
    }

    pub(super) fn fence(&mut self, i: usize) {
        let broker = id(i);
        let before = self.record.clone();
        self.view.ineligible.insert(broker);
        if self.record.isr.contains(&broker) {
            self.record.isr.retain(|b| *b != broker);
            if self.record.isr.len() < 2 {
                self.record.elr.push(broker);
            }
        }
        if self.record.leader == Some(broker) {
            self.record.leader = None;
            self.record.leader_epoch = self.record.leader_epoch.next().unwrap();
        }
        self.elect();
        self.changed_from(&before);
    }

    /// The partition epoch moves only if the record is another: who is fenced and in no set leaves no
    /// trace in it.
    pub(super) fn changed_from(&mut self, before: &PartitionState) {
        if self.record != *before {
            self.changed();
        }
    }

    pub(super) fn changed(&mut self) {
        self.record.partition_epoch = self.record.partition_epoch.next().unwrap();
    }

    pub(super) fn elect(&mut self) {
        if self.record.leader.is_some() {
            return;
        }
        let fenced = &self.view.ineligible;
        let in_sync = self
            .record
            .isr
            .iter()
            .copied()
            .find(|b| !fenced.contains(b));
        let eligible = self
            .record
            .elr
            .iter()
            .copied()
            .find(|b| !fenced.contains(b));
        if let Some(leader) = in_sync.or(eligible) {
            if in_sync.is_none() {
                self.record.isr = vec![leader];
                self.record.elr.retain(|b| *b != leader);
            }
            self.record.leader = Some(leader);
            self.record.leader_epoch = self.record.leader_epoch.next().unwrap();
            self.elections += 1;
        }
    }

    pub(super) fn move_leader(&mut self) {
        let candidates = self.record.isr.clone();
        let Some(from) = self.record.leader else {
            return;
        };
        let chosen = self.below(candidates.len().max(1));
        if let Some(to) = candidates.get(chosen).filter(|to| **to != from) {
            self.record.leader = Some(*to);
            self.record.leader_epoch = self.record.leader_epoch.next().unwrap();
            self.elections += 1;
            self.changed();
        }
    }

    pub(super) fn alter(
        &mut self,
        from: usize,
        epoch: NodeEpoch,
        p: &AlterPartitionProposal,
    ) -> AlterResult {
        if self.view.node_epochs[&id(from)] != epoch {
            return Err(AlterPartitionError::StaleNodeEpoch);
        }
        if p.leader_epoch != self.record.leader_epoch || self.record.leader != Some(id(from)) {
            return Err(AlterPartitionError::FencedLeaderEpoch);
        }
        if p.partition_epoch != self.record.partition_epoch {
            return Err(AlterPartitionError::InvalidUpdateVersion);
        }
        let isr: Vec<BrokerId> = p.new_isr.iter().map(|m| m.broker).collect();
        if !p
            .new_isr
            .iter()
            .all(|m| self.view.is_eligible(m.broker, m.node_epoch))
        {
            return Err(AlterPartitionError::IneligibleReplica);
        }
        let left: Vec<BrokerId> = self
            .record
            .isr
            .iter()
            .copied()
            .filter(|b| !isr.contains(b))
            .collect();
        self.record.isr = isr;
        self.record.elr.extend(left);
        let members = self.record.isr.clone();
        self.record.elr.retain(|b| !members.contains(b));
        if members.len() >= 2 {
            self.record.elr.clear();
        }
        self.changed();
        Ok(self.record.clone())
    }
}
