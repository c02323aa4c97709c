//! Events in their order, with a snapshot in place of those that a slow reader missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::event::Event;
use crate::member::MembershipView;

/// Events kept for readers that lag.
const MAX_KEPT: usize = 1_024;

/// What a reader gets.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Delivery {
    /// The whole membership: at first, and whenever the reader was too slow for the events since.
    Resync(Arc<MembershipView>),
    /// What happened next.
    Event(Event),
}

#[derive(Debug)]
struct Log {
    /// The number of the first event kept.
    first: u64,
    events: VecDeque<Event>,
    view: Arc<MembershipView>,
}

/// The driver's end: one log for all readers, of bounded size.
#[derive(Debug)]
pub(crate) struct EventLog {
    log: Arc<Mutex<Log>>,
    end: watch::Sender<u64>,
}

impl EventLog {
    pub(crate) fn new(view: Arc<MembershipView>) -> Self {
        let log = Log {
            first: 0,
            events: VecDeque::new(),
            view,
        };
        Self {
            log: Arc::new(Mutex::new(log)),
            end: watch::Sender::new(0),
        }
    }

    /// Appends events together with the view that they led to.
    pub(crate) fn append(
        &self,
        events: impl IntoIterator<Item = Event>,
        view: &Arc<MembershipView>,
    ) {
        let mut log = lock(&self.log);
        log.view = Arc::clone(view);
        for event in events {
            if log.events.len() >= MAX_KEPT {
                log.events.pop_front();
                log.first += 1;
            }
            log.events.push_back(event);
        }
        let end = log.first + log.events.len() as u64;
        drop(log);
        self.end.send_if_modified(|held| {
            let changed = *held != end;
            *held = end;
            changed
        });
    }

    pub(crate) fn reader(&self) -> EventStream {
        EventStream {
            log: Arc::clone(&self.log),
            end: self.end.subscribe(),
            next: None,
        }
    }
}

/// Reads the events of a membership. A reader that lags by more than 1,024 events gets the whole view
/// in their place: nothing is lost silently.
#[derive(Debug, Clone)]
pub struct EventStream {
    log: Arc<Mutex<Log>>,
    end: watch::Receiver<u64>,
    /// The number of the event to deliver next; `None` before the first snapshot.
    next: Option<u64>,
}

impl EventStream {
    /// The next delivery; `None` when the membership has stopped. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.take() {
                return Some(delivery);
            }
            if self.end.changed().await.is_err() {
                return self.take();
            }
        }
    }

    fn take(&mut self) -> Option<Delivery> {
        let log = lock(&self.log);
        let kept = self.next.and_then(|next| next.checked_sub(log.first));
        let Some(at) = kept else {
            self.next = Some(log.first + log.events.len() as u64);
            return Some(Delivery::Resync(Arc::clone(&log.view)));
        };
        let event = log.events.get(usize::try_from(at).ok()?)?.clone();
        self.next = self.next.map(|next| next + 1);
        Some(Delivery::Event(event))
    }
}

fn lock(log: &Mutex<Log>) -> MutexGuard<'_, Log> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rivven_core_types::NodeName;

    fn view(version: u64) -> Arc<MembershipView> {
        Arc::new(MembershipView {
            version,
            local: NodeName::new("a").unwrap(),
            members: Vec::new(),
            superseded_by: None,
        })
    }

    #[tokio::test]
    async fn who_lags_too_far_gets_the_view_and_who_does_not_gets_every_event() {
        let log = EventLog::new(view(0));
        let mut reader = log.reader();
        assert!(matches!(reader.next().await, Some(Delivery::Resync(v)) if v.version == 0));
        let refuted = |incarnation| Event::Refuted { incarnation };
        log.append((0..1000).map(refuted), &view(1));
        for expected in 0..1000 {
            let next = reader.next().await;
            assert!(matches!(next, Some(Delivery::Event(e)) if e == refuted(expected)));
        }
        log.append((0..5000).map(refuted), &view(2));
        assert!(matches!(reader.next().await, Some(Delivery::Resync(v)) if v.version == 2));
        log.append([refuted(7)], &view(3));
        assert!(matches!(reader.next().await, Some(Delivery::Event(e)) if e == refuted(7)));
        drop(log);
        assert!(reader.next().await.is_none());
    }
}
