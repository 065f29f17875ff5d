//! A real browser: headless Chromium, driven by the scripts of `tests/browser/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::oidc::tests_dir;
use crate::process::Process;

/// How long one visit may take.
const VISIT: Duration = Duration::from_secs(120);

/// Runs `tests/browser/<script>.mjs` with `options` and gives what it saw. Complaints of the browser are in it.
///
/// # Errors
/// The browser, Node or a package is missing (`tests/run` installs them), or a step of the visit failed.
pub async fn visit(script: &str, options: &Value) -> Result<Value> {
    let tests = tests_dir();
    ensure!(tests.join("node_modules/playwright-core").is_dir(), "playwright-core is not installed: tests/run does it");
    let mut command = Command::new("node");
    command
        .arg(tests.join("browser").join(format!("{script}.mjs")))
        .arg(options.to_string())
        .env("CHROMIUM", chromium()?);
    let mut process = Process::start("the browser", command)?;
    let status = process.wait_exit(VISIT).await?;
    let lines = process.stdout().to_end(VISIT).await?;
    let complaint = || format!("{status}:\n{}", process.stderr().text());
    let seen: Value = serde_json::from_str(lines.last().with_context(complaint)?).with_context(complaint)?;
    if let Some(failed) = seen.get("failed") {
        bail!("{failed}\nall it saw: {seen:#}");
    }
    Ok(seen)
}

/// The browser: the one that `CHROMIUM` names, else the system's.
///
/// # Errors
/// There is none.
pub fn chromium() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM").filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let usual = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
    let found = usual.into_iter().map(Path::new).find(|path| path.exists());
    Ok(found.context("no Chromium: tests/run installs one, or name it in CHROMIUM")?.to_owned())
}
