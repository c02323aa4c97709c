//! The rules of replication, each as the scenario that breaks without it.

mod deletion;
mod epochs;
mod offsets;
mod planted;
mod rules;
mod sessions;
mod sim;
mod support;
