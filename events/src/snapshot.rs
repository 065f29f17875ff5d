//! The fold as bytes: what a node starts from instead of reading the log from its beginning.
//!
//! Sorted, so that folds that are equal are equal byte for byte. Integers are big-endian. After the head, each family:
//! its number of records, then each record with its id (16 bytes) and its length (4). What proves who wrote them is the
//! business of whoever stores them; nothing is believed of a length that is read.

use std::io::{self, Read, Write};
use std::sync::Arc;

use aws_lc_rs::digest;
use uuid::Uuid;

use crate::record::{self, Life, Record, Stored};
use crate::shards::Shards;
use crate::{Epoch, Fold, Hash, Time, Tip, group};

/// The version of this form and of the states in it. It goes up with every change of either: a snapshot of another
/// schema is not read, and the log is read instead.
pub const SCHEMA: u32 = 1;

const MAGIC: &[u8; 20] = b"portcullis snapshot\n";
/// No aggregate is larger: a person's groups come from a few sources, each within one event.
const RECORD_BYTES: u32 = 16 * 1024 * 1024;

/// Why bytes are not a snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// They cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// They are of another version.
    #[error("its schema is {0}, this program knows schema {SCHEMA}")]
    Schema(u32),
    /// They are something else.
    #[error("it is damaged: {0}")]
    Malformed(&'static str),
}

impl Fold {
    /// Writes everything, as it is at `at`: of sessions that ended by themselves before, nothing but that they ended.
    /// An empty fold has no form of its own and is not written.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write(&self, at: Time, out: &mut impl Write) -> io::Result<()> {
        let (Some(epoch), Some(last), Some(log)) = (self.epoch, self.last, self.log) else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "nothing was folded yet"));
        };
        out.write_all(MAGIC)?;
        out.write_all(&SCHEMA.to_be_bytes())?;
        out.write_all(epoch.uuid().as_bytes())?;
        out.write_all(&self.applied.to_be_bytes())?;
        out.write_all(&last.bytes())?;
        out.write_all(&log.seq.to_be_bytes())?;
        out.write_all(&log.hash.bytes())?;
        write_family(&self.lives, out, |bytes| record::expired(bytes, at))?;
        write_family(&self.groups, out, |_| None)
    }

    /// Reads what [`Self::write`] wrote, and nothing after it. Whoever calls it proves who wrote the bytes before
    /// anything is made of the value.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub fn read(from: &mut impl Read) -> Result<Self, SnapshotError> {
        if take::<20>(from)? != *MAGIC {
            return Err(SnapshotError::Malformed("it does not begin as a snapshot does"));
        }
        let schema = u32::from_be_bytes(take(from)?);
        if schema != SCHEMA {
            return Err(SnapshotError::Schema(schema));
        }
        let epoch = Epoch::new(Uuid::from_bytes(take(from)?));
        let applied = u64::from_be_bytes(take(from)?);
        let last = Hash::from_bytes(take(from)?);
        let log = Tip { seq: u64::from_be_bytes(take(from)?), hash: Hash::from_bytes(take(from)?) };
        let lives = read_family::<Life>(from)?;
        let groups = read_family::<group::State>(from)?;
        Ok(Self { applied, epoch: Some(epoch), last: Some(last), log: Some(log), lives, groups })
    }

    /// A hash of what [`Self::write`] writes: equal where the folds are.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn digest(&self, at: Time) -> io::Result<Hash> {
        let mut out = Digested(digest::Context::new(&digest::SHA256));
        self.write(at, &mut out)?;
        let mut hash = [0; 32];
        hash.copy_from_slice(out.0.finish().as_ref());
        Ok(Hash::from_bytes(hash))
    }
}

struct Digested(digest::Context);

impl Write for Digested {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_family(
    records: &Shards,
    out: &mut impl Write,
    instead: impl Fn(&[u8]) -> Option<Arc<[u8]>>,
) -> io::Result<()> {
    out.write_all(&u64::try_from(records.len()).unwrap_or(u64::MAX).to_be_bytes())?;
    for (id, bytes) in records.iter() {
        let replaced = instead(bytes);
        let bytes = replaced.as_ref().unwrap_or(bytes);
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= RECORD_BYTES);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a record is too large"))?;
        out.write_all(id.as_bytes())?;
        out.write_all(&length.to_be_bytes())?;
        out.write_all(bytes)?;
    }
    Ok(())
}

fn read_family<S: Stored>(from: &mut impl Read) -> Result<Shards, SnapshotError> {
    let count = u64::from_be_bytes(take(from)?);
    let mut records = Shards::default();
    let mut piece: Vec<(Uuid, Arc<[u8]>)> = Vec::new();
    let mut before = None;
    let mut buffer = Vec::new();
    for _ in 0..count {
        let id = Uuid::from_bytes(take(from)?);
        match before.replace(id) {
            Some(before) if before >= id => return Err(SnapshotError::Malformed("its records are not in order")),
            Some(before) if !Shards::are_together(before, id) => records.fill(std::mem::take(&mut piece)),
            Some(_) | None => {}
        }
        let length = u32::from_be_bytes(take(from)?);
        if length > RECORD_BYTES {
            return Err(SnapshotError::Malformed("a record is too large"));
        }
        buffer.clear();
        // no more room than there are bytes
        if from.by_ref().take(length.into()).read_to_end(&mut buffer)? != usize::try_from(length).unwrap_or(usize::MAX)
        {
            return Err(SnapshotError::Malformed("it is cut short"));
        }
        if Record::<S>::unpack(&buffer).is_none() {
            return Err(SnapshotError::Malformed("a record cannot be read"));
        }
        piece.push((id, buffer.as_slice().into()));
    }
    records.fill(piece);
    Ok(records)
}

fn take<const N: usize>(from: &mut impl Read) -> Result<[u8; N], SnapshotError> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => SnapshotError::Malformed("it is cut short"),
        _ => error.into(),
    })?;
    Ok(bytes)
}
