//! Distributed cluster coordination for the Rivven event-streaming platform
