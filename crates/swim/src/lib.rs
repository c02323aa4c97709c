//! SWIM membership and failure detection
