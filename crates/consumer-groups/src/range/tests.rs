use proptest::prelude::*;

use super::*;
use crate::member::{InstanceId, MAX_ID_BYTES};

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn member(id: &str, topics: &[&str]) -> Subscription {
    Subscription::new(
        MemberId::new(id).unwrap(),
        topics.iter().map(|name| topic(name)),
    )
}

fn fixed(id: &str, instance: &str, topics: &[&str]) -> Subscription {
    member(id, topics).with_instance(InstanceId::new(instance).unwrap())
}

fn counts(topics: &[(&str, u32)]) -> BTreeMap<TopicName, u32> {
    topics.iter().map(|(name, n)| (topic(name), *n)).collect()
}

/// `assigned` as text: "member topic:0,1 topic:2".
fn lines(assigned: &BTreeMap<MemberId, Assignment>) -> Vec<String> {
    let line = |(member, assignment): (&MemberId, &Assignment)| {
        let topics = assignment.iter().map(|(topic, partitions)| {
            let list: Vec<String> = partitions.iter().map(ToString::to_string).collect();
            format!(" {topic}:{}", list.join(","))
        });
        format!("{member}{}", topics.collect::<String>())
    };
    assigned.iter().map(line).collect()
}

fn assign(members: &[Subscription], topics: &[(&str, u32)]) -> Vec<String> {
    lines(&RangeAssignor.assign(members, &counts(topics)).unwrap())
}

/// The example in the documentation of Kafka's `RangeAssignor`: the first members get one more, in
/// every topic.
#[test]
fn kafkas_example_of_two_members_and_two_topics_of_three() {
    let members = [member("C0", &["t0", "t1"]), member("C1", &["t0", "t1"])];
    assert_eq!(
        assign(&members, &[("t0", 3), ("t1", 3)]),
        ["C0 t0:0,1 t1:0,1", "C1 t0:2 t1:2"]
    );
}

#[test]
fn only_subscribers_share_a_topic() {
    let members = [
        member("a", &["t1"]),
        member("b", &["t1", "t2"]),
        member("c", &["t1"]),
    ];
    assert_eq!(
        assign(&members, &[("t1", 3), ("t2", 2)]),
        ["a t1:0", "b t1:1 t2:0,1", "c t1:2"]
    );
}

#[test]
fn members_beyond_the_partitions_get_none_but_are_named() {
    let members = [member("a", &["t"]), member("b", &["t"]), member("c", &[])];
    assert_eq!(assign(&members, &[("t", 1)]), ["a t:0", "b", "c"]);
}

#[test]
fn a_topic_that_does_not_exist_is_passed_over() {
    let members = [member("a", &["missing", "t"])];
    assert_eq!(assign(&members, &[("t", 1), ("unread", 5)]), ["a t:0"]);
    assert_eq!(assign(&members, &[("t", 0)]), ["a"]);
    assert!(assign(&[], &[("t", 3)]).is_empty());
}

/// KIP-345: a static member that restarts under a new member id finds its ranges again.
#[test]
fn static_members_keep_their_ranges_over_a_restart_and_come_first() {
    let before = [
        fixed("x", "i1", &["t"]),
        fixed("y", "i2", &["t"]),
        member("a", &["t"]),
    ];
    assert_eq!(
        assign(&before, &[("t", 5)]),
        ["a t:4", "x t:0,1", "y t:2,3"]
    );
    let after = [
        fixed("z", "i1", &["t"]),
        fixed("y", "i2", &["t"]),
        member("a", &["t"]),
    ];
    assert_eq!(assign(&after, &[("t", 5)]), ["a t:4", "y t:2,3", "z t:0,1"]);
}

#[test]
fn duplicates_and_excess_are_typed_errors() {
    let assign = |members: &[Subscription], n| RangeAssignor.assign(members, &counts(&[("t", n)]));
    assert!(matches!(
        assign(&[member("a", &["t"]), member("a", &[])], 1),
        Err(AssignError::DuplicateMember { .. })
    ));
    assert!(matches!(
        assign(&[fixed("a", "i", &["t"]), fixed("b", "i", &[])], 1),
        Err(AssignError::DuplicateInstance { .. })
    ));
    assert!(matches!(
        assign(&[member("a", &["t"])], MAX_PARTITIONS_PER_TOPIC + 1),
        Err(AssignError::TooManyPartitions { .. })
    ));
    let many: Vec<Subscription> = (0..=MAX_GROUP_MEMBERS)
        .map(|i| member(&format!("m{i}"), &["t"]))
        .collect();
    assert!(matches!(
        assign(&many, 1),
        Err(AssignError::TooManyMembers { .. })
    ));
    assert!(assign(&many[1..], 1).is_ok());
}

#[test]
fn ids_are_bounded() {
    assert!(matches!(
        MemberId::new(""),
        Err(AssignError::EmptyId { what: "member id" })
    ));
    assert!(InstanceId::new("x".repeat(MAX_ID_BYTES)).is_ok());
    assert!(matches!(
        InstanceId::new("x".repeat(MAX_ID_BYTES + 1)),
        Err(AssignError::IdTooLong { .. })
    ));
}

const TOPICS: [&str; 4] = ["t0", "t1", "t2", "t3"];

fn groups() -> impl Strategy<Value = (Vec<Subscription>, BTreeMap<TopicName, u32>)> {
    let topics = proptest::sample::subsequence(TOPICS.to_vec(), 0..=4);
    let one = (topics, any::<bool>());
    let members = proptest::collection::btree_map("[a-d]{1,3}", one, 0..12).prop_map(|members| {
        let build = |(id, (topics, is_static)): (String, (Vec<&str>, bool))| {
            let plain = member(&id, &topics);
            if is_static {
                plain.with_instance(
                    InstanceId::new(id.chars().rev().collect::<String>() + &id).unwrap(),
                )
            } else {
                plain
            }
        };
        members.into_iter().map(build).collect()
    });
    let partitions = proptest::collection::vec(0u32..20, 3)
        .prop_map(|n| TOPICS.iter().zip(n).map(|(t, n)| (topic(t), n)).collect());
    (members, partitions)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn each_partition_goes_to_exactly_one_subscriber_in_even_contiguous_shares(
        (members, partitions) in groups(),
    ) {
        let assigned = RangeAssignor.assign(&members, &partitions).unwrap();
        prop_assert_eq!(assigned.len(), members.len());
        for (topic, count) in &partitions {
            let mut all = Vec::new();
            let mut sizes = Vec::new();
            for member in &members {
                let mine = assigned[&member.member].get(topic).cloned().unwrap_or_default();
                if !member.topics.contains(topic) {
                    prop_assert!(mine.is_empty());
                    continue;
                }
                prop_assert!(mine.windows(2).all(|w| w[0].get() + 1 == w[1].get()));
                sizes.push(mine.len());
                all.extend(mine.iter().map(|p| p.get()));
            }
            all.sort_unstable();
            let expected = if sizes.is_empty() { 0 } else { *count };
            prop_assert_eq!(all, (0..expected).collect::<Vec<_>>());
            let spread = sizes.iter().max().unwrap_or(&0) - sizes.iter().min().unwrap_or(&0);
            prop_assert!(spread <= 1);
        }
    }

    #[test]
    fn the_order_of_members_does_not_matter(
        ((members, partitions), shuffled) in groups()
            .prop_flat_map(|g| (Just(g.clone()), Just(g.0).prop_shuffle())),
    ) {
        prop_assert_eq!(
            RangeAssignor.assign(&members, &partitions),
            RangeAssignor.assign(&shuffled, &partitions)
        );
    }
}
