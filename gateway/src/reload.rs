//! Reading the configuration again while running: on SIGHUP, and when the file has changed or one that it names for TLS.
//!
//! Routes, policy and certificates come into force as one value. A file that is not valid changes nothing, and every problem is said
//! with its place. A change that nobody told of is read when the file has come to rest: it looks the same twice, and before and after. On
//! SIGHUP the file is read at once, as it is.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::Recipient;
use anyhow::Result;
use portcullis_actors::authorize::authorizer::Enforce;
use portcullis_actors::clock;
use portcullis_actors::databroker::view::Views;
use portcullis_config::limits::{CONFIG_POLL, ENFORCE_DEADLINE};
use portcullis_config::{Config, Problems};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

use crate::tls::{State, Tls, Unusable};

/// How a file looks from outside: it changes whenever the file is written or another one takes its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    /// `None` where there is no such file, or it cannot be looked at.
    fn at(path: &Path) -> Option<Self> {
        // links are followed: where files come in as volumes, a link is all that changes
        std::fs::metadata(path).ok().map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// When a file that is looked at again and again is to be read.
#[derive(Debug)]
struct Watch {
    /// How it looked when it was last read.
    read: Option<Look>,
    /// How it looked the last time.
    last: Option<Look>,
}

impl Watch {
    const fn new(look: Option<Look>) -> Self {
        Self { read: look, last: look }
    }

    /// Whether the file, which looks like this now, is another one than was read, and rests.
    fn is_due(&mut self, look: Option<Look>) -> bool {
        let rests = look == self.last;
        self.last = look;
        rests && look != self.read
    }

    /// It was read, and looked so before and so after.
    fn was_read(&mut self, before: Option<Look>, after: Option<Look>) -> bool {
        self.last = after;
        if before == after {
            self.read = after;
        }
        before == after
    }
}

/// The configuration file of a process: known before it is read for the first time, so that no change is missed.
pub struct ConfigFile {
    path: PathBuf,
    watch: Watch,
    /// The files that the configuration last read names, where this process shows certificates.
    named: Vec<(PathBuf, Watch)>,
    hang_up: Signal,
}

/// What reading the file again needs.
pub struct Reload {
    /// The configuration that the process started with.
    pub started: Arc<Config>,
    /// Whoever brings another one into force.
    pub authorizer: Recipient<Enforce>,
    /// The views of the node, for what is counted.
    pub views: Arc<Views>,
    /// TLS towards clients.
    pub tls: Option<Arc<Tls>>,
}

impl ConfigFile {
    /// The file at `path`. From now on SIGHUP no longer ends the process.
    ///
    /// # Errors
    /// The system gives no signal handler.
    pub fn new(path: PathBuf) -> Result<Self> {
        let watch = Watch::new(Look::at(&path));
        Ok(Self { path, watch, named: Vec::new(), hang_up: signal(SignalKind::hangup())? })
    }

    /// Reads the file, with the environment over it.
    ///
    /// # Errors
    /// Every problem of it.
    pub fn load(path: &Path) -> Result<Config, Problems> {
        portcullis_config::load(path, &|name| std::env::var(name).ok())
    }

    /// Reads the file for the first time, and follows the files that it names from now on.
    ///
    /// # Errors
    /// Every problem of it.
    pub fn begin(&mut self) -> Result<Config, Problems> {
        let (config, looks) = load_with_looks(&self.path)?;
        self.named = followed(looks);
        Ok(config)
    }

    /// Follows the files for as long as the process runs.
    pub async fn follow(mut self, reload: Reload) {
        let mut tick = tokio::time::interval(CONFIG_POLL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                told = self.hang_up.recv() => told.is_some(),
                _ = tick.tick() => false,
            };
            if self.is_due() || asked {
                self.read_again(&reload).await;
            }
        }
    }

    /// Whether one of the files is due; each of them is looked at.
    fn is_due(&mut self) -> bool {
        let named = self.named.iter_mut().map(|(path, watch)| watch.is_due(Look::at(path)));
        let is_one_due = named.fold(false, |one, is_due| one | is_due);
        self.watch.is_due(Look::at(&self.path)) || is_one_due
    }

    async fn read_again(&mut self, reload: &Reload) {
        let before = Look::at(&self.path);
        let path = self.path.clone();
        // from a pipe nothing may come for ever, and the process would not even stop
        if std::fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            self.watch.was_read(before, before);
            return reload.refuse("it is no regular file");
        }
        let known: Looks = self.named.iter().map(|(path, _)| (path.clone(), Look::at(path))).collect();
        let (started, tls) = (Arc::clone(&reload.started), reload.tls.clone());
        // a large file takes a while, and signals come in on this thread
        let read = tokio::task::spawn_blocking(move || match load_with_looks(&path) {
            Ok((config, looks)) => {
                let next = started.with_routes_of(&config);
                let state = tls.map(|tls| tls.prepare(&next)).transpose();
                (looks, state.map(|state| (config, next, state)).map_err(Unread::Tls))
            }
            // what it names is not known: what it named before is followed on
            Err(problems) => (known, Err(Unread::Problems(problems))),
        });
        let (looks, read) = match read.await {
            Ok(read) => read,
            Err(error) => return reload.refuse(&error.to_string()),
        };
        let rests = looks.iter().all(|(path, look)| Look::at(path) == *look);
        self.named = followed(looks);
        if !self.watch.was_read(before, Look::at(&self.path)) || !rests {
            tracing::info!("the configuration was written while it was read: it will be read again");
            return;
        }
        match read {
            Ok((config, next, state)) => reload.enforce(&config, next, state).await,
            Err(Unread::Problems(Problems(problems))) => {
                for problem in &problems {
                    tracing::error!("{problem}");
                }
                reload.refuse("it is not valid");
            }
            Err(Unread::Tls(unusable)) => {
                tracing::error!("{unusable}");
                reload.refuse("a certificate, or what clients' certificates are judged by, cannot be used");
            }
        }
    }
}

