//! Where the handle of a program's sign-in may be sent.

use crate::{problems, with};

#[test]
fn a_programs_handle_goes_to_this_machine_unless_hosts_are_named() {
    assert_eq!(with("").unwrap().program_hosts, ["localhost"]);
    let named = with("programmatic_redirect_domain_whitelist: [Tools.Example.com., localhost, 127.0.0.1, '[::1]']\n");
    assert_eq!(named.unwrap().program_hosts, ["tools.example.com", "localhost", "127.0.0.1", "[::1]"]);
    assert!(with("programmatic_redirect_domain_whitelist: []\n").unwrap().program_hosts.is_empty());
}

#[test]
fn what_is_no_host_is_named_with_its_place() {
    let key = "programmatic_redirect_domain_whitelist";
    let right = "a host, such as localhost or tools.example.com";
    assert_eq!(
        problems(&format!("{key}:\n- https://a.example.com\n- '*.example.com'\n- a b\n- a..\n")),
        [
            format!("2 {key}[0]: is an address, not a host; {right}"),
            format!("3 {key}[1]: has a wildcard; name each host"),
            format!("4 {key}[2]: is not a host; {right}"),
            format!("5 {key}[3]: is not a host; {right}"),
        ]
    );
}

#[test]
fn the_hosts_change_while_the_process_runs() {
    let started = with("").unwrap();
    let read = with("programmatic_redirect_domain_whitelist: [tools.example.com]\n").unwrap();
    assert!(started.needs_restart(&read).is_empty());
    assert_eq!(started.with_routes_of(&read).program_hosts, ["tools.example.com"]);
}
