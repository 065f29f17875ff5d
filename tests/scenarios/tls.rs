//! Downstream TLS: certificates that change while nobody is cut, resumption, versions of HTTP, the way to https, and two
//! processes on one port.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use http_body_util::BodyExt;
use portcullis_harness::certificate::{Authority, Certificate};
use portcullis_harness::client::Visitor;
use portcullis_harness::connect::Stream;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::upstream::Upstream;
use portcullis_harness::world::Configuration;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use url::Url;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const APP: &str = "https://app.localhost";
const SOON: Duration = Duration::from_secs(60);

/// A gateway's surroundings: nobody signs in.
struct Ground {
    authority: Authority,
    upstream: Upstream,
    dir: tempfile::TempDir,
}

impl Ground {
    fn new() -> Result<Self> {
        Ok(Self { authority: Authority::new()?, upstream: Upstream::start()?, dir: tempfile::tempdir()? })
    }

    fn issue(&self, stem: &str, names: &[&str]) -> Result<Certificate> {
        self.authority.issue(self.dir.path(), stem, names)
    }

    fn config(&self, certificates: &[&Certificate]) -> Configuration {
        let mut config = Configuration::without_sign_in();
        let pair = |it: &&Certificate| format!("{{cert: '{}', key: '{}'}}", it.cert.display(), it.key.display());
        match certificates {
            [] => config.set("insecure_server", "true"),
            some => config.set("certificates", &format!("[{}]", some.iter().map(pair).collect::<Vec<_>>().join(", "))),
        };
        for host in ["app", "extra"] {
            let from = format!("https://{host}.localhost");
            config.route(&from, &self.upstream.url(), "allow_public_unauthenticated_access: true");
        }
        config
    }

    async fn visitor(&self, gateway: &Gateway) -> Result<Visitor> {
        Ok(Visitor::new(&self.authority.trust()?)?.through(gateway.address().await?))
    }
}

/// The certificate that a new connection to the host of `url` is shown.
async fn shown(visitor: &Visitor, url: &str) -> Result<Vec<u8>> {
    let Stream::Tls(stream) = visitor.connect(&Url::parse(url)?).await? else { anyhow::bail!("no TLS") };
    Ok(stream.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no certificate")?.to_vec())
}

fn der(certificate: &Certificate) -> Result<Vec<u8>> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    Ok(CertificateDer::from_pem_file(&certificate.cert)?.to_vec())
}

async fn is_shown(visitor: &Visitor, url: &str, expected: &[u8]) -> Result<()> {
    eventually("the new certificate", SOON, async || Ok((shown(visitor, url).await? == expected).then_some(()))).await
}

#[tokio::test]
async fn a_certificate_that_changes_is_used_at_once_and_nobody_is_cut() -> Result<()> {
    let ground = Ground::new()?;
    let certificate = ground.issue("one", &["app.localhost"])?;
    let gateway = Gateway::binary(BINARY).run(&ground.config(&[&certificate]).text()).await?;
    let visitor = ground.visitor(&gateway).await?;
    let first = der(&certificate)?;
    assert_eq!(shown(&visitor, APP).await?, first);
    let streams = visitor.streams(APP).await?;
    assert_eq!(streams.get(&format!("{APP}/before")).await?.status(), StatusCode::OK);
    let mut events = visitor
        .over_h2()
        .open(http::Request::get(format!("{APP}/sse")).body(http_body_util::Empty::<bytes::Bytes>::new())?)
        .await?;
    assert_eq!(events.event().await?.as_deref(), Some("hello"));

    ground.issue("one", &["app.localhost"])?;
    let second = der(&certificate)?;
    ensure!(first != second);
    let visitor = ground.visitor(&gateway).await?;
    is_shown(&visitor, APP, &second).await?;
    assert_eq!(streams.get(&format!("{APP}/after")).await?.status(), StatusCode::OK);
    ground.upstream.emit("still here");
    assert_eq!(events.event().await?.as_deref(), Some("still here"));

    // a bad one keeps the good one, and says why
    std::fs::write(&certificate.key, std::fs::read(&ground.issue("other", &["app.localhost"])?.key)?)?;
    let said = |line: &str| line.contains("one.key: does not belong to").then_some(());
    gateway.stderr().find(SOON, said).await?;
    assert_eq!(shown(&visitor, APP).await?, second);
    // and once it is mended it is used
    ground.issue("one", &["app.localhost"])?;
    is_shown(&visitor, APP, &der(&certificate)?).await
}

