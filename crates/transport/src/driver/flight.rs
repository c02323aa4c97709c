//! The requests of one connection that are being answered by tasks.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

/// The tasks, each with a permit of `requests` for as long as it lives; dropping this ends them.
pub(super) struct Flight {
    pub(super) requests: Arc<Semaphore>,
    most: usize,
    /// The greatest id of a request that has been run.
    pub(super) last: u32,
    /// By correlation id, which the peer may have used twice. A task that has ended keeps the memory of its
    /// future until its entry goes, so that those at the front go with the next start. Those behind one that
    /// runs long stay, until there are twice as many entries as there may be requests.
    running: VecDeque<(u32, AbortHandle)>,
    sweep_at: usize,
}

impl Flight {
    pub(super) fn new(max_requests: usize) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(max_requests)),
            most: max_requests,
            last: 0,
            running: VecDeque::new(),
            sweep_at: 2 * max_requests,
        }
    }

    /// Runs `task`, which holds a permit of `requests` until it ends or is dropped because it is cancelled.
    pub(super) fn start(
        &mut self,
        correlation: u32,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        while let Some((_, task)) = self.running.front()
            && task.is_finished()
        {
            self.running.pop_front();
        }
        if self.running.len() >= self.sweep_at {
            self.running.retain(|(_, task)| !task.is_finished());
        }
        let task = tokio::spawn(task).abort_handle();
        self.running.push_back((correlation, task));
    }

    pub(super) fn cancel(&mut self, correlation: u32) {
        self.running.retain(|(id, task)| {
            let is_it = *id == correlation;
            if is_it {
                task.abort();
            }
            !is_it
        });
    }

    /// Waits for all of them.
    pub(super) async fn land(&mut self) {
        let all = u32::try_from(self.most).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _landed = self.requests.acquire_many(all).await.is_ok();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        for (_, task) in &self.running {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// A request that is never answered, with its permit.
    fn endless(flight: &mut Flight, correlation: u32) {
        let permit = Arc::clone(&flight.requests).try_acquire_owned().unwrap();
        flight.start(correlation, async move {
            pending::<()>().await;
            drop(permit);
        });
    }

    async fn free(requests: &Semaphore, permits: u32) {
        requests.acquire_many(permits).await.unwrap().forget();
        requests.add_permits(usize::try_from(permits).unwrap());
    }

    #[tokio::test]
    async fn an_id_used_twice_is_cancelled_twice() {
        let mut flight = Flight::new(4);
        for correlation in [7, 7, 8] {
            endless(&mut flight, correlation);
        }
        assert_eq!(flight.requests.available_permits(), 1);
        flight.cancel(7);
        free(&flight.requests, 3).await;
        assert_eq!(flight.requests.available_permits(), 3);
    }

    #[tokio::test]
    async fn none_outlives_the_connection_and_those_that_ended_leave_nothing() {
        let mut flight = Flight::new(4);
        endless(&mut flight, 1);
        for correlation in 2..1_000 {
            let permit = Arc::clone(&flight.requests).acquire_owned().await.unwrap();
            flight.start(correlation, async move { drop(permit) });
            assert!(
                flight.running.len() <= 8,
                "behind the first that does not end"
            );
        }
        let requests = Arc::clone(&flight.requests);
        drop(flight);
        free(&requests, 4).await;
    }

    #[tokio::test]
    async fn landing_waits_for_all() {
        let mut flight = Flight::new(4);
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let permit = Arc::clone(&flight.requests).try_acquire_owned().unwrap();
        flight.start(1, async move {
            let _told = told.await.is_ok();
            drop(permit);
        });
        {
            let landing = std::pin::pin!(flight.land());
            let landing = tokio::time::timeout(std::time::Duration::ZERO, landing);
            assert!(landing.await.is_err());
        }
        tell.send(()).unwrap();
        flight.land().await;
    }
}
