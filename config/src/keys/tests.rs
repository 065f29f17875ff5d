//! Every key has its answer, and no answer repeats a value.

use std::collections::HashSet;

use super::*;
use crate::parse;

const CANARY: &str = "C4N4RYc4n4ry";

#[test]
fn no_key_stands_twice_in_a_table() {
    for table in [GLOBAL, ROUTE] {
        let names: HashSet<_> = table.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), table.len());
    }
}

#[test]
fn a_value_is_never_repeated_in_a_problem() {
    let shapes = |canary: &str| {
        [
            canary.to_owned(),
            format!("'{canary} \\ \"'"),
            format!("https://{canary}:{canary}@{canary}/{canary}?{canary}#{canary}"),
            format!("nats://{canary}:{canary}@host"),
            format!("[{canary}, [{canary}]]"),
            format!("{{a: {canary}}}"),
            format!("[{{a: {canary}, from: '{canary}', to: 'http://{canary}@x', policy: {canary}}}]"),
            format!("!!int {canary}"),
            format!("\"{canary}"),
            format!("*{canary}"),
            format!("{canary}: {canary}: {canary}"),
        ]
    };
    let mut said = 0;
    for key in GLOBAL {
        for value in shapes(CANARY) {
            for variables in [None, Some(key.name.to_ascii_uppercase())] {
                let text = if variables.is_some() { String::new() } else { format!("{}: {value}\n", key.name) };
                let found = |name: &str| variables.as_ref().filter(|set| *set == name).map(|_| value.clone());
                let problems = parse("f", &text, &found).unwrap_err().to_string();
                assert!(!problems.to_lowercase().contains(&CANARY.to_lowercase()), "{problems}");
                said += problems.lines().count();
            }
        }
    }
    for key in ROUTE {
        for value in shapes(CANARY) {
            let text = format!("routes:\n- {}: {value}\n", key.name);
            let problems = parse("f", &text, &|_| None).unwrap_err().to_string();
            assert!(!problems.to_lowercase().contains(&CANARY.to_lowercase()), "{problems}");
            said += problems.lines().count();
        }
    }
    assert!(said > 1000);
}

#[test]
fn every_key_of_pomerium_is_known_and_none_is_passed_over_in_silence() {
    for (table, indent) in [(GLOBAL, ""), (ROUTE, "routes:\n- ")] {
        for key in table {
            let problems = parse("f", &format!("{indent}{}: 'x'\n", key.name), &|_| None).unwrap_err();
            let own =
                problems.0.iter().find(|problem| problem.key.ends_with(key.name) && problem.wrong != "is missing");
            match key.status {
                Status::Here(_) => assert!(own.is_none_or(|own| own.wrong != "is not a known key"), "{}", key.name),
                Status::NotYet => assert_eq!(own.unwrap().wrong, NOT_YET),
                Status::Gone(instead) => assert_eq!(own.unwrap().right, instead),
            }
        }
    }
}
