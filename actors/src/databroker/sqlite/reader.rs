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

    /// Reads in one transaction: what it sees, was there at one moment. It begins at once, whoever waits for it.
    ///
    /// # Errors
    /// [`Fault`]; [`Fault::Replaced`] too where the file is no longer the one that was opened.
    pub fn read<T, F>(&self, read: F) -> impl Future<Output = Result<T, Fault>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
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
        async { done.await.unwrap_or_else(|_| Err(Fault::Passing("the process is stopping".into()))) }
    }
}
