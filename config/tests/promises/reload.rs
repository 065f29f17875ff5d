//! What a configuration that is read again changes at once, and what it names as waiting for a restart.

use portcullis_config::{Config, Staleness};

use crate::{SECRET, with};

const ROUTE: &str =
    "routes:\n- {from: https://a.example.com, to: 'http://127.0.0.1:1', allow_any_authenticated_user: true}\n";

fn config(more: &str) -> Config {
    with(&format!("{more}{ROUTE}")).unwrap()
}

#[test]
fn what_routes_decide_by_changes_at_once() {
    let started = config("");
    let read = config("pass_identity_headers: true\njwt_issuer_format: uri\nmax_staleness: strict\n");
    assert!(started.needs_restart(&read).is_empty());
    let next = started.with_routes_of(&read);
    let route = &next.routes[0];
    assert!(route.pass_identity_headers);
    assert_eq!(route.jwt_issuer_format, portcullis_config::IssuerFormat::Uri);
    assert_eq!((route.max_staleness, next.max_staleness), (Staleness::STRICT, Staleness::STRICT));
    assert!(started.with_routes_of(&with("").unwrap()).routes.is_empty());
}

#[test]
fn every_other_key_that_has_changed_is_named_and_keeps_its_value() {
    let started = config("");
    for (key, value) in [
        ("address", "127.0.0.1:1"),
        ("signing_key", "'-----BEGIN EC PRIVATE KEY----- -----END EC PRIVATE KEY-----'"),
        ("shared_secret", SECRET),
        ("cookie_secret", SECRET),
        ("cookie_name", "gate"),
        ("cookie_domain", "example.com"),
        ("cookie_http_only", "false"),
        ("cookie_expire", "1h"),
        ("cookie_same_site", "lax"),
        ("idp_client_secret", "hunter2"),
        ("idp_scopes", "[openid]"),
        ("idp_request_params", "{prompt: login}"),
        ("databroker_storage_connection_string", "/var/lib/gate"),
        ("jwt_claims_headers", "[email]"),
        ("signout_redirect_url", "https://example.com/"),
        ("set_response_headers", "{X-A: b}"),
        ("log_level", "debug"),
        ("health_check_addr", "127.0.0.1:1"),
        ("metrics_address", "127.0.0.1:1"),
        ("metrics_basic_auth", "YTpi"),
    ] {
        let read = config(&format!("{key}: {value}\n"));
        assert_eq!(started.needs_restart(&read), [key]);
        assert!(started.needs_restart(&started.with_routes_of(&read)).is_empty(), "{key} has changed all the same");
    }
}
