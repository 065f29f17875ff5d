//! Where a peer of the tests plays: a thread of its own, for as long as somebody wants it.

use std::convert::Infallible;

use anyhow::Result;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// The peer plays until this is dropped.
pub type Playing = oneshot::Sender<Infallible>;

/// Has it play.
///
/// # Errors
/// The system refuses.
pub fn play<F, P>(playing: F) -> Result<Playing>
where
    F: FnOnce() -> P + Send + 'static,
    P: Future,
{
    let (stop, stopped) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        let serving = async {
            tokio::select! {
                _ = playing() => {}
                _ = stopped => {}
            }
        };
        LocalSet::new().block_on(&runtime, serving);
    });
    Ok(stop)
}
