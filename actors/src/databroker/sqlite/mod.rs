//! One SQLite file as the file backends use it: how it is opened, what goes wrong with it, whether it is still there.

mod reader;
mod writer;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_config::limits::FILE_BUSY;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use uuid::Uuid;

pub use reader::Reader;
pub use writer::{Job, Writer};

/// `PRAGMA application_id` of our files: "PCLS".
const APPLICATION_ID: i32 = 0x5043_4c53;
/// `PRAGMA user_version` of our files.
const VERSION: i32 = 1;

/// Why a file cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refuses.
    #[error("{}", path.display())]
    System {
        /// What was to be opened or made.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Another process writes there.
    #[error("{} is in use: another gateway runs on this directory", .0.display())]
    InUse(PathBuf),
    /// There is nothing to read.
    #[error("{} does not exist", .0.display())]
    Absent(PathBuf),
    /// It is not what we would have written.
    #[error("{}: {why}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Why a read or a write did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It may go away by itself.
    #[error("{0}")]
    Passing(String),
    /// There is no room.
    #[error("{0}")]
    Full(String),
    /// The file was deleted, or another one stands in its place.
    #[error("{0}")]
    Replaced(String),
    /// The file or the disk is damaged: what was written since is in doubt, so nothing more is.
    #[error("{0}")]
    Broken(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Passing(error.to_string()),
            Some(ErrorCode::DiskFull) => Self::Full(error.to_string()),
            Some(_) | None => Self::Broken(error.to_string()),
        }
    }
}

/// A directory that only we may enter and that goes away with its last user.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new one, where the system keeps what need not stay.
    ///
    /// # Errors
    /// [`FileError::System`].
    pub fn new() -> Result<Self, FileError> {
        let path = std::env::temp_dir().join(format!("portcullis-{}", Uuid::new_v4().simple()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(FileError::System { path, source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a temporary directory stays behind");
        }
    }
}

/// The right to write in a directory; given up when it is dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "held, not used: closing it gives the lock up")] File);

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// [`FileError::InUse`] where another process has it.
    pub fn take(dir: &Path, name: &str) -> Result<Self, FileError> {
        make_dir(dir)?;
        let path = dir.join(name);
        let file = make_file(&path)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(FileError::InUse(path)),
            Err(TryLockError::Error(source)) => Err(FileError::System { path, source }),
        }
    }
}

/// A file, and the proof that it is still the one that was opened.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Where it lies in one: kept until nobody uses the file any more.
    _scratch: Option<Arc<Scratch>>,
}

impl Database {
    /// Opens a file to write, and makes it if it is not there.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create(
        dir: &Path,
        name: &str,
        schema: &str,
        scratch: Option<Arc<Scratch>>,
    ) -> Result<(Self, Connection), FileError> {
        make_dir(dir)?;
        let path = dir.join(name);
        make_file(&path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&path, flags)
            .and_then(|mut connection| prepare(&mut connection, schema).map(|version| (connection, version)));
        let connection = match opened {
            Ok((connection, VERSION)) => connection,
            Ok((_, version)) => return Err(FileError::Unusable { path, why: foreign(version) }),
            Err(error) => return Err(FileError::Unusable { path, why: error.to_string() }),
        };
        // the file's own name must survive a loss of power as well
        let synced = File::open(dir).and_then(|dir| dir.sync_all());
        synced.map_err(|source| FileError::System { path: dir.to_owned(), source })?;
        Ok((Self::found(path, scratch)?, connection))
    }

    /// A file that is there, to read only.
    ///
    /// # Errors
    /// [`FileError::Absent`] where it is not.
    pub fn existing(dir: &Path, name: &str) -> Result<Self, FileError> {
        Self::found(dir.join(name), None)
    }

    /// A file that is there, to write beside the process that it belongs to.
    ///
    /// # Errors
    /// [`FileError::Absent`] where it is not; nothing is made.
    pub fn beside(dir: &Path, name: &str) -> Result<(Self, Connection), FileError> {
        let found = Self::existing(dir, name)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&found.path, flags)
            .and_then(|connection| set_up(&connection).map(|()| connection))
            .and_then(|connection| version(&connection).map(|version| (connection, version)));
        match opened {
            Ok((connection, VERSION)) => Ok((found, connection)),
            Ok((_, version)) => Err(FileError::Unusable { path: found.path, why: foreign(version) }),
            Err(error) => Err(FileError::Unusable { path: found.path, why: error.to_string() }),
        }
    }

    fn found(path: PathBuf, scratch: Option<Arc<Scratch>>) -> Result<Self, FileError> {
        match fs::metadata(&path) {
            Ok(found) => Ok(Self { path, device: found.dev(), inode: found.ino(), _scratch: scratch }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(FileError::Absent(path)),
            Err(source) => Err(FileError::System { path, source }),
        }
    }

    /// Whether the file under this name is the one that was opened.
    ///
    /// # Errors
    /// [`Fault::Replaced`] where it is not.
    pub fn verify(&self) -> Result<(), Fault> {
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => Ok(()),
            Ok(_) => Err(Fault::Replaced(format!("another file stands in the place of {}", self.path.display()))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Fault::Replaced(format!("{} was deleted", self.path.display())))
            }
            Err(error) => Err(Fault::Passing(format!("{}: {error}", self.path.display()))),
        }
    }

    /// A connection that cannot write.
    fn open_reader(&self) -> Result<Connection, Fault> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(FILE_BUSY)?;
        match version(&connection)? {
            VERSION => Ok(connection),
            other => Err(Fault::Broken(format!("{}: {}", self.path.display(), foreign(other)))),
        }
    }
}

/// Sets a connection up to write and gives the file its tables if it has none; answers with its version.
fn prepare(connection: &mut Connection, schema: &str) -> rusqlite::Result<i32> {
    set_up(connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tables: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        transaction.execute_batch(schema)?;
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    let version = version(&transaction)?;
    transaction.commit()?;
    Ok(version)
}

/// How every connection that writes does it; how the file itself is kept was settled when it was made.
fn set_up(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(FILE_BUSY)?;
    // a commit is on the disk before it is acknowledged, power loss or not
    connection.pragma_update(None, "synchronous", "FULL")?;
    // what is deleted is overwritten
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.pragma_update(None, "foreign_keys", "OFF")?;
    connection.pragma_update(None, "trusted_schema", "OFF")
}

/// The version of one of our files; 0 for any other.
fn version(connection: &Connection) -> rusqlite::Result<i32> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application == APPLICATION_ID {
        connection.pragma_query_value(None, "user_version", |row| row.get(0))
    } else {
        Ok(0)
    }
}

fn foreign(version: i32) -> String {
    match version {
        0 => "it was not made by this program".to_owned(),
        newer => format!("its form is version {newer}, this program knows version {VERSION}"),
    }
}

fn make_dir(dir: &Path) -> Result<(), FileError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| FileError::System { path: dir.to_owned(), source })
}

/// Opens a file that only its owner may read, and makes it if it is not there; SQLite gives its companions the same mode.
fn make_file(path: &Path) -> Result<File, FileError> {
    let made = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    made.map_err(|source| FileError::System { path: path.to_owned(), source })
}

/// A sequence as SQLite stores it.
pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A sequence as we count it.
pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
