//! Opens the log and the vault that a configuration names.

use std::path::Path;
use std::sync::Arc;

use portcullis_config::{Services, Storage};

use super::lender::{Lend, Shelves};
use super::log::Log;
use super::log::file::FileLog;
use super::log::jetstream::JetStreamLog;
pub use super::nats::BadOption;
use super::nats::{Consumers, Nats, StreamError};
use super::neighbours::Meeting;
use super::snapshots::{Places, SharedSnapshots};
pub use super::sqlite::FileError;
use super::sqlite::Scratch;
use super::vault::Vault;
use super::vault::file::FileVault;
use super::vault::jetstream::JetStreamVault;
use crate::ask::Port;

/// Whoever reads the log and nothing else, by the subject of its answers.
const AUDITOR: &str = "auditor";
/// A command beside databroker, which needs what databroker needs.
const COMMAND: &str = "databroker";

/// The log and the vault beside it.
#[derive(Clone)]
pub struct Store {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The vault.
    pub vault: Arc<dyn Vault>,
    /// Where other nodes on the same store are heard; `None` where there can be none.
    pub meeting: Option<Meeting>,
    /// Where snapshots of the log go.
    pub snapshots: Places,
    /// What databroker lets other components read; `None` where there can be none.
    pub shelves: Option<Shelves>,
}

impl Store {
    /// A log and a vault beside which nothing is kept, and where nobody else is heard.
    fn alone(log: impl Log + 'static, vault: impl Vault + 'static) -> Self {
        Self { log: Arc::new(log), vault: Arc::new(vault), snapshots: Places::default(), meeting: None, shelves: None }
    }
}

/// The directory of a node's own snapshots.
const SNAPSHOTS: &str = "snapshots";

/// Why there is no store. A store that is merely away is none of these: it is waited for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The files cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Servers, user or TLS are not as they must be.
    #[error(transparent)]
    Nats(#[from] BadOption),
    /// A stream is there and set up in another way, or is to be read and not there.
    #[error("{0}")]
    Stream(String),
    /// Nobody outside a process can read what it keeps in memory.
    #[error("a log in memory cannot be read by another process")]
    Memory,
}

/// Opens what the components of one process need: databroker reads, writes and makes what is not there; authorize without
/// it reads the log and the data keys, by consumers that databroker elsewhere lends, and makes nothing; the others need
/// neither.
///
/// # Errors
/// [`StoreError`].
pub async fn open_for(
    services: Services,
    storage: &Storage,
    data_dir: &Path,
    lent: Option<Port<Lend>>,
) -> Result<Option<Store>, StoreError> {
    match storage {
        Storage::Nats(servers) if !services.are_all() => {
            if !services.databroker && !services.authorize {
                return Ok(None);
            }
            let nats = Nats::connect_as(servers, &services.to_string()).await?;
            if services.databroker {
                return on_nats(nats, servers.replicas, data_dir).await.map(Some);
            }
            let consumers = lent.map_or(Consumers::Own, Consumers::Lent);
            let log = JetStreamLog::new_for_reading(&nats, consumers.clone());
            let vault = JetStreamVault::new_for_reading(&nats, consumers);
            // databroker makes what is not there yet
            wait_for(log.check().await)?;
            Ok(Some(Store::alone(log, vault)))
        }
        Storage::File(_) | Storage::Memory | Storage::Nats(_) => open(storage, data_dir).await.map(Some),
    }
}

async fn on_nats(nats: Nats, replicas: usize, data_dir: &Path) -> Result<Store, StoreError> {
    let (log, vault) = (JetStreamLog::new(&nats, replicas), JetStreamVault::new(&nats, replicas));
    forgive_absence(log.check().await)?;
    forgive_absence(vault.fits().await)?;
    // beside, and apart from, those of a log in files that may have been in use before
    let own = Some(data_dir.join("nats").join(SNAPSHOTS));
    let snapshots = Places { own, shared: Some(SharedSnapshots::new(&nats, replicas)) };
    let meeting = Some(Meeting::on(nats));
    let shelves = Some(Shelves::of(vec![Arc::clone(log.stream()), Arc::clone(vault.data_keys())]));
    Ok(Store { log: Arc::new(log), vault: Arc::new(vault), meeting, snapshots, shelves })
}

