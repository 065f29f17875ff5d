//! The fold as bytes: what a node starts from instead of reading the log from its beginning.
//!
//! Sorted, so that folds that are equal are equal byte for byte. Integers are big-endian. After the head, each family:
//! its number of records, then each record with its id (16 bytes) and its length (4); last, the number of those who were
//! logged out lately, and of each kind (1), id (16) and time (8). What proves who wrote them is the
//! business of whoever stores them; nothing is believed of a length that is read.

use std::convert::Infallible;
use std::sync::Arc;

use aws_lc_rs::digest;
use uuid::Uuid;

use crate::departures::{Departed, Departures};
use crate::packed::Packed;
use crate::record::{self, Life, Record};
use crate::shards::Shards;
use crate::{Epoch, Fold, Hash, Time, Tip, group, logout};

/// The version of this form and of the states in it. It goes up with every change of either: a snapshot of another
/// schema is not read, and the log is read instead.
pub const SCHEMA: u32 = 4;

const MAGIC: &[u8; 20] = b"portcullis snapshot\n";
/// No aggregate is larger: a person's groups come from a few sources, each within one event.
const RECORD_BYTES: u32 = 16 * 1024 * 1024;
/// Room is made for so many bytes before they are there.
const CHUNK: usize = 64 * 1024;

/// Why there is no snapshot, or no fold from it; `E` is what the other side of the bytes says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError<E> {
    /// They cannot be written, or read to their end.
    #[error(transparent)]
    Bytes(#[from] E),
    /// They are of another version.
    #[error("its schema is {0}, this program knows schema {SCHEMA}")]
    Schema(u32),
    /// They are something else.
    #[error("it is damaged: {0}")]
    Malformed(&'static str),
    /// Nothing was folded yet, or a record of it is larger than any may be.
    #[error("it cannot be written: {0}")]
    Unwritable(&'static str),
}

impl Fold {
    /// Writes everything, piece by piece, as it is at `at`: of sessions that ended by themselves before, nothing but
    /// that they ended.
    ///
    /// # Errors
    /// [`SnapshotError::Bytes`] is what `out` says. A fold of nothing has no form.
    pub fn write<E>(&self, at: Time, out: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), SnapshotError<E>> {
        let (Some(epoch), Some(last), Some(log)) = (self.epoch, self.last, self.log) else {
            return Err(SnapshotError::Unwritable("nothing was folded yet"));
        };
        out(MAGIC)?;
        out(&SCHEMA.to_be_bytes())?;
        out(epoch.uuid().as_bytes())?;
        out(&self.applied.to_be_bytes())?;
        out(&last.bytes())?;
        out(&log.seq.to_be_bytes())?;
        out(&log.hash.bytes())?;
        write_family(&self.lives, out, |bytes| record::expired(bytes, at))?;
        write_family(&self.groups, out, |_| None)?;
        write_family(&self.logouts, out, |_| None)?;
        write_departures(&self.departures, out)
    }

    /// Reads what [`Self::write`] wrote, and nothing after it; `from` fills what it is given. Whoever calls it proves
    /// who wrote the bytes before anything is made of the value.
    ///
    /// # Errors
    /// [`SnapshotError`]; [`SnapshotError::Bytes`] is what `from` says.
    pub fn read<E>(from: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, SnapshotError<E>> {
        if take::<20, E>(from)? != *MAGIC {
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
        let lives = read_family::<Life, E>(from)?;
        let groups = read_family::<group::State, E>(from)?;
        let logouts = read_family::<logout::State, E>(from)?;
        let departures = read_departures(from)?;
        Ok(Self { applied, epoch: Some(epoch), last: Some(last), log: Some(log), lives, groups, logouts, departures })
    }

    /// A hash of what [`Self::write`] writes: equal where the folds are. `None` before anything was folded.
    #[must_use]
    pub fn digest(&self, at: Time) -> Option<Hash> {
        let mut context = digest::Context::new(&digest::SHA256);
        let written = self.write(at, &mut |bytes: &[u8]| {
            context.update(bytes);
            Ok::<_, Infallible>(())
        });
        let hash: [u8; 32] = context.finish().as_ref().try_into().ok()?;
        written.ok().map(|()| Hash::from_bytes(hash))
    }
}

fn write_family<E>(
    records: &Shards,
    out: &mut impl FnMut(&[u8]) -> Result<(), E>,
    instead: impl Fn(&[u8]) -> Option<Arc<[u8]>>,
) -> Result<(), SnapshotError<E>> {
    out(&u64::try_from(records.len()).unwrap_or(u64::MAX).to_be_bytes())?;
    for (id, bytes) in records.iter() {
        let replaced = instead(bytes);
        let bytes = replaced.as_ref().unwrap_or(bytes);
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= RECORD_BYTES);
        let length = length.ok_or(SnapshotError::Unwritable("a record is too large"))?;
        out(id.as_bytes())?;
        out(&length.to_be_bytes())?;
        out(bytes)?;
    }
    Ok(())
}

fn read_family<S: Packed, E>(from: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Shards, SnapshotError<E>> {
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
        read_into(&mut buffer, usize::try_from(length).unwrap_or(usize::MAX), from)?;
        if Record::<S>::unpack(&buffer).is_none() {
            return Err(SnapshotError::Malformed("a record cannot be read"));
        }
        piece.push((id, buffer.as_slice().into()));
    }
    records.fill(piece);
    Ok(records)
}

fn write_departures<E>(
    departures: &Departures,
    out: &mut impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), SnapshotError<E>> {
    out(&u64::try_from(departures.len()).unwrap_or(u64::MAX).to_be_bytes())?;
    for (departed, at) in departures.iter() {
        let (kind, id) = departed.parts();
        out(&[kind])?;
        out(id.as_bytes())?;
        out(&at.millis().to_be_bytes())?;
    }
    Ok(())
}

fn read_departures<E>(from: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Departures, SnapshotError<E>> {
    let count = u64::from_be_bytes(take(from)?);
    let mut departures = Departures::default();
    for _ in 0..count {
        let [kind] = take(from)?;
        let departed = Departed::from_parts(kind, Uuid::from_bytes(take(from)?));
        let at = Time::from_millis(i64::from_be_bytes(take(from)?));
        if !departed.is_some_and(|departed| departures.restore(departed, at)) {
            return Err(SnapshotError::Malformed("a logout cannot be read"));
        }
    }
    Ok(departures)
}

/// The next bytes; room for them is made as they come.
fn read_into<E>(
    buffer: &mut Vec<u8>,
    length: usize,
    from: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    buffer.clear();
    while buffer.len() < length {
        let filled = buffer.len();
        buffer.resize(length.min(filled + CHUNK), 0);
        from(buffer.get_mut(filled..).unwrap_or_default())?;
    }
    Ok(())
}

fn take<const N: usize, E>(from: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<[u8; N], E> {
    let mut bytes = [0; N];
    from(&mut bytes)?;
    Ok(bytes)
}
