//! Wires consensus, membership, replication and placement into one cluster node
