//! What it was measured on, and with what.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

/// The machine, the programs and the command.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    /// Cores that we may use; as many workers has each proxy.
    pub cores: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Load average of the last minute as we began: what else was going on.
    pub load: String,
    /// Whom it is compared with, each with its version and the TLS library it was built with.
    pub peers: Vec<String>,
    /// The gateway.
    pub portcullis: String,
    /// The compiler, where there is one.
    pub rustc: String,
    /// How to do this again.
    pub command: String,
}

/// Looks around, where there is nobody to compare with.
///
/// # Errors
/// Not a Linux, or the gateway does not run.
pub fn look_at(gateway: &Path) -> Result<Machine> {
    look(gateway, Vec::new())
}

/// What nginx says of itself.
///
/// # Errors
/// It does not run.
pub fn nginx(binary: &Path) -> Result<String> {
    let text = said(binary, "-V")?;
    let parts = text.lines();
    let parts =
        parts.filter_map(|line| line.strip_prefix("nginx version: ").or_else(|| line.strip_prefix("built with ")));
    Ok(parts.collect::<Vec<_>>().join(", "))
}

/// What haproxy says of itself.
///
/// # Errors
/// It does not run.
pub fn haproxy(binary: &Path) -> Result<String> {
    let text = said(binary, "-vv")?;
    let parts = text.lines().filter_map(|line| {
        let line = line.strip_prefix("Running on ").or_else(|| line.starts_with("HAProxy version").then_some(line))?;
        Some(line.split(" - ").next().unwrap_or(line).replace("OpenSSL version : ", ""))
    });
    Ok(parts.collect::<Vec<_>>().join(", "))
}

/// What Envoy says of itself.
///
/// # Errors
/// It does not run.
pub fn envoy(binary: &Path) -> Result<String> {
    let text = said(binary, "--version")?;
    // its path, and then: commit, version, state, kind, TLS library
    let about = text.rsplit_once("version: ").map_or("", |(_, about)| about);
    let parts: Vec<&str> = about.trim().split('/').collect();
    Ok(format!("Envoy {}, {}", parts.get(1).unwrap_or(&"unknown"), parts.last().unwrap_or(&"unknown")))
}

/// Looks around.
///
/// # Errors
/// Not a Linux, or the gateway does not run.
pub fn look(gateway: &Path, peers: Vec<String>) -> Result<Machine> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    Ok(Machine {
        cpu: cpu.unwrap_or("unknown").to_owned(),
        cores: std::thread::available_parallelism()?.get(),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        load: std::fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
        peers,
        portcullis: said(gateway, "--version")?.trim().to_owned(),
        rustc: said(Path::new("rustc"), "--version")
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
        command: ["cargo run --release -p portcullis-bench --", &arguments.join(" ")].join(" ").trim().to_owned(),
    })
}

/// What a program says of itself, on whichever stream.
fn said(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program).arg(argument).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    Ok([output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}
