//! Every endpoint of our own, tried by somebody without a session: what answers, and with what. A golden file, so that
//! an endpoint that opens is seen in review.

use std::fmt::Write;
use std::path::Path;

use anyhow::Result;
use portcullis_harness::client::request;
use portcullis_harness::world::{APP, AUTHENTICATE, PUBLIC, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

const PATHS: [&str; 35] = [
    "/",
    "/ping",
    "/healthz",
    "/robots.txt",
    "/readyz",
    "/startupz",
    "/status",
    "/metrics",
    "/debug/pprof/",
    "/.pomerium",
    "/.pomerium/",
    "/.pomerium/user",
    "/.pomerium/jwt",
    "/.pomerium/sign_in",
    "/.pomerium/sign_out",
    "/.pomerium/signed_out",
    "/.pomerium/callback",
    "/.pomerium/callback/",
    "/.pomerium/api/v1/login",
    "/.pomerium/api/v1/login?pomerium_redirect_uri=http://localhost:1/",
    "/.pomerium/api/v1/routes",
    "/.pomerium/routes",
    "/.pomerium/webauthn",
    "/.pomerium/device-enrolled",
    "/.pomerium/session_binding_info",
    "/.pomerium/verify-access-token",
    "/.pomerium/backchannel_logout",
    "/.pomerium/mcp/token",
    "/.pomerium/admin",
    "/oauth2/callback",
    "/.well-known/pomerium",
    "/.well-known/pomerium/",
    "/.well-known/pomerium/jwks.json",
    "/.well-known/pomerium/hpke-public-key",
    "/.well-known/oauth-authorization-server",
];

#[tokio::test]
async fn without_a_session_our_own_endpoints_answer_what_the_golden_file_says() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let mut found = String::new();
    for (name, host) in [("route host", APP), ("public route", PUBLIC), ("authenticate host", AUTHENTICATE)] {
        for path in PATHS {
            let mut row = String::new();
            for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
                let visitor = world.visitor(&gateway).await?.accepting("application/json");
                let answer = visitor.send(request(method, &format!("{host}{path}"))?).await?;
                assert_eq!(answer.headers.get_all("x-request-id").iter().count(), 1, "{method} {path}");
                write!(row, "  {method} {}", answer.status.as_u16())?;
            }
            writeln!(found, "{name:<18}{path:<42}{row}")?;
        }
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/endpoints.txt");
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    let differences: Vec<_> = found.lines().filter(|line| !expected.lines().any(|known| known == *line)).collect();
    assert!(
        differences.is_empty() && found.lines().count() == expected.lines().count(),
        "{} does not say:\n{}",
        golden.display(),
        differences.join("\n")
    );
    Ok(())
}
