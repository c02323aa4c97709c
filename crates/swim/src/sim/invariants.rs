//! What must hold at every step, whatever the network does.

use super::flight::Kind;
use super::network::{Held, Simulation};
use crate::table::binary_digits;
use crate::{DropReason, Event, MemberState, ProbeOutcome};

/// How often, in inputs, what a node still has to tell is looked through.
const LOOKS_EVERY: u64 = 256;

impl Simulation {
    /// A rule is broken: a run that is watched for that ends with it, any other at once.
    fn violate(&mut self, what: String) {
        let what = format!("at {:?}: {what}", self.now());
        assert!(self.tolerant, "{what}");
        self.broken.get_or_insert(what);
    }

    /// Goes on after a broken rule; [`Simulation::broken`] says which one it was.
    pub(crate) fn tolerate(&mut self) {
        self.tolerant = true;
    }

    /// The first rule that was broken.
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    pub(super) fn observe(&mut self, observer: u32, event: Event) {
        match &event {
            Event::ProbeFinished {
                outcome: ProbeOutcome::Failed,
            } => {
                self.measured.failed_probes += 1;
                self.first_failed.get_or_insert(self.now);
            }
            Event::Refuted { incarnation } => {
                let raised = *incarnation;
                let before = self.node_mut(observer).map_or(0, |node| node.incarnation);
                if raised <= before {
                    return self
                        .violate(format!("{observer} refuted with {raised} after {before}"));
                }
                if let Some(node) = self.node_mut(observer) {
                    node.incarnation = raised;
                }
            }
            Event::MemberForgotten { name } => {
                if let Some(subject) = self.names.get(name) {
                    self.held.remove(&(observer, *subject));
                }
            }
            Event::MemberChanged {
                name,
                state,
                boot_id,
                incarnation,
            } => {
                let Some(subject) = self.names.get(name).copied() else {
                    return self.violate(format!("{observer} holds {name}, which never was"));
                };
                self.check(observer, subject, (*boot_id, *incarnation, *state));
                self.mix(&self.now.to_be_bytes());
                self.trace.push((self.now(), observer, event));
            }
            Event::Dropped { reason } => {
                self.dropped = true;
                // Nobody may be so loud that an honest peer has to cut it off.
                if *reason == DropReason::RateLimited {
                    self.violate(format!("{observer} had to cut off a member"));
                }
            }
            _ => {}
        }
    }

    /// A datagram has been handled: damaged ones, and those that were taken before, have no effect.
    pub(super) fn check_datagram(&mut self, to: u32, number: u64, kind: Kind) {
        if self.dropped {
            return;
        }
        match kind {
            Kind::Only => {}
            Kind::Damaged => self.violate(format!("{to} took a damaged datagram")),
            Kind::OneOfSeveral => {
                if !self.taken.insert(number) {
                    self.violate(format!("{to} took a datagram twice"));
                }
            }
        }
    }

    /// What a node still has to tell, and how often it has told it, is bounded.
    pub(super) fn check_bounds(&mut self, node: u32) {
        self.inputs += 1;
        if !self.inputs.is_multiple_of(LOOKS_EVERY) {
            return;
        }
        let most = 2 * binary_digits(self.nodes.len() + 1) + 1;
        let Some(told) = self.detector(node).map(|d| d.outbox.most_told()) else {
            return;
        };
        if u32::from(told) > most {
            self.violate(format!(
                "{node} told a piece of news {told} times, at most {most}"
            ));
        }
    }

    /// The rules that a change of what is held can break.
    fn check(&mut self, observer: u32, subject: u32, held: Held) {
        let before = self.held.insert((observer, subject), held);
        if before >= Some(held) {
            self.violate(format!(
                "{observer} held {before:?} of {subject} and now {held:?}"
            ));
        }
        let Some(Some(node)) = self.nodes.get(subject as usize) else {
            return;
        };
        if node.boot_id != held.0 {
            return;
        }
        let own = node.incarnation;
        if held.1 > own {
            self.violate(format!(
                "{observer} holds {held:?} of {subject}, which is at {own}"
            ));
        }
        self.measured.suspicions += u64::from(held.2 == MemberState::Suspect);
        self.measured.false_deaths += u64::from(held.2 == MemberState::Dead);
    }
}
