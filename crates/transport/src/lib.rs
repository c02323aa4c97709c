//! Framed, pipelined, authenticated RPC between cluster nodes
