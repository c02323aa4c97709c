//! Identifiers, epochs, record batches, wire envelope and ports shared by all rivven crates