#[tokio::test]
async fn certificates_come_and_go_with_the_configuration() -> Result<()> {
    let ground = Ground::new()?;
    let (one, extra) = (ground.issue("one", &["app.localhost"])?, ground.issue("extra", &["extra.localhost"])?);
    let mut gateway = Gateway::binary(BINARY).run(&ground.config(&[&one]).text()).await?;
    let visitor = ground.visitor(&gateway).await?;
    let extra_host = "https://extra.localhost";
    assert!(shown(&visitor, extra_host).await.is_err(), "the first certificate is not for that host");

    gateway.replace_config(&ground.config(&[&one, &extra]).text())?;
    gateway.hang_up()?;
    let expected = der(&extra)?;
    eventually("the other certificate", SOON, async || {
        Ok(shown(&visitor, extra_host).await.is_ok_and(|shown| shown == expected).then_some(()))
    })
    .await?;
    assert_eq!(shown(&visitor, APP).await?, der(&one)?);

    // what is new is followed as well
    ground.issue("extra", &["extra.localhost"])?;
    is_shown(&visitor, extra_host, &der(&extra)?).await?;

    // a configuration that names a certificate that cannot be used is refused as a whole
    std::fs::write(ground.dir.path().join("bad.pem"), "no PEM")?;
    let bad = Certificate { cert: ground.dir.path().join("bad.pem"), key: one.key.clone() };
    gateway.replace_config(&ground.config(&[&bad]).text())?;
    gateway.hang_up()?;
    gateway.stderr().find(SOON, |line| line.contains("bad.pem: no certificate in PEM").then_some(())).await?;
    assert_eq!(shown(&visitor, APP).await?, der(&one)?);

    gateway.replace_config(&ground.config(&[&one]).text())?;
    gateway.hang_up()?;
    eventually("the certificate gone", SOON, async || Ok(shown(&visitor, extra_host).await.is_err().then_some(())))
        .await
}

/// Connects with this configuration and asks once; how the handshake went, and whether 0-RTT was on offer.
async fn connects(
    gate: std::net::SocketAddr,
    config: &Arc<ClientConfig>,
) -> Result<(HandshakeKind, ProtocolVersion, bool)> {
    let url = Url::parse(&format!("{APP}/"))?;
    let Stream::Tls(stream) = Stream::open(&url, Some(gate), config).await? else { anyhow::bail!("no TLS") };
    let connection = stream.get_ref().1;
    let kind = connection.handshake_kind().context("no handshake")?;
    let version = connection.protocol_version().context("no version")?;
    let early = connection.is_early_data_accepted();
    // tickets come with the answer
    let answer = Stream::Tls(stream)
        .exchange(b"GET / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n", Duration::from_secs(5))
        .await;
    ensure!(answer.statuses() == [200], "{}", answer.text());
    Ok((kind, version, early))
}

#[tokio::test]
async fn sessions_are_resumed_on_every_worker_in_both_versions_and_never_without_a_round_trip() -> Result<()> {
    let ground = Ground::new()?;
    let certificate = ground.issue("one", &["app.localhost"])?;
    let gateway = Gateway::binary(BINARY).run(&ground.config(&[&certificate]).text()).await?;
    let gate = gateway.address().await?;
    let trust = ground.authority.trust()?;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = trust.client_of(&[b"http/1.1"], version)?;
        let (kind, spoken, _) = connects(gate, &config).await?;
        assert_eq!((kind, spoken), (HandshakeKind::Full, version.version));
        for _ in 0..8 {
            assert_eq!(connects(gate, &config).await?, (HandshakeKind::Resumed, version.version, false));
        }
    }
    // certificates that change leave tickets good
    let config = trust.client_of(&[b"http/1.1"], &rustls::version::TLS13)?;
    connects(gate, &config).await?;
    ground.issue("one", &["app.localhost"])?;
    is_shown(&ground.visitor(&gateway).await?, APP, &der(&certificate)?).await?;
    assert_eq!(connects(gate, &config).await?.0, HandshakeKind::Resumed);
    Ok(())
}

#[tokio::test]
async fn a_codec_is_the_only_one_spoken() -> Result<()> {
    let ground = Ground::new()?;
    let certificate = ground.issue("one", &["app.localhost"])?;
    for (codec, h1, h2) in [("auto", true, true), ("http1", true, false), ("http2", false, true)] {
        let mut config = ground.config(&[&certificate]);
        config.set("codec_type", codec);
        let gateway = Gateway::binary(BINARY).run(&config.text()).await?;
        let visitor = ground.visitor(&gateway).await?;
        assert_eq!(visitor.get(APP).await.is_ok(), h1, "{codec}: HTTP/1.1");
        assert_eq!(visitor.over_h2().get(APP).await.is_ok(), h2, "{codec}: HTTP/2");
    }
    Ok(())
}

