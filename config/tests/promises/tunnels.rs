//! Routes of TCP.

use portcullis_config::{Action, Config, HostPort};

use crate::{problems, with};

fn route(from: &str, to: &str) -> String {
    format!("routes:\n- from: {from}\n  to: {to}\n  allow_any_authenticated_user: true\n")
}

fn tunnel(config: &Config) -> (String, String, Vec<String>) {
    let Action::Tunnel(tunnel) = &config.routes[0].action else { panic!("no tunnel") };
    let to = tunnel.to.iter().map(HostPort::to_string).collect();
    (config.routes[0].from.to_string(), tunnel.named.to_string(), to)
}

#[test]
fn a_tunnel_is_named_by_host_and_port_at_its_own_host_or_at_a_gateway() {
    for (from, to, expected) in [
        ("tcp+https://Redis.example.com:6379", "tcp://10.0.0.1:6380", ("redis.example.com", "redis.example.com:6379")),
        ("tcp+https://redis.example.com.:443", "tcp://10.0.0.1:6380", ("redis.example.com", "redis.example.com:443")),
        ("tcp+https://gate.example.com/redis:6379", "tcp://10.0.0.1:6380", ("gate.example.com", "redis:6379")),
        ("tcp+https://gate.example.com:8443/redis:22", "tcp://10.0.0.1:6380/", ("gate.example.com:8443", "redis:22")),
        ("'tcp+https://[::1]:22'", "tcp://10.0.0.1:6380", ("[::1]", "[::1]:22")),
        ("tcp+http://redis.example.com:22", "tcp://10.0.0.1:6380", ("redis.example.com", "redis.example.com:22")),
    ] {
        let config = with(&route(from, to)).unwrap();
        let (gateway, named) = expected;
        assert_eq!(tunnel(&config), (gateway.into(), named.into(), vec!["10.0.0.1:6380".to_owned()]), "{from}");
    }
    let several = with(&route("tcp+https://db:1", "['tcp://a:1', 'tcp://[::1]:2']")).unwrap();
    assert_eq!(tunnel(&several).2, ["a:1", "[::1]:2"]);
    // nothing bounds it that nobody has asked for
    assert_eq!((several.routes[0].timeouts.idle, several.routes[0].timeouts.answer.begins), (None, None));
}

#[test]
fn what_is_no_tunnel_is_named_with_its_place() {
    let from = "tcp+https://host:port, or tcp+https://gateway/host:port";
    for (address, wrong) in [
        ("tcp+https://redis", "has no port"),
        ("tcp+https://redis:0", "has no port between 1 and 65535 after its last colon"),
        ("tcp+https://gate/redis", "has no port"),
        ("tcp+https://gate/redis:1/x", "has no port between 1 and 65535 after its last colon"),
        ("tcp+https://gate/a/b:1", "has no port"),
        ("tcp+https://user@redis:1", "has a user name or password"),
        ("tcp+https://redis:1?x", "has no port between 1 and 65535 after its last colon"),
    ] {
        assert_eq!(problems(&route(address, "tcp://a:1")), [format!("2 routes[0].from: {wrong}; {from}")], "{address}");
    }
    let wildcard = problems(&route("'tcp+https://*.example.com:22'", "tcp://a:1"));
    assert_eq!(
        wildcard,
        ["2 routes[0].from: has a wildcard, which tunnels do not have; one route for each host and port"]
    );
    for (to, wrong, right) in [
        ("http://a:1", "does not begin with tcp://, as that of a route from tcp+https:// does", "tcp://host:port"),
        ("tcp://a", "has no port", "tcp://host:port"),
        ("'tcp://a:1,5'", "has a weight or a second address after a comma", "a list of tcp:// URLs, without weights"),
        ("[]", "is empty", "tcp://host:port"),
    ] {
        let found = problems(&route("tcp+https://redis:1", to));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].ends_with(&format!(": {wrong}; {right}")), "{found:?}");
    }
    let instead =
        problems("routes:\n- {from: 'tcp+https://redis:1', to: 'tcp://a:1', redirect: {https_redirect: true}}\n");
    assert!(instead[0].contains("redirect: is nothing that a tunnel can do"), "{instead:?}");
}

#[test]
fn two_tunnels_of_one_host_are_two_and_of_one_place_a_problem() {
    let two = "- {from: 'tcp+https://redis:1', to: 'tcp://a:1', allow_any_authenticated_user: true}\n\
               - {from: 'tcp+https://redis:2', to: 'tcp://a:1', allow_any_authenticated_user: true}\n\
               - {from: 'https://redis', to: 'http://a:1', allow_any_authenticated_user: true}\n";
    let config = with(&format!("routes:\n{two}")).unwrap();
    let mut ids: Vec<_> = config.routes.iter().map(|route| route.id.as_str()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let again = "- {from: 'tcp+https://gate/redis:1', to: 'tcp://b:1', allow_any_authenticated_user: true}\n";
    let found = problems(&format!("routes:\n{two}{again}"));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("would never be used"), "{found:?}");
}

#[test]
fn a_key_that_does_nothing_in_a_tunnel_is_warned_of() {
    let more = "  prefix: /x\n  pass_identity_headers: true\n  allow_websockets: true\n";
    let config = with(&format!("{}{more}", route("tcp+https://redis:1", "tcp://a:1"))).unwrap();
    let warned: Vec<_> =
        config.warnings.iter().filter(|it| it.wrong.contains("in a tunnel")).map(|it| &*it.key).collect();
    assert_eq!(warned, ["routes[0].prefix", "routes[0].pass_identity_headers", "routes[0].allow_websockets"]);
}
