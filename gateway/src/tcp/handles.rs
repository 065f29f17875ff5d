//! The handle of this person at a gateway, kept between calls: in a file that only its owner may read.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use portcullis_config::limits::{HANDLE_BYTES, HANDLE_LOCK_LOOK};

use super::destination::Gateway;

/// Where the handle of a gateway is kept. Has no `Debug`: what it reads is a credential.
pub struct Kept {
    /// `None` where there is no place for it, or it must not be kept.
    path: Option<PathBuf>,
}

/// Held by whoever signs in at a gateway: others of this person wait, and find the handle.
pub struct Turn(#[expect(dead_code, reason = "the lock ends with the file")] Option<fs::File>);

impl Kept {
    /// Under `$XDG_CACHE_HOME`, else `~/.cache` (XDG Base Directory Specification).
    pub fn at(gateway: &Gateway) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
        Self::within(cache.filter(|dir| dir.is_absolute()).map(|dir| dir.join("portcullis/handles")), gateway)
    }

    fn within(dir: Option<PathBuf>, gateway: &Gateway) -> Self {
        let scheme = if gateway.tls { "https" } else { "http" };
        Self { path: dir.map(|dir| dir.join(format!("{scheme}-{}-{}", gateway.host, gateway.port))) }
    }

    /// Nowhere.
    pub const fn nowhere() -> Self {
        Self { path: None }
    }

    /// What is kept. A file that others may read or write is left alone; one that we can read and others cannot is ours.
    pub fn read(&self) -> Option<String> {
        let mut file = fs::OpenOptions::new().read(true).open(self.path.as_ref()?).ok()?;
        let about = file.metadata().ok()?;
        if !about.is_file() || about.mode() & 0o077 != 0 {
            return None;
        }
        let mut text = String::new();
        let most = u64::try_from(HANDLE_BYTES).unwrap_or(u64::MAX);
        Read::take(&mut file, most).read_to_string(&mut text).ok()?;
        is_handle(&text).then_some(text)
    }

    /// Keeps a handle: written aside and renamed, so that nobody reads half of one.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&self, handle: &str) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let dir = self.ensure_dir()?;
        let staged = dir.join(format!(".{}.{}", std::process::id(), uuid::Uuid::new_v4()));
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
            file.write_all(handle.as_bytes())?;
            fs::rename(&staged, path)
        };
        write()
            .inspect_err(|_| drop(fs::remove_file(&staged)))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// Waits until no other process of this person signs in at the gateway.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn turn(&self) -> Result<Turn> {
        let Some(path) = &self.path else { return Ok(Turn(None)) };
        self.ensure_dir()?;
        let mut name = path.clone().into_os_string();
        name.push(".lock");
        let path = PathBuf::from(name);
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Turn(Some(file))),
                // whoever holds it waits for a person
                Err(fs::TryLockError::WouldBlock) => tokio::time::sleep(HANDLE_LOCK_LOOK).await,
                // a file system without locks: two sign-ins at once are no harm
                Err(fs::TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => return Ok(Turn(None)),
                Err(fs::TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
    }

    fn ensure_dir(&self) -> Result<&Path> {
        let dir = self.path.as_ref().and_then(|path| path.parent()).context("no place for a handle")?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }
}

/// Whether a text can be a handle: what else would stand in a header, or be printed, is none.
pub fn is_handle(text: &str) -> bool {
    !text.is_empty() && text.len() < HANDLE_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn gateway() -> Gateway {
        Gateway { host: "gate.localhost".into(), port: 8443, tls: true }
    }

    #[test]
    fn a_handle_is_kept_for_its_owner_alone_and_for_its_gateway_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("cache/portcullis");
        let kept = Kept::within(Some(dir.clone()), &gateway());
        assert_eq!(kept.read(), None);
        kept.write("v1.first").unwrap();
        kept.write("v1.second").unwrap();
        assert_eq!(kept.read().as_deref(), Some("v1.second"));
        let path = kept.path.clone().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "something was left behind");
        for other in [
            Gateway { port: 443, ..gateway() },
            Gateway { host: "other.localhost".into(), ..gateway() },
            Gateway { tls: false, ..gateway() },
        ] {
            assert_eq!(Kept::within(Some(dir.clone()), &other).read(), None);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(kept.read(), None, "others can read it");
    }

    #[test]
    fn what_is_no_handle_is_not_taken_for_one() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::within(Some(dir.path().to_owned()), &gateway());
        for text in ["", "two lines\r\nX-Admin: yes", "v1.ä", &"x".repeat(HANDLE_BYTES)] {
            kept.write(text).unwrap();
            assert_eq!(kept.read(), None, "{text:?}");
        }
        assert_eq!(Kept::nowhere().read(), None);
        Kept::nowhere().write("v1.x").unwrap();
    }

    #[actix_rt::test]
    async fn one_signs_in_while_the_others_wait() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Kept::within(Some(dir.path().to_owned()), &gateway());
        let first = kept.turn().await.unwrap();
        let waiting = tokio::time::timeout(HANDLE_LOCK_LOOK * 2, kept.turn());
        assert!(waiting.await.is_err());
        drop(first);
        kept.turn().await.unwrap();
    }
}
