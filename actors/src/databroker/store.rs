//! Opens the log and the vault that a configuration names.

use std::path::Path;
use std::sync::Arc;

use portcullis_config::Storage;

use super::log::Log;
use super::log::file::FileLog;
use super::log::jetstream::JetStreamLog;
pub use super::nats::BadAddress;
use super::nats::{Nats, StreamError};
pub use super::sqlite::FileError;
use super::sqlite::Scratch;
use super::vault::Vault;
use super::vault::file::FileVault;
use super::vault::jetstream::JetStreamVault;

/// Replicas of a stream that we make. An administrator may make the streams beforehand, with more.
const REPLICAS: usize = 1;

/// The log and the vault beside it.
#[derive(Clone)]
pub struct Store {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The vault.
    pub vault: Arc<dyn Vault>,
}

/// Why there is no store. A store that is merely away is none of these: it is waited for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The files cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A server's address is none.
    #[error(transparent)]
    Address(#[from] BadAddress),
    /// A stream is there and set up in another way, or is to be read and not there.
    #[error("{0}")]
    Stream(String),
    /// Nobody outside a process can read what it keeps in memory.
    #[error("a log in memory cannot be read by another process")]
    Memory,
}

/// Opens both to read and write, and makes what is not there. Files: takes the directory for this process. NATS: a
/// server that is away does not keep it from opening; log and vault answer that they are unavailable until it is back.
///
/// # Errors
/// [`StoreError`].
pub async fn open(storage: &Storage, data_dir: &Path) -> Result<Store, StoreError> {
    match storage {
        Storage::File(dir) => {
            let dir = dir.as_deref().unwrap_or(data_dir);
            Ok(Store { log: Arc::new(FileLog::open(dir)?), vault: Arc::new(FileVault::open(dir)?) })
        }
        Storage::Memory => {
            let scratch = Arc::new(Scratch::new()?);
            let (log, vault) = (FileLog::temporary(&scratch)?, FileVault::temporary(&scratch)?);
            Ok(Store { log: Arc::new(log), vault: Arc::new(vault) })
        }
        Storage::Nats(servers) => {
            let nats = Nats::connect(servers).await?;
            let (log, vault) = (JetStreamLog::new(&nats, REPLICAS), JetStreamVault::new(&nats, REPLICAS));
            forgive_absence(log.check().await)?;
            forgive_absence(vault.check().await)?;
            Ok(Store { log: Arc::new(log), vault: Arc::new(vault) })
        }
    }
}

/// Opens the log to read it: takes no lock and makes nothing.
///
/// # Errors
/// [`StoreError`].
pub async fn open_log_for_reading(storage: &Storage, data_dir: &Path) -> Result<Arc<dyn Log>, StoreError> {
    match storage {
        Storage::File(dir) => Ok(Arc::new(FileLog::open_for_reading(dir.as_deref().unwrap_or(data_dir))?)),
        Storage::Memory => Err(StoreError::Memory),
        Storage::Nats(servers) => {
            let log = JetStreamLog::new_for_reading(&Nats::connect(servers).await?);
            forgive_absence(log.check().await)?;
            Ok(Arc::new(log))
        }
    }
}

fn forgive_absence(checked: Result<(), StreamError>) -> Result<(), StoreError> {
    match checked {
        Ok(()) => Ok(()),
        Err(StreamError::Away(why)) => {
            tracing::warn!(%why, "the store is away");
            Ok(())
        }
        Err(StreamError::Gone(why) | StreamError::Differs(why)) => Err(StoreError::Stream(why)),
    }
}
