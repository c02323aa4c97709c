//! The assignors' properties on random groups, and the lower bound of moves.

use std::collections::BTreeMap;
use std::sync::Arc;

use rivven_core_types::{PartitionId, RackId, Rng, TopicId};

use super::world::member;
use crate::{AssignorKind, GroupSpec, MemberSpec, Partitions, TopicSpec, assign_cooperatively};

fn topic(n: u8, partitions: u32) -> TopicSpec {
    TopicSpec {
        id: TopicId::from_bytes([n; 16]),
        partitions,
        racks: Vec::new(),
    }
}

fn spec_member(n: u64, topics: impl Into<Arc<[u32]>>, owned: Vec<PartitionId>) -> MemberSpec {
    MemberSpec {
        id: member(&format!("m{n:05}")),
        instance: None,
        rack: None,
        topics: topics.into(),
        owned: Partitions::new(owned),
        generation: 0,
    }
}

fn below(rng: &mut Rng, bound: u64) -> u32 {
    u32::try_from(rng.below(bound)).unwrap()
}

/// A group whose members own random, disjoint partitions.
fn random(rng: &mut Rng, same: bool) -> GroupSpec {
    let topics: Vec<TopicSpec> = (0..=below(rng, 4))
        .map(|n| topic(u8::try_from(n).unwrap(), below(rng, 30)))
        .collect();
    let count = 1 + rng.below(12);
    let every: Vec<u32> = (0..u32::try_from(topics.len()).unwrap()).collect();
    let mut owned = vec![Vec::new(); usize::try_from(count).unwrap()];
    for topic in &topics {
        for index in 0..topic.partitions {
            // Skewed, and some are nobody's.
            let owner = rng.below(count).min(rng.below(count + 3));
            if let Some(owned) = owned.get_mut(usize::try_from(owner).unwrap()) {
                owned.push(PartitionId::new(topic.id, index));
            }
        }
    }
    let members = (0..count).zip(owned).map(|(n, owned)| {
        let wanted = every.iter().copied();
        let wanted: Vec<u32> = wanted.filter(|_| same || rng.below(3) > 0).collect();
        spec_member(n, wanted, owned)
    });
    let members = members.collect();
    GroupSpec::new(members, topics).unwrap()
}

fn check_complete(spec: &GroupSpec, lists: &[Vec<PartitionId>]) {
    let mut owners: BTreeMap<PartitionId, usize> = BTreeMap::new();
    for (at, list) in lists.iter().enumerate() {
        assert!(list.is_sorted());
        for partition in list {
            assert_eq!(owners.insert(*partition, at), None);
            let position = spec.position(partition.topic).unwrap();
            let position = u32::try_from(position).unwrap();
            assert!(spec.members()[at].topics.contains(&position));
        }
    }
    for (position, members) in spec.subscribers().iter().enumerate() {
        let topic = &spec.topics[position];
        let expected = if members.is_empty() {
            0
        } else {
            topic.partitions
        };
        let got = owners.keys().filter(|p| p.topic == topic.id).count();
        assert_eq!(u32::try_from(got).unwrap(), expected);
    }
}

#[test]
fn uniform_is_even_and_moves_exactly_the_lower_bound_in_ten_thousand_random_groups() {
    let mut rng = Rng::new(1);
    for _ in 0..10_000 {
        let spec = random(&mut rng, true);
        let lists = AssignorKind::Uniform.assign(&spec).lists();
        check_complete(&spec, &lists);
        let total: usize = lists.iter().map(Vec::len).sum();
        let members = lists.len();
        let (share, mut longer) = (total / members, total % members);
        let mut owned: Vec<usize> = spec.members().iter().map(|m| m.owned.len()).collect();
        owned.sort_unstable_by(|a, b| b.cmp(a));
        // The best there is: the longer shares to those who own most.
        let kept: usize = owned
            .iter()
            .map(|owned| {
                let quota = share + usize::from(longer > 0);
                longer = longer.saturating_sub(1);
                (*owned).min(quota)
            })
            .sum();
        let stays = |(m, list): (&MemberSpec, &Vec<PartitionId>)| {
            list.iter().filter(|p| m.owned.contains(p)).count()
        };
        let stayed: usize = spec.members().iter().zip(&lists).map(stays).sum();
        assert_eq!(stayed, kept, "moved more than it had to");
        assert!(
            lists
                .iter()
                .all(|l| l.len() == share || l.len() == share + 1)
        );
    }
}

#[test]
fn different_subscriptions_are_covered_and_no_single_move_makes_them_more_even() {
    let mut rng = Rng::new(2);
    for _ in 0..2_000 {
        let spec = random(&mut rng, false);
        for kind in [
            AssignorKind::Uniform,
            AssignorKind::Range,
            AssignorKind::RoundRobin,
        ] {
            check_complete(&spec, &kind.assign(&spec).lists());
        }
        let lists = AssignorKind::Uniform.assign(&spec).lists();
        for (at, list) in lists.iter().enumerate() {
            for partition in list {
                let position = u32::try_from(spec.position(partition.topic).unwrap()).unwrap();
                for (other, m) in spec.members().iter().enumerate() {
                    let takes = m.topics.contains(&position);
                    assert!(
                        !takes || lists[other].len() + 1 >= list.len(),
                        "{at} has {} and {other} {}",
                        list.len(),
                        lists[other].len()
                    );
                }
            }
        }
        // Balanced, it stays as it is.
        let members = spec
            .members()
            .iter()
            .zip(&lists)
            .map(|(m, list)| MemberSpec {
                owned: Partitions::new(list.clone()),
                ..m.clone()
            });
        let again = GroupSpec::new(members.collect(), spec.topics.clone()).unwrap();
        assert_eq!(AssignorKind::Uniform.assign(&again).lists(), lists);
    }
}

