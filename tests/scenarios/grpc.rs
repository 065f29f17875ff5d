//! gRPC from end to end, with a client and a server that nobody here has written.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::{Gateway, free_port};
use portcullis_harness::grpc::{GrpcServer, calls};
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{RAW, World};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const HOST: &str = "raw.localhost";
const PATIENCE: Duration = Duration::from_secs(60);

struct Stage {
    world: World,
    gateway: Gateway,
    dir: TempDir,
}

impl Stage {
    async fn of(world: World, to: &str, keys: &str) -> Result<Self> {
        let mut config = world.config();
        config.set("metrics_address", "127.0.0.1:0");
        config.route(RAW, to, keys);
        let gateway = world.launcher.run(&config.text()).await?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("ca.pem"), world.authority.pem())?;
        Ok(Self { world, gateway, dir })
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    async fn calls(&self, cookie: &str, what: &[&str]) -> Result<Vec<String>> {
        calls(self.gateway.address().await?.port(), HOST, &self.ca(), cookie, what).await
    }

    async fn signed_in(&self, who: &str) -> Result<(Visitor, String)> {
        let visitor = self.world.visitor(&self.gateway).await?;
        sign_in(&visitor, RAW, who).await?;
        let cookie = visitor.cookies().header(&RAW.parse()?).context("no cookie")?;
        Ok((visitor, cookie))
    }
}

#[tokio::test]
async fn every_kind_of_call_passes_with_its_trailers() -> Result<()> {
    let server = GrpcServer::start(None).await?;
    let to = format!("h2c://127.0.0.1:{}", server.port());
    let stage = Stage::of(World::new(BINARY).await?, &to, "allow_any_authenticated_user: true").await?;
    let (_alice, cookie) = stage.signed_in("alice").await?;
    let said =
        stage.calls(&cookie, &["unary:hello", "down:1000", "up:500", "both:20", "parallel:100", "unary:fail"]).await?;
    assert_eq!(
        said,
        [
            "unary echo hello trailer=5",
            "down 1000 last=999",
            "up 500000",
            "both 20 rest=0 end=seen",
            "parallel 100",
            "unary FAILED_PRECONDITION as it was asked: % why=as it was asked",
        ]
    );
    let metadata = stage.calls(&cookie, &["unary:metadata"]).await?.remove(0);
    assert!(metadata.contains("x-pomerium-jwt-assertion") && !metadata.contains("_pomerium"), "{metadata}");
    Ok(())
}

#[tokio::test]
async fn a_server_with_tls_is_reached_by_what_tls_agrees_upon() -> Result<()> {
    let world = World::new(BINARY).await?;
    let dir = tempfile::tempdir()?;
    let certificate = world.authority.issue(dir.path(), "grpc", &["grpc.internal"])?;
    let server = GrpcServer::start(Some(&certificate)).await?;
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, world.authority.pem())?;
    let keys = format!(
        "allow_public_unauthenticated_access: true\ntls_custom_ca_file: {}\ntls_upstream_server_name: grpc.internal",
        ca.display()
    );
    let stage = Stage::of(world, &format!("https://127.0.0.1:{}", server.port()), &keys).await?;
    assert_eq!(stage.calls("", &["unary:a", "both:3"]).await?, ["unary echo a trailer=1", "both 3 rest=0 end=seen"]);
    Ok(())
}

#[tokio::test]
async fn a_deadline_ends_the_call_at_the_server_too() -> Result<()> {
    let server = GrpcServer::start(None).await?;
    let to = format!("h2c://127.0.0.1:{}", server.port());
    let stage = Stage::of(World::new(BINARY).await?, &to, "allow_public_unauthenticated_access: true").await?;
    let said = stage.calls("", &["deadline:0.5"]).await?.remove(0);
    assert!(said.starts_with("deadline DEADLINE_EXCEEDED"), "{said}");
    server.says("cancelled").await
}

#[tokio::test]
async fn a_refusal_is_a_status_of_grpc() -> Result<()> {
    let server = GrpcServer::start(None).await?;
    let to = format!("h2c://127.0.0.1:{}", server.port());
    let stage = Stage::of(World::new(BINARY).await?, &to, "allowed_users: [alice@example.com]").await?;
    let said = stage.calls("", &["unary:x"]).await?.remove(0);
    assert!(said.starts_with("unary UNAUTHENTICATED"), "{said}");
    let bob = stage.world.visitor(&stage.gateway).await?;
    sign_in(&bob, RAW, "bob").await.ok();
    let cookie = bob.cookies().header(&RAW.parse()?).context("no cookie")?;
    let said = stage.calls(&cookie, &["unary:x", "down:3"]).await?;
    assert!(
        said[0].starts_with("unary PERMISSION_DENIED") && said[1].starts_with("down PERMISSION_DENIED"),
        "{said:?}"
    );
    // gRPC-Web reads the same from the headers of an answer of its own kind
    let web = Request::post(format!("{RAW}/test.Echo/Unary")).header("content-type", "application/grpc-web+proto");
    let answer = stage.world.visitor(&stage.gateway).await?.send(web.body(Bytes::new())?).await?;
    assert_eq!((answer.status, answer.header("grpc-status")), (StatusCode::OK, "16"));
    assert_eq!(answer.header("content-type"), "application/grpc-web+proto");
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable() -> Result<()> {
    let to = format!("h2c://127.0.0.1:{}", free_port()?);
    let stage = Stage::of(World::new(BINARY).await?, &to, "allow_public_unauthenticated_access: true").await?;
    let said = stage.calls("", &["unary:x"]).await?.remove(0);
    assert!(said.starts_with("unary UNAVAILABLE"), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_server_is_checked_by_grpcs_own_health_protocol() -> Result<()> {
    let (one, other) = (GrpcServer::start(None).await?, GrpcServer::start(None).await?);
    let to = format!("[h2c://127.0.0.1:{}, h2c://127.0.0.1:{}]", one.port(), other.port());
    let keys = "allow_public_unauthenticated_access: true\nhealth_checks:\n- timeout: 5s\n  interval: 0.05s\n  \
                unhealthy_threshold: 1\n  healthy_threshold: 1\n  grpc_health_check: {}";
    let stage = Stage::of(World::new(BINARY).await?, &to, keys).await?;
    let has = async |line: &str| {
        eventually(line, PATIENCE, async || {
            let (_, page) = stage.gateway.metrics(None).await?;
            Ok(page.lines().any(|told| told == line).then_some(()))
        })
        .await
    };
    assert_eq!(stage.calls("", &["unary:unhealthy"]).await?, ["unary echo unhealthy trailer=9"]);
    has("portcullis_upstreams{state=\"unhealthy\"} 1").await?;
    assert_eq!(stage.calls("", &["unary:a", "unary:b"]).await?, ["unary echo a trailer=1", "unary echo b trailer=1"]);
    Ok(())
}
