//! The log in a SQLite file: one writer with group commit, readers beside it, in this process and in others.

mod tail;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::LocalBoxStream;
use portcullis_config::limits::{APPEND_DEADLINE, EVENT_BYTES};
use portcullis_events::Aggregate;
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use tokio::sync::watch;

use super::{AppendError, Expected, Head, Log, NewRecord, Record, TailFault, Tailed, Unavailable};
use crate::databroker::sqlite::{Database, Fault, FileError, Job, Lock, Reader, Scratch, Writer, signed, unsigned};

const FILE: &str = "log.db";
const LOCK: &str = "log.lock";
const SCHEMA: &str = "
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY,
        subject TEXT NOT NULL,
        id TEXT NOT NULL UNIQUE,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX event_of_subject ON event (subject, seq);
";

/// A log in a file.
#[derive(Debug)]
pub struct FileLog {
    database: Arc<Database>,
    reader: Reader,
    /// Absent where the log is only read.
    writing: Option<Writing>,
}

#[derive(Debug)]
struct Writing {
    writer: Writer<NewRecord>,
    /// Changes with each commit.
    committed: watch::Receiver<()>,
    /// Given up last, when the thread has ended; absent where another process may have it.
    _lock: Option<Lock>,
}

impl FileLog {
    /// Opens the log in a directory to write, and makes both if they are not there.
    ///
    /// # Errors
    /// [`FileError::InUse`] where another process has the directory; what the system or SQLite says.
    pub fn open(dir: &Path) -> Result<Self, FileError> {
        Self::create(dir, None)
    }

    /// A log in a directory that goes away with it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn temporary(scratch: &Arc<Scratch>) -> Result<Self, FileError> {
        Self::create(scratch.path(), Some(Arc::clone(scratch)))
    }

    /// Opens a log that is there to read it, whether or not a gateway writes it.
    ///
    /// # Errors
    /// [`FileError::Absent`] where there is none.
    pub fn open_for_reading(dir: &Path) -> Result<Self, FileError> {
        let database = Arc::new(Database::existing(dir, FILE)?);
        Ok(Self { reader: Reader::new(Arc::clone(&database)), database, writing: None })
    }

    /// Opens a log that is there to write a little beside the gateway that it belongs to: an append compares and adds in
    /// one transaction, whichever process makes it.
    ///
    /// # Errors
    /// [`FileError::Absent`] where there is none.
    pub fn open_beside(dir: &Path) -> Result<Self, FileError> {
        let (database, connection) = Database::beside(dir, FILE)?;
        Self::writing(dir, database, connection, None)
    }

    fn create(dir: &Path, scratch: Option<Arc<Scratch>>) -> Result<Self, FileError> {
        let lock = Lock::take(dir, LOCK)?;
        let (database, connection) = Database::create(dir, FILE, SCHEMA, scratch)?;
        Self::writing(dir, database, connection, Some(lock))
    }

    fn writing(dir: &Path, database: Database, connection: Connection, lock: Option<Lock>) -> Result<Self, FileError> {
        let database = Arc::new(database);
        let (changed, committed) = watch::channel(());
        let writer = Writer::start("log", Arc::clone(&database), connection, move || changed.send_replace(()))
            .map_err(|source| FileError::System { path: dir.to_owned(), source })?;
        let writing = Writing { writer, committed, _lock: lock };
        Ok(Self { reader: Reader::new(Arc::clone(&database)), database, writing: Some(writing) })
    }
}

#[async_trait]
impl Log for FileLog {
    async fn append(&self, record: NewRecord) -> Result<u64, AppendError> {
        let Some(writing) = &self.writing else {
            return Err(AppendError::Refused("the log was opened to be read".into()));
        };
        if record.body.len() > EVENT_BYTES {
            return Err(AppendError::Refused(format!("an event of more than {EVENT_BYTES} bytes")));
        }
        match tokio::time::timeout(APPEND_DEADLINE, writing.writer.perform(record)).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(Fault::Full(why))) => Err(AppendError::Refused(why)),
            Ok(Err(fault)) => Err(AppendError::Unavailable(fault.to_string())),
            Err(_) => Err(AppendError::Unavailable("the deadline passed".into())),
        }
    }

    async fn head(&self) -> Result<Head, Unavailable> {
        self.reader.read(head).await.map_err(unavailable)
    }

    async fn last(&self, aggregate: Aggregate) -> Result<Option<Record>, Unavailable> {
        let last = self.reader.read(move |transaction| {
            let mut rows = transaction
                .prepare_cached("SELECT seq, subject, body FROM event WHERE subject = ?1 ORDER BY seq DESC LIMIT 1")?;
            rows.query_row([aggregate.subject()], record).optional()
        });
        last.await.map_err(unavailable)
    }

    fn tail(&self, after: u64) -> LocalBoxStream<'static, Result<Tailed, TailFault>> {
        let committed = self.writing.as_ref().map(|writing| writing.committed.clone());
        tail::follow(Reader::new(Arc::clone(&self.database)), committed, after)
    }
}

fn unavailable(fault: Fault) -> Unavailable {
    Unavailable(fault.to_string())
}

/// `seq, subject, body`
fn record(row: &Row<'_>) -> rusqlite::Result<Record> {
    Ok(Record { seq: unsigned(row.get(0)?), subject: row.get(1)?, body: row.get(2)? })
}

fn head(transaction: &Transaction<'_>) -> rusqlite::Result<Head> {
    let end = |sql: &str| transaction.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0));
    // two questions: SQLite answers one of them alone from the edge of the tree
    let last = end("SELECT max(seq) FROM event")?.map_or(0, unsigned);
    let first = end("SELECT min(seq) FROM event")?.map_or(last + 1, unsigned);
    Ok(Head { last, first })
}

impl Job for NewRecord {
    type Answer = Result<u64, AppendError>;

    fn run(&self, transaction: &Transaction<'_>) -> rusqlite::Result<Self::Answer> {
        let subject = self.aggregate.subject();
        let id = self.id.to_string();
        let stored = transaction.prepare_cached("SELECT seq FROM event WHERE id = ?1")?;
        if let Some(seq) = one(stored, [&id])? {
            return Ok(Ok(seq));
        }
        let tip = transaction.prepare_cached("SELECT max(seq) FROM event WHERE subject = ?1 HAVING max(seq) > 0")?;
        let actual = one(tip, [&subject])?.unwrap_or(0);
        let expected = match self.expected {
            Expected::NoStream => 0,
            Expected::Seq(seq) => seq,
        };
        if actual != expected {
            return Ok(Err(AppendError::Conflict { actual }));
        }
        let seq = head(transaction)?.last + 1;
        transaction.prepare_cached("INSERT INTO event (seq, subject, id, body) VALUES (?1, ?2, ?3, ?4)")?.execute((
            signed(seq),
            subject,
            id,
            &self.body,
        ))?;
        Ok(Ok(seq))
    }
}

fn one<P: rusqlite::Params>(
    mut statement: rusqlite::CachedStatement<'_>,
    parameters: P,
) -> rusqlite::Result<Option<u64>> {
    Ok(statement.query_row(parameters, |row| row.get(0)).optional()?.map(unsigned))
}

#[cfg(test)]
mod tests;
