//! Sequential specifications of the objects that histories are checked against.

use super::linearizability::Model;

/// A register of numbers that begins with 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct Register;

/// What is asked of a register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterOp {
    /// Answers its value.
    Read,
    /// Sets it.
    Write(u64),
    /// Sets it to the second value if it holds the first, and answers whether it did.
    CompareAndSet(u64, u64),
}

/// What a register answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegisterResult {
    /// To a read.
    Value(u64),
    /// To a write.
    Written,
    /// To a comparison.
    Swapped(bool),
}

impl Model for Register {
    type State = u64;
    type Op = RegisterOp;
    type Answer = RegisterResult;

    fn initial(&self) -> u64 {
        0
    }

    fn step(&self, state: &u64, op: &RegisterOp, answer: Option<&RegisterResult>) -> Option<u64> {
        let (after, right) = match *op {
            RegisterOp::Read => (*state, RegisterResult::Value(*state)),
            RegisterOp::Write(value) => (value, RegisterResult::Written),
            RegisterOp::CompareAndSet(expected, value) => {
                let swaps = *state == expected;
                let after = if swaps { value } else { *state };
                (after, RegisterResult::Swapped(swaps))
            }
        };
        answer.is_none_or(|given| *given == right).then_some(after)
    }
}

/// A name that can be taken once: what CreateTopics is to the clients that race for it.
#[derive(Debug, Clone, Copy, Default)]
pub struct CreateOnce;

/// What the one who asks for the name is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateResult {
    /// The name is its.
    Created,
    /// The name was taken already.
    Exists,
}

impl Model for CreateOnce {
    type State = bool;
    type Op = ();
    type Answer = CreateResult;

    fn initial(&self) -> bool {
        false
    }

    fn step(&self, taken: &bool, (): &(), answer: Option<&CreateResult>) -> Option<bool> {
        match answer {
            Some(CreateResult::Created) => (!taken).then_some(true),
            Some(CreateResult::Exists) => taken.then_some(true),
            None => Some(true),
        }
    }
}
