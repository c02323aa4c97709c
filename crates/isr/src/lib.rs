//! Leader and follower replication state machines with the high watermark
