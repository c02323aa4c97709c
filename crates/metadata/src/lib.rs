//! The replicated cluster metadata as a pure state machine
