//! Answers of a provider that the vault has not taken yet: sealed, each in a file of its own, written through to the disk
//! before anything else is done with it, and found again by whoever comes after a crash.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use portcullis_config::limits::{REFRESH_IN_FLIGHT, REFRESH_KEPT, VALUE_BYTES};
use portcullis_events::{PersonId, SessionId};

/// Where answers wait for the vault.
#[derive(Debug, Clone)]
pub struct Spool {
    dir: Arc<Path>,
}

/// An answer that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) session: SessionId,
    pub(super) person: PersonId,
    /// The generation that it brought.
    pub(super) generation: u32,
    /// As it is to lie in the vault.
    pub(super) sealed: Vec<u8>,
}

/// Whether it was begun to be written, by nobody who still does.
fn is_left_over(entry: &fs::DirEntry) -> bool {
    let age = entry.metadata().and_then(|found| found.modified()).ok().and_then(|written| written.elapsed().ok());
    entry.file_name().as_encoded_bytes().starts_with(b".") && age.is_some_and(|age| age > REFRESH_KEPT)
}

impl Spool {
    /// In this directory, which is made when it is needed.
    #[must_use]
    pub fn at(dir: PathBuf) -> Self {
        Self { dir: dir.into() }
    }

    /// Keeps an answer: when this returns, it is on the disk.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) async fn keep(&self, waiting: Waiting) -> io::Result<()> {
        self.on_a_thread(move |dir| {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            // whoever looks meanwhile finds all of it or nothing: what is found in part is forgotten
            let staged = dir.join(format!(".{}", waiting.name()));
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
            file.write_all(&waiting.sealed)?;
            file.sync_all()?;
            fs::rename(&staged, dir.join(waiting.name()))?;
            File::open(dir)?.sync_all()
        })
        .await
    }

    /// The answers that wait, so many at most.
    ///
    /// # Errors
    /// The system refuses.
    pub(super) async fn all(&self) -> io::Result<Vec<Waiting>> {
        self.on_a_thread(|dir| {
            let entries = match fs::read_dir(dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                entries => entries?,
            };
            let mut all = Vec::new();
            for entry in entries {
                let entry = entry?;
                if is_left_over(&entry) {
                    // whoever wrote it crashed: the answer is lost as one that never came
                    let _ = fs::remove_file(entry.path());
                    continue;
                }
                match Waiting::read(&entry.path()) {
                    Ok(waiting) => all.extend(waiting),
                    // one that cannot be read, or has just been delivered, keeps none of the others waiting
                    Err(error) => tracing::warn!(%error, "an answer that waits for the vault cannot be read"),
                }
                if all.len() >= 2 * REFRESH_IN_FLIGHT {
                    break;
                }
            }
            Ok(all)
        })
        .await
    }

    /// The vault has it, or nobody needs it any more.
    pub(super) async fn forget(&self, waiting: &Waiting) {
        let name = waiting.name();
        let forgotten = self.on_a_thread(move |dir| fs::remove_file(dir.join(name))).await;
        if let Err(error) = forgotten {
            tracing::warn!(session = %waiting.session, %error, "an answer that the vault has stays in its file");
        }
    }

    async fn on_a_thread<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let dir = Arc::clone(&self.dir);
        tokio::task::spawn_blocking(move || act(&dir)).await.map_err(io::Error::other)?
    }
}

impl Waiting {
    fn name(&self) -> String {
        format!("{}.{}.{}", self.session, self.person, self.generation)
    }

    /// `None` for a file that is none of ours.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut parts = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().split('.');
        let (session, person, generation) = (parts.next(), parts.next(), parts.next());
        let named = session.and_then(|it| it.parse().ok()).zip(person.and_then(|it| it.parse().ok()));
        let named = named.zip(generation.and_then(|it| it.parse().ok()));
        let limit = u64::try_from(VALUE_BYTES).unwrap_or(u64::MAX);
        let Some(((session, person), generation)) = named.filter(|_| parts.next().is_none()) else { return Ok(None) };
        if fs::metadata(path)?.len() > limit {
            return Ok(None);
        }
        Ok(Some(Self { session, person, generation, sealed: fs::read(path)? }))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[actix::test]
    async fn what_is_none_of_ours_or_cannot_be_read_keeps_no_answer_from_being_found() {
        let dir = tempfile::tempdir().unwrap();
        let answer = |n| Waiting {
            session: SessionId::new(Uuid::from_u128(n)),
            person: PersonId::new(Uuid::from_u128(n)),
            generation: 2,
            sealed: b"sealed".to_vec(),
        };
        let spool = Spool::at(dir.path().into());
        for n in 0..8 {
            spool.keep(answer(n)).await.unwrap();
        }
        fs::create_dir(dir.path().join(answer(9).name())).unwrap();
        for n in 0..4 * REFRESH_IN_FLIGHT {
            fs::write(dir.path().join(format!("none of ours {n}")), "").unwrap();
        }
        let mut found = spool.all().await.unwrap();
        found.sort_unstable_by_key(|waiting| waiting.session);
        assert_eq!(found, (0..8).map(answer).collect::<Vec<_>>());
    }
}
