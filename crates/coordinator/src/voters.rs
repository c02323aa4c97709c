//! Who votes: the pure plan by which the controller keeps the metadata group at its voters.
//!
//! One step at a time, each decided anew from what is committed, so that a fallen controller leaves
//! nothing that the next one has to know. Every step is a change that Raft itself makes safe (joint
//! consensus); the plan only decides which is useful.

use std::collections::BTreeSet;
use std::time::Duration;

use rivven_core_types::{LogIndex, NodeName, RaftNodeId};
use rivven_raft_store::{Member, RaftMembership};

/// A learner whose log lags by more entries is not promoted: it would be waited for.
const MAX_PROMOTION_LAG: u64 = 1_000;
/// Nor is one that has been silent for longer.
const MAX_PROMOTION_SILENCE: Duration = Duration::from_secs(2);

/// What the metadata says of a member of the Raft group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Registered, in session.
    Active,
    /// Registered, its session lost a moment ago.
    Away,
    /// Registered, its session lost for so long that a learner should vote in its place.
    Lost,
    /// An operator has removed it, or another life has registered under its name since.
    Removed,
    /// Has not registered yet.
    Unknown,
}

/// What the plan is made from.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) own: RaftNodeId,
    pub(crate) membership: &'a RaftMembership,
    /// The leader's last entry.
    pub(crate) last_log: LogIndex,
    /// `raft.voters`.
    pub(crate) target: usize,
}

/// The next change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make exactly these vote.
    SetVoters(BTreeSet<RaftNodeId>),
    /// Remove one that does not vote.
    Remove(RaftNodeId),
    /// This node is to go: somebody else must lead first.
    HandOver(NodeName),
}

/// The step that is due, if any.
pub(crate) fn next_step(view: &View<'_>, standing: impl Fn(&Member) -> Standing) -> Option<Step> {
    let membership = view.membership;
    if !membership.outgoing.is_empty() {
        // A fallen leader has left a change half-way, where two majorities are needed.
        return Some(Step::SetVoters(membership.voter_ids()));
    }
    let (gone, stay): (Vec<&Member>, Vec<&Member>) = membership
        .voters
        .iter()
        .partition(|voter| standing(voter) == Standing::Removed);
    if gone.iter().any(|voter| voter.raft_id == view.own) {
        let heirs = stay.iter().filter(|v| standing(v) == Standing::Active);
        let heir = heirs.max_by_key(|v| membership.matched.get(&v.raft_id))?;
        return Some(Step::HandOver(heir.name.clone()));
    }
    let mut candidates: Vec<&Member> = membership
        .learners
        .iter()
        .filter(|learner| standing(learner) == Standing::Active && is_current(view, learner))
        .collect();
    candidates.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut voters: BTreeSet<RaftNodeId> = stay.iter().map(|voter| voter.raft_id).collect();
    demote(view, &stay, &standing, &mut voters);
    let wanted = useful_size(voters.len(), candidates.len(), view.target);
    let missing = wanted.saturating_sub(voters.len());
    let mut candidates = candidates.into_iter().map(|learner| learner.raft_id);
    voters.extend(candidates.by_ref().take(missing));
    // A voter that will hardly come back is replaced, not just left: the group stays as large.
    for lost in stay.iter().filter(|v| standing(v) == Standing::Lost) {
        if let (true, Some(heir)) = (voters.contains(&lost.raft_id), candidates.next()) {
            voters.remove(&lost.raft_id);
            voters.insert(heir);
        }
    }
    if !voters.is_empty() && voters != membership.voter_ids() {
        return Some(Step::SetVoters(voters));
    }
    let removed = membership
        .learners
        .iter()
        .find(|learner| standing(learner) == Standing::Removed);
    removed.map(|learner| Step::Remove(learner.raft_id))
}

/// Takes the vote from those that are too many: the absent first, then from the end of the names,
/// and never from the leader.
fn demote(
    view: &View<'_>,
    stay: &[&Member],
    standing: &impl Fn(&Member) -> Standing,
    voters: &mut BTreeSet<RaftNodeId>,
) {
    let surplus = stay.len().saturating_sub(view.target);
    let mut order: Vec<_> = stay.iter().filter(|v| v.raft_id != view.own).collect();
    order.sort_unstable_by_key(|v| (standing(v) != Standing::Active, v.name.clone()));
    for voter in order.into_iter().rev().take(surplus) {
        voters.remove(&voter.raft_id);
    }
}

fn is_current(view: &View<'_>, learner: &Member) -> bool {
    let membership = view.membership;
    let matched = membership.matched.get(&learner.raft_id);
    let near = matched.is_some_and(|at| at.get() + MAX_PROMOTION_LAG >= view.last_log.get());
    let silent = membership.silent_for.get(&learner.raft_id);
    near && silent.is_some_and(|silent| *silent <= MAX_PROMOTION_SILENCE)
}

