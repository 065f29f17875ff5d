//! Tunnels of TCP, by HTTP/1.1, by HTTP/2 and by `portcullis tcp`; and WebSockets by streams of HTTP/2.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use portcullis_harness::client::{Streams, Visitor};
use portcullis_harness::echo::{converse, expected};
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::{Process, eventually};
use portcullis_harness::sign_in::{go_on, sign_in, sign_out};
use portcullis_harness::world::{APP, BOB, PUBLIC, World};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// Far longer than anything here takes: a deadline, not a measure.
const SOON: Duration = Duration::from_secs(60);

/// An upstream that speaks first, gives back what it gets, and says `bye` after its end.
struct Echo {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Echo {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let (counting, mut serving) = (Arc::clone(&connections), JoinSet::new());
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counting.fetch_add(1, Ordering::SeqCst);
                let counting = Arc::clone(&counting);
                open.spawn(async move {
                    drop(echo(stream).await);
                    counting.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Ok(Self { address, connections, _serving: serving })
    }

    /// Waits until exactly `count` connections are open.
    async fn has_open(&self, count: usize) -> Result<()> {
        eventually("connections at the upstream", SOON, async || {
            let open = self.connections.load(Ordering::SeqCst);
            if open == count { Ok(Some(())) } else { anyhow::bail!("{open} are open, not {count}") }
        })
        .await
    }
}

async fn echo(mut stream: TcpStream) -> Result<()> {
    let (mut reader, mut writer) = stream.split();
    writer.write_all(b"hello\n").await?;
    tokio::io::copy(&mut reader, &mut writer).await?;
    writer.write_all(b"bye\n").await?;
    Ok(writer.shutdown().await?)
}

struct Ground {
    world: World,
    gateway: Gateway,
    echo: Echo,
}

impl Ground {
    async fn new() -> Result<Self> {
        let (world, echo) = (World::new(BINARY).await?, Echo::start().await?);
        let mut config = world.config();
        let to = format!("tcp://{}", echo.address);
        // nobody listens on the first of them
        let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let either = format!("['tcp://{closed}', '{to}']");
        let anyone = "allow_any_authenticated_user: true";
        config.route("tcp+https://app.localhost:5432", &to, anyone);
        config.route("tcp+https://app.localhost:443", &to, anyone);
        config.route("tcp+https://app.localhost:6", &either, anyone);
        config.route("tcp+https://app.localhost:9", &format!("tcp://{closed}"), anyone);
        config.route("tcp+https://app.localhost:8", &to, &format!("{anyone}\nidle_timeout: 1s"));
        config.route("tcp+https://app.localhost/redis.internal:6379", &to, anyone);
        config.route("tcp+https://bob.localhost:22", &to, "allowed_users: [bob@example.com]");
        config.route("tcp+https://public.localhost:7", &to, "allow_public_unauthenticated_access: true");
        let gateway = world.launcher.run(&config.text()).await?;
        Ok(Self { world, gateway, echo })
    }

    async fn visitor(&self) -> Result<Visitor> {
        self.world.visitor(&self.gateway).await
    }

    /// Alice, and what a program of hers presents to the application's host.
    async fn alice(&self) -> Result<(Visitor, String)> {
        let visitor = self.visitor().await?;
        sign_in(&visitor, APP, "alice").await?;
        let cookie = visitor.cookies().at(&Url::parse(APP)?, "_pomerium").context("no cookie")?;
        Ok((visitor, cookie.value))
    }

    /// Details and sizes of the access lines of tunnels, once there are `count`.
    async fn lines(&self, count: usize) -> Result<Vec<Value>> {
        eventually("the access lines of tunnels", SOON, async || {
            let lines = self.gateway.request_log("http-request");
            let lines: Vec<_> = lines.into_iter().filter(|line| line["method"] == "CONNECT").collect();
            Ok((lines.len() >= count).then_some(lines))
        })
        .await
    }
}

fn connect(authority: &str, handle: Option<&str>) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::connect(authority);
    if let Some(handle) = handle {
        request = request.header("authorization", format!("Pomerium {handle}"));
    }
    Ok(request.body(Full::default())?)
}

/// A tunnel or a refusal, with the connection that it is on.
enum Asked {
    Open(Box<dyn Duplex>),
    Refused { status: u16, head: String },
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

impl Asked {
    fn open(self) -> Result<Box<dyn Duplex>> {
        match self {
            Self::Open(stream) => Ok(stream),
            Self::Refused { status, head } => anyhow::bail!("refused: {status} {head}"),
        }
    }

