//! Reading a file away from the threads that must not wait.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, Transaction};

use super::{Database, Fault};

/// A connection that reads, opened when it is first needed.
#[derive(Debug, Clone)]
pub struct Reader {
    database: Arc<Database>,
    connection: Arc<Mutex<Option<Connection>>>,
}

impl Reader {
    /// A reader of a file.
    pub fn new(database: Arc<Database>) -> Self {
        Self { database, connection: Arc::default() }
    }

    /// Reads in one transaction: what it sees, was there at one moment.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::Replaced`] too where the file is no longer the one that was opened.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let Self { database, connection } = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            database.verify()?;
            let mut connection = connection.lock().unwrap_or_else(PoisonError::into_inner);
            let open = match connection.take() {
                Some(open) => open,
                None => database.open_reader()?,
            };
            // only a connection that served well is kept
            let open = connection.insert(open);
            let outcome = open.transaction().and_then(|transaction| read(&transaction));
            if outcome.is_err() {
                *connection = None;
            }
            outcome.map_err(Fault::from)
        });
        done.await.unwrap_or_else(|_| Err(Fault::Passing("the process is stopping".into())))
    }
}
