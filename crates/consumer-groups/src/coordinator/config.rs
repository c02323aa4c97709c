//! The coordinator's limits and times.

use std::time::Duration;

/// How groups are coordinated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupConfig {
    /// How long a member of the consumer protocol may be silent.
    pub consumer_session_timeout: Duration,
    /// How often members of a settled group send a heartbeat while the load is low.
    pub heartbeat_interval: Duration,
    /// The same under the greatest load.
    pub max_heartbeat_interval: Duration,
    /// How often they do while their group is not settled: the time in which they learn of changes.
    pub unsettled_heartbeat_interval: Duration,
    /// Least session time-out of a classic member.
    pub min_session_timeout: Duration,
    /// Greatest session time-out of a classic member.
    pub max_session_timeout: Duration,
    /// How long the first join of an empty classic group waits for others; each further one extends it.
    pub initial_rebalance_delay: Duration,
    /// How long all these waits together may be.
    pub max_initial_rebalance_delay: Duration,
    /// Changes of one group are planned for together while one comes within this time of another.
    pub plan_window: Duration,
    /// How long changes that keep coming may hold back the plan for the first of them.
    pub max_plan_delay: Duration,
    /// How long a member that comes and goes again and again may be kept waiting.
    pub max_flap_delay: Duration,
    /// How long offsets are kept after their group was left, or its topic unsubscribed (KIP-211).
    pub offsets_retention: Duration,
    /// How often offsets are looked through for expired ones.
    pub offsets_check_interval: Duration,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            consumer_session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(1),
            max_heartbeat_interval: Duration::from_secs(10),
            unsettled_heartbeat_interval: Duration::from_millis(300),
            min_session_timeout: Duration::from_secs(6),
            max_session_timeout: Duration::from_secs(1_800),
            initial_rebalance_delay: Duration::from_millis(300),
            max_initial_rebalance_delay: Duration::from_secs(3),
            plan_window: Duration::from_millis(100),
            max_plan_delay: Duration::from_secs(1),
            max_flap_delay: Duration::from_secs(30),
            offsets_retention: Duration::from_secs(7 * 24 * 3_600),
            offsets_check_interval: Duration::from_secs(600),
        }
    }
}
