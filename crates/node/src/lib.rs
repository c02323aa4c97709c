//! The rivven-node binary: configuration, signals, admin HTTP
