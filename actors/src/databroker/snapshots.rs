//! Where snapshots are kept: a node's own files, and the bucket that the nodes of a cluster share. None is needed: they
//! save reading the log from its beginning.

mod files;
mod shared;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_config::limits::{SNAPSHOT_EVENTS, SNAPSHOT_SHARE};
use portcullis_events::{Epoch, Fold, Time};

use crate::keyring::Authenticator;
use files::Files;
pub use shared::SharedSnapshots;

/// Where snapshots of a log go.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// A directory of this node.
    pub own: Option<PathBuf>,
    /// What the nodes share.
    pub shared: Option<SharedSnapshots>,
}

/// What a snapshot is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    /// The last sequence in it.
    seq: u64,
    /// The log's epoch.
    epoch: Epoch,
    /// The version of its form.
    schema: u32,
}

/// The snapshots that a node can reach.
pub struct Snapshots {
    files: Option<Arc<Files>>,
    shared: Option<SharedSnapshots>,
    begun_with: AtomicU64,
}

impl Snapshots {
    /// Snapshots in these places, authenticated for [`crate::keyring::Purpose::Snapshot`].
    #[must_use]
    pub fn new(places: Places, authenticator: Authenticator) -> Self {
        let files = places.own.map(|dir| Arc::new(Files::new(dir, authenticator)));
        Self { files, shared: places.shared, begun_with: AtomicU64::new(0) }
    }

    /// The newest that can be used: of this schema, and written by a node of this installation. A shared one comes
    /// before the node's own only where it is so far ahead that fetching it is less than reading that part of the log.
    /// What cannot be used is left where it is, with a word why.
    pub async fn newest(&self) -> Option<Fold> {
        let files = self.files.clone()?;
        let looked = Arc::clone(&files);
        let own = blocking(move || looked.list()).await?.into_iter().next().map(|(name, _)| name);
        let ahead = match own {
            Some(own) => self.fetch(Some(own)).await,
            None => None,
        };
        let newest = match ahead {
            Some(ahead) => ahead,
            None => match blocking(move || files.newest()).await.flatten() {
                Some(newest) => newest,
                None => self.fetch(None).await?,
            },
        };
        self.begun_with.store(newest.applied(), Ordering::Release);
        Some(newest)
    }

    /// The sequence of the snapshot that this node began with; 0 if with none.
    #[must_use]
    pub fn begun_with(&self) -> u64 {
        self.begun_with.load(Ordering::Acquire)
    }

    /// Whether a node can keep any.
    #[must_use]
    pub const fn have_a_place(&self) -> bool {
        self.files.is_some()
    }

    /// Stores a snapshot in the node's own files, as things are at `at`. False where it could not be stored.
    pub async fn store(&self, fold: Fold, at: Time) -> bool {
        let Some(files) = self.files.clone() else { return false };
        let seq = fold.applied();
        match blocking(move || files.store(&fold, at)).await {
            Some(Ok(bytes)) => {
                tracing::info!(seq, bytes, "stored a snapshot");
                true
            }
            Some(Err(error)) => {
                tracing::warn!(%error, seq, "a snapshot could not be stored");
                false
            }
            None => false,
        }
    }

    /// Shares the newest of the node's own, unless another node shared one that is nearly as new.
    pub async fn share(&self) {
        let (Some(files), Some(shared)) = (&self.files, &self.shared) else { return };
        let files = Arc::clone(files);
        let newest = blocking(move || files.list().into_iter().next()).await.flatten();
        let Some((name, path)) = newest else { return };
        let sharing = async {
            let there = shared.newest(Some(name.epoch)).await?;
            if there.is_some_and(|there| there.seq.saturating_add(SNAPSHOT_EVENTS / 2) > name.seq) {
                return Ok(false);
            }
            shared.put(name, &path).await.map(|()| true)
        };
        match tokio::time::timeout(SNAPSHOT_SHARE.1, sharing).await {
            Ok(Ok(true)) => tracing::info!(seq = name.seq, "shared a snapshot"),
            Ok(Ok(false)) => {}
            Ok(Err(why)) => tracing::warn!(%why, "a snapshot could not be shared"),
            Err(_) => tracing::warn!("a snapshot could not be shared in time"),
        }
    }

    /// The newest that is shared; beside one of our own, only of the same log and where it is far ahead.
    async fn fetch(&self, own: Option<Name>) -> Option<Fold> {
        let (files, shared) = (self.files.clone()?, self.shared.as_ref()?);
        let is_worth_it = |name: &Name| own.is_none_or(|own| name.seq >= own.seq.saturating_add(SNAPSHOT_EVENTS));
        let fetching = async {
            let newest = tokio::time::timeout(SNAPSHOT_SHARE.0, shared.newest(own.map(|own| own.epoch))).await;
            let newest = newest.map_err(|_| "no answer in time".to_owned())??;
            let Some(name) = newest.filter(is_worth_it) else { return Ok(None) };
            let staging = Arc::clone(&files);
            let staged = blocking(move || staging.stage()).await.ok_or("the process is stopping")?;
            let staged = staged.map_err(|error| error.to_string())?;
            shared.get(name, &staged).await?;
            Ok::<_, String>(Some((name, staged)))
        };
        match tokio::time::timeout(SNAPSHOT_SHARE.1, fetching).await {
            Ok(Ok(Some((name, staged)))) => blocking(move || files.adopt(name, &staged)).await.flatten(),
            Ok(Ok(None)) => None,
            Ok(Err(why)) => {
                tracing::warn!(%why, "no shared snapshot could be had");
                None
            }
            Err(_) => {
                tracing::warn!("no shared snapshot could be had in time");
                None
            }
        }
    }
}

/// Away from the threads that must not wait; `None` where the process is stopping.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}