#[test]
fn a_balanced_group_gives_a_newcomer_its_share_and_moves_nothing_else() {
    // KAFKA-18688: the longer shares went to the first members, whoever had them.
    let topics = vec![topic(1, 11)];
    let members = (0..3).map(|n| spec_member(n, vec![0], Vec::new()));
    let spec = GroupSpec::new(members.collect(), topics.clone()).unwrap();
    let lists = AssignorKind::Uniform.assign(&spec).lists();
    let mut members: Vec<MemberSpec> = (0..3)
        .map(|n| spec_member(n + 1, vec![0], lists[usize::try_from(n).unwrap()].clone()))
        .collect();
    members.insert(0, spec_member(0, vec![0], Vec::new()));
    let spec = GroupSpec::new(members, topics).unwrap();
    let after = AssignorKind::Uniform.assign(&spec).lists();
    assert_eq!(after[0].len(), 2, "the newcomer gets the short share");
    for (before, after) in lists.iter().zip(&after[1..]) {
        assert!(after.iter().all(|p| before.contains(p)));
    }
}

#[test]
fn range_gives_contiguous_parts_and_keeps_equal_topics_together() {
    let topics = vec![topic(1, 7), topic(2, 7)];
    let members = (0..3).map(|n| spec_member(n, vec![0, 1], Vec::new()));
    let spec = GroupSpec::new(members.collect(), topics).unwrap();
    let indexes = |list: &[PartitionId], n: u8| -> Vec<u32> {
        let of = list
            .iter()
            .filter(|p| p.topic == TopicId::from_bytes([n; 16]));
        of.map(|p| p.index.get()).collect()
    };
    let lists = AssignorKind::Range.assign(&spec).lists();
    assert_eq!(indexes(&lists[0], 1), [0, 1, 2]);
    assert_eq!(indexes(&lists[1], 1), [3, 4]);
    assert!(
        lists
            .iter()
            .all(|list| indexes(list, 1) == indexes(list, 2))
    );
}

#[test]
fn two_claims_of_one_generation_cancel_out_and_an_older_one_yields() {
    let partition = |i| PartitionId::new(TopicId::from_bytes([1; 16]), i);
    let claim = |n, generation, owned| MemberSpec {
        generation,
        ..spec_member(n, vec![0], owned)
    };
    let older = claim(0, 1, vec![partition(0), partition(1)]);
    let newer = claim(1, 2, vec![partition(0), partition(1)]);
    let spec = GroupSpec::new(vec![older, newer], vec![topic(1, 2)]).unwrap();
    assert_eq!(spec.claims(), [1, 1]);
    let same = [
        claim(0, 2, vec![partition(0)]),
        claim(1, 2, vec![partition(0)]),
    ];
    let spec = GroupSpec::new(same.to_vec(), vec![topic(1, 2)]).unwrap();
    assert!(
        spec.claims()
            .iter()
            .all(|owner| *owner == super::super::assignor::nobody())
    );
}

#[test]
fn a_cooperative_round_withholds_what_another_member_still_has() {
    let partition = |i| PartitionId::new(TopicId::from_bytes([1; 16]), i);
    let has_all = spec_member(0, vec![0], (0..4).map(partition).collect());
    let newcomer = spec_member(1, vec![0], Vec::new());
    let spec = GroupSpec::new(vec![has_all, newcomer], vec![topic(1, 4)]).unwrap();
    let first = assign_cooperatively(&spec).lists();
    assert_eq!((first[0].len(), first[1].len()), (2, 0));
    let kept = spec_member(0, vec![0], first[0].clone());
    let newcomer = spec_member(1, vec![0], Vec::new());
    let spec = GroupSpec::new(vec![kept, newcomer], vec![topic(1, 4)]).unwrap();
    let second = assign_cooperatively(&spec).lists();
    assert_eq!((second[0].len(), second[1].len()), (2, 2));
}

#[test]
fn partitions_go_to_members_of_their_rack_as_far_as_shares_allow() {
    let rack = |n: u32| RackId::new(format!("rack-{n}")).unwrap();
    let mut one = topic(1, 12);
    one.racks = (0..12).map(|p| vec![rack(p % 3)]).collect();
    let members = (0..3).map(|n| MemberSpec {
        rack: Some(rack(u32::try_from(n).unwrap())),
        ..spec_member(n, vec![0], Vec::new())
    });
    let spec = GroupSpec::new(members.collect(), vec![one]).unwrap();
    let lists = AssignorKind::Uniform.assign(&spec).lists();
    for (n, list) in (0u32..).zip(&lists) {
        assert_eq!(list.len(), 4);
        assert!(list.iter().all(|p| p.index.get() % 3 == n));
    }
}

#[test]
fn duplicates_are_refused() {
    let twice = vec![
        spec_member(1, vec![], vec![]),
        spec_member(1, vec![], vec![]),
    ];
    assert!(GroupSpec::new(twice, Vec::new()).is_err());
}
