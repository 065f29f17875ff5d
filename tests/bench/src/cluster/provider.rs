//! The scripted provider in a process of its own, so that its work is nobody else's: told on stdin, answers on stdout.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use portcullis_harness::idp::ScriptedIdp;

/// A provider at which everybody who comes is somebody else. Ends when dropped.
pub struct Provider {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    issuer: String,
}

impl Provider {
    /// Starts one whose access tokens live for so many seconds.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(access_life: u64) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("--provider")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let stdin = child.stdin.take().context("no stdin")?;
        let stdout = BufReader::new(child.stdout.take().context("no stdout")?);
        let mut provider = Self { child, stdin, stdout, issuer: String::new() };
        provider.issuer = provider.ask(&format!("life {access_life}"))?;
        Ok(provider)
    }

    /// Its issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How often a refresh token was presented that had been spent.
    ///
    /// # Errors
    /// It has ended.
    pub fn reuses(&mut self) -> Result<usize> {
        Ok(self.ask("reuses")?.parse()?)
    }

    fn ask(&mut self, what: &str) -> Result<String> {
        writeln!(self.stdin, "{what}")?;
        let mut answer = String::new();
        self.stdout.read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Is the provider, until stdin ends.
///
/// # Errors
/// It is told what it does not know.
pub fn obey() -> Result<()> {
    let provider = ScriptedIdp::start();
    provider.set_crowd();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match line.split_once(' ') {
            Some(("life", seconds)) => {
                provider.set_access_life(seconds.parse()?);
                provider.issuer()
            }
            None if line == "reuses" => provider.reuses().to_string(),
            _ => bail!("what is {line:?}?"),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
