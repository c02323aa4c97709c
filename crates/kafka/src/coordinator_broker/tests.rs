use std::cell::{Cell, RefCell};

use super::*;

/// Each sees what those before it have done, gets the time that is left, and lets others run.
#[tokio::test]
async fn what_is_done_in_turn_ends_at_the_deadline_and_yields() {
    let (left, seen) = (Cell::new(3), RefCell::new(Vec::new()));
    let others = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&others);
    tokio::spawn(async move {
        loop {
            *counter.lock().unwrap() += 1;
            tokio::task::yield_now().await;
        }
    });
    let results = in_turn(
        vec!["a", "b", "c", "d", "e"],
        || Duration::from_secs(left.get()),
        |name, given| {
            assert_eq!(given, Duration::from_secs(left.get()));
            seen.borrow_mut().push((name, *others.lock().unwrap()));
            left.set(left.get() - 1);
            std::future::ready(Ok(()))
        },
    );
    let results = results.await;
    let done: Vec<bool> = results.iter().map(Result::is_ok).collect();
    assert_eq!(done, [true, true, true, false, false]);
    let late = partitions_failure(results[3].as_ref().unwrap_err());
    assert_eq!(late.error, BrokerError::TimedOut);
    let seen = seen.into_inner();
    let names: Vec<&str> = seen.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert!(
        seen.windows(2).all(|pair| pair[0].1 < pair[1].1),
        "{seen:?}"
    );
}
