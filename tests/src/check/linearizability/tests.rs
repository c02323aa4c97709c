use std::time::Instant;

use rivven_core_types::Rng;
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::*;
use crate::check::{CreateOnce, CreateResult, Register, RegisterOp, RegisterResult};
use RegisterOp::{CompareAndSet, Read, Write};
use RegisterResult::{Swapped, Value, Written};

type Op = Operation<RegisterOp, RegisterResult>;

const MANY_STEPS: u64 = 10_000_000;

fn op(called: u64, returned: u64, op: RegisterOp, answer: RegisterResult) -> Op {
    Operation {
        op,
        called,
        returned: Some((answer, returned)),
    }
}

fn lost(called: u64, op: RegisterOp) -> Op {
    Operation {
        op,
        called,
        returned: None,
    }
}

fn check(history: &[Op]) -> Outcome {
    check_linearizable(&Register, history, MANY_STEPS)
}

#[test]
fn known_good_histories_pass() {
    let good: [&[Op]; 7] = [
        &[],
        &[op(0, 1, Write(1), Written), op(2, 3, Read, Value(1))],
        // Concurrent with the write: either value will do, even one after the other.
        &[
            op(0, 9, Write(1), Written),
            op(1, 2, Read, Value(0)),
            op(3, 4, Read, Value(1)),
        ],
        // Two writes at once, read in the order that was not the order of the calls.
        &[
            op(0, 5, Write(1), Written),
            op(1, 5, Write(2), Written),
            op(6, 7, Read, Value(1)),
        ],
        // A lost write takes effect long after its call, or never.
        &[
            lost(0, Write(7)),
            op(1, 2, Read, Value(0)),
            op(3, 4, Read, Value(7)),
        ],
        &[lost(0, Write(7)), op(1, 2, Read, Value(0))],
        // One of two succeeds.
        &[
            op(0, 9, CompareAndSet(0, 1), Swapped(false)),
            op(1, 8, CompareAndSet(0, 2), Swapped(true)),
            op(10, 11, Read, Value(2)),
        ],
    ];
    for history in good {
        assert!(check(history).is_linearizable(), "{history:?}");
    }
}

#[test]
fn known_bad_histories_fail() {
    let bad: [&[Op]; 7] = [
        // A value that nobody wrote.
        &[op(0, 1, Read, Value(3))],
        // A stale read.
        &[op(0, 1, Write(1), Written), op(2, 3, Read, Value(0))],
        // New, then old again, within one write.
        &[
            op(0, 9, Write(1), Written),
            op(1, 2, Read, Value(1)),
            op(3, 4, Read, Value(0)),
        ],
        // Both succeed.
        &[
            op(0, 9, CompareAndSet(0, 1), Swapped(true)),
            op(0, 9, CompareAndSet(0, 2), Swapped(true)),
        ],
        // Fails although it must succeed.
        &[op(0, 1, CompareAndSet(0, 1), Swapped(false))],
        // A lost write may happen once, not twice.
        &[
            lost(0, Write(7)),
            op(1, 2, Read, Value(7)),
            op(3, 4, Write(8), Written),
            op(5, 6, Read, Value(7)),
        ],
        // An effect before its call.
        &[op(0, 1, Read, Value(7)), lost(2, Write(7))],
    ];
    for history in bad {
        let outcome = check(history);
        assert!(
            matches!(outcome, Outcome::NotLinearizable(_)),
            "{history:?}: {outcome:?}"
        );
    }
}

#[test]
fn a_violation_names_the_operation_that_cannot_be_explained() {
    let history = [
        op(0, 1, Write(1), Written),
        op(2, 3, Read, Value(1)),
        op(4, 5, Read, Value(0)),
        op(6, 7, Read, Value(1)),
    ];
    let Outcome::NotLinearizable(violation) = check(&history) else {
        panic!("it is not linearizable")
    };
    assert_eq!((violation.longest, violation.stuck), (vec![0, 1], 2));
}

#[test]
fn a_name_is_taken_once() {
    let ask = |called, answer: Option<(CreateResult, u64)>| Operation {
        op: (),
        called,
        returned: answer,
    };
    let created = |at| Some((CreateResult::Created, at));
    let exists = |at| Some((CreateResult::Exists, at));
    let check = |history: &[_]| check_linearizable(&CreateOnce, history, 100).is_linearizable();
    assert!(check(&[ask(0, exists(9)), ask(1, created(5))]));
    assert!(check(&[ask(0, None), ask(3, exists(4))]));
    assert!(check(&[ask(0, None), ask(3, created(4))]));
    assert!(!check(&[ask(0, created(9)), ask(1, created(5))]));
    assert!(!check(&[ask(0, exists(1)), ask(2, created(5))]));
    // Created, and forgotten.
    assert!(!check(&[ask(0, created(1)), ask(2, created(5))]));
}

#[test]
fn the_search_is_bounded_and_says_so() {
    // Fifty lost writes of different values, and a read of a value that none of them wrote.
    let mut history: Vec<Op> = (1..=50).map(|value| lost(0, Write(value))).collect();
    history.push(op(1, 2, Read, Value(99)));
    let outcome = check_linearizable(&Register, &history, 1_000);
    assert_eq!(outcome, Outcome::GaveUp { steps: 1_000 });
}

