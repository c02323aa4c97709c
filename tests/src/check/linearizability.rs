//! Is a history of concurrent operations equivalent to some order of them, one after the other, in which
//! each takes effect between its call and its return (Herlihy and Wing, 1990)?
//!
//! The search is that of Wing and Gong (1993) with Lowe's memory of configurations (2017): operations
//! that are linearized are lifted out of the list of calls and returns, and a pair of (set of linearized
//! operations, state of the object) that was seen before is not searched again. Independent objects are
//! checked one by one, which is sound and complete (Herlihy and Wing's locality).

use std::collections::{BTreeMap, HashSet};
use std::fmt::Debug;
use std::hash::Hash;

/// A sequential specification.
pub trait Model {
    /// The object's state.
    type State: Clone + Eq + Hash;
    /// What is asked of it.
    type Op: Debug;
    /// What it answers.
    type Answer: Debug;

    /// The state at first.
    fn initial(&self) -> Self::State;

    /// The state after `op`, or `None` if it could not have been answered so. Without an answer any
    /// answer is possible, and then there must be a state after it: an operation whose fate is unknown
    /// is a call that nothing forbids.
    fn step(
        &self,
        state: &Self::State,
        op: &Self::Op,
        answer: Option<&Self::Answer>,
    ) -> Option<Self::State>;
}

/// One operation of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation<O, A> {
    /// What was asked.
    pub op: O,
    /// When, in any unit that all operations share.
    pub called: u64,
    /// What was answered and when; `None` if nobody knows, because the client timed out, lost its
    /// connection or ended. Such an operation may take effect at any later time, or never.
    pub returned: Option<(A, u64)>,
}

/// What clients did to one object, in no particular order.
pub type History<M> = Vec<Operation<<M as Model>::Op, <M as Model>::Answer>>;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// There is an order that explains the history.
    Linearizable {
        /// How many operations were tried in some place.
        steps: u64,
    },
    /// There is none.
    NotLinearizable(Violation),
    /// Neither was shown within the allowed number of steps.
    GaveUp {
        /// How many that were.
        steps: u64,
    },
}

/// Why there is no order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The longest order that was found, as indices into the history.
    pub longest: Vec<usize>,
    /// The operation whose answer no continuation of any order explains; of several the one that
    /// returned first after the longest order.
    pub stuck: usize,
    /// How many operations were tried in some place.
    pub steps: u64,
}

impl Outcome {
    /// Whether the history was shown to be linearizable.
    pub const fn is_linearizable(&self) -> bool {
        matches!(self, Self::Linearizable { .. })
    }
}

/// Checks one object's history in at most `max_steps` steps. Two events at the
/// same time count as concurrent.
pub fn check_linearizable<M: Model>(
    model: &M,
    history: &[Operation<M::Op, M::Answer>],
    max_steps: u64,
) -> Outcome {
    Search::new(model, history).run(max_steps)
}

/// Checks every object by itself; the first that is not shown to be linearizable ends it and is named.
/// `max_steps` holds for each.
pub fn check_linearizable_by_key<K: Ord + Clone, M: Model>(
    model: &M,
    histories: &BTreeMap<K, History<M>>,
    max_steps: u64,
) -> (Outcome, Option<K>) {
    let mut steps = 0u64;
    for (key, history) in histories {
        match check_linearizable(model, history, max_steps) {
            Outcome::Linearizable { steps: more } => steps = steps.saturating_add(more),
            other => return (other, Some(key.clone())),
        }
    }
    (Outcome::Linearizable { steps }, None)
}

/// The list's head; the events follow it.
const HEAD: usize = 0;
/// Behind the last event.
const END: usize = usize::MAX;

/// A call or a return in the doubly linked list of what is not linearized yet.
#[derive(Debug, Clone, Copy)]
struct Event {
    /// Index into the history.
    operation: usize,
    /// For a call: where its return is, or [`END`] if it has none.
    ret: usize,
    is_call: bool,
    previous: usize,
    next: usize,
}

