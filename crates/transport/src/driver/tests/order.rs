//! In which order frames leave: what Raft's pipeline relies on, and turns that nobody is left out of.

use rivven_core_types::Lane;

use super::parts::{outgoing, written};
use super::support::{ECHO, GATED};
use crate::frame::{FrameType, MAX_OPEN_BODIES, PART_BYTES};

/// Where the last frame of a request is among those written.
fn end_of(seen: &[(FrameType, u32)], id: u32) -> usize {
    seen.iter().rposition(|(_, of)| *of == id).unwrap()
}

#[tokio::test]
async fn on_the_control_lane_a_request_never_overtakes_one_of_its_kind() {
    let of = |kind: rivven_core_types::RpcKind, id, length| {
        let mut frame = outgoing(id, length);
        frame.header.kind = kind.0;
        frame
    };
    let long = PART_BYTES + 36_000;
    let frames = || {
        vec![
            of(ECHO, 1, long),
            of(ECHO, 2, 10),
            of(ECHO, 3, long),
            of(ECHO, 4, 10),
            of(GATED, 5, 10),
        ]
    };
    let later = || vec![of(ECHO, 6, 10), of(GATED, 7, 10)];
    let seen = written(Lane::Control, frames(), later()).await;
    let ends = [1, 2, 3, 4, 6].map(|id| end_of(&seen, id));
    assert!(ends.is_sorted(), "{seen:?}");
    let begins = [1, 2, 3, 4, 6].map(|id| seen.iter().position(|(_, of)| *of == id).unwrap());
    assert!(
        ends[..4]
            .iter()
            .zip(&begins[1..])
            .all(|(end, begin)| end < begin),
        "{seen:?}"
    );
    assert!(
        end_of(&seen, 5) < ends[0],
        "another kind waits for nobody: {seen:?}"
    );
    // Elsewhere no caller relies on an order, and a short one never waits.
    let seen = written(Lane::Bulk, frames(), later()).await;
    assert!(end_of(&seen, 2) < end_of(&seen, 1), "{seen:?}");
}

#[tokio::test]
async fn on_the_control_lane_order_holds_beyond_the_bodies_that_may_be_open() {
    let kinds = u16::try_from(MAX_OPEN_BODIES).unwrap() + 2;
    let mut frames = Vec::new();
    for (kind, id) in (1..=kinds).zip((1..).step_by(2)) {
        for (id, length) in [(id, 4 * PART_BYTES), (id + 1, 10)] {
            let mut frame = outgoing(id, length);
            frame.header.kind = kind;
            frames.push(frame);
        }
    }
    let seen = written(Lane::Control, frames, Vec::new()).await;
    for id in (1..=2 * u32::from(kinds)).step_by(2) {
        assert!(end_of(&seen, id) < end_of(&seen, id + 1), "{id}: {seen:?}");
    }
}

#[tokio::test]
async fn a_cancelled_long_request_lets_the_next_of_its_kind_go() {
    let frames = vec![outgoing(1, 4 << 20), outgoing(2, 10)];
    let later = vec![crate::driver::writer::Outgoing::bare(FrameType::Cancel, 1)];
    let seen = written(Lane::Control, frames, later).await;
    let parts = seen.iter().filter(|(kind, _)| *kind == FrameType::Part);
    assert!(parts.count() < 20, "{seen:?}");
    assert_eq!(seen.iter().filter(|(_, id)| *id == 2).count(), 1);
}

#[tokio::test]
async fn short_frames_without_end_do_not_starve_a_long_body() {
    // More in every batch than its bytes allow for parts.
    let shorts = (2..=600).map(|id| outgoing(id, 5 * 1024));
    let frames = std::iter::once(outgoing(1, 2 * PART_BYTES)).chain(shorts);
    let seen = written(Lane::Bulk, frames.collect(), Vec::new()).await;
    let first = seen.iter().position(|(kind, _)| *kind == FrameType::Part);
    // The batch at hand holds 256 frames.
    assert!(
        first.unwrap() < 300,
        "the first part came as frame {first:?}"
    );
}
