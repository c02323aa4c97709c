//! Consumer group assignors
