//! Suspicions are checked out of turn by a few members.
//!
//! A suspicion that is right ends soon only when two more members accuse (Lifeguard's dynamic timeout),
//! and those who are to do so come round to the accused about once a period, all taken together: now and
//! then nobody does for a second, and one crash takes twice the usual time. A few of those who hear the
//! suspicion therefore give the accused their next probe. If it is alive it hears from all of them what
//! it must refute, so that a false one ends sooner too.

use std::collections::VecDeque;

use crate::detector::Detector;
use crate::member::MemberState;
use crate::registry::Slot;
use crate::round::mix;
use crate::suspicion::Suspicion;

/// How many members check a suspicion, on average, in a cluster of any size: two or more of them, as are
/// wanted, with a probability of 0.997, and no flood for the accused.
const CHECKERS: u64 = 8;
/// Most checks that wait; in a mass failure the ordinary round finds the dead ones anyway.
const MAX_CHECKS: usize = 16;

/// Members to be probed before those whose turn it is.
#[derive(Debug, Default)]
pub(crate) struct Checks(VecDeque<Slot>);

impl Detector {
    /// A member came to be suspected here. Its name and this node's decide whether this node is one of
    /// those who check: no message is needed to agree on them.
    pub(crate) fn consider_check(&mut self, slot: Slot, suspicion: &Suspicion) {
        let accusers = suspicion.accusers.as_slice();
        let settled = accusers.is_empty() || accusers.contains(&self.me.id());
        let Some((profile, row)) = self.table.get(slot).filter(|_| !settled) else {
            return;
        };
        let life = mix(profile.boot_id() ^ u64::from(row.incarnation));
        let lot = mix(self.me.id().0 ^ mix(profile.id().0 ^ life));
        let others = self.table.live().max(1) as u64;
        if lot % others < CHECKERS && self.checks.0.len() < MAX_CHECKS {
            self.checks.0.push_back(slot);
        }
    }

    /// The next one that is still suspected.
    pub(crate) fn next_check(&mut self) -> Option<Slot> {
        while let Some(slot) = self.checks.0.pop_front() {
            let held = self.table.get(slot);
            if held.is_some_and(|(_, row)| row.state == MemberState::Suspect) {
                return Some(slot);
            }
        }
        None
    }
}
