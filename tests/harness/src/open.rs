//! How many exchanges are open at an upstream.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::time::timeout;

/// The count; none at first.
#[derive(Default)]
pub struct Count(watch::Sender<usize>);

impl Count {
    /// One more, until what is returned is dropped.
    pub fn one(&self) -> Open {
        self.0.send_modify(|open| *open += 1);
        Open(self.0.clone())
    }

    /// Waits until there are exactly so many.
    ///
    /// # Errors
    /// There are more or fewer for all of `patience`.
    pub async fn is(&self, count: usize, patience: Duration) -> Result<()> {
        let mut open = self.0.subscribe();
        let waiting = timeout(patience, open.wait_for(|open| *open == count));
        waiting.await.with_context(|| format!("not exactly {count} are open"))??;
        Ok(())
    }
}

/// One of them.
pub struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
