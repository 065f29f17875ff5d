//! The house itself: which room may look into which. Read from the source, so that a wrong import fails here.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every source file under a folder, with its text up to its unit tests.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") && !is_test(&path) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text.split("#[cfg(test)]").next().unwrap().to_owned()));
            }
        }
    }
    assert!(!found.is_empty(), "nothing under {folder}");
    found
}

fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests")
        || path.ends_with("tests.rs")
        || path.ends_with("contract.rs")
}

/// The code of a file without its comments: what a sentence mentions is no import.
fn code(text: &str) -> String {
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn mentions(folder: &str, forbidden: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources(folder) {
        let code = code(&text);
        for word in forbidden.iter().filter(|word| code.contains(*word)) {
            found.push(format!("{} mentions {word}", path.strip_prefix(root()).unwrap().display()));
        }
    }
    found
}

/// The components of `actors` that a file reaches through `crate::`.
fn rooms(code: &str) -> BTreeSet<String> {
    let all = [
        "authenticate",
        "authorize",
        "databroker",
        "proxy",
        "idp",
        "request",
        "keyring",
        "ask",
        "clock",
        "metrics",
        "remote",
    ];
    let named = code.split("crate::").skip(1).map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next());
    named.flatten().filter(|name| all.contains(name)).map(str::to_owned).collect()
}

#[test]
fn config_and_events_are_leaves() {
    let none: Vec<String> = Vec::new();
    assert_eq!(mentions("config/src", &["portcullis_events", "portcullis_actors", "actix", "tokio"]), none);
    assert_eq!(mentions("events/src", &["portcullis_config", "portcullis_actors", "actix"]), none);
}

#[test]
fn events_do_no_io_and_read_no_clock() {
    let none: Vec<String> = Vec::new();
    let forbidden = [
        "async ", "tokio", "std::net", "std::fs", "std::io", "std::env", "::now(", "now_v7", "new_v4", "println!",
        "rand::",
    ];
    assert_eq!(mentions("events/src", &forbidden), none);
}

#[test]
fn actors_do_not_know_the_gateway() {
    let none: Vec<String> = Vec::new();
    assert_eq!(mentions("actors/src", &["hyper", "actix_web", "portcullis_gateway", "clap", "askama"]), none);
}

#[test]
fn a_component_imports_the_databroker_and_the_proof_made_before_it_and_nothing_else() {
    let tools = ["keyring", "ask", "clock", "request", "metrics", "remote"];
    let allowed = [
        ("databroker", vec!["databroker", "idp"]),
        ("idp", vec!["idp", "databroker"]),
        ("request", vec![]),
        ("keyring", vec![]),
        ("remote", vec!["databroker"]),
        ("authenticate", vec!["authenticate", "databroker", "idp"]),
        ("authorize", vec!["authorize", "authenticate", "databroker"]),
        ("proxy", vec!["proxy", "authorize", "databroker"]),
    ];
    for (component, allowed) in allowed {
        for (path, text) in sources(&format!("actors/src/{component}")) {
            for room in rooms(&code(&text)) {
                let fine = allowed.contains(&room.as_str()) || tools.contains(&room.as_str());
                assert!(fine, "{} imports {room}", path.strip_prefix(root()).unwrap().display());
            }
        }
    }
}

#[test]
fn authenticate_has_no_address_of_the_journal() {
    let none: Vec<String> = Vec::new();
    assert_eq!(mentions("actors/src/authenticate", &["journal", "Journal", "dyn Log", "dyn Vault"]), none);
}

#[test]
fn a_permit_and_a_caller_have_one_maker() {
    let makers = |made: &str, folder: &str| -> Vec<String> {
        let files = sources(folder).into_iter().filter(|(_, text)| code(text).contains(made));
        files.map(|(path, _)| path.strip_prefix(root()).unwrap().display().to_string()).collect()
    };
    assert_eq!(makers("-> Option<Caller>", "actors/src/authorize"), Vec::<String>::new());
    assert_eq!(makers("Permit {", "gateway/src"), Vec::<String>::new());
    assert_eq!(makers("Caller {", "gateway/src"), Vec::<String>::new());
    let permits: BTreeSet<_> = makers("Permit { ", "actors/src").into_iter().collect();
    assert!(permits.len() <= 1, "{permits:?}");
}

#[test]
fn an_actor_says_on_a_card_what_it_owns_answers_asks_and_what_happens_when_it_dies() {
    for (path, text) in sources("actors/src") {
        if !code(&text).contains("Actor for ") {
            continue;
        }
        let card: Vec<_> = text.lines().take(4).collect();
        for (line, word) in card.iter().zip(["Owns", "Answers", "Asks", "If it dies"]) {
            assert!(line.starts_with(&format!("//! {word}")), "{}: {line:?}", path.display());
        }
    }
}

#[test]
fn the_visible_root_stays_as_it_is() {
    let mut seen: Vec<_> = fs::read_dir(root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.') && name != "target")
        .collect();
    seen.sort();
    let expected = [
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "SECURITY.md",
        "actors",
        "config",
        "deploy",
        "events",
        "gateway",
        "tests",
    ];
    assert_eq!(seen, expected);
}