/// Files, and how each looked before it was read.
type Looks = Vec<(PathBuf, Option<Look>)>;

/// Why nothing comes of what was read.
enum Unread {
    Problems(Problems),
    Tls(Unusable),
}

fn followed(looks: Looks) -> Vec<(PathBuf, Watch)> {
    looks.into_iter().map(|(path, look)| (path, Watch::new(look))).collect()
}

/// A configuration, and how the files looked that it names, before they were read.
fn load_with_looks(path: &Path) -> Result<(Config, Looks), Problems> {
    let config = ConfigFile::load(path)?;
    let looks = config.watched_files().map(|path| (path.to_owned(), Look::at(path))).collect();
    // what is read together with the configuration was read before it was known by name
    let config = if config.downstream.mtls.is_some() { ConfigFile::load(path)? } else { config };
    Ok((config, looks))
}

impl Reload {
    async fn enforce(&self, config: &Config, next: Config, state: Option<State>) {
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let waiting = self.started.needs_restart(config);
        if !waiting.is_empty() {
            tracing::warn!(keys = waiting.join(", "), "these keys have changed and wait for a restart");
        }
        // before policy: with it everything open is judged anew, certificates of clients too. A moment with one and
        // without the other refuses more than either
        if let (Some(tls), Some(state)) = (&self.tls, state) {
            tls.publish(state);
        }
        match tokio::time::timeout(ENFORCE_DEADLINE, self.authorizer.send(Enforce(Arc::new(next)))).await {
            Ok(Ok(revision)) => {
                self.views.metrics.reloaded(clock::now());
                tracing::info!(%revision, routes = config.routes.len(), "the configuration was read again and is in force");
            }
            Ok(Err(error)) => self.refuse(&error.to_string()),
            Err(_) => {
                self.views.metrics.reload_refused();
                tracing::error!(
                    after = ?ENFORCE_DEADLINE,
                    "the configuration was read again and is still being compiled: it may come into force later"
                );
            }
        }
    }

    fn refuse(&self, why: &str) {
        self.views.metrics.reload_refused();
        tracing::error!(why, "the configuration was read again and is refused: the one in force stays");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(size: u64) -> Option<Look> {
        Some(Look { device: 1, inode: 1, size, modified: (1, 0), changed: (1, 0) })
    }

    #[test]
    fn a_file_is_read_once_it_has_changed_and_rests() {
        let mut watch = Watch::new(look(1));
        assert!(!watch.is_due(look(1)));
        assert!(!watch.is_due(look(2)), "it may still be written");
        assert!(!watch.is_due(look(3)), "it is");
        assert!(watch.is_due(look(3)));
        assert!(watch.was_read(look(3), look(3)));
        assert!(!watch.is_due(look(3)));
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_again() {
        let mut watch = Watch::new(look(1));
        assert!(!watch.was_read(look(2), look(3)));
        assert!(watch.is_due(look(3)));
    }

    #[test]
    fn a_file_that_is_gone_for_a_moment_is_not_missed_and_one_that_stays_away_is_said_once() {
        let mut watch = Watch::new(look(1));
        assert!(!watch.is_due(None));
        assert!(!watch.is_due(look(1)), "the same file is back");
        assert!(!watch.is_due(None));
        assert!(watch.is_due(None));
        assert!(watch.was_read(None, None));
        assert!(!watch.is_due(None));
        assert!(!watch.is_due(look(1)));
        assert!(watch.is_due(look(1)));
    }

    #[test]
    fn another_file_in_its_place_looks_different() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        assert_eq!(Look::at(&path), None);
        std::fs::write(&path, "x").unwrap();
        let before = Look::at(&path);
        std::fs::write(&other, "y").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert!(before.is_some());
        assert_ne!(Look::at(&path), before);
    }
}
