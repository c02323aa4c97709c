//! The rules of replication, each as the scenario that breaks without it.

mod rules;
mod sim;
mod support;
