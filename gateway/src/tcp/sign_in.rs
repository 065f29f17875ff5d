//! The sign-in of this person: a browser goes to the gateway's address, and comes back here with a handle.

use std::cell::RefCell;
use std::process::Stdio;
use std::rc::Rc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, REFERRER_POLICY};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_actors::keyring;
use portcullis_config::limits::{HEAD_TIMEOUT, SIGN_IN_LIFE, TUNNEL_FAREWELL};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::Notify;
use url::{Url, form_urlencoded};

use super::connect::sign_in_address;
use super::destination::Gateway;
use super::dial::Dialer;
use super::handles::is_handle;
use super::say;

/// Has the person sign in at the gateway, and gives the handle.
///
/// # Errors
/// The gateway does not say where, or nobody comes back in time.
pub async fn sign_in(dialer: &Dialer, gateway: &Gateway, browser: Option<&str>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("cannot wait for the browser")?;
    let port = listener.local_addr()?.port();
    let desk = Rc::new(Desk::new()?);
    let place = format!("http://127.0.0.1:{port}{}", desk.path);
    let address = sign_in_address(dialer, gateway, &place).await?;
    say(&format!("Sign in at {gateway} with a browser on this computer; if none opens, go to\n\n{address}\n"));
    if let Err(error) = open(browser, &address) {
        say(&format!("No browser can be opened ({error:#}): go to the address above."));
    }
    let waiting = Rc::clone(&desk);
    let serving = actix_rt::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let desk = Rc::clone(&waiting);
            actix_rt::spawn(async move {
                let service = service_fn(move |request| {
                    let answer = desk.answer(&request);
                    async move { Ok::<_, std::convert::Infallible>(answer) }
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
                // a browser that breaks off comes again
                drop(builder.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    let come = tokio::time::timeout(SIGN_IN_LIFE, desk.come.notified()).await;
    let handle = desk.handle.borrow_mut().take();
    // the browser is on its way to the page that says so
    actix_rt::spawn(async move {
        let _ = tokio::time::timeout(TUNNEL_FAREWELL, desk.gone.notified()).await;
        serving.abort();
    });
    come.context("nobody has signed in in time")?;
    handle.context("nobody has signed in")
}

/// What the browser meets here.
struct Desk {
    /// Known to the gateway and the browser that it sends: any other page could only guess it.
    path: String,
    handle: RefCell<Option<String>>,
    come: Notify,
    gone: Notify,
}

const COMPLETE: &str = "You are signed in. You may close this page and go back to the program.\n";

impl Desk {
    fn new() -> Result<Self> {
        let path = format!("/{}", URL_SAFE_NO_PAD.encode(keyring::random::<32>()?));
        Ok(Self { path, handle: RefCell::default(), come: Notify::new(), gone: Notify::new() })
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "This address takes other methods.\n");
        }
        let path = request.uri().path();
        if path.strip_prefix(self.path.as_str()) == Some("/done") {
            self.gone.notify_one();
            return text(StatusCode::OK, COMPLETE);
        }
        let Some(handle) = (path == self.path).then(|| handle_in(request.uri().query().unwrap_or_default())).flatten()
        else {
            return text(StatusCode::NOT_FOUND, "There is nothing at this address.\n");
        };
        // the first is taken; a browser that comes twice brings the same
        self.handle.borrow_mut().get_or_insert(handle);
        self.come.notify_one();
        // so that the handle stays in no history, and on no screen
        let mut response = text(StatusCode::SEE_OTHER, "");
        if let Ok(done) = HeaderValue::try_from(format!("{}/done", self.path)) {
            response.headers_mut().insert(LOCATION, done);
        }
        response
    }
}

fn handle_in(query: &str) -> Option<String> {
    let mut handles = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "pomerium_jwt");
    let handle = handles.next()?.1.into_owned();
    (handles.next().is_none() && is_handle(&handle)).then_some(handle)
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let said: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (CONNECTION, "close"),
    ];
    for (name, value) in said {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Opens a browser, by a command if there is one (a line for the shell, the address its last argument). Nothing of what it
/// writes gets onto our standard output.
fn open(command: Option<&str>, address: &Url) -> Result<()> {
    let mut opening = match command {
        Some(line) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("{line} \"$1\"")).arg("browser").arg(address.as_str());
            shell
        }
        None => {
            let mut opener = Command::new(if cfg!(target_os = "macos") { "open" } else { "xdg-open" });
            opener.arg(address.as_str());
            opener
        }
    };
    opening.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut opened = opening.spawn().context("cannot run the command")?;
    actix_rt::spawn(async move {
        match opened.wait().await {
            Ok(status) if status.success() => {}
            Ok(status) => say(&format!("The command that opens a browser failed ({status}): go to the address above.")),
            Err(_) => {}
        }
    });
    Ok(())
}
