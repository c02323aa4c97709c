//! Evidence is a join semilattice: whatever order it comes in, and however often, the table ends the
//! same.

use proptest::prelude::*;

use super::peer::{Claim, Peer, at, config, detector, endpoint, gossip, held, info, says};
use crate::{Detector, MemberState};

const MEMBERS: u16 = 4;

fn claim(dead: bool) -> impl Strategy<Value = Claim> {
    let last = if dead {
        MemberState::Dead
    } else {
        MemberState::Left
    };
    let state = prop_oneof![
        Just(MemberState::Alive),
        Just(MemberState::Suspect),
        Just(MemberState::Left),
        Just(last),
    ];
    let parts = (
        2..2 + MEMBERS,
        1..4u64,
        0..4u32,
        state,
        0..3u32,
        any::<bool>(),
    );
    parts.prop_map(|(node, boot_id, incarnation, state, version, full)| Claim {
        full,
        version,
        ..says(node, boot_id, incarnation, state)
    })
}

/// What is held of each member, and the version of its profile.
type Table = Vec<(Option<(u64, u64, MemberState)>, Option<u32>)>;

fn table_after(claims: &[Claim]) -> Table {
    let mut detector = detector();
    let mut peer = Peer::new(1, 1);
    // Each life is known, so that evidence without a profile counts.
    for claim in claims {
        gossip(&mut detector, at(1), &mut peer, &[*claim]);
    }
    let version = |node| {
        let slot = detector.table.find(endpoint(node, 1).id)?;
        detector.table.get(slot).map(|(profile, _)| profile.version)
    };
    (2..2 + MEMBERS)
        .map(|node| (held(&detector, node), version(node)))
        .collect()
}

/// What will become of it unless somebody refutes: a death by hearsay opens a window instead of being
/// taken as it is, so that dead and suspected are one here.
fn doomed(mut table: Table) -> Table {
    for (held, _) in &mut table {
        if let Some((_, _, state)) = held
            && *state == MemberState::Suspect
        {
            *state = MemberState::Dead;
        }
    }
    table
}

proptest! {
    #[test]
    fn any_order_and_repetition_gives_the_same_table(
        claims in proptest::collection::vec(claim(false), 1..24),
        order in any::<u64>(),
    ) {
        let full: Vec<Claim> = claims.iter().map(|c| Claim { full: true, ..*c }).collect();
        let once = table_after(&full);
        let mut twice = [full.clone(), full].concat();
        rivven_core_types::Rng::new(order).shuffle(&mut twice);
        prop_assert_eq!(table_after(&twice), once);
    }

    #[test]
    fn so_it_does_with_deaths_but_for_the_time_to_refute_them(
        claims in proptest::collection::vec(claim(true), 1..24),
        order in any::<u64>(),
    ) {
        let full: Vec<Claim> = claims.iter().map(|c| Claim { full: true, ..*c }).collect();
        let once = doomed(table_after(&full));
        let mut twice = [full.clone(), full].concat();
        rivven_core_types::Rng::new(order).shuffle(&mut twice);
        prop_assert_eq!(doomed(table_after(&twice)), once);
    }

    #[test]
    fn what_is_held_only_grows(claims in proptest::collection::vec(claim(true), 1..32)) {
        let mut detector = detector();
        let mut peer = Peer::new(1, 1);
        let mut before = vec![None; usize::from(MEMBERS)];
        for claim in claims {
            gossip(&mut detector, at(1), &mut peer, &[claim]);
            let now: Vec<_> = (2..2 + MEMBERS).map(|node| held(&detector, node)).collect();
            for (before, now) in before.iter().zip(&now) {
                prop_assert!(before <= now, "{:?} {:?}", before, now);
            }
            before = now;
        }
    }
}

#[test]
fn evidence_is_ordered_by_boot_id_then_incarnation_then_state() {
    use MemberState::{Alive, Dead, Left, Suspect};
    let order = [
        (1, 0, Alive),
        (1, 0, Suspect),
        (1, 0, Left),
        (1, 1, Alive),
        (1, 1, Left),
        (2, 0, Alive),
        (2, 0, Dead),
    ];
    for (held_at, first) in order.iter().enumerate() {
        for (offered_at, second) in order.iter().enumerate() {
            let mut detector = Detector::new(info(0), config(7), 1, at(0)).unwrap();
            let mut peer = Peer::new(1, 1);
            for (boot_id, incarnation, state) in [*first, *second] {
                let claim = says(2, boot_id, incarnation, state);
                gossip(&mut detector, at(1), &mut peer, &[claim]);
            }
            let expected = if offered_at > held_at { second } else { first };
            let mut expected = (expected.0, u64::from(expected.1), expected.2);
            // A death after something of the same life was held opens a window.
            if expected.2 == Dead && first.0 == 2 && first.2 == Alive {
                expected.2 = Suspect;
            }
            assert_eq!(
                held(&detector, 2),
                Some(expected),
                "{first:?} then {second:?}"
            );
        }
    }
}
