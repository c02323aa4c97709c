//! What an assignor found.

use rivven_core_types::PartitionId;

use super::spec::{GroupSpec, NOBODY};

/// Who reads what, by the partitions' numbers; lists are only made of what is asked for.
#[derive(Debug, Clone)]
pub struct Assignment<'a> {
    spec: &'a GroupSpec,
    before: Vec<u32>,
    owners: Vec<u32>,
}

impl<'a> Assignment<'a> {
    pub(super) const fn new(spec: &'a GroupSpec, before: Vec<u32>, owners: Vec<u32>) -> Self {
        Self {
            spec,
            before,
            owners,
        }
    }

    /// One sorted list for each of [`GroupSpec::members`].
    pub fn lists(&self) -> Vec<Vec<PartitionId>> {
        self.lists_of(&vec![true; self.spec.members.len()])
    }

    /// The members that are to have something else than they have, by their positions in
    /// [`GroupSpec::members`], each with the sorted list of all that it is to have.
    pub fn changes(&self) -> Vec<(usize, Vec<PartitionId>)> {
        let members = &self.spec.members;
        let mut valid = vec![0usize; members.len()];
        let mut changed = vec![false; members.len()];
        for (before, after) in self.before.iter().zip(&self.owners) {
            if let Some(valid) = valid.get_mut(*before as usize) {
                *valid += 1;
            }
            if before != after {
                for member in [before, after] {
                    if let Some(changed) = changed.get_mut(*member as usize) {
                        *changed = true;
                    }
                }
            }
        }
        // Whoever has something that is not there any more, or that it does not want, or that another one
        // has a better claim to.
        for ((member, valid), changed) in members.iter().zip(valid).zip(&mut changed) {
            *changed |= member.owned.len() != valid;
        }
        let lists = self.lists_of(&changed);
        let lists = lists.into_iter().enumerate().zip(changed);
        let lists = lists.filter_map(|(list, changed)| changed.then_some(list));
        lists.collect()
    }

    /// The lists of the chosen members, the others empty.
    fn lists_of(&self, chosen: &[bool]) -> Vec<Vec<PartitionId>> {
        let mut counts = vec![0usize; chosen.len()];
        for owner in &self.owners {
            if let Some(count) = counts.get_mut(*owner as usize) {
                *count += 1;
            }
        }
        let sizes = counts.into_iter().zip(chosen);
        let mut lists: Vec<Vec<PartitionId>> = sizes
            .map(|(count, chosen)| Vec::with_capacity(if *chosen { count } else { 0 }))
            .collect();
        let mut rest = self.owners.as_slice();
        for topic in &self.spec.topics {
            let (owners, others) = rest.split_at(topic.partitions as usize);
            rest = others;
            for (index, owner) in (0..).zip(owners) {
                let owner = *owner as usize;
                if chosen.get(owner) == Some(&true)
                    && let Some(list) = lists.get_mut(owner)
                {
                    list.push(PartitionId::new(topic.id, index));
                }
            }
        }
        lists
    }

    /// Takes from members what somebody else has still.
    pub(super) fn withhold(&mut self) {
        for (before, owner) in self.before.iter().zip(&mut self.owners) {
            if *before != NOBODY && before != owner {
                *owner = NOBODY;
            }
        }
    }
}
