//! How upstreams are named, weighed, trusted and watched.

use std::time::Duration;

use portcullis_config::upstreams::{Authorities, Balancing, Dns, Family, Percent, Probe, Thresholds};
use portcullis_config::{Config, Route, Upstream};

use crate::{problems, with};

fn text(to: &str, keys: &str) -> String {
    format!("routes:\n- from: https://a.example.com\n  to: {to}\n  allowed_users: [x]\n  {keys}\n")
}

fn config(text: &str) -> Config {
    match with(text) {
        Ok(config) => config,
        Err(problems) => panic!("{problems}"),
    }
}

fn route(to: &str, keys: &str) -> Route {
    config(&text(to, keys)).routes[0].clone()
}

fn said(to: &str, keys: &str) -> String {
    problems(&text(to, keys)).join("\n")
}

/// A certificate authority with a leaf, and the leaf's key, in PEM.
fn certificate() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn to_is_a_server_or_a_socket_with_or_without_tls() {
    let of = |to: &str| route(to, "tls_upstream_server_name: a").upstreams()[0].clone();
    let seen = |to: &Upstream| (to.url.as_str().to_owned(), to.socket.is_some(), to.h2c, to.is_tls());
    for (to, expected) in [
        ("http://a:1/base", ("http://a:1/base", false, false, false)),
        ("https://a", ("https://a/", false, false, true)),
        ("h2c://a:50051", ("http://a:50051/", false, true, false)),
        ("unix:///run/a.sock", ("http://localhost/", true, false, false)),
        ("http+unix:///run/a.sock", ("http://localhost/", true, false, false)),
        ("https+unix:///run/a.sock", ("https://localhost/", true, false, true)),
    ] {
        let (url, ..) = expected;
        assert_eq!(seen(&of(to)), (url.to_owned(), expected.1, expected.2, expected.3), "{to}");
    }
    assert_eq!(of("unix:///run/a.sock").socket.unwrap().to_str(), Some("/run/a.sock"));
    for (to, wrong) in [
        ("unix://run/a.sock", "is no absolute path"),
        ("h2c://u:p@a", "has a user name"),
        ("tcp://a:1", "not supported by this version"),
        ("udp://a:1", "not supported by this version"),
        ("a:1", "does not begin with"),
        ("[]", "is empty"),
    ] {
        assert!(said(to, "").contains(wrong), "{to}: {}", said(to, ""));
    }
    assert!(said("https+unix:///run/a.sock", "").contains("whose certificate has no name"));
    let ids = ["http://a:1", "h2c://a:1", "unix:///run/a", "unix:///run/b"].map(|to| route(to, "").id);
    assert!(ids.iter().enumerate().all(|(n, id)| !ids[..n].contains(id)), "{ids:?}");
}

#[test]
fn weights_stand_at_each_address_or_beside_them_or_nowhere() {
    let weights = |to: &str, keys: &str| route(to, keys).upstreams().iter().map(|to| to.weight).collect::<Vec<_>>();
    assert_eq!(weights("['http://a,3', 'http://b,1']", ""), [3, 1]);
    assert_eq!(weights("[http://a, http://b]", ""), [1, 1]);
    assert_eq!(weights("[http://a, http://b]", "load_balancing_weights: [5, 2]"), [5, 2]);
    for (to, keys, wrong) in [
        ("['http://a,3', http://b]", "", "a weight at some addresses and none at others"),
        ("'http://a,0'", "", "no weight"),
        ("'http://a,http://b'", "", "several addresses as a list"),
        ("'http://a,1'", "load_balancing_weights: [1]", "is given beside weights"),
        ("[http://a, http://b]", "load_balancing_weights: [1]", "another length"),
        ("[http://a, http://b]", "load_balancing_weights: [1, 0]", "no whole number"),
    ] {
        assert!(said(to, keys).contains(wrong), "{to} {keys}: {}", said(to, keys));
    }
}

#[test]
fn what_is_not_said_is_as_envoy_has_it() {
    let options = route("http://a", "").upstream;
    assert_eq!(options.balancing, Balancing::RoundRobin);
    assert_eq!(
        options.thresholds,
        Thresholds { connections: 1024, pending_requests: 1024, requests: 1024, retries: 3 }
    );
    assert_eq!(options.healthy_panic_threshold, Percent(50));
    assert_eq!(options.dns.family, Family::V4Preferred);
    assert!(options.health_checks.is_empty() && options.outlier_detection.is_none());
    assert_eq!(options.tls.authorities, Authorities::System);
    let outlier = route("http://a", "outlier_detection: {consecutive_5xx: 3}").upstream.outlier_detection.unwrap();
    assert_eq!(
        (outlier.consecutive_5xx, outlier.max_ejection_percent, outlier.success_rate_stdev_factor),
        (3, 10, 1900)
    );
    assert_eq!((outlier.interval, outlier.max_ejection_time), (Duration::from_secs(10), Duration::from_secs(300)));
}

