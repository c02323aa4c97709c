//! Proves that a test would find the mistakes of [`crate::PLANTED_BUGS`].

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::plant;

/// Plants each of these bugs and plays the cases until one finds it: it panics once the mistake has
/// been made, and passes without it.
///
/// # Panics
/// If no case finds one of them, or one fails without it.
#[expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "only tests call it"
)]
pub fn assert_found<T>(bugs: &[&str], cases: Range<u64>, play: impl Fn(u64) -> T) {
    let fails = |case: u64| {
        let play = AssertUnwindSafe(|| play(case));
        catch_unwind(play).is_err()
    };
    let mut missed = Vec::new();
    for name in bugs {
        let guard = plant(name).expect("a bug that is listed, and no other");
        let found = cases.clone().find(|case| {
            let before = guard.hits();
            fails(*case) && guard.hits() > before
        });
        println!(
            "{name}: found by {found:?}, made {} times in all",
            guard.hits()
        );
        drop(guard);
        match found {
            Some(case) => assert!(!fails(case), "case {case} fails without {name}"),
            None => missed.push(*name),
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planted;

    const BUG: &str = "isr.truncate-to-high-watermark";

    fn outcome(play: impl Fn(u64)) -> Result<(), String> {
        let hunt = AssertUnwindSafe(|| assert_found(&[BUG], 0..5, play));
        catch_unwind(hunt).map_err(|e| e.downcast_ref::<String>().cloned().unwrap_or_default())
    }

    #[test]
    fn only_a_failure_that_the_mistake_makes_is_a_find() {
        assert_eq!(outcome(|case| assert!(case != 3 || !planted(BUG))), Ok(()));
        let missed = outcome(|_| {
            let _made = planted(BUG);
        });
        let missed = missed.unwrap_err();
        assert!(missed.contains("not found"), "{missed}");
        let unrelated = outcome(|case| assert!(case != 3)).unwrap_err();
        assert!(unrelated.contains("not found"), "{unrelated}");
        let always = outcome(|case| assert!(!planted(BUG) && case != 0)).unwrap_err();
        assert!(always.contains("case 0 fails without"), "{always}");
    }
}