struct Search<'a, M: Model> {
    model: &'a M,
    history: &'a [Operation<M::Op, M::Answer>],
    events: Vec<Event>,
    /// Returns that are still in the list: with none left the history is explained.
    returns: usize,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, history: &'a [Operation<M::Op, M::Answer>]) -> Self {
        // (time, returns behind calls of the same time, operation)
        let mut order = Vec::with_capacity(history.len() * 2);
        for (index, operation) in history.iter().enumerate() {
            order.push((operation.called, false, index));
            if let Some((_, at)) = &operation.returned {
                order.push((*at.max(&operation.called), true, index));
            }
        }
        order.sort_unstable();
        let event = |(_, is_return, operation): &(u64, bool, usize)| Event {
            operation: *operation,
            ret: END,
            is_call: !is_return,
            previous: END,
            next: END,
        };
        let head = Event {
            operation: usize::MAX,
            ret: END,
            is_call: false,
            previous: END,
            next: END,
        };
        let mut events: Vec<Event> = std::iter::once(head)
            .chain(order.iter().map(event))
            .collect();
        let mut calls = vec![HEAD; history.len()];
        let count = events.len();
        for at in 0..count {
            let Event {
                operation, is_call, ..
            } = events[at];
            events[at].next = if at + 1 < count { at + 1 } else { END };
            if at == HEAD {
                continue;
            }
            events[at].previous = at - 1;
            if is_call {
                calls[operation] = at;
            } else {
                events[calls[operation]].ret = at;
            }
        }
        let returns = order.iter().filter(|(_, is_return, _)| *is_return).count();
        Self {
            model,
            history,
            events,
            returns,
        }
    }

    fn unlink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = next;
        if next != END {
            self.events[next].previous = previous;
        }
    }

    fn relink(&mut self, at: usize) {
        let Event { previous, next, .. } = self.events[at];
        self.events[previous].next = at;
        if next != END {
            self.events[next].previous = at;
        }
    }

    /// Takes a call and its return out of the list.
    fn lift(&mut self, call: usize) {
        self.unlink(call);
        let ret = self.events[call].ret;
        if ret != END {
            self.unlink(ret);
            self.returns -= 1;
        }
    }

    /// Puts them back, in the opposite order.
    fn unlift(&mut self, call: usize) {
        let ret = self.events[call].ret;
        if ret != END {
            self.relink(ret);
            self.returns += 1;
        }
        self.relink(call);
    }

    fn run(&mut self, max_steps: u64) -> Outcome {
        let mut state = self.model.initial();
        let mut done = Done::new(self.history.len());
        let mut seen: HashSet<(Box<[u64]>, M::State)> = HashSet::new();
        let mut stack: Vec<(usize, M::State)> = Vec::new();
        let mut longest = Violation {
            longest: Vec::new(),
            stuck: usize::MAX,
            steps: 0,
        };
        let mut steps = 0u64;
        let mut at = self.events[HEAD].next;
        while self.returns > 0 {
            let Event {
                operation, is_call, ..
            } = self.events[at];
            if is_call {
                if steps >= max_steps {
                    return Outcome::GaveUp { steps };
                }
                steps += 1;
                let Operation { op, returned, .. } = &self.history[operation];
                let answer = returned.as_ref().map(|(answer, _)| answer);
                if let Some(after) = self.model.step(&state, op, answer) {
                    done.insert(operation);
                    if seen.insert((done.key(), after.clone())) {
                        stack.push((at, std::mem::replace(&mut state, after)));
                        self.lift(at);
                        at = self.events[HEAD].next;
                        continue;
                    }
                    done.remove(operation);
                }
                at = self.events[at].next;
                continue;
            }
            // A return whose call is not linearized: the order so far is a dead end.
            if longest.stuck == usize::MAX || stack.len() > longest.longest.len() {
                let order = stack.iter().map(|(call, _)| self.events[*call].operation);
                longest.longest = order.collect();
                longest.stuck = operation;
            }
            let Some((call, before)) = stack.pop() else {
                longest.steps = steps;
                return Outcome::NotLinearizable(longest);
            };
            state = before;
            done.remove(self.events[call].operation);
            self.unlift(call);
            at = self.events[call].next;
        }
        Outcome::Linearizable { steps }
    }
}

/// The set of linearized operations.
struct Done(Vec<u64>);

impl Done {
    fn new(operations: usize) -> Self {
        Self(vec![0; operations.div_ceil(64)])
    }

    fn insert(&mut self, operation: usize) {
        self.0[operation / 64] |= 1 << (operation % 64);
    }

    fn remove(&mut self, operation: usize) {
        self.0[operation / 64] &= !(1 << (operation % 64));
    }

    /// The set, short: the number of full words at its start, then the words up to the last that is not
    /// empty. In a long history of few clients that is a handful of words.
    fn key(&self) -> Box<[u64]> {
        let full = self.0.iter().take_while(|word| **word == u64::MAX).count();
        let end = self
            .0
            .iter()
            .rposition(|word| *word != 0)
            .map_or(full, |last| full.max(last + 1));
        let mut key = Vec::with_capacity(1 + end - full);
        key.push(u64::try_from(full).unwrap_or(u64::MAX));
        key.extend_from_slice(&self.0[full..end]);
        key.into_boxed_slice()
    }
}

#[cfg(test)]
mod tests;
