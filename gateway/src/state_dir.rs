//! The data directory: where a node keeps its log and the secrets that nobody gave it.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_actors::keyring;
use portcullis_config::Secret;

/// The data directory: `$STATE_DIRECTORY` (systemd's), else `$XDG_STATE_HOME/portcullis`, else
/// `~/.local/state/portcullis` (XDG Base Directory Specification).
///
/// # Errors
/// None of them is known.
pub fn default_dir() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("STATE_DIRECTORY") {
        return Ok(dir);
    }
    if let Some(dir) = set("XDG_STATE_HOME") {
        return Ok(dir.join("portcullis"));
    }
    match set("HOME") {
        Some(home) => Ok(home.join(".local/state/portcullis")),
        None => bail!("no place for data: set STATE_DIRECTORY, or databroker_storage_connection_string: file:///dir"),
    }
}

/// Makes a directory that only its owner may enter, if it is not there.
///
/// # Errors
/// The system refuses.
pub fn ensure(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the data directory {}", dir.display()))
}

/// A secret of 32 bytes kept in a file of mode 0600, made if it is not there.
///
/// # Errors
/// The file cannot be read or written, is readable by others, or holds no such secret.
pub fn secret(dir: &Path, name: &str) -> Result<Secret> {
    ensure(dir)?;
    let path = dir.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => read_secret(&path, &text),
        Err(error) if error.kind() == ErrorKind::NotFound => make_secret(dir, &path),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// A secret that was made before; none is made.
///
/// # Errors
/// There is none, or as [`secret`].
pub fn kept_secret(dir: &Path, name: &str) -> Result<Secret> {
    let path = dir.join(name);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; give {name} in the configuration", path.display()))?;
    read_secret(&path, &text)
}

fn read_secret(path: &Path, text: &str) -> Result<Secret> {
    let mode = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.permissions().mode();
    if mode & 0o077 != 0 {
        bail!("{} can be read by others (mode {:03o}); make it 600", path.display(), mode & 0o777);
    }
    match STANDARD.decode(text.trim()) {
        Ok(bytes) if bytes.len() == 32 => Ok(Secret::new(bytes)),
        Ok(_) | Err(_) => bail!("{} does not hold 32 bytes in base64", path.display()),
    }
}

/// Written beside its place and linked there: of two that start at once both read the one that came first, whole.
fn make_secret(dir: &Path, path: &Path) -> Result<Secret> {
    let bytes: [u8; 32] = keyring::random()?;
    let staged = dir.join(format!(".{}.{}", std::process::id(), uuid::Uuid::new_v4()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&staged)?;
        writeln!(file, "{}", STANDARD.encode(bytes))?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write into {}", dir.display()))?;
    let linked = fs::hard_link(&staged, path);
    fs::remove_file(&staged).with_context(|| format!("cannot remove {}", staged.display()))?;
    match linked {
        Ok(()) => Ok(Secret::new(bytes)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read_secret(path, &fs::read_to_string(path)?),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state");
        let first = secret(&dir, "shared_secret").unwrap();
        assert_eq!(secret(&dir, "shared_secret").unwrap(), first);
        assert_ne!(secret(&dir, "cookie_secret").unwrap(), first);
        let mode = fs::metadata(dir.join("shared_secret")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_secret_that_is_only_read_is_never_made() {
        let dir = tempfile::tempdir().unwrap();
        assert!(kept_secret(dir.path(), "shared_secret").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let made = secret(dir.path(), "shared_secret").unwrap();
        assert_eq!(kept_secret(dir.path(), "shared_secret").unwrap(), made);
    }

    #[test]
    fn a_secret_that_others_can_read_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        secret(dir.path(), "shared_secret").unwrap();
        let path = dir.path().join("shared_secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(secret(dir.path(), "shared_secret").unwrap_err().to_string().contains("can be read by others"));
    }

    #[test]
    fn a_damaged_secret_is_never_replaced_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        secret(dir.path(), "shared_secret").unwrap();
        fs::write(dir.path().join("shared_secret"), "short").unwrap();
        assert!(secret(dir.path(), "shared_secret").is_err());
    }
}
