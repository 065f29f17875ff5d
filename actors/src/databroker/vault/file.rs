//! The vault in a SQLite file beside the log: what is deleted is overwritten, in the write-ahead log too.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use portcullis_config::limits::{APPEND_DEADLINE, VALUE_BYTES};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};

use super::{Revision, Sealed, Shelf, Values, Vault, VaultError};
use crate::databroker::sqlite::{Database, Fault, FileError, Job, Reader, Scratch, Writer, unsigned};

const FILE: &str = "vault.db";
/// Revisions are counted over all keys, so that a key that was deleted never has one of its old revisions again.
const SCHEMA: &str = "
    CREATE TABLE sealed (
        shelf TEXT NOT NULL,
        key TEXT NOT NULL,
        revision INTEGER NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (shelf, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE revision (last INTEGER NOT NULL) STRICT;
    INSERT INTO revision (last) VALUES (0);
";

/// A vault in a file.
#[derive(Debug)]
pub struct FileVault {
    reader: Reader,
    writer: Writer<Change>,
}

#[derive(Debug)]
enum Change {
    Put { shelf: Shelf, key: String, expected: Revision, value: Vec<u8> },
    Delete { shelf: Shelf, key: String },
}

impl FileVault {
    /// Opens the vault in a directory, and makes both if they are not there.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        Self::create(dir, None)
    }

    /// A vault in a directory that goes away with it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn temporary(scratch: &Arc<Scratch>) -> Result<Self, FileError> {
        Self::create(scratch.path(), Some(Arc::clone(scratch)))
    }

    /// Opens a vault that is there, beside the gateway that it belongs to.
    ///
    /// # Errors
    /// [`FileError::Absent`] where there is none.
    pub fn open_beside(dir: &Path) -> Result<Self, FileError> {
        let (database, connection) = Database::beside(dir, FILE)?;
        Self::on(dir, database, connection)
    }

    fn create(dir: &Path, scratch: Option<Arc<Scratch>>) -> Result<Self, FileError> {
        let (database, connection) = Database::create(dir, FILE, SCHEMA, scratch)?;
        Self::on(dir, database, connection)
    }

    fn on(dir: &Path, database: Database, connection: Connection) -> Result<Self, FileError> {
        let database = Arc::new(database);
        let writer = Writer::start("vault", Arc::clone(&database), connection, || {})
            .map_err(|source| FileError::System { path: dir.to_owned(), source })?;
        Ok(Self { reader: Reader::new(database), writer })
    }

    async fn change(&self, change: Change) -> Result<Revision, VaultError> {
        match tokio::time::timeout(APPEND_DEADLINE, self.writer.perform(change)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(Fault::Full(why))) => Err(VaultError::Refused(why)),
            Ok(Err(fault)) => Err(unavailable(fault)),
            Err(_) => Err(VaultError::Unavailable("the deadline passed".into())),
        }
    }
}

#[async_trait]
impl Vault for FileVault {
    async fn get(&self, shelf: Shelf, key: &str) -> Result<Option<Sealed>, VaultError> {
        let key = key.to_owned();
        let found = self.reader.read(move |transaction| {
            transaction
                .prepare_cached("SELECT key, revision, value FROM sealed WHERE shelf = ?1 AND key = ?2")?
                .query_row((shelf.name(), key), sealed)
                .optional()
        });
        Ok(found.await.map_err(unavailable)?.map(|(_, sealed)| sealed))
    }

    async fn put(&self, shelf: Shelf, key: &str, expected: Revision, value: Vec<u8>) -> Result<Revision, VaultError> {
        if value.len() > VALUE_BYTES {
            return Err(VaultError::Refused(format!("a value of more than {VALUE_BYTES} bytes")));
        }
        self.change(Change::Put { shelf, key: key.to_owned(), expected, value }).await
    }

    async fn delete(&self, shelf: Shelf, key: &str) -> Result<(), VaultError> {
        self.change(Change::Delete { shelf, key: key.to_owned() }).await.map(|_| ())
    }

    async fn scan(&self, shelf: Shelf) -> Result<Values, VaultError> {
        let all = self.reader.read(move |transaction| {
            let mut rows = transaction.prepare_cached("SELECT key, revision, value FROM sealed WHERE shelf = ?1")?;
            let (mut rows, mut values) = (rows.query([shelf.name()])?, Values::default());
            while let Some(row) = rows.next()? {
                let (key, value) = (row.get_ref(0)?.as_str()?, row.get_ref(2)?.as_blob()?);
                values.push(key, Revision(unsigned(row.get(1)?)), value);
            }
            Ok(values)
        });
        all.await.map_err(unavailable)
    }

    async fn keys(&self, shelf: Shelf) -> Result<Vec<(String, Revision)>, VaultError> {
        let all = self.reader.read(move |transaction| {
            let mut rows = transaction.prepare_cached("SELECT key, revision FROM sealed WHERE shelf = ?1")?;
            rows.query_map([shelf.name()], |row| Ok((row.get(0)?, Revision(unsigned(row.get(1)?)))))?.collect()
        });
        all.await.map_err(unavailable)
    }
}

fn unavailable(fault: Fault) -> VaultError {
    VaultError::Unavailable(fault.to_string())
}

/// `key, revision, value`
fn sealed(row: &Row<'_>) -> rusqlite::Result<(String, Sealed)> {
    let revision = Revision(unsigned(row.get(1)?));
    Ok((row.get(0)?, Sealed { revision, value: row.get(2)? }))
}

impl Job for Change {
    type Answer = Result<Revision, VaultError>;

    fn run(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Self::Answer> {
        match self {
            Self::Put { shelf, key, expected, value } => put(transaction, *shelf, key, *expected, value),
            Self::Delete { shelf, key } => {
                let mut delete = transaction.prepare_cached("DELETE FROM sealed WHERE shelf = ?1 AND key = ?2")?;
                delete.execute((shelf.name(), key))?;
                Ok(Ok(Revision::NONE))
            }
        }
    }

    fn erases(&self) -> bool {
        matches!(self, Self::Delete { .. })
    }
}

fn put(
    transaction: &Transaction<'_>,
    shelf: Shelf,
    key: &str,
    expected: Revision,
    value: &[u8],
) -> rusqlite::Result<Result<Revision, VaultError>> {
    let actual: Option<i64> = transaction
        .prepare_cached("SELECT revision FROM sealed WHERE shelf = ?1 AND key = ?2")?
        .query_row((shelf.name(), key), |row| row.get(0))
        .optional()?;
    if actual.map_or(Revision::NONE, |actual| Revision(unsigned(actual))) != expected {
        return Ok(Err(VaultError::Conflict));
    }
    let revision: i64 = transaction
        .prepare_cached("UPDATE revision SET last = last + 1 RETURNING last")?
        .query_row([], |row| row.get(0))?;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO sealed (shelf, key, revision, value) VALUES (?1, ?2, ?3, ?4)")?
        .execute((shelf.name(), key, revision, value))?;
    Ok(Ok(Revision(unsigned(revision))))
}

#[cfg(test)]
mod tests;