/// What is not there yet will come.
fn wait_for(checked: Result<(), StreamError>) -> Result<(), StoreError> {
    match checked {
        Err(StreamError::Gone(why)) => {
            tracing::warn!(%why, "waiting for databroker");
            Ok(())
        }
        checked => forgive_absence(checked),
    }
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
            let snapshots = Places { own: Some(dir.join(SNAPSHOTS)), shared: None };
            Ok(Store { snapshots, ..Store::alone(FileLog::open(dir)?, FileVault::open(dir)?) })
        }
        Storage::Memory => {
            let scratch = Arc::new(Scratch::new()?);
            let (log, vault) = (FileLog::temporary(&scratch)?, FileVault::temporary(&scratch)?);
            Ok(Store::alone(log, vault))
        }
        Storage::Nats(servers) => {
            let nats = Nats::connect(servers).await?;
            on_nats(nats, servers.replicas, data_dir).await
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
            let log = JetStreamLog::new_for_reading(&Nats::connect_as(servers, AUDITOR).await?, Consumers::None);
            forgive_absence(log.check().await)?;
            Ok(Arc::new(log))
        }
    }
}

/// Opens both, as they are, beside the gateways that they belong to: takes no lock, makes nothing and leaves snapshots to
/// them.
///
/// # Errors
/// [`StoreError`].
pub async fn open_beside(storage: &Storage, data_dir: &Path) -> Result<Store, StoreError> {
    match storage {
        Storage::File(dir) => {
            let dir = dir.as_deref().unwrap_or(data_dir);
            let (log, vault) = (FileLog::open_beside(dir)?, FileVault::open_beside(dir)?);
            Ok(Store::alone(log, vault))
        }
        Storage::Memory => Err(StoreError::Memory),
        Storage::Nats(servers) => {
            let nats = Nats::connect_as(servers, COMMAND).await?;
            let (log, vault) = (JetStreamLog::new_beside(&nats), JetStreamVault::new_beside(&nats));
            forgive_absence(log.check().await)?;
            forgive_absence(vault.fits().await)?;
            // what is beside the nodes is none of them
            Ok(Store::alone(log, vault))
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

#[cfg(test)]
mod tests {
    use std::fs;

    use portcullis_config::NatsStorage;
    use portcullis_events::{Aggregate, EventId, SessionId};
    use portcullis_harness::nats::NatsServer;
    use uuid::Uuid;

    use super::super::log::{Expected, NewRecord};
    use super::super::vault::{Revision, Shelf};
    use super::*;

    const KEY: &str = "00000000-0000-4000-8000-000000000001";

    async fn write(store: &Store) {
        let aggregate = Aggregate::session(SessionId::new(Uuid::from_u128(1)));
        let id = EventId::new(Uuid::now_v7());
        let record = NewRecord { aggregate, expected: Expected::NoStream, id, body: b"event".to_vec() };
        assert_eq!(store.log.append(record).await, Ok(1));
        store.vault.put(Shelf::Secret, KEY, Revision::NONE, b"value".to_vec()).await.unwrap();
    }

    async fn is_written(store: &Store) -> bool {
        store.log.head().await.unwrap().last == 1
            && store.vault.get(Shelf::Secret, KEY).await.unwrap().is_some_and(|found| found.value == b"value")
    }

    #[actix::test]
    async fn a_file_store_lies_in_the_data_directory_unless_another_is_named() {
        let (data, named) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&open(&Storage::File(None), data.path()).await.unwrap()).await;
        assert!(is_written(&open(&Storage::File(Some(data.path().into())), named.path()).await.unwrap()).await);
        assert_eq!(fs::read_dir(named.path()).unwrap().count(), 0);
        let reader = open_log_for_reading(&Storage::File(None), data.path()).await.unwrap();
        assert_eq!(reader.head().await.unwrap().last, 1);
    }

    #[actix::test]
    async fn a_memory_store_is_empty_each_time_and_touches_no_data_directory() {
        let data = tempfile::tempdir().unwrap();
        write(&open(&Storage::Memory, data.path()).await.unwrap()).await;
        let again = open(&Storage::Memory, data.path()).await.unwrap();
        assert_eq!(again.log.head().await.unwrap().last, 0);
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
        assert!(matches!(open_log_for_reading(&Storage::Memory, data.path()).await, Err(StoreError::Memory)));
    }

    #[actix::test]
    async fn a_nats_store_needs_no_data_directory() {
        let server = NatsServer::start().unwrap();
        let (storage, nowhere) = (Storage::Nats(NatsStorage::at(vec![server.url()])), Path::new("/nonexistent"));
        let absent = open_log_for_reading(&storage, nowhere).await;
        assert!(matches!(absent, Err(StoreError::Stream(why)) if why.contains("does not exist")));
        write(&open(&storage, nowhere).await.unwrap()).await;
        assert!(is_written(&open(&storage, nowhere).await.unwrap()).await);
        assert_eq!(open_log_for_reading(&storage, nowhere).await.unwrap().head().await.unwrap().last, 1);
    }

    async fn append_beside(storage: &Storage, dir: &Path, number: u128) -> u64 {
        let store = open_beside(storage, dir).await.unwrap();
        let aggregate = Aggregate::session(SessionId::new(Uuid::from_u128(number)));
        let id = EventId::new(Uuid::now_v7());
        let record = NewRecord { aggregate, expected: Expected::NoStream, id, body: b"event".to_vec() };
        store.log.append(record).await.unwrap()
    }

    #[actix::test]
    async fn beside_a_gateway_one_may_write_and_nothing_is_made() {
        let data = tempfile::tempdir().unwrap();
        let storage = Storage::File(None);
        assert!(matches!(open_beside(&storage, data.path()).await, Err(StoreError::File(FileError::Absent(_)))));
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
        assert!(matches!(open_beside(&Storage::Memory, data.path()).await, Err(StoreError::Memory)));

        let gateway = open(&storage, data.path()).await.unwrap();
        write(&gateway).await;
        assert_eq!(append_beside(&storage, data.path(), 2).await, 2);
        assert_eq!(gateway.log.head().await.unwrap().last, 2);
        // the gateway still has the directory, and goes on after what was written beside it
        assert!(matches!(open(&storage, data.path()).await, Err(StoreError::File(FileError::InUse(_)))));
        assert_eq!(append_beside(&storage, data.path(), 3).await, 3);
    }

    #[actix::test]
    async fn beside_nodes_on_nats_one_may_write_and_nothing_is_made() {
        let server = NatsServer::start().unwrap();
        let (storage, nowhere) = (Storage::Nats(NatsStorage::at(vec![server.url()])), Path::new("/nonexistent"));
        assert!(matches!(open_beside(&storage, nowhere).await, Err(StoreError::Stream(_))));
        assert!(matches!(open_log_for_reading(&storage, nowhere).await, Err(StoreError::Stream(_))));
        write(&open(&storage, nowhere).await.unwrap()).await;
        assert_eq!(append_beside(&storage, nowhere, 2).await, 2);
    }

    #[actix::test]
    async fn an_address_that_is_none_is_named_without_its_password() {
        let url = "http://user:hunter2@example.com".parse().unwrap();
        let error = open(&Storage::Nats(NatsStorage::at(vec![url])), Path::new("/nonexistent"))
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains("example.com") && !error.contains("hunter2"), "{error}");
    }
}
