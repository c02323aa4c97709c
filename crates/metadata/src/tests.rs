//! Tests of the whole state machine, command by command.

mod brokers;
mod bytes;
mod elr;
mod golden;
mod isr_changes;
mod levels;
mod model;
mod model_world;
mod reassignment;
mod recovery;
mod removal;
mod support;
mod topics;
