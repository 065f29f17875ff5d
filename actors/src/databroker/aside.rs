//! Work on many things that must not hold up the thread it is asked for on: on another one where they are many, and on
//! the spot where that is sooner done.

use portcullis_config::limits::FEW;

/// Does `work` on so many things; `None` where the process is stopping.
pub async fn aside<T: Send + 'static>(many: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if many <= FEW { Some(work()) } else { tokio::task::spawn_blocking(work).await.ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[actix_rt::test]
    async fn little_is_done_here_and_much_elsewhere() {
        let here = std::thread::current().id();
        let worked = |many| aside(many, || std::thread::current().id());
        assert_eq!(worked(FEW).await, Some(here));
        assert_ne!(worked(FEW + 1).await, Some(here));
    }
}
