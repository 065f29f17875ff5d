//! Snapshots in a directory: written beside their place, on the disk before they stand in it, and with a tag at the end
//! that only a node of this installation can make.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_config::limits::SNAPSHOTS_KEPT;
use portcullis_events::{Fold, SCHEMA, SnapshotError, Time};
use uuid::Uuid;

use super::Name;
use crate::keyring::Authenticator;

const SUFFIX: &str = ".snapshot";
const STAGED: &str = ".staged";
/// A file that was staged and never stood in its place is left over after this long.
const LEFT_OVER: Duration = Duration::from_secs(60 * 60);
const BUFFER: usize = 1024 * 1024;
const TAG: u64 = 32;

/// Why a file is not used, or not written.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is no snapshot, or not one that this program knows.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError<io::Error>),
    /// Its tag is not one of ours.
    #[error("it was not written by a node with this shared_secret, or was changed since")]
    Forged,
    /// It is a snapshot, and not the one that its name says.
    #[error("its name says something else than it does")]
    Misnamed,
}

impl From<io::Error> for Unusable {
    fn from(error: io::Error) -> Self {
        Self::Snapshot(SnapshotError::Bytes(error))
    }
}

/// The snapshots in a directory.
pub struct Files {
    dir: PathBuf,
    authenticator: Authenticator,
}

impl Files {
    /// Those of a directory, which is made when the first is stored.
    pub fn new(dir: PathBuf, authenticator: Authenticator) -> Self {
        Self { dir, authenticator }
    }

    /// The newest that can be used.
    pub fn newest(&self) -> Option<Fold> {
        self.list().into_iter().find_map(|(name, path)| match self.read(name, &path) {
            Ok(fold) => Some(fold),
            Err(why) => {
                tracing::warn!(%why, seq = name.seq, path = %path.display(), "a snapshot is not used");
                None
            }
        })
    }

    /// What is there, the newest first.
    pub fn list(&self) -> Vec<(Name, PathBuf)> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut all: Vec<_> =
            entries.filter_map(|entry| Some((name_of(entry.file_name().to_str()?)?, entry.path()))).collect();
        all.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
        all
    }

    /// Stores a snapshot as things are at `at`; its length in bytes.
    pub fn store(&self, fold: &Fold, at: Time) -> Result<u64, Unusable> {
        let staged = self.stage()?;
        let name = Name { seq: fold.applied(), epoch: fold.epoch().unwrap_or(Self::NOWHERE), schema: SCHEMA };
        let stored = self.write(fold, at, &staged).and_then(|bytes| Ok(self.place(name, &staged).map(|()| bytes)?));
        if stored.is_err() {
            // it stays a left-over otherwise
            let _ = fs::remove_file(&staged);
        }
        stored
    }

    /// No log has it; a fold without an epoch is not written either.
    const NOWHERE: portcullis_events::Epoch = portcullis_events::Epoch::new(Uuid::nil());

    /// A place for a file that is to become a snapshot.
    pub fn stage(&self) -> io::Result<PathBuf> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        for entry in fs::read_dir(&self.dir)?.flatten() {
            let is_staged = entry.file_name().to_str().is_some_and(|name| name.ends_with(STAGED));
            let age = entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
            if is_staged && age.is_some_and(|age| age > LEFT_OVER) {
                // another node may have done it
                let _ = fs::remove_file(entry.path());
            }
        }
        let path = self.dir.join(format!(".{}{STAGED}", Uuid::new_v4()));
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(path)
    }

    /// Reads a staged file that came from elsewhere, and puts it among our own if it can be used.
    pub fn adopt(&self, name: Name, staged: &Path) -> Option<Fold> {
        let read = self.read(name, staged).and_then(|fold| {
            self.place(name, staged)?;
            Ok(fold)
        });
        match read {
            Ok(fold) => Some(fold),
            Err(why) => {
                tracing::warn!(%why, seq = name.seq, "a shared snapshot is not used");
                let _ = fs::remove_file(staged);
                None
            }
        }
    }

    fn write(&self, fold: &Fold, at: Time, path: &Path) -> Result<u64, Unusable> {
        let file = OpenOptions::new().write(true).truncate(true).open(path)?;
        let (mut out, mut running) = (BufWriter::with_capacity(BUFFER, file), self.authenticator.begin());
        fold.write(at, &mut |bytes: &[u8]| {
            running.update(bytes);
            out.write_all(bytes)
        })?;
        out.write_all(&running.tag())?;
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }

    /// Reads a whole file. What it says is nobody's before its tag has held.
    fn read(&self, name: Name, path: &Path) -> Result<Fold, Unusable> {
        let (mut file, mut running) = (BufReader::with_capacity(BUFFER, File::open(path)?), self.authenticator.begin());
        let fold = Fold::read(&mut |room: &mut [u8]| {
            file.read_exact(room)?;
            running.update(room);
            Ok(())
        })?;
        let mut tag = Vec::new();
        file.by_ref().take(2 * TAG).read_to_end(&mut tag)?;
        if !running.verifies(&tag) {
            return Err(Unusable::Forged);
        }
        let is_it = (fold.applied(), fold.epoch()) == (name.seq, Some(name.epoch));
        if is_it { Ok(fold) } else { Err(Unusable::Misnamed) }
    }

    /// From then on it is a snapshot, power loss or not; older ones of the same log go.
    fn place(&self, name: Name, staged: &Path) -> io::Result<()> {
        fs::rename(staged, self.dir.join(name.to_string()))?;
        File::open(&self.dir)?.sync_all()?;
        let of_this_log = self.list().into_iter().filter(|(other, _)| other.epoch == name.epoch);
        for (other, path) in of_this_log.skip(SNAPSHOTS_KEPT) {
            if let Err(error) = fs::remove_file(path) {
                tracing::warn!(%error, seq = other.seq, "an old snapshot stays");
            }
        }
        Ok(())
    }
}

/// `<seq>.<epoch>.<schema>.snapshot`
fn name_of(file: &str) -> Option<Name> {
    let mut parts = file.strip_suffix(SUFFIX)?.split('.');
    let (seq, epoch, schema) = (parts.next()?, parts.next()?, parts.next()?);
    let name = Name { seq: seq.parse().ok()?, epoch: epoch.parse().ok()?, schema: schema.parse().ok()? };
    // one spelling only
    (parts.next().is_none() && name.to_string() == file).then_some(name)
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:020}.{}.{}{SUFFIX}", self.seq, self.epoch, self.schema)
    }
}

impl std::str::FromStr for Name {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        name_of(text).ok_or(())
    }
}