#[test]
fn a_route_goes_over_the_top_level_field_by_field() {
    let top = "circuit_breaker_thresholds: {max_requests: 7, max_retries: 0}\ndns_lookup_family: v6_only\n\
               dns_refresh_rate: 1m\n";
    let keys =
        "circuit_breaker_thresholds: {max_requests: 9}\n  load_balancing_policy: MAGLEV\n  healthy_panic_threshold: 0";
    let options = config(&format!("{top}{}", text("http://a", keys))).routes[0].upstream.clone();
    assert_eq!(options.thresholds, Thresholds { requests: 9, retries: 0, ..Thresholds::default() });
    let minute = Duration::from_secs(60);
    assert_eq!(
        (options.dns.family, options.dns.refresh, options.dns.failure_refresh),
        (Family::V6Only, minute, minute)
    );
    assert_eq!((options.balancing, options.healthy_panic_threshold), (Balancing::Maglev, Percent(0)));
    assert_eq!(Dns::default().refresh, Duration::from_secs(5));
    for keys in [
        "load_balancing_policy: cluster_provided",
        "healthy_panic_threshold: 101",
        "circuit_breaker_thresholds: {max_connection_pools: 1}",
        "circuit_breaker_thresholds: {max_request: 1}",
        "outlier_detection: {consecutive_5x: 1}",
        "outlier_detection: {max_ejection_percent: 101}",
        "outlier_detection: {interval: 0s}",
        "outlier_detection: {monitors: []}",
        "tls_upstream_allow_renegotiation: true",
        "tls_upstream_server_name: 'a b'",
    ] {
        assert_eq!(problems(&text("http://a", keys)).len(), 1, "{keys}");
    }
    assert_eq!(problems(&format!("dns_refresh_rate: 1ms\n{}", text("http://a", ""))).len(), 1);
    route("http://a", "tls_upstream_allow_renegotiation: false");
}

#[test]
fn checks_are_envoys() {
    let least = "timeout: 1s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 1";
    let probe = |kind: &str| {
        route("http://a", &format!("health_checks: [{{{least}, {kind}}}]")).upstream.health_checks[0].probe.clone()
    };
    let http =
        "http_health_check: {path: /healthz, host: h, method: HEAD, expected_statuses: [{start: 200, end: 300}]}";
    let Probe::Http { path, host, method, expected } = probe(http) else { panic!("is http") };
    assert_eq!((path.as_str(), host.as_deref(), method.as_str()), ("/healthz", Some("h"), "HEAD"));
    assert_eq!(expected, [(200, 300)]);
    let tcp = "tcp_health_check: {send: {text: '0d0A'}, receive: [{binary: b2s=}]}";
    assert_eq!(probe(tcp), Probe::Tcp { send: vec![13, 10], receive: vec![b"ok".to_vec()] });
    let grpc = "grpc_health_check: {service_name: s}";
    assert_eq!(probe(grpc), Probe::Grpc { service: "s".into(), authority: None });
    for wrong in [
        "{timeout: 1s, interval: 5s, unhealthy_threshold: 2, http_health_check: {path: /}}".to_owned(),
        format!("{{{least}}}"),
        format!("{{{least}, http_health_check: {{path: x}}}}"),
        format!("{{{least}, http_health_check: {{path: /, codec_client_type: HTTP2}}}}"),
        format!("{{{least}, http_health_check: {{path: /}}, tcp_health_check: {{}}}}"),
        format!("{{{least}, tcp_health_check: {{send: {{text: 0g}}}}}}"),
        format!("{{{least}, custom_health_check: {{}}, grpc_health_check: {{}}}}"),
    ] {
        assert_eq!(problems(&text("http://a", &format!("health_checks: [{wrong}]"))).len(), 1, "{wrong}");
    }
}

#[test]
fn certificates_are_read_at_once_and_a_bad_one_is_said_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ((one, key), (other, _)) = (certificate(), certificate());
    let (ca, key, other) = (file("ca.pem", &one), file("key.pem", &key), file("other.pem", &other));
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let tls = route(
        "https://a",
        &format!("tls_custom_ca_file: {ca}\n  tls_client_cert_file: {ca}\n  tls_client_key_file: {key}"),
    )
    .upstream
    .tls;
    assert!(matches!(tls.authorities, Authorities::Only(_)) && tls.client.is_some());
    let global = config(&format!("certificate_authority_file: {ca}\n{}", text("https://a", "")));
    assert!(matches!(global.routes[0].upstream.tls.authorities, Authorities::Besides(_)));
    let debug = format!("{:?}", global.routes[0]);
    assert!(!debug.contains("BEGIN") && !debug.contains("45, 45"), "{debug}");
    for (keys, wrong) in [
        (
            format!("tls_custom_ca_file: {broken}"),
            "5 routes[0].tls_custom_ca_file: holds a certificate that cannot be read",
        ),
        (format!("tls_custom_ca_file: {key}"), "holds no certificate"),
        ("tls_custom_ca_file: /nowhere".to_owned(), "names a file that does not exist"),
        ("tls_custom_ca: '!'".to_owned(), "is neither PEM nor base64"),
        (format!("tls_custom_ca_file: {ca}\n  tls_custom_ca: x"), "is given beside"),
        (format!("tls_client_cert_file: {ca}"), "is given without tls_client_key"),
        (format!("tls_client_cert_file: {other}\n  tls_client_key_file: {key}"), "does not belong to tls_client_cert"),
    ] {
        assert!(said("https://a", &keys).contains(wrong), "{keys}: {}", said("https://a", &keys));
    }
}