#[tokio::test]
async fn a_plain_listener_tells_http2_by_its_first_bytes() -> Result<()> {
    let ground = Ground::new()?;
    let plain = "http://app.localhost";
    for (codec, h1, h2) in [("auto", true, true), ("http1", true, false), ("http2", false, true)] {
        let mut config = ground.config(&[]);
        config.set("codec_type", codec);
        let gateway = Gateway::binary(BINARY).run(&config.text()).await?;
        let visitor = ground.visitor(&gateway).await?;
        assert_eq!(visitor.get(plain).await.is_ok(), h1, "{codec}: HTTP/1.1");
        let streams = visitor.streams(plain).await?;
        let got = match streams.get(plain).await {
            Ok(answer) => answer.status() == StatusCode::OK && answer.into_body().collect().await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(got, h2, "{codec}: HTTP/2");
        // a request whose first bytes come one by one is one like others
        if codec == "auto" {
            let mut stream = visitor.connect(&Url::parse(plain)?).await?;
            for byte in b"PUT" {
                tokio::io::AsyncWriteExt::write_all(&mut stream, &[*byte]).await?;
            }
            let rest = b" / HTTP/1.1\r\nHost: app.localhost\r\nConnection: close\r\n\r\n";
            assert_eq!(stream.exchange(rest, Duration::from_secs(5)).await.statuses(), [200]);
        }
    }
    Ok(())
}

#[tokio::test]
async fn plain_http_is_shown_the_way_to_https_and_nothing_else() -> Result<()> {
    let ground = Ground::new()?;
    let certificate = ground.issue("one", &["app.localhost"])?;
    let mut config = ground.config(&[&certificate]);
    config.set("http_redirect_addr", "127.0.0.1:0");
    let gateway = Gateway::binary(BINARY).run(&config.text()).await?;
    let found = |line: &str| line.split("redirecting from http://").nth(1)?.split(['"', ' ']).next()?.parse().ok();
    let visitor = Visitor::new(&ground.authority.trust()?)?.through(gateway.stderr().find(SOON, found).await?);
    let answer = visitor.get("http://app.localhost:8080/a%62/..//c?d=e").await?;
    assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(answer.header("location"), "https://app.localhost/c?d=e");
    assert_eq!(answer.header("connection"), "close");
    let challenge = visitor.get("http://app.localhost/.well-known/acme-challenge/x").await?;
    assert_eq!(challenge.status, StatusCode::NOT_FOUND);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
        ("GET //evil.example/%2e%2e HTTP/1.1\r\nHost: app.localhost\r\n\r\n", 301),
        ("CONNECT app.localhost:443 HTTP/1.1\r\nHost: app.localhost:443\r\n\r\n", 501),
    ] {
        let answer = visitor.raw("http://app.localhost", request.as_bytes()).await?;
        assert_eq!(answer.statuses(), [status], "{request}");
        assert!(answer.closed && !answer.text().contains("ocation: https://evil"), "{}", answer.text());
    }
    assert!(ground.upstream.requests().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_second_process_on_the_same_port_takes_over_and_no_request_is_lost() -> Result<()> {
    let ground = Ground::new()?;
    let certificate = ground.issue("one", &["app.localhost"])?;
    let mut first = Gateway::binary(BINARY).run(&ground.config(&[&certificate]).text()).await?;
    let gate = first.address().await?;
    let mut config = ground.config(&[&certificate]);
    config.set("address", &gate.to_string());
    let second = Gateway::binary(BINARY).run(&config.text()).await?;
    let visitor = Visitor::new(&ground.authority.trust()?)?.through(gate);
    let served = |gateway: &Gateway| gateway.request_log("http-request").len();
    eventually("both are asked", SOON, async || {
        ensure!(visitor.get(APP).await?.status == StatusCode::OK);
        Ok((served(&first) > 0 && served(&second) > 0).then_some(()))
    })
    .await?;
    first.interrupt()?;
    // whatever the first had accepted is answered, and what it no longer accepts, by the second
    while first.health("/readyz").await.is_ok() {
        ensure!(visitor.get(APP).await?.status == StatusCode::OK);
    }
    first.wait_exit(SOON).await?;
    let before = served(&second);
    for _ in 0..20 {
        ensure!(visitor.get(APP).await?.status == StatusCode::OK);
    }
    eventually("the second's lines", SOON, async || Ok((served(&second) >= before + 20).then_some(()))).await
}

#[tokio::test]
async fn the_end_of_a_certificate_is_told() -> Result<()> {
    let ground = Ground::new()?;
    let certificate = ground.issue("one", &["app.localhost"])?;
    let mut config = ground.config(&[&certificate]);
    config.set("metrics_address", "127.0.0.1:0");
    let gateway = Gateway::binary(BINARY).run(&config.text()).await?;
    let (_, text) = gateway.metrics(None).await?;
    let line = text.lines().find(|line| line.starts_with("portcullis_certificate_end_timestamp_seconds{"));
    let line = line.context("no such metric")?;
    assert!(
        line.contains("name=\"app.localhost\"")
            && line.rsplit(' ').next().is_some_and(|end| end.parse::<u64>().is_ok()),
        "{line}"
    );
    assert!(Path::new(&certificate.cert).exists());
    Ok(())
}
