//! Panics in the code under test. A task that panics dies alone, and the run might go on as if nothing
//! had happened.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::sync::Once;

/// Libraries that we expect to panic: openraft's assertions in builds with them (the supervisor builds
/// its core anew), redb on some kinds of damage (the writer takes it for a failed disk).
const EXPECTED: [&str; 2] = ["/openraft-", "/redb-"];

thread_local! {
    /// The panics of the run that this thread plays, if it plays one.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Collects the panics of this thread until it is dropped.
pub(super) struct Collector;

impl Collector {
    pub(super) fn start() -> Self {
        HOOK.call_once(|| {
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                if !note(info) {
                    before(info);
                }
            }));
        });
        PANICS.set(Some(Vec::new()));
        Self
    }

    /// Where code has panicked from which no panic is expected, and how often any has.
    pub(super) fn read(&self) -> (Vec<String>, usize) {
        let all = PANICS.with_borrow(|panics| panics.clone().unwrap_or_default());
        let count = all.len();
        let expected = |place: &String| EXPECTED.iter().any(|library| place.contains(library));
        (all.into_iter().filter(|p| !expected(p)).collect(), count)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        PANICS.set(None);
    }
}

fn note(info: &PanicHookInfo<'_>) -> bool {
    PANICS
        .try_with(|panics| {
            panics.try_borrow_mut().is_ok_and(|mut panics| {
                let Some(panics) = panics.as_mut() else {
                    return false;
                };
                let place = info.location().map(ToString::to_string);
                let payload = info.payload();
                let text = payload.downcast_ref::<&str>().copied();
                let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
                let what = text.unwrap_or_default();
                panics.push(format!("{}: {what}", place.unwrap_or_default()));
                true
            })
        })
        .unwrap_or(false)
}