#[test]
fn keys_are_judged_by_themselves_and_the_bad_one_is_named() {
    let good = vec![op(0, 1, Write(1), Written), op(2, 3, Read, Value(1))];
    let bad = vec![op(0, 1, Write(1), Written), op(2, 3, Read, Value(0))];
    let mut histories = BTreeMap::from([("a", good.clone()), ("b", good)]);
    let (outcome, key) = check_linearizable_by_key(&Register, &histories, 100);
    assert!(outcome.is_linearizable() && key.is_none());
    histories.insert("c", bad);
    let (outcome, key) = check_linearizable_by_key(&Register, &histories, 100);
    assert!(!outcome.is_linearizable());
    assert_eq!(key, Some("c"));
}

/// The register, as stateright understands it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Reference(u64);

impl SequentialSpec for Reference {
    type Op = RegisterOp;
    type Ret = RegisterResult;

    fn invoke(&mut self, op: &RegisterOp) -> RegisterResult {
        match *op {
            Read => Value(self.0),
            Write(value) => {
                self.0 = value;
                Written
            }
            CompareAndSet(expected, value) => {
                let swaps = self.0 == expected;
                self.0 = if swaps { value } else { self.0 };
                Swapped(swaps)
            }
        }
    }
}

/// What threads do to a register whose operations take effect at a random moment within them; one step
/// in `loses` is a client's last, and with `lies` some answers are replaced by others.
fn random_history(
    rng: &mut Rng,
    threads: u64,
    operations: usize,
    loses: u64,
    lies: bool,
) -> Vec<(u64, Op)> {
    struct Running {
        op: RegisterOp,
        called: u64,
        answer: Option<RegisterResult>,
    }
    let mut register = Reference::default();
    let mut running: BTreeMap<u64, Running> = BTreeMap::new();
    let mut history = Vec::new();
    let mut ended = Vec::new();
    for now in 0.. {
        let thread = rng.below(threads);
        if ended.contains(&thread) {
            if ended.len() == usize::try_from(threads).unwrap() {
                break;
            }
            continue;
        }
        let Some(mut current) = running.remove(&thread) else {
            if history.len() + running.len() >= operations {
                ended.push(thread);
                continue;
            }
            let op = match rng.below(3) {
                0 => Read,
                1 => Write(rng.below(4)),
                _ => CompareAndSet(rng.below(4), rng.below(4)),
            };
            let answer = None;
            let called = now;
            running.insert(thread, Running { op, called, answer });
            continue;
        };
        // The client is gone, before or after the effect; its thread does nothing more.
        if rng.below(loses) == 0 {
            history.push((thread, lost(current.called, current.op)));
            ended.push(thread);
        } else if current.answer.is_none() {
            current.answer = Some(register.invoke(&current.op));
            running.insert(thread, current);
        } else {
            let mut answer = current.answer.unwrap();
            if lies && rng.below(3) == 0 {
                answer = match answer {
                    Value(_) => Value(rng.below(4)),
                    Swapped(swapped) => Swapped(!swapped),
                    Written => Written,
                };
            }
            history.push((thread, op(current.called, now, current.op, answer)));
        }
    }
    history
}

/// What stateright says.
fn reference_verdict(history: &[(u64, Op)]) -> bool {
    // (time, is a return, thread, operation)
    let mut events = Vec::new();
    for (index, (thread, op)) in history.iter().enumerate() {
        events.push((op.called, false, *thread, index));
        if let Some((_, at)) = &op.returned {
            events.push((*at, true, *thread, index));
        }
    }
    events.sort_unstable();
    let mut tester = LinearizabilityTester::new(Reference::default());
    for (_, is_return, thread, index) in events {
        let (_, op) = &history[index];
        if is_return {
            let (answer, _) = op.returned.unwrap();
            tester.on_return(thread, answer).unwrap();
        } else {
            tester.on_invoke(thread, op.op).unwrap();
        }
    }
    tester.is_consistent()
}

#[test]
fn thousands_of_random_histories_are_judged_as_stateright_judges_them() {
    let mut rng = Rng::new(7);
    let (mut good, mut bad) = (0, 0);
    for number in 0..4_000 {
        let (threads, operations) = (2 + rng.below(3), 1 + rng.below(8));
        let operations = usize::try_from(operations).unwrap();
        let history = random_history(&mut rng, threads, operations, 12, number % 2 == 0);
        let expected = reference_verdict(&history);
        let own: Vec<Op> = history.iter().map(|(_, op)| op.clone()).collect();
        assert_eq!(check(&own).is_linearizable(), expected, "{history:?}");
        if expected {
            good += 1;
        } else {
            bad += 1;
        }
        if number % 2 == 1 {
            assert!(expected, "nobody lied: {history:?}");
        }
    }
    assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
}

#[test]
fn long_histories_of_several_clients_are_judged_quickly() {
    let mut rng = Rng::new(11);
    let started = Instant::now();
    let (mut operations, mut all_steps) = (0, 0);
    for _ in 0..20 {
        let history = random_history(&mut rng, 12, 1_000, 2_000, false);
        let own: Vec<Op> = history.into_iter().map(|(_, op)| op).collect();
        operations += own.len();
        match check(&own) {
            Outcome::Linearizable { steps } => all_steps += steps,
            other => panic!("{other:?}"),
        }
    }
    println!(
        "{operations} operations in {:?}, {all_steps} steps",
        started.elapsed()
    );
}
