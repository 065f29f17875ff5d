//! From a socket to workers: connections are accepted in one place and handed to whichever worker has the fewest.
//!
//! When the node drains, what the system has queued is accepted first and the socket closed then, so that another process
//! on the same port (`SO_REUSEPORT`) gets everything that comes later. Between the two lies a moment in which Linux resets
//! what it completes for the old socket, unless `net.ipv4.tcp_migrate_req` is 1: then it hands that over too.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix_rt::Arbiter;
use anyhow::{Context, Result};
use portcullis_config::ListenAddress;
use portcullis_config::limits::{ACCEPT_PAUSE, BACKLOG, CLOSE, ON_THEIR_WAY};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot, watch};

use crate::crowd::{Crowd, Entered};
use crate::listen::{Stage, reached};

/// Binds an address so that another process of the same user may too; without a host, on every interface of both
/// families.
///
/// # Errors
/// The address is in use, or not ours.
pub fn bind(address: &ListenAddress) -> Result<TcpListener> {
    bound(address, true)
}

/// Binds an address that no other process may have too: whoever looks there means this node.
///
/// # Errors
/// The address is in use, or not ours.
pub fn bind_alone(address: &ListenAddress) -> Result<TcpListener> {
    bound(address, false)
}

fn bound(address: &ListenAddress, shared: bool) -> Result<TcpListener> {
    let port = address.port;
    let bound = match &address.host {
        Some(host) => on_any((host.as_str(), port), shared),
        None => on_any(("::", port), shared).or_else(|_| on_any(("0.0.0.0", port), shared)),
    };
    bound.with_context(|| format!("cannot listen on {address}"))
}

fn on_any(addresses: impl ToSocketAddrs, shared: bool) -> std::io::Result<TcpListener> {
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in addresses.to_socket_addrs()? {
        match on(address, shared) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn on(address: SocketAddr, shared: bool) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A connection on its way to a worker.
pub struct Arrival {
    /// The connection.
    pub stream: TcpStream,
    /// Who is connected.
    pub peer: SocketAddr,
    /// It counts as open.
    pub entered: Entered,
    /// It counts for its worker.
    pub load: Load,
}

/// How many connections a worker has; one of them, until it is dropped.
pub struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A worker, as far as it is handed connections.
struct Desk {
    load: Arc<AtomicUsize>,
    arrivals: mpsc::Sender<Arrival>,
}

/// A listener with its workers.
pub struct Accepting {
    acceptor: Arbiter,
    workers: Vec<Arbiter>,
    closed: watch::Receiver<bool>,
}

/// Starts `workers` threads and hands them what comes in. `serve` runs on each of them, for as long as it is to serve;
/// it says when it is ready.
///
/// # Errors
/// A worker cannot be built; the system refuses the socket.
pub async fn start<F>(
    listener: TcpListener,
    (crowd, stage): (Crowd, watch::Receiver<Stage>),
    workers: usize,
    serve: F,
) -> Result<Accepting>
where
    F: Fn(mpsc::Receiver<Arrival>, oneshot::Sender<Result<()>>) + Clone + Send + 'static,
{
    listener.set_nonblocking(true)?;
    let (mut desks, mut arbiters) = (Vec::new(), Vec::new());
    for _ in 0..workers.max(1) {
        let (arrivals, coming) = mpsc::channel(ON_THEIR_WAY);
        let (ready, is_ready) = oneshot::channel();
        let (arbiter, serve) = (Arbiter::new(), serve.clone());
        arbiter.spawn_fn(move || serve(coming, ready));
        is_ready.await.context("a worker has ended")?.context("a worker cannot start")?;
        desks.push(Desk { load: Arc::default(), arrivals });
        arbiters.push(arbiter);
    }
    let (closing, closed) = watch::channel(false);
    let acceptor = Arbiter::new();
    acceptor.spawn_fn(move || {
        actix_rt::spawn(async move {
            if let Err(error) = accept(listener, &desks, crowd, stage).await {
                tracing::error!(%error, "nothing more can be accepted");
            }
            // whoever waits for it may have gone
            let _ = closing.send(true);
        });
    });
    Ok(Accepting { acceptor, workers: arbiters, closed })
}

impl Accepting {
    /// Waits until the socket is closed, which it is soon after the node began to drain.
    pub async fn closed(&mut self) {
        // an error means that its thread has ended
        let _ = self.closed.wait_for(|closed| *closed).await;
    }

    /// Ends the threads, and with them what is still open.
    pub async fn stop(self) {
        let deadline = tokio::time::Instant::now() + CLOSE;
        for arbiter in std::iter::once(self.acceptor).chain(self.workers) {
            arbiter.stop();
            let (ended, end) = oneshot::channel();
            std::thread::spawn(move || {
                // a thread that panicked has said so already
                let _ = arbiter.join();
                let _ = ended.send(());
            });
            let _ = tokio::time::timeout_at(deadline, end).await;
        }
    }
}

async fn accept(listener: TcpListener, desks: &[Desk], crowd: Crowd, mut stage: watch::Receiver<Stage>) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = reached(&mut stage, Stage::Draining) => break,
        };
        match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok((stream, peer)) => hand_over(desks, stream, peer, &crowd).await,
            Err(error) => rest_after(&error).await,
        }
    }
    let listener = listener.into_std()?;
    loop {
        match listener.accept().and_then(|(stream, peer)| stream.set_nonblocking(true).map(|()| (stream, peer))) {
            Ok((stream, peer)) => hand_over(desks, stream, peer, &crowd).await,
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => return Ok(()),
        }
    }
}

/// To whichever worker has the fewest.
async fn hand_over(desks: &[Desk], stream: TcpStream, peer: SocketAddr, crowd: &Crowd) {
    let fewest = |desk: &&Desk| desk.load.load(Ordering::Relaxed);
    let there = || desks.iter().filter(|desk| !desk.arrivals.is_closed());
    // one that takes nothing just now holds up nobody whom another can take
    let free = there().filter(|desk| desk.arrivals.capacity() > 0).min_by_key(fewest);
    let Some(desk) = free.or_else(|| there().min_by_key(fewest)) else { return };
    desk.load.fetch_add(1, Ordering::Relaxed);
    let arrival = Arrival { stream, peer, entered: crowd.enter(), load: Load(Arc::clone(&desk.load)) };
    // one that ends at this moment takes nothing: the connection closes
    let _ = desk.arrivals.send(arrival).await;
}

/// A client that left before it was accepted; the next one may be better.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

async fn rest_after(error: &std::io::Error) {
    if !is_of_one_connection(error) {
        tracing::warn!(%error, "a connection cannot be accepted");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
