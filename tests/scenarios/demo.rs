//! The demo, as somebody meets it who has just built the binary.

use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use http::StatusCode;
use portcullis_harness::certificate::Trust;
use portcullis_harness::client::{Visitor, request};
use portcullis_harness::gateway::{Gateway, Launcher, free_port};
use portcullis_harness::sign_in::{credentials, sign_in, sign_out, submit, to_the_form};
use tempfile::TempDir;

/// A running demo, and where it is.
struct Demo {
    gateway: Gateway,
    data: TempDir,
    port: u16,
}

fn launcher() -> Launcher {
    Gateway::binary(env!("CARGO_BIN_EXE_portcullis"))
}

impl Demo {
    async fn start() -> Result<Self> {
        let data = tempfile::tempdir()?;
        let dir = data.path().to_string_lossy().into_owned();
        let mut gateway = launcher().run_with(&["demo", "--address", "127.0.0.1:0", "--data-dir", &dir], &[]).await?;
        gateway.ready().await?;
        let port = gateway.printed_url("app.localhost").await?.port().context("no port was printed")?;
        Ok(Self { gateway, data, port })
    }

    fn url(&self, host: &str) -> String {
        format!("https://{host}.localhost:{}/", self.port)
    }

    fn visitor(&self) -> Result<Visitor> {
        visitor(self.data.path())
    }

    /// Starts it again where it was.
    async fn restart(&mut self) -> Result<()> {
        let dir = self.data.path().to_string_lossy().into_owned();
        let address = format!("127.0.0.1:{}", self.port);
        let arguments = ["demo", "--address", &address, "--data-dir", &dir].map(str::to_owned);
        self.gateway.restart_with(&arguments).await
    }
}

fn visitor(data: &Path) -> Result<Visitor> {
    Visitor::new(&Trust::in_pem(&std::fs::read(data.join("ca.pem"))?)?)
}

#[tokio::test]
async fn alice_signs_in_and_sees_the_application() -> Result<()> {
    let demo = Demo::start().await?;
    let alice = demo.visitor()?;
    let page = sign_in(&alice, &demo.url("app"), "alice").await?;
    assert_eq!((page.status, page.url.as_str()), (StatusCode::OK, demo.url("app").as_str()));
    assert!(page.text().contains("alice@example.com"), "{}", page.text());
    Ok(())
}

#[tokio::test]
async fn one_sign_in_opens_every_application_the_person_may_see() -> Result<()> {
    let demo = Demo::start().await?;
    let alice = demo.visitor()?;
    sign_in(&alice, &demo.url("app"), "alice").await?;
    // no form on the way: the first answer that is no redirect is the page
    let page = alice.follow(alice.get(&demo.url("admin")).await?, 10).await?;
    assert_eq!((page.status, page.url.as_str()), (StatusCode::OK, demo.url("admin").as_str()));
    Ok(())
}

#[tokio::test]
async fn whoever_may_not_see_an_application_is_refused_after_the_sign_in() -> Result<()> {
    let demo = Demo::start().await?;
    for (who, host) in [("bob", "admin"), ("carol", "admin"), ("alice", "bob"), ("carol", "bob")] {
        let page = sign_in(&demo.visitor()?, &demo.url(host), who).await?;
        assert_eq!(page.status, StatusCode::FORBIDDEN, "{who} at {host}");
        assert!(!page.text().contains("X-Pomerium-Jwt-Assertion"), "{who} at {host}");
    }
    let page = sign_in(&demo.visitor()?, &demo.url("bob"), "bob").await?;
    assert_eq!(page.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_wrong_password_opens_nothing() -> Result<()> {
    let demo = Demo::start().await?;
    let visitor = demo.visitor()?;
    let (page, form) = to_the_form(&visitor, &demo.url("app")).await?;
    let refused = submit(&visitor, &page, &credentials(form, "alice", "bob")?).await?;
    assert!(!refused.status.is_redirection(), "{}", refused.status);
    let again = visitor.get(&demo.url("app")).await?;
    assert!(again.status.is_redirection());
    assert!(visitor.cookies().named("_pomerium").is_empty());
    Ok(())
}

#[tokio::test]
async fn whoever_is_no_browser_is_told_to_sign_in_in_its_own_format() -> Result<()> {
    let demo = Demo::start().await?;
    let script = demo.visitor()?.accepting("application/json");
    let answer = script.get(&demo.url("app")).await?;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.header("content-type").starts_with("application/json"));
    answer.json()?;
    let answer = demo.visitor()?.accepting("text/plain").get(&demo.url("app")).await?;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.header("content-type").starts_with("text/plain"));
    Ok(())
}

