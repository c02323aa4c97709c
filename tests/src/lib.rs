//! Harness for whole-cluster tests.
