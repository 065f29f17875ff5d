//! `portcullis tcp` against a gateway that does what it is told: what it carries, whom it asks, what it keeps, and what it
//! says when there is no tunnel.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use portcullis_harness::certificate::{Authority, Certificate};
use portcullis_harness::echo::{converse, expected};
use portcullis_harness::process::{Process, eventually};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use url::{Url, form_urlencoded};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const SOON: Duration = Duration::from_secs(60);
const DESTINATION: &str = "db.localhost:5432";

/// What the gateway does.
#[derive(Clone)]
struct Script {
    /// The handle that opens tunnels, and the one that a sign-in gives.
    handle: String,
    /// The status line's end for a tunnel without that handle.
    without: &'static str,
    /// The same with it; a tunnel opens on 200.
    with: &'static str,
    /// What the login endpoint answers: status, and body (where a browser goes).
    login: (&'static str, String),
}

impl Default for Script {
    fn default() -> Self {
        Self {
            handle: "v1.k.first".into(),
            without: "302 Found\r\nLocation: https://authenticate.localhost/",
            with: "200 OK",
            login: ("200 OK", "https://authenticate.localhost/.pomerium/sign_in?signed".into()),
        }
    }
}

/// What it has seen.
#[derive(Default)]
struct Seen {
    /// Where programs wait for their handles.
    places: Vec<String>,
    /// The heads of requests.
    heads: Vec<String>,
}

struct Gateway {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Seen>>,
    _serving: JoinSet<()>,
}

struct Ground {
    gateway: Gateway,
    dir: TempDir,
    ca: PathBuf,
    own: Certificate,
}

impl Ground {
    async fn new(script: Script) -> Result<Self> {
        Self::with(script, false).await
    }

    async fn with(script: Script, ask_for_certificate: bool) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, authority.pem())?;
        let certificate = authority.issue(dir.path(), "gateway", &["db.localhost", "gate.localhost"])?;
        let own = authority.issue(dir.path(), "own", &["laptop"])?;
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?;
        let builder = if ask_for_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&ca)?)?;
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?,
            )
        } else {
            builder.with_no_client_auth()
        };
        let chain = CertificateDer::pem_file_iter(&certificate.cert)?.collect::<Result<Vec<_>, _>>()?;
        let tls = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&certificate.key)?)?;
        let gateway = Gateway::start(Arc::new(tls), script).await?;
        Ok(Self { gateway, dir, ca, own })
    }

    fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// `portcullis tcp` to the destination with these arguments besides.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        let url = format!("https://db.localhost:{}", self.gateway.address.port());
        command.args(["tcp", DESTINATION, "--portcullis-url", &url, "--browser-cmd", "true"]).args(arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("XDG_CACHE_HOME", self.cache());
        command
    }

    fn trusting(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.arg("--alternate-ca-path").arg(&self.ca);
        command
    }

    /// One that listens, and where.
    async fn listening(&self) -> Result<(Process, SocketAddr)> {
        let process = Process::start("portcullis tcp", self.trusting(&[]))?;
        let address = |line: &str| line.strip_prefix("listening on ")?.split_once(',')?.0.parse().ok();
        let address = process.stdout().find(SOON, address).await?;
        Ok((process, address))
    }

    /// One on standard input and output that says `said` and then no more: exit code, stdout, stderr.
    async fn standard(&self, mut command: Command, said: &[u8]) -> Result<(Option<i32>, Vec<u8>, String)> {
        command.args(["--listen", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        let mut input = child.stdin.take().context("no stdin")?;
        // one that is refused does not listen to the end
        let saying = async move { drop(input.write_all(said).await) };
        let ending = tokio::time::timeout(SOON, child.wait_with_output());
        let ((), out) = tokio::join!(saying, ending);
        let out = out.context("it does not end")??;
        Ok((out.status.code(), out.stdout, String::from_utf8_lossy(&out.stderr).into_owned()))
    }

    /// The person comes to the `nth` place where a program waits, as a browser that the gateway sends there.
    async fn person_comes(&self, nth: usize) -> Result<String> {
        let place = eventually("a program that waits for its person", SOON, async || {
            Ok(self.gateway.seen.lock().ok().and_then(|seen| seen.places.get(nth).cloned()))
        });
        let place = Url::parse(&place.await?)?;
        let handle = self.gateway.script(|script| script.handle.clone())?;
        visit(&place, &format!("{}?pomerium_jwt={handle}", place.path())).await
    }

    fn logins(&self) -> Result<usize> {
        Ok(self.gateway.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.places.len())
    }

    fn kept(&self) -> Result<Vec<(PathBuf, String)>> {
        let dir = self.cache().join("portcullis/handles");
        let Ok(entries) = std::fs::read_dir(dir) else { return Ok(Vec::new()) };
        let paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        let handles = paths.into_iter().filter(|path| path.extension().is_none_or(|kind| kind != "lock"));
        handles.map(|path| Ok((path.clone(), std::fs::read_to_string(path)?))).collect()
    }
}

impl Gateway {
    async fn start(tls: Arc<ServerConfig>, script: Script) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (script, seen) = (Arc::new(Mutex::new(script)), Arc::new(Mutex::new(Seen::default())));
        let mut serving = JoinSet::new();
        let (doing, seeing) = (Arc::clone(&script), Arc::clone(&seen));
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, script, seen) =
                    (TlsAcceptor::from(Arc::clone(&tls)), Arc::clone(&doing), Arc::clone(&seeing));
                connections.spawn(async move {
                    // a client that does not trust us leaves
                    if let Ok(stream) = tls.accept(stream).await {
                        drop(serve(stream, &script, &seen).await);
                    }
                });
            }
        });
        Ok(Self { address, script, seen, _serving: serving })
    }

    fn script<T>(&self, change: impl FnOnce(&mut Script) -> T) -> Result<T> {
        Ok(change(&mut *self.script.lock().map_err(|_| anyhow::anyhow!("poisoned"))?))
    }
}

