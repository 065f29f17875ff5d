//! Certificates of clients: three ways to ask for them, what makes one hold, and what policies say of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use http::StatusCode;
use http_body_util::BodyExt;
use portcullis_harness::certificate::{Authority, Identity, Trust};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::upstream::Upstream;
use portcullis_harness::world::Configuration;
use rustls::ClientConfig;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const APP: &str = "https://app.localhost";
const OTHER: &str = "https://other.localhost";
const OPEN: &str = "allow_public_unauthenticated_access: true";
const ALICE: &str = "alice@example.com";
const SOON: Duration = Duration::from_secs(60);

/// nginx's status for a certificate that does not hold, and Pomerium's.
const NO_CERTIFICATE: u16 = 495;

/// Surroundings where nobody signs in: servers and clients are vouched for by two authorities.
struct Ground {
    servers: Authority,
    clients: Authority,
    upstream: Upstream,
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Result<Self> {
        let (servers, clients) = (Authority::new()?, Authority::new()?);
        Ok(Self { servers, clients, upstream: Upstream::start()?, dir: tempfile::tempdir()? })
    }

    fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let (path, next) = (self.dir.path().join(name), self.dir.path().join("next"));
        std::fs::write(&next, text)?;
        std::fs::rename(next, &path)?;
        Ok(path)
    }

    /// `keys` are further ones of `downstream_mtls`, `policy` the route keys of the application.
    fn config(&self, keys: &str, policy: &str) -> Result<Configuration> {
        let hosts = ["app.localhost", "other.localhost"];
        let certificate = self.servers.issue(self.dir.path(), "gateway", &hosts)?;
        let ca = self.file("ca.pem", self.clients.pem())?;
        let mut config = Configuration::without_sign_in();
        config.set("certificate_file", &format!("'{}'", certificate.cert.display()));
        config.set("certificate_key_file", &format!("'{}'", certificate.key.display()));
        config.set("downstream_mtls", &format!("{{ca_file: '{}'{keys}}}", ca.display()));
        config.route(APP, &self.upstream.url(), policy);
        config.route(OTHER, &self.upstream.url(), OPEN);
        Ok(config)
    }

    async fn gateway(&self, keys: &str, policy: &str) -> Result<Gateway> {
        Gateway::binary(BINARY).run(&self.config(keys, policy)?.text()).await
    }

    fn trust(&self) -> Result<Trust> {
        self.servers.trust()
    }

    async fn visitor(&self, gateway: &Gateway) -> Result<Visitor> {
        Ok(Visitor::new(&self.trust()?)?.through(gateway.address().await?).accepting("application/json"))
    }

    async fn status(&self, gateway: &Gateway, identity: Option<&Identity>) -> Result<u16> {
        let mut visitor = self.visitor(gateway).await?;
        if let Some(identity) = identity {
            visitor = visitor.showing(&self.trust()?, identity)?;
        }
        Ok(visitor.get(APP).await?.status.as_u16())
    }
}

#[tokio::test]
async fn by_default_every_route_refuses_whoever_shows_no_certificate_that_holds() -> Result<()> {
    let ground = Ground::new()?;
    let gateway = ground.gateway("", OPEN).await?;
    let good = ground.clients.identify(ALICE, 1)?;
    let foreign = Authority::new()?.identify(ALICE, 1)?;
    let below = ground.clients.below()?.identify(ALICE, 2)?;
    assert_eq!(ground.status(&gateway, None).await?, NO_CERTIFICATE);
    assert_eq!(ground.status(&gateway, Some(&foreign)).await?, NO_CERTIFICATE);
    assert_eq!(ground.status(&gateway, Some(&below)).await?, NO_CERTIFICATE, "one authority above, and no more");
    assert!(ground.upstream.requests().is_empty());
    // a session that is resumed shows nothing again, and is known all the same
    let known = ground.visitor(&gateway).await?.showing(&ground.trust()?, &good)?;
    for _ in 0..3 {
        assert_eq!(known.get(APP).await?.status, StatusCode::OK);
    }
    let visitor = ground.visitor(&gateway).await?;
    let answer = visitor.get(APP).await?;
    assert_eq!(
        answer.json()?.get("error").and_then(serde_json::Value::as_str).map(|text| text.contains("certificate")),
        Some(true)
    );
    let own = visitor.get(&format!("{APP}/ping")).await?;
    assert_eq!(own.status, StatusCode::OK, "our own pages ask for none");
    let is_told = |line: &str| line.contains("\"deny-why-true\":[\"client-certificate-required\"]").then_some(());
    gateway.stdout().find(SOON, is_told).await?;
    Ok(())
}

