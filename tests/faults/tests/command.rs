//! The program says what it can do, and refuses what it does not know.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

fn faults(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis-faults")).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}

#[test]
fn it_names_every_fault_and_takes_no_other() {
    let (code, help) = faults(&["--help"]);
    assert_eq!(code, Some(0), "{help}");
    for name in ["gateway-killed", "leader-paused", "quorum-lost", "bit-flipped", "unknown-event", "refresh-race"] {
        assert!(help.contains(name), "{name} in {help}");
    }
    let (code, text) = faults(&["--only", "earthquake"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("gateway-killed"), "{text}");
}

#[test]
fn a_gateway_that_is_not_there_is_said_to_be() {
    let (code, text) = faults(&["--gateway", "/nowhere/portcullis", "--seed", "7"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("BROKEN") && text.contains("seed 7"), "{text}");
}
