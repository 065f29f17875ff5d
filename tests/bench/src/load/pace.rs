//! A fixed rate: what is due becomes due, whatever became of what was due before. A request that waits for another's
//! answer is late, and its time counts from when it was due: nothing slow is left out of the count.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// The rate, kept by a thread of its own: timers of the runtime are a millisecond wide.
pub struct Pace {
    due: Arc<Semaphore>,
    began: Instant,
    apart: Duration,
    taken: Cell<u32>,
}

impl Pace {
    /// So many a second, from now on.
    pub fn begin(rate: u32) -> Self {
        let (due, began, apart) = (Arc::new(Semaphore::new(0)), Instant::now(), Duration::from_secs(1) / rate.max(1));
        let clock = Arc::clone(&due);
        std::thread::spawn(move || {
            let mut given: u32 = 0;
            while !clock.is_closed() {
                let mut now_due = 0;
                while began + apart * given <= Instant::now() {
                    (given, now_due) = (given + 1, now_due + 1);
                }
                clock.add_permits(now_due);
                std::thread::sleep((began + apart * given).saturating_duration_since(Instant::now()));
            }
        });
        Self { due, began, apart, taken: Cell::new(0) }
    }

    /// Waits until the next one is due, and says since when; `None` once the end has come.
    pub async fn due(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        let number = self.taken.replace(self.taken.get() + 1);
        Some(self.began + self.apart * number)
    }

    /// Nothing is due any more.
    pub fn end(&self) {
        self.due.close();
    }
}
