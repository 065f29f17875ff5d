//! A time that is moved at every request and hardly ever reached: moving it further costs nothing.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::ready;
use std::time::Instant;

use tokio::time::Sleep;

/// When a connection has been waited for long enough.
pub struct Expiry {
    at: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Expiry {
    /// At this time.
    pub const fn new(at: Instant) -> Self {
        Self { at, sleep: None }
    }

    /// At that time instead.
    pub fn set(&mut self, at: Instant) {
        self.at = at;
    }

    /// Waits for it.
    pub async fn passed(&mut self) {
        let at = self.at.into();
        poll_fn(|cx| {
            let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            loop {
                if sleep.deadline() > at {
                    sleep.as_mut().reset(at);
                }
                ready!(sleep.as_mut().poll(cx));
                // it was set for an earlier time
                if sleep.deadline() >= at {
                    return std::task::Poll::Ready(());
                }
                sleep.as_mut().reset(at);
            }
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[actix_rt::test]
    async fn it_passes_at_the_time_that_was_set_last() {
        let began = Instant::now();
        let mut expiry = Expiry::new(began + SHORT);
        expiry.passed().await;
        // later than what it waited for before, then earlier
        expiry.set(began + 3 * SHORT);
        expiry.passed().await;
        assert!(began.elapsed() >= 3 * SHORT);
        expiry.set(began + Duration::from_secs(3600));
        assert!(tokio::time::timeout(SHORT, expiry.passed()).await.is_err());
        expiry.set(began);
        expiry.passed().await;
    }
}