async fn head<T: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufStream<T>) -> Result<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(stream.read_line(&mut head).await? > 0, "no whole head");
    }
    Ok(head)
}

/// One request. A tunnel gives back what comes, and says `bye` after its end.
async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, script: &Mutex<Script>, seen: &Mutex<Seen>) -> Result<()> {
    let mut stream = BufStream::new(stream);
    let head = head(&mut stream).await?;
    let now = script.lock().map(|script| script.clone()).map_err(|_| anyhow::anyhow!("poisoned"))?;
    if let Ok(mut seen) = seen.lock() {
        seen.heads.push(head.clone());
    }
    if head.starts_with("GET /.pomerium/api/v1/login?") {
        let target = head.split(' ').nth(1).unwrap_or_default();
        let place = form_urlencoded::parse(target.split_once('?').map_or("", |(_, query)| query).as_bytes())
            .find(|(name, _)| name == "pomerium_redirect_uri");
        if let (Some((_, place)), Ok(mut seen)) = (place, seen.lock()) {
            seen.places.push(place.into_owned());
        }
        let (status, body) = now.login;
        let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
        return Ok(stream.flush().await?);
    }
    ensure!(head.starts_with(&format!("CONNECT {DESTINATION} HTTP/1.1\r\n")), "{head}");
    let is_good = head.contains(&format!("authorization: Pomerium {}\r\n", now.handle));
    let status = if is_good { now.with } else { now.without };
    if status != "200 OK" {
        let answer = format!("HTTP/1.1 {status}\r\nX-Request-Id: the-request\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes()).await?;
        return Ok(stream.flush().await?);
    }
    // its first bytes come with the head
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhello\n").await?;
    stream.flush().await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            break;
        }
        stream.write_all(buffer.get(..read).unwrap_or_default()).await?;
        stream.flush().await?;
    }
    stream.write_all(b"bye\n").await?;
    Ok(stream.shutdown().await?)
}

