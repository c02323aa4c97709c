//! Decides which node holds and leads each partition