#[tokio::test]
async fn with_policy_alone_the_routes_say_who_needs_one() -> Result<()> {
    let ground = Ground::new()?;
    let (alice, bob) = (ground.clients.identify(ALICE, 1)?, ground.clients.identify("bob@example.com", 2)?);
    let foreign = Authority::new()?.identify(ALICE, 1)?;
    let fingerprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, alice.certificate());
    let hex: Vec<String> = fingerprint.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    for criterion in [format!("san_email: {ALICE}"), format!("fingerprint: '{}'", hex.join(":"))] {
        let policy = format!("policy: [{{allow: {{and: [{{client_certificate: {{{criterion}}}}}]}}}}]");
        let gateway = ground.gateway(", enforcement: policy", &policy).await?;
        assert_eq!(ground.status(&gateway, Some(&alice)).await?, 200, "{criterion}");
        assert_eq!(ground.status(&gateway, Some(&bob)).await?, 403, "{criterion}");
        assert_eq!(ground.status(&gateway, Some(&foreign)).await?, NO_CERTIFICATE, "{criterion}");
        assert_eq!(ground.status(&gateway, None).await?, NO_CERTIFICATE, "{criterion}");
        assert_eq!(ground.visitor(&gateway).await?.get(OTHER).await?.status, StatusCode::OK, "no policy asks there");
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_can_be_refused_without_one_that_holds() -> Result<()> {
    let ground = Ground::new()?;
    let good = ground.clients.identify(ALICE, 1)?;
    let crl = ground.file("crl.pem", &ground.clients.revoke(&[])?)?;
    let keys = format!(", enforcement: reject_connection, crl_file: '{}'", crl.display());
    let gateway = ground.gateway(&keys, OPEN).await?;
    let foreign = Authority::new()?.identify(ALICE, 1)?;
    assert!(ground.status(&gateway, None).await.is_err());
    assert!(ground.status(&gateway, Some(&foreign)).await.is_err());
    let visitor = ground.visitor(&gateway).await?.showing(&ground.trust()?, &good)?;
    assert_eq!(visitor.get(APP).await?.status, StatusCode::OK);
    // nor does a session come back that was begun with one that held then
    ground.file("crl.pem", &ground.clients.revoke(&[&good])?)?;
    eventually("a resumed session refused", SOON, async || Ok(visitor.get(APP).await.is_err().then_some(()))).await
}

#[tokio::test]
async fn revocation_names_and_depth_decide_whether_one_holds() -> Result<()> {
    let ground = Ground::new()?;
    let (alice, bob) = (ground.clients.identify(ALICE, 1)?, ground.clients.identify("bob@example.org", 2)?);
    let between = ground.clients.below()?;
    let below = between.identify(ALICE, 3)?;
    let deeper = between.below()?.identify(ALICE, 4)?;
    let crl = ground.file("crl.pem", &ground.clients.revoke(&[&bob])?)?;
    let crl = format!(", crl_file: '{}'", crl.display());
    let pattern = ", match_subject_alt_names: [{dns: x}, {email: '.*@example\\.com'}]".to_owned();
    let (deep, deepest) = (", max_verify_depth: 2".to_owned(), ", max_verify_depth: 0".to_owned());
    for (keys, identity, expected, why) in [
        (&crl, &alice, 200, "not revoked"),
        (&crl, &bob, NO_CERTIFICATE, "revoked"),
        (&pattern, &alice, 200, "a name that matches"),
        (&pattern, &bob, NO_CERTIFICATE, "none that does"),
        (&deep, &below, 200, "two authorities above"),
        (&deep, &deeper, NO_CERTIFICATE, "the chain is not even whole"),
        (&deepest, &below, 200, "any number above"),
    ] {
        let gateway = ground.gateway(keys, OPEN).await?;
        assert_eq!(ground.status(&gateway, Some(identity)).await?, expected, "{why}");
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_is_revoked_stops_holding_on_connections_that_are_open() -> Result<()> {
    let ground = Ground::new()?;
    let alice = ground.clients.identify(ALICE, 1)?;
    let crl = ground.file("crl.pem", &ground.clients.revoke(&[])?)?;
    let gateway = ground.gateway(&format!(", crl_file: '{}'", crl.display()), OPEN).await?;
    let visitor = ground.visitor(&gateway).await?.showing(&ground.trust()?, &alice)?;
    let streams = visitor.streams(APP).await?;
    let answer = streams.get(APP).await?;
    assert_eq!(answer.status(), StatusCode::OK);
    answer.into_body().collect().await?;
    let mut events = visitor
        .over_h2()
        .open(http::Request::get(format!("{APP}/sse")).body(http_body_util::Empty::<bytes::Bytes>::new())?)
        .await?;
    assert_eq!(events.event().await?.as_deref(), Some("hello"));

    ground.file("crl.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")?;
    gateway.stderr().find(SOON, |line| line.contains("downstream_mtls.crl: ").then_some(())).await?;
    assert_eq!(streams.get(APP).await?.status(), StatusCode::OK, "a list that is none changes nothing");

    ground.file("crl.pem", &ground.clients.revoke(&[&alice])?)?;
    eventually("the refusal", SOON, async || {
        Ok((streams.get(APP).await?.status().as_u16() == NO_CERTIFICATE).then_some(()))
    })
    .await?;
    events.ended(SOON).await
}

#[tokio::test]
async fn without_an_authority_that_can_be_read_nothing_starts_and_nothing_changes() -> Result<()> {
    let ground = Ground::new()?;
    let mut gateway = ground.gateway("", OPEN).await?;
    for (text, said) in [("", "names an empty file"), ("no PEM", "names a file that holds none")] {
        ground.file("ca.pem", text)?;
        gateway.hang_up()?;
        gateway.stderr().find(SOON, |line| line.contains(said).then_some(())).await?;
        assert_eq!(ground.status(&gateway, None).await?, NO_CERTIFICATE);
        let outcome = gateway.command(&["validate"]).await?;
        assert!(outcome.code == Some(64) && outcome.stderr.contains("downstream_mtls.ca_file"), "{outcome:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_is_shown_to_one_host_is_not_shown_to_another() -> Result<()> {
    let ground = Ground::new()?;
    let alice = ground.clients.identify(ALICE, 1)?;
    let policy = format!("policy: [{{allow: {{and: [{{client_certificate: {{san_email: {ALICE}}}}}]}}}}]");
    let gateway = ground.gateway(", enforcement: policy", &policy).await?;
    let visitor = ground.visitor(&gateway).await?.showing(&ground.trust()?, &alice)?;
    let ask = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes();
    // one connection to the other host, a request to this one
    assert_eq!(visitor.raw(OTHER, &ask("app.localhost")).await?.statuses(), [421]);
    assert_eq!(visitor.raw(OTHER, &ask("APP.localhost.")).await?.statuses(), [421]);
    assert_eq!(visitor.raw(APP, &ask("APP.localhost.")).await?.statuses(), [200]);
    assert_eq!(visitor.raw(APP, &ask("other.localhost")).await?.statuses(), [200], "nobody is asked there");
    // streams of one connection are looked at one by one
    let streams = visitor.streams(OTHER).await?;
    for (url, expected) in [(OTHER, 200), (APP, 421), (OTHER, 200)] {
        let answer = streams.get(url).await?;
        assert_eq!(answer.status().as_u16(), expected, "{url}");
        answer.into_body().collect().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_tunnel_is_asked_for_at_the_host_of_its_route_wherever_it_ends() -> Result<()> {
    let ground = Ground::new()?;
    let alice = ground.clients.identify(ALICE, 1)?;
    let policy = format!("policy: [{{allow: {{and: [{{client_certificate: {{san_email: {ALICE}}}}}]}}}}]");
    let mut config = ground.config(", enforcement: policy", OPEN)?;
    let to = ground.upstream.url().replace("http://", "tcp://");
    config.route("tcp+https://app.localhost/inner.localhost:22", &to, &policy);
    let gateway = Gateway::binary(BINARY).run(&config.text()).await?;
    let nobody = ground.visitor(&gateway).await?;
    let visitor = ground.visitor(&gateway).await?.showing(&ground.trust()?, &alice)?;
    let ask = b"CONNECT inner.localhost:22 HTTP/1.1\r\nHost: inner.localhost:22\r\n\r\n\
                GET / HTTP/1.1\r\nHost: inner.localhost\r\nConnection: close\r\n\r\n";
    // the tunnel, and what is behind it
    assert_eq!(visitor.raw(APP, ask).await?.statuses(), [200, 200]);
    assert_eq!(visitor.raw(OTHER, ask).await?.statuses(), [421]);
    assert_eq!(nobody.raw(APP, ask).await?.statuses(), [495]);
    Ok(())
}

/// A handshake whose first message comes in records of one byte each; what a request is answered.
fn in_pieces(gate: SocketAddr, config: Arc<ClientConfig>, by_record: bool) -> Result<String> {
    let mut client = rustls::ClientConnection::new(config, "app.localhost".try_into()?)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    let mut socket = TcpStream::connect(gate)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(SOON))?;
    let [kind, major, minor, _, _, message @ ..] = hello.as_slice() else { anyhow::bail!("no record") };
    let (kind, major, minor) = (*kind, *major, *minor);
    if by_record {
        let records: Vec<u8> = message.iter().flat_map(|byte| [kind, major, minor, 0, 1, *byte]).collect();
        socket.write_all(&records)?;
    } else {
        for piece in hello.chunks(hello.len().div_ceil(3)) {
            socket.write_all(piece)?;
        }
    }
    let mut stream = rustls::Stream::new(&mut client, &mut socket);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn a_hello_in_pieces_asks_for_a_certificate_all_the_same() -> Result<()> {
    let ground = Ground::new()?;
    let alice = ground.clients.identify(ALICE, 1)?;
    let gateway = ground.gateway("", OPEN).await?;
    let gate = gateway.address().await?;
    for by_record in [true, false] {
        for (identity, expected) in [(None, "495"), (Some(&alice), "200")] {
            let config = ground.trust()?.client_showing(&[b"http/1.1"], identity)?;
            let answer = tokio::task::spawn_blocking(move || in_pieces(gate, config, by_record)).await??;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{by_record}: {answer}");
        }
    }
    Ok(())
}
