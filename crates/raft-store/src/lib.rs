//! Durable Raft consensus: openraft on redb behind our own types