/// The number of voters to have, from `now` and at most `available` more: never grown to an even
/// number, which survives no more failures than one less and needs one more vote.
fn useful_size(now: usize, available: usize, target: usize) -> usize {
    let most = target.min(now + available);
    if most <= now {
        now
    } else if most.is_multiple_of(2) {
        now.max(most - 1)
    } else {
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_core_types::Address;
    use std::collections::BTreeMap;

    fn member(n: u64) -> Member {
        Member {
            raft_id: RaftNodeId::new(n),
            name: NodeName::new(format!("node-{n}")).unwrap(),
            address: Address::new("127.0.0.1", 1).unwrap(),
        }
    }

    fn membership(voters: &[u64], learners: &[u64]) -> RaftMembership {
        let all = || voters.iter().chain(learners);
        RaftMembership {
            voters: voters.iter().copied().map(member).collect(),
            learners: learners.iter().copied().map(member).collect(),
            outgoing: Vec::new(),
            matched: all()
                .map(|n| (RaftNodeId::new(*n), LogIndex::new(5_000)))
                .collect(),
            silent_for: all()
                .map(|n| (RaftNodeId::new(*n), Duration::ZERO))
                .collect(),
        }
    }

    fn step_of(
        membership: &RaftMembership,
        target: usize,
        standings: &[(u64, Standing)],
    ) -> Option<Step> {
        let standings: BTreeMap<u64, Standing> = standings.iter().copied().collect();
        let view = View {
            own: RaftNodeId::new(1),
            membership,
            last_log: LogIndex::new(5_500),
            target,
        };
        next_step(&view, |m| {
            let standing = standings.get(&m.raft_id.get()).copied();
            standing.unwrap_or(Standing::Active)
        })
    }

    fn voters(ids: &[u64]) -> Option<Step> {
        let ids = ids.iter().map(|n| RaftNodeId::new(*n)).collect();
        Some(Step::SetVoters(ids))
    }

    #[test]
    fn learners_vote_only_where_an_odd_number_comes_of_it() {
        let step = |v: &[u64], l: &[u64], target| step_of(&membership(v, l), target, &[]);
        assert_eq!(step(&[1, 2, 3], &[4, 5], 3), None);
        assert_eq!(step(&[1, 2, 3], &[4], 5), None);
        assert_eq!(step(&[1, 2, 3], &[4, 5], 5), voters(&[1, 2, 3, 4, 5]));
        assert_eq!(step(&[1], &[2], 3), None);
        assert_eq!(step(&[1], &[2, 3], 3), voters(&[1, 2, 3]));
        assert_eq!(step(&[1, 2], &[3], 3), voters(&[1, 2, 3]));
        assert_eq!(step(&[1, 2], &[3, 4], 5), voters(&[1, 2, 3]));
    }

    #[test]
    fn a_removed_voter_is_replaced_in_one_step_and_leaves_in_the_next() {
        let gone = [(2, Standing::Removed)];
        assert_eq!(
            step_of(&membership(&[1, 2, 3], &[4]), 3, &gone),
            voters(&[1, 3, 4])
        );
        assert_eq!(
            step_of(&membership(&[1, 2, 3], &[]), 3, &gone),
            voters(&[1, 3])
        );
        let remove = Some(Step::Remove(RaftNodeId::new(2)));
        assert_eq!(step_of(&membership(&[1, 3, 4], &[2]), 3, &gone), remove);
    }

    #[test]
    fn a_removed_leader_hands_over_to_the_voter_that_is_furthest() {
        let mut membership = membership(&[1, 2, 3], &[]);
        membership
            .matched
            .insert(RaftNodeId::new(2), LogIndex::new(5_400));
        let step = step_of(&membership, 3, &[(1, Standing::Removed)]);
        assert_eq!(step, Some(Step::HandOver(member(2).name)));
        let alone = [
            (1, Standing::Removed),
            (2, Standing::Away),
            (3, Standing::Away),
        ];
        assert_eq!(step_of(&membership, 3, &alone), None);
    }

    #[test]
    fn too_many_voters_step_down_the_absent_first_and_never_the_leader() {
        let five = membership(&[1, 2, 3, 4, 5], &[]);
        assert_eq!(step_of(&five, 3, &[]), voters(&[1, 2, 3]));
        assert_eq!(
            step_of(&five, 3, &[(2, Standing::Away)]),
            voters(&[1, 3, 4])
        );
        let all_away: Vec<_> = (1..=5).map(|n| (n, Standing::Away)).collect();
        let Some(Step::SetVoters(left)) = step_of(&five, 3, &all_away) else {
            panic!("too many voters stay");
        };
        assert!(left.contains(&RaftNodeId::new(1)));
    }

    #[test]
    fn only_a_learner_that_is_there_and_current_takes_the_place_of_a_lost_voter() {
        let lost = (3, Standing::Lost);
        let four = membership(&[1, 2, 3], &[4]);
        assert_eq!(step_of(&four, 3, &[lost]), voters(&[1, 2, 4]));
        assert_eq!(step_of(&four, 3, &[(3, Standing::Away)]), None);
        for standing in [Standing::Away, Standing::Lost, Standing::Unknown] {
            assert_eq!(step_of(&four, 3, &[lost, (4, standing)]), None);
        }
        let mut slow = four.clone();
        slow.matched
            .insert(RaftNodeId::new(4), LogIndex::new(4_000));
        assert_eq!(step_of(&slow, 3, &[lost]), None);
        let mut silent = four;
        silent.silent_for.clear();
        assert_eq!(step_of(&silent, 3, &[lost]), None);
    }

    #[test]
    fn a_change_that_was_left_half_way_is_finished_first() {
        let mut joint = membership(&[1, 2, 4], &[5]);
        joint.outgoing = vec![member(3)];
        assert_eq!(
            step_of(&joint, 5, &[(2, Standing::Removed)]),
            voters(&[1, 2, 4])
        );
    }
}
