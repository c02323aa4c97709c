//! Kafka's range assignor: per topic, the subscribed members in order get contiguous ranges, and the
//! first ones get one partition more if the count does not divide evenly. Topics of equal partition
//! counts and the same subscribers therefore go together.

use super::spec::{GroupSpec, NOBODY};

pub(super) fn assign(spec: &GroupSpec) -> Vec<u32> {
    let mut owners = Vec::with_capacity(spec.total as usize);
    for (topic, members) in spec.topics.iter().zip(spec.subscribers()) {
        let count = topic.partitions;
        // At most as many as a group may have; none at all leaves the topic alone.
        let members_count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        if members_count == 0 {
            owners.extend(std::iter::repeat_n(NOBODY, count as usize));
            continue;
        }
        let (share, longer) = (count / members_count, count % members_count);
        for (at, member) in (0u32..).zip(members) {
            let length = share + u32::from(at < longer);
            owners.extend(std::iter::repeat_n(member, length as usize));
        }
    }
    owners
}
