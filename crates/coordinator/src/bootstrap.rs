//! Forming a cluster (D17): when, by whom, and for whom we wait.
//!
//! A cluster is formed only when all nodes of one named set are reachable, blank, and agree on the
//! sorted list of names; the smallest name initializes. Never by count and never by majority: that is
//! how one configuration becomes two clusters.
//!
//! The initializer first writes the cluster id into its own identity, then announces it to all others
//! (each makes it durable), and only when all have accepted starts Raft. Every step may be repeated
//! after a crash: a node that has been told a cluster id accepts the same one again and no other.

use std::collections::BTreeMap;

use rivven_core_types::{Address, ClusterId, Incarnation, NodeName};
use rivven_metadata::LevelRange;

use crate::messages::{FirstVoter, Formation, ProbeReply};

/// What this node knows about itself.
#[derive(Debug, Clone)]
pub(crate) struct OwnView {
    pub(crate) node: FirstVoter,
    pub(crate) formation: Formation,
    pub(crate) levels: LevelRange,
    /// The other members by address, with the name where the configuration gives one.
    pub(crate) others: BTreeMap<Address, Option<NodeName>>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Not yet; the reasons name the nodes.
    Wait(Vec<String>),
    /// All conditions hold and this node has the smallest name: announce and initialize.
    Initialize {
        /// The cluster id that has been announced already, if there is one.
        announced: Option<ClusterId>,
        /// All first voters, sorted by name.
        voters: Vec<FirstVoter>,
    },
    /// A cluster exists and this node may belong to it: ask to join.
    Join {
        /// The cluster.
        cluster: ClusterId,
        /// Where its members that answered are.
        members: Vec<Address>,
    },
    /// An operator has removed this life from the cluster; it never comes back.
    Removed {
        /// Who said so.
        by: NodeName,
    },
    /// The cluster exists and knows this node's name under another incarnation: this disk is blank,
    /// or is not the one that belongs here. A person must decide.
    NameTaken {
        /// Who said so.
        by: NodeName,
        /// The incarnation that the cluster knows.
        known: Incarnation,
    },
}

/// The sorted names of the whole set, or `None` while a name is still unknown.
pub(crate) fn member_names(
    own: &OwnView,
    replies: &BTreeMap<Address, ProbeReply>,
) -> Option<Vec<NodeName>> {
    let others = own.others.iter().map(|(address, name)| {
        name.clone()
            .or_else(|| replies.get(address).map(|reply| reply.node.name.clone()))
    });
    let mut names = others.collect::<Option<Vec<_>>>()?;
    names.push(own.node.name.clone());
    names.sort_unstable();
    Some(names)
}

/// Decides from the latest answers of the other members.
pub(crate) fn decide(own: &OwnView, replies: &BTreeMap<Address, ProbeReply>) -> Decision {
    if let Some(refused) = replies.values().find_map(|reply| refusal(own, reply)) {
        return refused;
    }
    if let Some(decision) = membership(own, replies) {
        return decision;
    }
    let names = member_names(own, replies);
    let mut reasons: Vec<String> = Vec::new();
    for (address, expected) in &own.others {
        let who = expected
            .as_ref()
            .map_or_else(|| address.to_string(), ToString::to_string);
        match replies.get(address) {
            None => reasons.push(format!("{who} ({address}) does not answer")),
            Some(reply) => reasons.extend(objection(own, expected.as_ref(), names.as_ref(), reply)),
        }
    }
    if !reasons.is_empty() {
        return Decision::Wait(reasons);
    }
    let mut voters: Vec<FirstVoter> = replies.values().map(|reply| reply.node.clone()).collect();
    voters.push(own.node.clone());
    voters.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = voters.windows(2).find(|pair| pair[0].name == pair[1].name) {
        let name = &pair[0].name;
        return Decision::Wait(vec![format!("two of the members are both called {name}")]);
    }
    if let Some(first) = voters.first().filter(|first| first.name != own.node.name) {
        return Decision::Wait(vec![format!("{} initializes the cluster", first.name)]);
    }
    let announced = match own.formation {
        Formation::Blank => None,
        Formation::Announced(cluster) | Formation::Member(cluster) => Some(cluster),
    };
    Decision::Initialize { announced, voters }
}

/// What the cluster knows of this node's name may forbid everything.
pub(crate) fn refusal(own: &OwnView, reply: &ProbeReply) -> Option<Decision> {
    let by = || reply.node.name.clone();
    let known = reply.known_as?;
    match (known.incarnation == own.node.incarnation, known.removed) {
        (true, true) => Some(Decision::Removed { by: by() }),
        (false, false) => Some(Decision::NameTaken {
            by: by(),
            known: known.incarnation,
        }),
        (true, false) | (false, true) => None,
    }
}

