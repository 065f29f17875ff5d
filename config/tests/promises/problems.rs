//! What is wrong is said all at once, by its place, and without a value.

use std::io::Write;
use std::path::Path;

use portcullis_config::{load, parse};
use proptest::prelude::*;

use crate::{LEAST, problems, with};

#[test]
fn every_problem_of_a_file_is_said_at_once_in_its_order() {
    let said = parse("bad.yaml", include_str!("../golden/bad.yaml"), &|_| None).unwrap_err().to_string();
    assert_eq!(said.trim(), include_str!("../golden/bad.txt").trim(), "\n{said}\n");
}

#[test]
fn an_empty_file_lacks_what_is_required() {
    for text in ["", "# nothing\n", "---\n", "{}", "null"] {
        let said = parse("f", text, &|_| None).unwrap_err();
        let keys: Vec<_> = said.0.iter().map(|problem| problem.key.as_str()).collect();
        let required =
            ["certificates", "authenticate_service_url", "idp_provider", "idp_provider_url", "idp_client_id"];
        assert_eq!(keys, required, "{text}");
        assert!(said.to_string().starts_with("f: certificates: is missing; "));
    }
}

#[test]
fn a_key_that_is_given_twice_names_both_lines() {
    let said = problems("cookie_name: a\ncookie_name: b\n");
    assert_eq!(said, ["2 cookie_name: is given twice, first on line 6; keep one"]);
}

#[test]
fn a_session_cookie_that_no_browser_would_keep_is_an_error() {
    let said = problems("cookie_name: __Host-gate\ncookie_domain: example.com\n");
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("2 cookie_domain: goes with no cookie_name that begins with __Host-"), "{said:?}");
    assert!(with("cookie_name: __Host-gate\n").is_ok());
}

#[test]
fn a_syntax_error_has_its_line() {
    for (text, line) in [("a: [1\nb: c\n", 2), ("a: b\n  c: d\n", 2), ("a: 'x\n", 1), ("a: *b\n", 1), ("a: @\n", 1)] {
        let said = parse("f", text, &|_| None).unwrap_err().to_string();
        assert!(said.starts_with(&format!("f:{line}: ")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_second_document_is_refused() {
    assert_eq!(problems("---\na: b\n"), ["1 : a second document begins; one document in one file"]);
}

#[test]
fn aliases_and_merge_keys_work_and_cannot_grow_without_bound() {
    let config = with(
        "routes:\n- &one\n  from: https://a.example.com\n  to: &to http://127.0.0.1:1\n  allowed_users: [x]\n\
         - <<: *one\n  from: https://b.example.com\n- {from: https://c.example.com, to: *to, allowed_users: [x]}\n",
    )
    .unwrap();
    assert_eq!(config.routes.len(), 3);
    assert_eq!(config.routes[1].action, config.routes[0].action);

    let mut bomb = String::from("a0: &a0 [x, x]\n");
    for level in 1..30 {
        let before = level - 1;
        bomb.push_str(&format!("a{level}: &a{level} [*a{before}, *a{before}]\n"));
    }
    let said = parse("f", &bomb, &|_| None).unwrap_err().to_string();
    assert!(said.contains("is too large"), "{said}");
    let said = parse("f", "a: &a [*a]\n", &|_| None).unwrap_err().to_string();
    assert!(said.starts_with("f:1: a[0]: "), "{said}");
}

#[test]
fn a_file_cannot_nest_without_bound() {
    for text in ["[".repeat(100_000), "{a: ".repeat(100_000), "- ".repeat(100_000)] {
        let said = parse("f", &text, &|_| None).unwrap_err().to_string();
        assert_eq!(said.lines().count(), 1);
    }
}

#[test]
fn so_many_problems_end_somewhere() {
    let text: String = (0..5000).map(|number| format!("key{number}: x\n")).collect();
    let said = parse("f", &text, &|_| None).unwrap_err();
    assert_eq!(said.0.len(), 1001);
    assert_eq!(said.0.last().unwrap().to_string(), "f: has more problems than are shown; correct these first");
}

#[test]
fn a_key_with_control_characters_cannot_write_lines_of_its_own() {
    let said = problems("\"a\\n\\eb\": x\n");
    assert_eq!(said, ["1 a\\n\\u{1b}b: is not a known key; remove it"]);
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_of_its_own() {
    let none = |_: &str| None;
    let said = load(Path::new("/nowhere/at/all.yaml"), &none).unwrap_err().to_string();
    assert_eq!(said, "/nowhere/at/all.yaml: no such file; name a configuration file that exists");
    let dir = tempfile::tempdir().unwrap();
    assert!(load(dir.path(), &none).unwrap_err().to_string().contains("is a directory"));
    let path = dir.path().join("config.yaml");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"a: b\nc: \xff\n").unwrap();
    let said = load(&path, &none).unwrap_err().to_string();
    assert!(said.ends_with(":2: is not UTF-8; save the file as UTF-8"), "{said}");
    std::fs::write(&path, vec![b'#'; 16 * 1024 * 1024 + 1]).unwrap();
    assert!(load(&path, &none).unwrap_err().to_string().contains("is too large"));
    std::fs::write(&path, format!("\u{feff}{LEAST}")).unwrap();
    assert!(load(&path, &none).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = parse("f", &text, &|_| None);
    }

    #[test]
    fn nothing_that_looks_like_yaml_makes_it_panic(text in "([a-z]{1,3}|[-:?,\\[\\]{}#&*!|>'\"%@`<$ \\t\n~0.9]|: |- |\n  |policy: |routes:\n)*") {
        let _ = parse("f", &text, &|_| None);
        let _ = with(&text);
        let _ = parse("f", "", &|_| Some(text.clone()));
    }

    #[test]
    fn no_value_makes_it_panic(key in 0_usize..60, value in "\\PC{0,20}") {
        let keys = include_str!("../golden/bad.yaml").lines().filter_map(|line| line.split_once(':'));
        if let Some((key, _)) = keys.collect::<Vec<_>>().get(key) {
            let _ = with(&format!("{key}: {value}\n"));
        }
    }
}
