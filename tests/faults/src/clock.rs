//! The wall clock of a node, which can be moved while the node runs: the product has no part in it.
//!
//! A few lines of C stand between the program and the C library's `clock_gettime` (`LD_PRELOAD`), so that it is the
//! binary as it is that reads the wrong time. Whoever builds the gateway has the compiler for them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

const SOURCE: &str = include_str!("clock.c");

/// The clock of one node.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
}

/// Compiles the library into a directory.
///
/// # Errors
/// There is no C compiler.
pub fn library(dir: &Path) -> Result<PathBuf> {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    fs::write(&source, SOURCE)?;
    let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
    let compiled = compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).status();
    ensure!(compiled.context("no C compiler")?.success(), "the clock does not compile");
    Ok(library)
}

impl Clock {
    /// A clock that goes right, and keeps its offset in `file`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn right(file: PathBuf, library: &Path) -> Result<Self> {
        fs::write(&file, 0_i64.to_ne_bytes())?;
        Ok(Self { file, library: library.to_owned() })
    }

    /// The variables that a program needs to go by this clock.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [("LD_PRELOAD", text(&self.library)), ("FAULTS_CLOCK", text(&self.file))]
    }

    /// From now on it is ahead by so much.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn ahead(&self, by: Duration) -> Result<()> {
        self.set(i64::try_from(by.as_secs())?)
    }

    /// From now on it is behind by so much.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn behind(&self, by: Duration) -> Result<()> {
        self.set(-i64::try_from(by.as_secs())?)
    }

    fn set(&self, seconds: i64) -> Result<()> {
        // in its place: the program has mapped it
        let file = File::options().write(true).open(&self.file)?;
        Ok(file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}
