//! The demo's files: written whole or not at all, and its own unless somebody else must read them.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// A file that its owner alone may read.
pub const PRIVATE: u32 = 0o600;
/// A file that everybody may read.
pub const PUBLIC: u32 = 0o644;

/// Writes a file beside its place and moves it there, with these permissions.
///
/// # Errors
/// The system refuses.
pub fn replace(path: &Path, text: &str, mode: u32) -> Result<()> {
    let mut staged = path.as_os_str().to_owned();
    staged.push(format!(".{}", uuid::Uuid::new_v4()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&staged)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&staged, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// What a private file holds; made, and kept, if it is not there.
///
/// # Errors
/// It cannot be read, made or written.
pub fn kept(path: &Path, make: impl FnOnce() -> Result<String>) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let text = make()?;
            replace(path, &text, PRIVATE)?;
            Ok(text)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}
