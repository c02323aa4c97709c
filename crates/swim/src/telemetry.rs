//! Metrics and log lines.

use metrics::{counter, gauge};

use crate::event::{DropReason, Event};
use crate::member::{MemberState, MembershipView};

/// Records one event.
pub(crate) fn record(event: &Event) {
    match event {
        Event::ProbeFinished { outcome } => {
            counter!("rivven_swim_probes_total", "outcome" => outcome.as_str()).increment(1);
        }
        Event::Suspected { name } => {
            counter!("rivven_swim_suspicions_total").increment(1);
            tracing::info!(member = %name, "suspecting a member");
        }
        Event::Dropped { reason } => {
            if *reason == DropReason::Unauthenticated {
                counter!("rivven_swim_auth_failures_total").increment(1);
            }
            let reason = reason.as_str();
            counter!("rivven_swim_datagrams_dropped_total", "reason" => reason).increment(1);
            tracing::trace!(reason, "dropped a datagram");
        }
        Event::MemberChanged {
            name,
            state,
            boot_id,
            incarnation,
        } => tracing::info!(member = %name, %state, boot_id, incarnation, "membership changed"),
        Event::MemberForgotten { name } => tracing::info!(member = %name, "forgot a member"),
        Event::Refuted { incarnation } => tracing::info!(incarnation, "refuted a suspicion"),
        Event::Superseded { boot_id } => tracing::error!(
            boot_id,
            "a newer life of this node's name exists: the name is used twice, or the boot id went \
             back; peers ignore this node"
        ),
        Event::Paused => tracing::warn!("this process stood still; suspicions are prolonged"),
        Event::Contacted => tracing::debug!("heard from a member"),
        Event::LeaveFinished { acknowledged } => {
            tracing::info!(acknowledged, "left the cluster");
        }
        Event::ProfileChanged { name } => tracing::debug!(member = %name, "a profile changed"),
        Event::User { origin, payload } => {
            counter!("rivven_swim_user_events_total").increment(1);
            tracing::debug!(%origin, bytes = payload.len(), "a user event");
        }
        Event::Deaf => {
            counter!("rivven_swim_deaf_probes_total").increment(1);
            tracing::warn!("hearing nobody: a failed probe was not held against its target");
        }
    }
}

/// Counts a datagram that is not one.
pub(crate) fn record_receive_error() {
    counter!("rivven_swim_datagrams_dropped_total", "reason" => "receive_error").increment(1);
}

/// Publishes this node's own health.
pub(crate) fn record_health(score: u32) {
    gauge!("rivven_swim_health_score").set(f64::from(score));
}

/// Publishes how many members do not hold the key that this node prefers.
pub(crate) fn record_keys(lacking: usize) {
    let lacking = u32::try_from(lacking).unwrap_or(u32::MAX);
    gauge!("rivven_swim_members_without_primary_key").set(f64::from(lacking));
}

/// Publishes how many members are in each state.
pub(crate) fn record_members(view: &MembershipView) {
    for state in MemberState::ALL {
        let count = view.members.iter().filter(|m| m.state == state).count();
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        gauge!("rivven_swim_members", "state" => state.as_str()).set(f64::from(count));
    }
}