/// Where members of a cluster answer, a new one must not be formed: this node joins theirs.
fn membership(own: &OwnView, replies: &BTreeMap<Address, ProbeReply>) -> Option<Decision> {
    let of_cluster = |reply: &ProbeReply| match reply.formation {
        Formation::Member(cluster) => Some(cluster),
        Formation::Blank | Formation::Announced(_) => None,
    };
    let mut clusters = replies.values().filter_map(of_cluster);
    let cluster = clusters.next()?;
    if clusters.any(|other| other != cluster) {
        let text = "the members that answer belong to different clusters".to_owned();
        return Some(Decision::Wait(vec![text]));
    }
    match own.formation {
        Formation::Announced(ours) | Formation::Member(ours) if ours != cluster => {
            let text = format!("this node has been told to join cluster {ours}, not {cluster}");
            Some(Decision::Wait(vec![text]))
        }
        _ => {
            let is_member = |(_, reply): &(&Address, &ProbeReply)| of_cluster(reply).is_some();
            let members = replies.iter().filter(is_member);
            let members = members.map(|(address, _)| address.clone()).collect();
            Some(Decision::Join { cluster, members })
        }
    }
}

/// Why this peer's answer forbids to go on.
fn objection(
    own: &OwnView,
    expected: Option<&NodeName>,
    names: Option<&Vec<NodeName>>,
    reply: &ProbeReply,
) -> Option<String> {
    let name = &reply.node.name;
    if let Some(expected) = expected.filter(|expected| *expected != name) {
        return Some(format!("the node at {expected}'s address is called {name}"));
    }
    match (reply.formation, own.formation) {
        (Formation::Announced(theirs), Formation::Announced(ours)) if theirs == ours => {}
        (Formation::Announced(cluster) | Formation::Member(cluster), _) => {
            return Some(format!("{name} has been told to join cluster {cluster}"));
        }
        (Formation::Blank, _) => {}
    }
    // Whoever leads first raises the level to the least that it understands; the others go along only if they
    // begin there too.
    if own.levels.min != reply.levels.min {
        let (theirs, ours) = (reply.levels, own.levels);
        return Some(format!(
            "{name} runs a build that understands the metadata levels {theirs}, this node one that understands \
             {ours}: builds that begin with the same level form a cluster"
        ));
    }
    if names != Some(&reply.members) {
        let theirs: Vec<_> = reply.members.iter().map(NodeName::as_str).collect();
        return Some(if theirs.is_empty() {
            format!("{name} does not know all members yet")
        } else {
            format!("{name} wants to form a cluster of [{}]", theirs.join(", "))
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builds::range;
    use crate::messages::KnownAs;
    use rivven_core_types::RaftNodeId;

    fn voter(n: u8) -> FirstVoter {
        FirstVoter {
            name: NodeName::new(format!("node-{n}")).unwrap(),
            incarnation: Incarnation::from_bytes([n; 16]),
            raft_id: RaftNodeId::new(u64::from(n)),
            address: address(n),
        }
    }

    fn address(n: u8) -> Address {
        Address::new("127.0.0.1", 9000 + u16::from(n)).unwrap()
    }

    fn own(n: u8, others: &[u8]) -> OwnView {
        OwnView {
            node: voter(n),
            formation: Formation::Blank,
            levels: LevelRange::UNSAID,
            others: others.iter().map(|o| (address(*o), None)).collect(),
        }
    }

    fn blank(n: u8, members: &[u8]) -> (Address, ProbeReply) {
        let members = members.iter().map(|m| voter(*m).name).collect();
        let formation = Formation::Blank;
        (
            address(n),
            ProbeReply {
                node: voter(n),
                formation,
                members,
                known_as: None,
                levels: LevelRange::UNSAID,
            },
        )
    }

    const CLUSTER: ClusterId = ClusterId::from_bytes([9; 16]);

    #[test]
    fn the_smallest_name_initializes_once_all_are_blank_and_agree() {
        let replies = BTreeMap::from([blank(2, &[1, 2, 3]), blank(3, &[1, 2, 3])]);
        let voters = vec![voter(1), voter(2), voter(3)];
        let expected = Decision::Initialize {
            announced: None,
            voters,
        };
        assert_eq!(decide(&own(1, &[2, 3]), &replies), expected);
        let replies = BTreeMap::from([blank(1, &[1, 2, 3]), blank(3, &[1, 2, 3])]);
        assert!(matches!(decide(&own(2, &[1, 3]), &replies), Decision::Wait(r) if r.len() == 1));
    }

    #[test]
    fn one_unreachable_member_means_wait_and_its_name_is_said() {
        let replies = BTreeMap::from([blank(2, &[1, 2, 3])]);
        let Decision::Wait(reasons) = decide(&own(1, &[2, 3]), &replies) else {
            panic!()
        };
        assert!(reasons.iter().any(|r| r.contains(":9003")), "{reasons:?}");
    }

    /// The first leader's level would stop the others, or theirs keep it from registering.
    #[test]
    fn builds_that_begin_with_different_levels_form_no_cluster() {
        let mut replies = BTreeMap::from([blank(2, &[1, 2])]);
        let mut own = own(1, &[2]);
        own.levels = range(2, 3);
        let Decision::Wait(reasons) = decide(&own, &replies) else {
            panic!("a build of the first level is among them")
        };
        assert!(
            reasons
                .iter()
                .any(|r| r.contains("1 to 1") && r.contains("2 to 3")),
            "{reasons:?}"
        );
        for reply in replies.values_mut() {
            reply.levels = range(2, 2);
        }
        assert!(matches!(
            decide(&own, &replies),
            Decision::Initialize { .. }
        ));
    }

    /// Builds of the first level neither say nor expect a word about levels.
    #[test]
    fn levels_travel_beside_the_answer_to_a_probe() {
        let (_, mut reply) = blank(2, &[1, 2]);
        let silent = reply.clone().into_response().unwrap();
        assert!(silent.body.is_empty());
        assert_eq!(ProbeReply::from_response(&silent).unwrap(), reply);
        reply.levels = range(2, 5);
        let told = reply.clone().into_response().unwrap();
        assert_eq!(told.meta, silent.meta);
        assert_eq!(ProbeReply::from_response(&told).unwrap(), reply);
    }

    #[test]
    fn a_member_with_another_list_means_wait() {
        let replies = BTreeMap::from([blank(2, &[1, 2]), blank(3, &[1, 2, 3])]);
        assert!(matches!(
            decide(&own(1, &[2, 3]), &replies),
            Decision::Wait(_)
        ));
    }

    #[test]
    fn a_member_of_a_cluster_is_never_initialized_again() {
        let mut replies = BTreeMap::from([blank(2, &[1, 2, 3]), blank(3, &[1, 2, 3])]);
        let waits = |d: Decision| assert!(matches!(d, Decision::Wait(_)), "{d:?}");
        replies.get_mut(&address(3)).unwrap().formation = Formation::Announced(CLUSTER);
        waits(decide(&own(1, &[2, 3]), &replies));
        // Whoever finds a cluster joins it, however many others are blank.
        replies.get_mut(&address(3)).unwrap().formation = Formation::Member(CLUSTER);
        let join = Decision::Join {
            cluster: CLUSTER,
            members: vec![address(3)],
        };
        assert_eq!(decide(&own(1, &[2, 3]), &replies), join);
        let mut told = own(1, &[2, 3]);
        told.formation = Formation::Announced(CLUSTER);
        assert_eq!(decide(&told, &replies), join);
        // Not if it has been told of another, and not one of two.
        let other = ClusterId::from_bytes([8; 16]);
        told.formation = Formation::Announced(other);
        waits(decide(&told, &replies));
        replies.get_mut(&address(2)).unwrap().formation = Formation::Member(other);
        waits(decide(&own(1, &[2, 3]), &replies));
    }

    #[test]
    fn a_removed_life_is_told_so_and_another_one_may_join_under_its_name() {
        let mut replies = BTreeMap::from([blank(2, &[1, 2, 3]), blank(3, &[1, 2, 3])]);
        let reply = replies.get_mut(&address(3)).unwrap();
        reply.formation = Formation::Member(CLUSTER);
        reply.known_as = Some(KnownAs {
            incarnation: voter(1).incarnation,
            removed: true,
        });
        let by = voter(3).name;
        assert_eq!(decide(&own(1, &[2, 3]), &replies), Decision::Removed { by });
        let mut fresh = own(1, &[2, 3]);
        fresh.node.incarnation = Incarnation::from_bytes([42; 16]);
        assert!(matches!(decide(&fresh, &replies), Decision::Join { .. }));
    }

    #[test]
    fn a_crash_between_announcing_and_initializing_is_taken_up_again() {
        let mut replies = BTreeMap::from([blank(2, &[1, 2, 3]), blank(3, &[1, 2, 3])]);
        replies.get_mut(&address(2)).unwrap().formation = Formation::Announced(CLUSTER);
        let mut me = own(1, &[2, 3]);
        me.formation = Formation::Announced(CLUSTER);
        let decision = decide(&me, &replies);
        assert!(
            matches!(decision, Decision::Initialize { announced: Some(c), .. } if c == CLUSTER)
        );
    }

    #[test]
    fn a_blank_disk_under_a_known_name_is_refused() {
        let mut replies = BTreeMap::from([blank(2, &[1, 2, 3]), blank(3, &[1, 2, 3])]);
        let known = Incarnation::from_bytes([77; 16]);
        let reply = replies.get_mut(&address(3)).unwrap();
        reply.formation = Formation::Member(CLUSTER);
        reply.known_as = Some(KnownAs {
            incarnation: known,
            removed: false,
        });
        let decision = decide(&own(1, &[2, 3]), &replies);
        assert_eq!(
            decision,
            Decision::NameTaken {
                by: voter(3).name,
                known
            }
        );
    }

    #[test]
    fn two_nodes_with_one_name_never_form_a_cluster() {
        let mut replies = BTreeMap::from([blank(2, &[1, 2, 2]), blank(3, &[1, 2, 2])]);
        replies.get_mut(&address(3)).unwrap().node.name = voter(2).name;
        assert!(matches!(
            decide(&own(1, &[2, 3]), &replies),
            Decision::Wait(_)
        ));
    }
}