    fn status(&self) -> u16 {
        match self {
            Self::Open(_) => 200,
            Self::Refused { status, .. } => *status,
        }
    }
}

/// By HTTP/1.1, with `early` right behind the head.
async fn by_h1(visitor: &Visitor, at: &str, authority: &str, handle: Option<&str>, early: &[u8]) -> Result<Asked> {
    let mut stream = BufStream::new(visitor.connect(&Url::parse(at)?).await?);
    let proof = handle.map(|handle| format!("Authorization: Pomerium {handle}\r\n")).unwrap_or_default();
    let head = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{proof}\r\n");
    stream.write_all(&[head.as_bytes(), early].concat()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::time::timeout(SOON, stream.read_u8()).await.context("no answer")??);
    }
    let head = String::from_utf8(head)?.to_ascii_lowercase();
    let status: u16 = head.split(' ').nth(1).context("no status")?.parse()?;
    if status == 200 {
        ensure!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        return Ok(Asked::Open(Box::new(stream)));
    }
    ensure!(head.contains("\r\nconnection: close\r\n"), "{head}");
    let mut rest = Vec::new();
    tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.context("a refusal leaves it open")??;
    Ok(Asked::Refused { status, head })
}

/// By a stream of HTTP/2.
async fn by_h2(streams: &Streams, authority: &str, handle: Option<&str>) -> Result<Asked> {
    let mut response = streams.send(connect(authority, handle)?).await?;
    let status = response.status();
    if status == StatusCode::OK {
        let stream = hyper::upgrade::on(&mut response).await?;
        return Ok(Asked::Open(Box::new(TokioIo::new(stream))));
    }
    Ok(Asked::Refused { status: status.as_u16(), head: format!("{:?}", response.headers()) })
}

#[tokio::test]
async fn bytes_pass_both_ways_to_the_end_of_each() -> Result<()> {
    let ground = Ground::new().await?;
    let (alice, handle) = ground.alice().await?;
    let streams = alice.streams(APP).await?;
    let large: Vec<u8> = (0..4_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    for named in ["app.localhost:5432", "APP.localhost.:443", "app.localhost:6", "redis.internal:6379"] {
        let tunnel = by_h1(&alice, APP, named, Some(&handle), b"").await?.open()?;
        assert_eq!(converse(tunnel, named.as_bytes()).await?, expected(named.as_bytes()), "{named}");
        let tunnel = by_h2(&streams, named, Some(&handle)).await?.open()?;
        assert_eq!(converse(tunnel, named.as_bytes()).await?, expected(named.as_bytes()), "{named} by HTTP/2");
    }
    let early = by_h1(&alice, APP, "app.localhost:5432", Some(&handle), b"early ").await?.open()?;
    assert_eq!(converse(early, b"late").await?, expected(b"early late"));
    for tunnel in [
        by_h1(&alice, APP, "app.localhost:5432", Some(&handle), b"").await?,
        by_h2(&streams, "app.localhost:5432", Some(&handle)).await?,
    ] {
        assert!(converse(tunnel.open()?, &large).await? == expected(&large), "something was lost");
    }
    let public = ground.visitor().await?;
    let tunnel = by_h1(&public, PUBLIC, "public.localhost:7", None, b"").await?.open()?;
    assert_eq!(converse(tunnel, b"x").await?, expected(b"x"));

    ground.echo.has_open(0).await?;
    let lines = ground.lines(12).await?;
    assert!(lines.iter().all(|line| line["response-code"] == 200 && line["response-code-details"] == "tunnel"));
    assert!(lines.iter().any(|line| line["size"] == expected(&large).len()), "{lines:?}");
    Ok(())
}

#[tokio::test]
async fn who_may_not_use_a_tunnel_is_told_so_and_reaches_nobody() -> Result<()> {
    let ground = Ground::new().await?;
    let (alice, handle) = ground.alice().await?;
    let (streams, of_bob) = (alice.streams(APP).await?, alice.streams(BOB).await?);
    sign_in(&alice, BOB, "alice").await?;
    let at_bob = alice.cookies().at(&Url::parse(BOB)?, "_pomerium").context("no cookie")?.value;
    for (at, authority, handle, status) in [
        // a client of Pomerium's takes a redirect, and nothing else, as the word to sign in
        (APP, "app.localhost:5432", None, 302),
        (APP, "app.localhost:5432", Some("v1.nonsense"), 302),
        (APP, "redis.internal:6379", None, 302),
        // a handle is for one host
        (BOB, "bob.localhost:22", Some(&*handle), 302),
        (APP, "redis.internal:6379", Some(&*at_bob), 302),
        (BOB, "bob.localhost:22", Some(&*at_bob), 403),
        (APP, "app.localhost:5433", Some(&*handle), 404),
        (APP, "redis.internal:443", Some(&*handle), 404),
        (APP, "public.localhost:443", Some(&*handle), 404),
        (APP, "169.254.169.254:80", Some(&*handle), 404),
        (APP, "app.localhost:9", Some(&*handle), 503),
    ] {
        let asked = by_h1(&alice, at, authority, handle, b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n").await?;
        assert_eq!(asked.status(), status, "{authority}");
        if let (Asked::Refused { head, .. }, 302) = (&asked, status) {
            ensure!(head.contains("\r\nlocation: https://authenticate.localhost/.pomerium/sign_in?"), "{head}");
        }
        let streams = if at == BOB { &of_bob } else { &streams };
        assert_eq!(by_h2(streams, authority, handle).await?.status(), status, "{authority} by HTTP/2");
    }
    // a tunnel is opened by CONNECT alone, and its host is nothing but the gateway's own
    for (host, path, status) in [
        ("https://bob.localhost:22", "/.pomerium/api/v1/login?pomerium_redirect_uri=http://localhost/", 200),
        ("https://redis.internal:6379", "/", 404),
    ] {
        let stream = alice.connect(&Url::parse(APP)?).await?;
        let authority = Url::parse(host)?.authority().to_owned();
        let get = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        let answer = stream.exchange(get.as_bytes(), Duration::from_secs(1)).await;
        ensure!(answer.bytes.starts_with(format!("HTTP/1.1 {status}").as_bytes()), "{host}: {answer:?}");
    }
    assert_eq!(ground.echo.connections.load(Ordering::SeqCst), 0, "somebody was reached");
    Ok(())
}

#[tokio::test]
async fn a_tunnel_ends_with_the_session_or_when_it_is_idle_for_as_long_as_its_route_allows() -> Result<()> {
    let ground = Ground::new().await?;
    let (alice, handle) = ground.alice().await?;
    let streams = alice.streams(APP).await?;
    let mut open = Vec::new();
    for named in ["app.localhost:5432", "redis.internal:6379"] {
        open.push(by_h1(&alice, APP, named, Some(&handle), b"").await?.open()?);
        open.push(by_h2(&streams, named, Some(&handle)).await?.open()?);
    }
    let idle = by_h1(&alice, APP, "app.localhost:8", Some(&handle), b"").await?.open()?;
    let stranger = ground.visitor().await?;
    let mut stays = by_h1(&stranger, PUBLIC, "public.localhost:7", None, b"").await?.open()?;
    for (nth, tunnel) in open.iter_mut().chain([&mut stays]).enumerate() {
        let mut hello = [0; 6];
        let heard = tokio::time::timeout(SOON, tunnel.read_exact(&mut hello)).await;
        heard.with_context(|| format!("tunnel {nth} says nothing"))??;
    }
    let ended = async |mut tunnel: Box<dyn Duplex>| -> Result<()> {
        // how it breaks off is the transport's own way
        let mut rest = Vec::new();
        drop(tokio::time::timeout(SOON, tunnel.read_to_end(&mut rest)).await.context("it stays open")?);
        Ok(())
    };
    ended(idle).await?;
    sign_out(&alice, APP).await?;
    for tunnel in open {
        ended(tunnel).await?;
    }
    ground.echo.has_open(1).await?;
    let details = ground.lines(5).await?.into_iter().map(|line| line["response-code-details"].clone());
    let mut details: Vec<_> = details.filter_map(|detail| detail.as_str().map(str::to_owned)).collect();
    details.sort();
    assert_eq!(details, ["idle_timeout", "permit_lost", "permit_lost", "permit_lost", "permit_lost"]);
    stays.write_all(b"still here").await?;
    stays.flush().await?;
    let mut heard = [0; 10];
    tokio::time::timeout(SOON, stays.read_exact(&mut heard)).await.context("the stranger's tunnel is silent")??;
    assert_eq!(&heard, b"still here");
    Ok(())
}

#[tokio::test]
async fn a_node_that_stops_waits_for_no_tunnel_for_ever() -> Result<()> {
    let mut ground = Ground::new().await?;
    let stranger = ground.visitor().await?;
    let mut tunnel = by_h1(&stranger, PUBLIC, "public.localhost:7", None, b"").await?.open()?;
    ground.gateway.interrupt()?;
    let mut heard = Vec::new();
    drop(tokio::time::timeout(SOON, tunnel.read_to_end(&mut heard)).await.context("it stays open")?);
    assert_eq!(ground.gateway.wait_exit(SOON).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn a_person_with_the_client_signs_in_and_is_through() -> Result<()> {
    let ground = Ground::new().await?;
    let dir = tempfile::tempdir()?;
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, ground.world.authority.pem())?;
    let url = format!("https://app.localhost:{}", ground.gateway.address().await?.port());
    for (destination, who) in [("redis.internal:6379", "alice"), ("app.localhost:5432", "nobody is asked again")] {
        let mut command = Command::new(BINARY);
        command.args(["tcp", destination, "--portcullis-url", &url, "--browser-cmd", "true", "--alternate-ca-path"]);
        command.arg(&ca).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("XDG_CACHE_HOME", dir.path());
        let process = Process::start("portcullis tcp", command)?;
        let address = |line: &str| line.strip_prefix("listening on ")?.split_once(',')?.0.parse::<SocketAddr>().ok();
        let address = process.stdout().find(SOON, address).await?;
        let talking = async { converse(Box::new(TcpStream::connect(address).await?), b"through").await };
        let signing_in = async {
            if who != "alice" {
                return Ok(());
            }
            let start = |line: &str| line.starts_with("https://authenticate").then(|| line.to_owned());
            let start = process.stderr().find(SOON, start).await?;
            let browser = ground.visitor().await?;
            let question = go_on(&browser, browser.get(&start).await?, who, who).await?;
            let text = question.text();
            let link = text.split("href=\"http://127.0.0.1").nth(1).and_then(|rest| rest.split('"').next());
            let link = format!("http://127.0.0.1{}", link.with_context(|| format!("no link: {text}"))?);
            let done = browser.get(&link).await?;
            let done = browser.get(done.redirect()?.context("no redirect")?.as_str()).await?;
            ensure!(done.text().contains("You are signed in"), "{}", done.text());
            Ok(())
        };
        let (heard, signed_in) = tokio::join!(talking, signing_in);
        signed_in?;
        assert_eq!(heard?, expected(b"through"), "{destination}");
        if who != "alice" {
            assert_eq!(process.stderr().all(), [""; 0]);
        }
    }
    Ok(())
}

/// A CONNECT that asks for a WebSocket (RFC 8441), as a browser sends it.
fn websocket(url: &str, protocol: &'static str, cookie: Option<&str>) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::connect(url).header("sec-websocket-version", "13");
    if let Some(cookie) = cookie {
        request = request.header("cookie", format!("_pomerium={cookie}"));
    }
    let mut request = request.body(Full::default())?;
    request.extensions_mut().insert(Protocol::from_static(protocol));
    Ok(request)
}

/// Streams of a connection whose server has said what it takes.
async fn settled(visitor: &Visitor, host: &str) -> Result<Streams> {
    let streams = visitor.streams(host).await?;
    streams.get(&format!("{host}/ping")).await?;
    Ok(streams)
}

#[tokio::test]
async fn a_websocket_passes_by_a_stream_of_http2() -> Result<()> {
    let ground = Ground::new().await?;
    let (alice, cookie) = ground.alice().await?;
    let streams = settled(&alice, APP).await?;
    let mut response = streams.send(websocket(&format!("{APP}/ws"), "websocket", Some(&cookie))?).await?;
    assert_eq!(response.status(), StatusCode::OK);
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(response.headers().get(name).is_none(), "{name}");
    }
    let mut stream = TokioIo::new(hyper::upgrade::on(&mut response).await?);
    // a masked text (RFC 6455 §5.7), and what comes back
    stream.write_all(&[0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2]).await?;
    let mut text = [0; 4];
    tokio::time::timeout(SOON, stream.read_exact(&mut text)).await.context("no echo")??;
    assert_eq!(&text, b"\x81\x02hi");
    let seen = ground.world.upstream.last()?;
    assert_eq!((seen.method.as_str(), seen.header("upgrade")), ("GET", Some("websocket")));
    assert!(seen.header("sec-websocket-key").is_some_and(|key| key.len() == 24), "{:?}", seen.headers);

    // it ends as every other does, with a word
    sign_out(&alice, APP).await?;
    let mut rest = Vec::new();
    drop(tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await.context("it stays open")?);
    assert_eq!(rest, b"\x88\x02\x03\xf0", "1008");
    ground.world.upstream.has_open(0).await?;

    let refused = async |url: String, protocol, cookie| -> Result<StatusCode> {
        Ok(streams.send(websocket(&url, protocol, cookie)?).await?.status())
    };
    assert_eq!(refused(format!("{APP}/ws"), "websocket", None).await?, StatusCode::UNAUTHORIZED);
    assert_eq!(refused(format!("{APP}/ws"), "connect-udp", Some(&cookie)).await?, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(refused("https://nowhere.localhost/ws".into(), "websocket", None).await?, StatusCode::NOT_FOUND);
    // what is allowed on no route of BOB's
    let bob = ground.visitor().await?;
    sign_in(&bob, BOB, "bob").await?;
    let his = bob.cookies().at(&Url::parse(BOB)?, "_pomerium").context("no cookie")?.value;
    let streams = settled(&bob, BOB).await?;
    let answer = streams.send(websocket(&format!("{BOB}/ws"), "websocket", Some(&his))?).await?;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    Ok(())
}
