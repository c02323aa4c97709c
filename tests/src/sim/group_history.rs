//! What the members of a consumer group have been told, and what must hold of it.

use std::collections::{BTreeMap, BTreeSet};

use rivven_coordinator::consumer_groups::{Epoch, Group, GroupPhase, MemberId};
use rivven_core_types::PartitionId;

/// A group as its members know it.
#[derive(Debug, Default)]
pub(super) struct GroupSeen {
    /// Who owned a partition in an epoch or a generation.
    owners: BTreeMap<(PartitionId, Epoch), MemberId>,
    /// The members that live, with what they own now.
    pub(super) members: BTreeMap<MemberId, BTreeSet<PartitionId>>,
    /// The greatest offset whose commit was acknowledged, and the greatest that was ever sent.
    acked: BTreeMap<PartitionId, i64>,
    sent: BTreeMap<PartitionId, i64>,
    epoch: Option<Epoch>,
}

impl GroupSeen {
    /// A member owns these partitions in this epoch.
    pub(super) fn on_owned(
        &mut self,
        member: &MemberId,
        epoch: Epoch,
        owned: &BTreeSet<PartitionId>,
    ) -> Result<(), String> {
        self.members.insert(member.clone(), owned.clone());
        for partition in owned {
            let key = (*partition, epoch);
            let known = self.owners.entry(key).or_insert_with(|| member.clone());
            if known != member {
                let epoch = epoch.get();
                return Err(format!("{partition} in {epoch}: {known:?} and {member:?}"));
            }
        }
        Ok(())
    }

    /// The next offset to commit: greater than any before, whoever sent it.
    pub(super) fn next_offset(&mut self, partition: PartitionId) -> i64 {
        let sent = self.sent.entry(partition).or_insert(-1);
        *sent += 1;
        *sent
    }

    pub(super) fn on_commit(&mut self, partition: PartitionId, offset: i64) {
        let acked = self.acked.entry(partition).or_insert(offset);
        *acked = offset.max(*acked);
    }

    /// The greatest acknowledged offset so far, or -1.
    pub(super) fn acked(&self, partition: &PartitionId) -> i64 {
        self.acked.get(partition).copied().unwrap_or(-1)
    }

    /// What a read found that began when `acked` was acknowledged.
    pub(super) fn on_offset(
        &self,
        partition: PartitionId,
        acked: i64,
        found: i64,
    ) -> Result<(), String> {
        let sent = self.sent.get(&partition).copied().unwrap_or(-1);
        if (acked..=sent).contains(&found) {
            return Ok(());
        }
        Err(format!(
            "{partition}: {acked} was acknowledged and {sent} sent, found {found}"
        ))
    }

    /// What the coordinator has committed of the group.
    pub(super) fn on_state(&mut self, group: &Group) -> Result<(), String> {
        let epoch = group.epoch();
        if self.epoch.is_some_and(|before| epoch < before) {
            return Err(format!("the epoch fell from {:?} to {epoch:?}", self.epoch));
        }
        self.epoch = Some(epoch);
        let mut owners: BTreeMap<PartitionId, &MemberId> = BTreeMap::new();
        let members = group.consumer().into_iter();
        for member in members.flat_map(|consumer| consumer.members()) {
            for partition in member.assigned.iter().chain(member.revoking.iter()) {
                if let Some(other) = owners.insert(*partition, &member.id) {
                    return Err(format!("{partition}: {other:?} and {:?}", member.id));
                }
            }
        }
        Ok(())
    }

    /// Whether the group consists of the members that live, and each partition has one owner who knows it.
    pub(super) fn is_settled(&self, group: &Group, partitions: &[PartitionId]) -> bool {
        let known: BTreeSet<&MemberId> = match (group.consumer(), group.classic()) {
            (Some(consumer), _) => consumer.members().map(|member| &member.id).collect(),
            (None, Some(classic)) => classic.members().map(|member| &member.id).collect(),
            (None, None) => BTreeSet::new(),
        };
        let mut owned: Vec<_> = self.members.values().flatten().copied().collect();
        owned.sort_unstable();
        let mut all = partitions.to_vec();
        all.sort_unstable();
        group.phase() == GroupPhase::Stable
            && known.into_iter().eq(self.members.keys())
            && owned == all
    }
}
