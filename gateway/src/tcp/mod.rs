//! `portcullis tcp`: carries connections of this machine through a gateway, signed in as the person at the keyboard.

mod connect;
pub mod destination;
mod dial;
mod handles;
mod sign_in;
mod standard;

use std::io::Write;
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use portcullis_config::limits::TUNNEL_HALF_CLOSED;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Mutex;

use crate::cli::{Local, TcpOptions};
use connect::{Answered, connect};
use destination::{Destination, Gateway};
use dial::Dialer;
use handles::Kept;
use standard::Standard;

/// Says something to the person: on stderr, for stdout may be the tunnel.
fn say(text: &str) {
    // who does not listen does not want to know
    let _ = writeln!(std::io::stderr().lock(), "portcullis: {text}");
}

/// Runs until the tunnel has ended, or for ever where it listens.
///
/// # Errors
/// There is no tunnel; the message says what would be right.
pub async fn run(options: &TcpOptions) -> Result<()> {
    let gateway = options.portcullis_url.clone().unwrap_or_else(|| options.destination.gateway.clone());
    let kept = if options.trust.disable_tls_verification {
        say("certificates are not verified: whoever is on the way can read, change and take everything");
        // a handle that was given to anybody is not for keeping, and a kept one not for giving to anybody
        Kept::nowhere()
    } else {
        Kept::at(&gateway)
    };
    let tunnels = Rc::new(Tunnels {
        dialer: Dialer::new(&options.trust)?,
        held: Mutex::new(kept.read()),
        kept,
        gateway,
        destination: options.destination.clone(),
        browser: options.browser_cmd.clone(),
    });
    match options.listen {
        Local::Standard => {
            let mut standard = Standard::begin()?;
            let through = tunnels.open().await?;
            pass(&mut standard.stream, through).await;
            standard.finish().await;
            Ok(())
        }
        Local::Address(address) => listen(tunnels, address).await,
    }
}

async fn listen(tunnels: Rc<Tunnels>, address: std::net::SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        say(&format!("whoever reaches {address} uses {} as you", tunnels.destination.authority));
    }
    let mut out = std::io::stdout();
    writeln!(out, "listening on {address}, for {}", tunnels.destination.authority)?;
    out.flush()?;
    loop {
        let mut stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // out of descriptors, most likely: those that are open end some time
                say(&format!("a connection cannot be taken: {error}"));
                tokio::time::sleep(TUNNEL_HALF_CLOSED / 10).await;
                continue;
            }
        };
        // what is typed goes out at once
        let _ = stream.set_nodelay(true);
        let tunnels = Rc::clone(&tunnels);
        actix_rt::spawn(async move {
            match tunnels.open().await {
                Ok(through) => pass(&mut stream, through).await,
                Err(error) => say(&format!("{error:#}")),
            }
        });
    }
}

/// Tunnels to one destination.
struct Tunnels {
    dialer: Dialer,
    gateway: Gateway,
    destination: Destination,
    browser: Option<String>,
    kept: Kept,
    /// The handle in use. Held while somebody signs in: one sign-in is for all that wait.
    held: Mutex<Option<String>>,
}

impl Tunnels {
    async fn open(&self) -> Result<Upgraded> {
        let handle = self.held.lock().await.clone();
        match self.ask(handle.as_deref()).await? {
            Answered::Open(through) => return Ok(through),
            Answered::Refused(why) => bail!(why),
            Answered::SignIn => {}
        }
        let handle = self.other_than(handle.as_deref()).await?;
        match self.ask(Some(&handle)).await? {
            Answered::Open(through) => Ok(through),
            Answered::Refused(why) => bail!(why),
            Answered::SignIn => bail!(
                "signed in at {}, which is not enough for {}: sign-ins are for one host. Name the host of the route with \
                 --portcullis-url, or write tcp+https://GATEWAY/HOST:PORT if its `from` does",
                self.gateway,
                self.destination.authority
            ),
        }
    }

    async fn ask(&self, handle: Option<&str>) -> Result<Answered> {
        connect(&self.dialer, &self.gateway, &self.destination, handle).await
    }

    /// Another handle than the one that is of no use any more: somebody else's of this person, or a new one.
    async fn other_than(&self, useless: Option<&str>) -> Result<String> {
        let mut held = self.held.lock().await;
        let is_other = |handle: &Option<String>| handle.is_some() && handle.as_deref() != useless;
        if !is_other(&held) {
            let _turn = self.kept.turn().await?;
            *held = self.kept.read().filter(|kept| Some(kept.as_str()) != useless);
            if held.is_none() {
                let handle = sign_in::sign_in(&self.dialer, &self.gateway, self.browser.as_deref()).await?;
                if let Err(error) = self.kept.write(&handle) {
                    say(&format!("the sign-in is not kept for the next time: {error:#}"));
                }
                *held = Some(handle);
            }
        }
        held.clone().context("no handle")
    }
}

/// Passes bytes both ways; each side's end is told to the other.
async fn pass(local: &mut (impl AsyncRead + AsyncWrite + Unpin), through: Upgraded) {
    let (mut from_local, mut to_local) = tokio::io::split(local);
    let (mut from_gateway, mut to_gateway) = tokio::io::split(TokioIo::new(through));
    let up = async {
        let copied = tokio::io::copy(&mut from_local, &mut to_gateway).await;
        copied.and(to_gateway.shutdown().await)
    };
    let down = async {
        let copied = tokio::io::copy(&mut from_gateway, &mut to_local).await;
        copied.and(to_local.shutdown().await)
    };
    tokio::pin!(up, down);
    tokio::select! {
        // who has said all may go on listening, for as long as it takes
        sent = &mut up => if sent.is_ok() { drop(down.await) },
        // who has nothing more to hear may say a last word
        _ = &mut down => drop(tokio::time::timeout(TUNNEL_HALF_CLOSED, up).await),
    }
}