/// A plain request to where a program waits.
async fn visit(place: &Url, target: &str) -> Result<String> {
    let host = place.host_str().context("no host")?;
    ensure!(host == "127.0.0.1", "the program waits at {host}");
    let mut stream = TcpStream::connect((host, place.port().context("no port")?)).await?;
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn a_tunnel_carries_everything_both_ways_and_each_end_is_told_to_the_other() -> Result<()> {
    let ground = Ground::new(Script { without: "200 OK", ..Script::default() }).await?;
    let (mut process, address) = ground.listening().await?;
    ensure!(address.ip().is_loopback(), "it listens at {address}");
    assert_eq!(converse(TcpStream::connect(address).await?, b"x").await?, expected(b"x"));
    assert_eq!(converse(TcpStream::connect(address).await?, b"").await?, expected(b""));
    let large: Vec<u8> = (0..8_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    assert!(
        converse(TcpStream::connect(address).await?, &large).await? == expected(&large),
        "what came back is not what was said"
    );
    assert_eq!(ground.logins()?, 0, "nobody was to sign in");
    process.interrupt()?;
    assert_eq!(process.wait_exit(SOON).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn standard_input_and_output_are_a_tunnel_and_nothing_else() -> Result<()> {
    let ground = Ground::new(Script::default()).await?;
    let said = vec![7; 1_000_000];
    let (ended, answer) = tokio::join!(ground.standard(ground.trusting(&[]), &said), ground.person_comes(0));
    let (code, out, err) = ended?;
    assert!(out == expected(&said), "{} bytes", out.len());
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("https://authenticate.localhost/.pomerium/sign_in?signed"), "{err}");
    assert!(answer?.starts_with("HTTP/1.1 303"));
    Ok(())
}

#[tokio::test]
async fn a_person_signs_in_once_and_is_not_asked_again_until_that_has_ended() -> Result<()> {
    let ground = Ground::new(Script::default()).await?;
    let (code, out, err) = {
        let (ended, _) = tokio::join!(ground.standard(ground.trusting(&[]), b"a"), ground.person_comes(0));
        ended?
    };
    assert_eq!((code, out), (Some(0), expected(b"a")), "{err}");
    let kept = ground.kept()?;
    let [(path, handle)] = kept.as_slice() else { bail!("{kept:?}") };
    assert_eq!(handle, "v1.k.first");
    assert_eq!(std::fs::metadata(path)?.permissions().mode() & 0o777, 0o600);
    assert!(!err.contains("v1.k.first"), "{err}");

    // another process finds it
    let (code, out, _) = ground.standard(ground.trusting(&[]), b"b").await?;
    assert_eq!((code, out, ground.logins()?), (Some(0), expected(b"b"), 1));

    // 401 says the same as a redirect: it has ended
    ground.gateway.script(|script| {
        script.without = "401 Unauthorized";
        script.handle = "v1.k.second".into();
    })?;
    let (ended, _) = tokio::join!(ground.standard(ground.trusting(&[]), b"c"), ground.person_comes(1));
    assert_eq!(ended?.1, expected(b"c"));
    assert_eq!(ground.kept()?.first().map(|(_, handle)| handle.as_str()), Some("v1.k.second"));
    Ok(())
}

#[tokio::test]
async fn many_connections_and_processes_at_once_cause_one_sign_in() -> Result<()> {
    let ground = Ground::new(Script::default()).await?;
    let (_first, one) = ground.listening().await?;
    let (_second, two) = ground.listening().await?;
    let mut talks = JoinSet::new();
    for address in [one, two].repeat(5) {
        talks.spawn(converse(TcpStream::connect(address).await?, b"x"));
    }
    // all of them were told to sign in before anybody does
    let asked = eventually("ten requests without a handle", SOON, async || {
        let seen = ground.gateway.seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        Ok((seen.heads.iter().filter(|head| head.starts_with("CONNECT")).count() >= 10).then_some(()))
    });
    asked.await?;
    ground.person_comes(0).await?;
    while let Some(talk) = talks.join_next().await {
        assert_eq!(talk??, expected(b"x"));
    }
    assert_eq!(ground.logins()?, 1);
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_said_in_plain_words() -> Result<()> {
    let script = Script { without: "403 Forbidden", ..Script::default() };
    let ground = Ground::new(script).await?;
    for (status, word) in [
        ("403 Forbidden", "you may not use db.localhost:5432"),
        ("404 Not Found", "no route `from: tcp+https://db.localhost:5432`"),
        ("405 Method Not Allowed", "takes no tunnels"),
        ("502 Bad Gateway", "try again in a moment"),
        ("503 Service Unavailable", "try again in a moment"),
        ("418 I'm a teapot", "418"),
    ] {
        ground.gateway.script(|script| script.without = status)?;
        let (code, out, err) = ground.standard(ground.trusting(&[]), b"x").await?;
        assert_eq!((code, out.as_slice()), (Some(70), &b""[..]), "{status}: {err}");
        assert!(err.contains(word) && err.contains("the-request"), "{status}: {err}");
    }
    assert_eq!(ground.logins()?, 0);
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_takes_no_sign_in_is_told_from_one_that_needs_another() -> Result<()> {
    let ground = Ground::new(Script::default()).await?;
    for (login, word) in [
        (("404 Not Found", String::new()), "--portcullis-url"),
        (("400 Bad Request", String::new()), "programmatic_redirect_domain_whitelist"),
        (("500 Oh", String::new()), "500"),
        (("200 OK", "file:///etc/passwd".into()), "without https"),
        (("200 OK", "http://authenticate.localhost/".into()), "without https"),
        (("200 OK", "-o/etc/passwd".into()), "does not say where"),
        (("200 OK", "\u{1b}[2J".into()), "does not say where"),
        (("200 OK", format!("https://a/{}", "x".repeat(100_000))), "broke off"),
    ] {
        ground.gateway.script(|script| script.login = login.clone())?;
        let (code, _, err) = ground.standard(ground.trusting(&[]), b"x").await?;
        assert_eq!(code, Some(70), "{login:?}");
        assert!(err.contains(word) && !err.contains('\u{1b}'), "{login:?}: {err}");
    }
    // what a sign-in gives may be for another host
    let ground = Ground::new(Script { with: "401 Unauthorized", ..Script::default() }).await?;
    let (ended, _) = tokio::join!(ground.standard(ground.trusting(&[]), b"x"), ground.person_comes(0));
    let (code, _, err) = ended?;
    assert_eq!(code, Some(70));
    assert!(err.contains("not enough"), "{err}");
    Ok(())
}

#[tokio::test]
async fn nobody_but_the_browser_that_the_gateway_sends_brings_a_handle() -> Result<()> {
    let ground = Ground::new(Script::default()).await?;
    let talking = ground.standard(ground.trusting(&[]), b"x");
    let others = async {
        let place = eventually("a program that waits for its person", SOON, async || {
            Ok(ground.gateway.seen.lock().ok().and_then(|seen| seen.places.first().cloned()))
        });
        let place = Url::parse(&place.await?)?;
        let path = place.path();
        ensure!(path.len() > 40, "{path} can be guessed");
        for wrong in [
            "/?pomerium_jwt=v1.k.evil".to_owned(),
            "/callback?pomerium_jwt=v1.k.evil".to_owned(),
            format!("{path}x?pomerium_jwt=v1.k.evil"),
            path.to_owned(),
            format!("{path}?pomerium_jwt="),
            format!("{path}?pomerium_jwt=v1.k.evil&pomerium_jwt=v1.k.first"),
            format!("{path}?pomerium_jwt=v1%0d%0aX-Admin:%20yes"),
            format!("{path}?pomerium_jwt=v1.{}", "x".repeat(5000)),
        ] {
            let answer = visit(&place, &wrong).await?;
            ensure!(answer.starts_with("HTTP/1.1 404"), "{wrong}: {answer}");
        }
        let answer = ground.person_comes(0).await?;
        let done = answer.lines().find_map(|line| line.strip_prefix("location: ")).context("no redirect")?.to_owned();
        ensure!(!done.contains("v1.k"), "the handle stays in the browser's history: {done}");
        let farewell = visit(&place, &done).await?;
        ensure!(farewell.contains("You are signed in"), "{farewell}");
        Ok(())
    };
    let (ended, others) = tokio::join!(talking, others);
    others?;
    assert_eq!(ended?.1, expected(b"x"));
    Ok(())
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_ends_it_unless_told_otherwise_and_then_nothing_is_kept() -> Result<()> {
    let ground = Ground::new(Script::default()).await?;
    let (code, _, err) = ground.standard(ground.command(&[]), b"x").await?;
    assert_eq!(code, Some(70));
    assert!(err.contains("not trusted") && err.contains("--alternate-ca-path"), "{err}");

    let by_hand = ground.command(&["--disable-tls-verification"]);
    let (ended, _) = tokio::join!(ground.standard(by_hand, b"x"), ground.person_comes(0));
    let (code, out, err) = ended?;
    assert_eq!((code, out), (Some(0), expected(b"x")), "{err}");
    assert!(err.contains("not verified"), "{err}");
    assert_eq!(ground.kept()?, []);

    let elsewhere = format!("https://other.localhost:{}", ground.gateway.address.port());
    let mut command = ground.trusting(&[]);
    command.args(["--portcullis-url", &elsewhere]);
    let (code, _, err) = ground.standard(command, b"x").await?;
    assert_ne!(code, Some(0), "{err}");
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_asks_for_a_certificate_gets_ours() -> Result<()> {
    let ground = Ground::with(Script { without: "200 OK", ..Script::default() }, true).await?;
    let show = |path: &Path| path.to_string_lossy().into_owned();
    let (cert, key) = (show(&ground.own.cert), show(&ground.own.key));
    let command = ground.trusting(&["--client-cert", &cert, "--client-key", &key]);
    assert_eq!(ground.standard(command, b"x").await?.1, expected(b"x"));
    assert_eq!(ground.standard(ground.trusting(&[]), b"x").await?.0, Some(70));
    let (_, _, err) = ground.standard(ground.trusting(&["--client-cert", &key, "--client-key", &key]), b"x").await?;
    assert!(err.contains("holds no certificate in PEM"), "{err}");
    Ok(())
}

#[tokio::test]
async fn the_browser_is_the_command_that_was_named() -> Result<()> {
    let ground = Ground::new(Script::default()).await?;
    let file = ground.dir.path().join("opened");
    let browser = format!("echo to stdout; echo >{}", file.display());
    let mut command = ground.trusting(&[]);
    command.args(["--browser-cmd", &browser]);
    // the later of the two counts, as everywhere
    let opened = async {
        let address = eventually("the browser", SOON, async || {
            Ok(std::fs::read_to_string(&file).ok().filter(|it| !it.is_empty()))
        });
        let address = address.await?;
        ground.person_comes(0).await?;
        Ok::<_, anyhow::Error>(address)
    };
    let (ended, address) = tokio::join!(ground.standard(command, b"x"), opened);
    assert_eq!(ended?.1, expected(b"x"), "what the browser says is in the tunnel");
    assert_eq!(address?.trim(), "https://authenticate.localhost/.pomerium/sign_in?signed");
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_named() -> Result<()> {
    let ground = Ground::new(Script::default()).await?;
    let mut command = ground.trusting(&[]);
    command.args(["--portcullis-url", "https://gate.localhost:1"]);
    let (code, _, err) = ground.standard(command, b"x").await?;
    assert_eq!(code, Some(70));
    assert!(err.contains("cannot reach the gateway https://gate.localhost:1"), "{err}");
    let mut usage = Command::new(BINARY);
    usage.args(["tcp", "db.localhost"]);
    let (code, out, err) = ground.standard(usage, b"").await?;
    assert_eq!((code, out.as_slice()), (Some(64), &b""[..]));
    assert!(err.contains("there is no port") && err.contains("HOST:PORT"), "{err}");
    Ok(())
}