#[tokio::test]
async fn the_public_application_asks_nobody() -> Result<()> {
    let demo = Demo::start().await?;
    let page = demo.visitor()?.get(&demo.url("public")).await?;
    assert_eq!(page.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn signing_out_ends_the_session_everywhere() -> Result<()> {
    let demo = Demo::start().await?;
    let alice = demo.visitor()?;
    sign_in(&alice, &demo.url("app"), "alice").await?;
    alice.follow(alice.get(&demo.url("admin")).await?, 10).await?;
    let stolen = alice.cookies().clone();
    let page = sign_out(&alice, &demo.url("app")).await?;
    assert_eq!(page.status, StatusCode::OK);

    // the way leads to the provider's form again, on both hosts
    to_the_form(&alice, &demo.url("app")).await?;
    to_the_form(&alice, &demo.url("admin")).await?;
    // and who kept the cookies has kept nothing
    let thief = demo.visitor()?;
    *thief.cookies() = stolen;
    for host in ["app", "admin"] {
        let answer = thief.clone().accepting("application/json").get(&demo.url(host)).await?;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    Ok(())
}

#[tokio::test]
async fn killed_and_started_again_it_knows_who_was_signed_in() -> Result<()> {
    let mut demo = Demo::start().await?;
    let alice = demo.visitor()?;
    sign_in(&alice, &demo.url("app"), "alice").await?;
    for _ in 0..3 {
        demo.gateway.kill_9()?;
        demo.restart().await?;
        let page = alice.get(&demo.url("app")).await?;
        assert_eq!(page.status, StatusCode::OK);
    }
    Ok(())
}

#[tokio::test]
async fn an_interrupt_stops_it_within_two_seconds_with_streams_open() -> Result<()> {
    let mut demo = Demo::start().await?;
    let alice = demo.visitor()?;
    sign_in(&alice, &demo.url("app"), "alice").await?;
    let mut stream = alice.open(full(request("GET", &format!("{}sse", demo.url("app")))?)).await?;
    assert_eq!(stream.status, StatusCode::OK);
    stream.event().await?.context("no event")?;
    demo.gateway.interrupt()?;
    let status = demo.gateway.wait_exit(Duration::from_secs(2)).await?;
    assert_eq!(status.code(), Some(0));
    stream.ended(Duration::from_secs(1)).await
}

#[tokio::test]
async fn a_second_interrupt_stops_it_at_once() -> Result<()> {
    let mut demo = Demo::start().await?;
    let alice = demo.visitor()?;
    sign_in(&alice, &demo.url("app"), "alice").await?;
    let mut stream = alice.open(full(request("GET", &format!("{}sse", demo.url("app")))?)).await?;
    stream.event().await?.context("no event")?;
    demo.gateway.interrupt()?;
    demo.gateway.stderr().find(Duration::from_secs(2), |line| line.contains("stopping").then_some(())).await?;
    demo.gateway.interrupt()?;
    demo.gateway.wait_exit(Duration::from_millis(500)).await?;
    Ok(())
}

#[tokio::test]
async fn a_port_in_use_is_an_error_that_names_the_flag() -> Result<()> {
    let taken = TcpListener::bind(("127.0.0.1", 0))?;
    let address = taken.local_addr()?.to_string();
    let outcome = launcher().outcome(&["demo", "--address", &address], &[]).await?;
    assert!(matches!(outcome.code, Some(64 | 70)), "{outcome:?}");
    assert!(outcome.stderr.contains("--address"), "{outcome:?}");
    assert!(outcome.stderr.contains(&address), "{outcome:?}");
    Ok(())
}

#[tokio::test]
async fn the_demo_refuses_an_address_that_others_can_reach() -> Result<()> {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:8443", "example.com:8443"] {
        let outcome = launcher().outcome(&["demo", "--address", address], &[]).await?;
        assert_eq!(outcome.code, Some(64), "{address}: {outcome:?}");
    }
    Ok(())
}

#[tokio::test]
async fn no_answer_of_the_demo_pins_localhost_to_https() -> Result<()> {
    let demo = Demo::start().await?;
    let alice = demo.visitor()?;
    let mut answer = alice.get(&demo.url("app")).await?;
    while let Some(next) = answer.redirect()? {
        assert_eq!(answer.header("strict-transport-security"), "", "{}", answer.url);
        answer = alice.get(next.as_str()).await?;
    }
    let page = sign_in(&alice, &demo.url("app"), "alice").await?;
    assert_eq!(page.header("strict-transport-security"), "");
    let page = alice.get(&format!("{}.pomerium/", demo.url("app"))).await?;
    assert_eq!(page.header("strict-transport-security"), "");
    Ok(())
}

#[tokio::test]
async fn it_says_where_to_go_who_may_sign_in_and_how_to_trust_it() -> Result<()> {
    let demo = Demo::start().await?;
    let said = demo.gateway.stdout().text();
    let ca = demo.data.path().join("ca.pem").to_string_lossy().into_owned();
    let (app, admin) = (demo.url("app"), demo.url("admin"));
    for expected in ["alice", "bob", "carol", "curl", "--cacert", &ca, &app, &admin] {
        assert!(said.contains(expected), "{expected} in\n{said}");
    }
    Ok(())
}

#[tokio::test]
async fn its_configuration_runs_as_any_other_beside_its_peers() -> Result<()> {
    let data = tempfile::tempdir()?;
    let dir = data.path().to_string_lossy().into_owned();
    let file = data.path().join("written.yaml").to_string_lossy().into_owned();
    let address = format!("127.0.0.1:{}", free_port()?);
    let arguments = ["demo", "--peers-only", "--address", &address, "--data-dir", &dir, "--config-out", &file];
    let peers = launcher().run_with(&arguments, &[]).await?;
    let app = peers.printed_url("app.localhost").await?;
    let valid = launcher().outcome(&["validate", "-c", &file], &[]).await?;
    assert_eq!(valid.code, Some(0), "{valid:?}");

    let mut gateway = launcher().run_with(&["run", "-c", &file], &[]).await?;
    gateway.ready().await?;
    let page = sign_in(&visitor(data.path())?, app.as_str(), "alice").await?;
    assert_eq!((page.status, page.url.as_str()), (StatusCode::OK, app.as_str()));
    assert!(page.text().contains("alice@example.com"));
    Ok(())
}

fn full(request: http::Request<bytes::Bytes>) -> http::Request<http_body_util::Full<bytes::Bytes>> {
    request.map(http_body_util::Full::new)
}
