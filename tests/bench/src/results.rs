//! `tests/bench/RESULTS.md`: one section for each measurement; whoever measures replaces its own and no other.

use std::path::Path;

use anyhow::{Context, Result};
use portcullis_actors::clock;

use crate::plot::{self, Picture};
use crate::report::Report;
use crate::say;

const HEAD: &str = "# Figures\n\n\
    Written by `portcullis-bench` itself, but for what is said of costs: each command replaces its own section and no other. The machine is small and shared: each section says what it ran on and what else ran.\n\
    Ratios and orders of magnitude are the message; measure yours with the command that stands there.\n";

/// A section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Section {
    /// Portcullis beside other proxies.
    Requests,
    /// What costs the most, and what was tried: written by hand, kept as it is.
    Costs,
    /// From the end of a session to its end everywhere.
    Revocation,
    /// Sign-ins a second.
    SignIns,
    /// Refreshes a second.
    Refreshes,
    /// What a node reads that was away.
    Away,
    /// How long a node with many sessions takes to start.
    Start,
}

impl Section {
    /// All of them, in the order of the file.
    const ALL: [Self; 7] =
        [Self::Requests, Self::Costs, Self::Revocation, Self::SignIns, Self::Refreshes, Self::Away, Self::Start];

    /// What the file calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Requests => "Beside nginx, haproxy and Envoy",
            Self::Costs => "What costs the most, and what was tried",
            Self::Revocation => "Revocation",
            Self::SignIns => "Sign-ins a second",
            Self::Refreshes => "Refreshes a second",
            Self::Away => "A node that was away",
            Self::Start => "Start",
        }
    }

    /// What measures it; nothing does what is written by hand.
    const fn command(self) -> Option<&'static str> {
        match self {
            Self::Requests => Some("cargo run --release -p portcullis-bench"),
            Self::Costs => None,
            Self::Revocation => Some("cargo run --release -p portcullis-bench -- cluster --what revocation"),
            Self::SignIns => Some("cargo run --release -p portcullis-bench -- cluster --what sign-ins"),
            Self::Refreshes => Some("cargo run --release -p portcullis-bench -- cluster --what refreshes"),
            Self::Away => Some("cargo run --release -p portcullis-bench -- cluster --what away"),
            Self::Start => Some("cargo run --release -p portcullis-bench -- start"),
        }
    }
}

/// Puts a report into its section of the file beside this program's sources.
///
/// # Errors
/// The file cannot be read or written.
pub fn put(section: Section, report: &str) -> Result<()> {
    put_with(section, report, &[])
}

/// Draws pictures of the figures beside the file, and puts them into the section with the report.
///
/// # Errors
/// As [`put`].
pub fn put_drawn(section: Section, report: &Report) -> Result<()> {
    let drawn = plot::draw(&report.tables, Path::new(env!("CARGO_MANIFEST_DIR")))?;
    put_with(section, &report.to_string(), &drawn)
}

fn put_with(section: Section, report: &str, pictures: &[Picture]) -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("RESULTS.md");
    let before = if file.exists() { std::fs::read_to_string(&file)? } else { String::new() };
    let day = clock::now().rfc3339();
    let day = day.split('T').next().unwrap_or_default();
    let pictures: String =
        pictures.iter().map(|picture| format!("![{}]({})\n\n", picture.title, picture.file)).collect();
    let body = format!("{day}\n\n{pictures}```text\n{}\n```\n", report.trim());
    std::fs::write(&file, with(&before, section, &body)).with_context(|| format!("cannot write {}", file.display()))?;
    say(&format!("{} is in tests/bench/RESULTS.md\n", section.title()))
}

/// The file with another body in one section.
fn with(before: &str, section: Section, body: &str) -> String {
    let mut text = HEAD.to_owned();
    for each in Section::ALL {
        let kept = body_of(before, each).map(str::to_owned);
        let none = || match each.command() {
            Some(command) => format!("Not measured yet: `{command}`.\n"),
            None => "Not written yet.\n".to_owned(),
        };
        let body = if each == section { body.to_owned() } else { kept.unwrap_or_else(none) };
        text.push_str(&format!("\n## {}\n\n{body}", each.title()));
    }
    text
}

fn body_of(text: &str, section: Section) -> Option<&str> {
    let heading = format!("\n## {}\n\n", section.title());
    let body = text.split_once(&heading)?.1;
    Some(body.find("\n## ").map_or(body, |end| body.get(..end).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_replaces_its_own_section_and_no_other() {
        let first = with("", Section::Away, "one\n");
        assert_eq!(body_of(&first, Section::Away), Some("one\n"));
        assert!(body_of(&first, Section::Start).unwrap().contains("-- start"), "what was not measured says how");
        let second = with(&with(&first, Section::Revocation, "two\n"), Section::Away, "three\n\nfour\n");
        assert_eq!(body_of(&second, Section::Revocation), Some("two\n"));
        assert_eq!(body_of(&second, Section::Away), Some("three\n\nfour\n"));
        assert_eq!(with(&second, Section::Away, "one\n").matches("## ").count(), Section::ALL.len());
        assert_eq!(with(&second, Section::Away, "three\n\nfour\n"), second, "the same figures leave the same file");
    }
}
