//! A TCP relay between two peers that can be cut, held and slowed, and counts what passes: a partition without any right
//! to the network.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

/// How long it tries to reach its target for a connection.
const CONNECT: Duration = Duration::from_secs(2);

/// What it does with what passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Passes it on.
    Open,
    /// Keeps it: nothing arrives, and nobody is told, as when packets are lost.
    Held,
    /// Closes every connection, the next ones too.
    Cut,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    target: Option<SocketAddr>,
    way: Way,
    delay: Duration,
}

/// A relay on a thread of its own. Gone when dropped, with every connection.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    rule: watch::Sender<Rule>,
    carried: Arc<AtomicU64>,
    _stop: oneshot::Sender<std::convert::Infallible>,
}

impl Relay {
    /// Starts one that leads nowhere yet.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (rule, ruled) = watch::channel(Rule { target: None, way: Way::Open, delay: Duration::ZERO });
        let (stop, stopped) = oneshot::channel();
        let carried = Arc::<AtomicU64>::default();
        let counted = Arc::clone(&carried);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || {
            let relaying = async {
                tokio::select! {
                    _ = accept(listener, ruled, counted) => {}
                    _ = stopped => {}
                }
            };
            LocalSet::new().block_on(&runtime, relaying);
        });
        Ok(Self { address, rule, carried, _stop: stop })
    }

    /// Starts one that leads to `target`.
    ///
    /// # Errors
    /// The system refuses.
    pub fn to(target: SocketAddr) -> Result<Self> {
        let relay = Self::start()?;
        relay.lead_to(target);
        Ok(relay)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many bytes it has passed on to its target's clients so far.
    #[must_use]
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Where new connections lead from now on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.rule.send_modify(|rule| rule.target = Some(target));
    }

    /// Closes every connection, and each new one, until it is healed.
    pub fn cut(&self) {
        self.rule.send_modify(|rule| rule.way = Way::Cut);
    }

    /// Lets nothing through, and tells nobody, until it is healed.
    pub fn hold(&self) {
        self.rule.send_modify(|rule| rule.way = Way::Held);
    }

    /// Lets everything through again; what was held arrives.
    pub fn heal(&self) {
        self.rule.send_modify(|rule| rule.way = Way::Open);
    }

    /// Keeps whatever passes for so long, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.rule.send_modify(|rule| rule.delay = delay);
    }
}

async fn accept(listener: std::net::TcpListener, rule: watch::Receiver<Rule>, carried: Arc<AtomicU64>) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (near, _) = listener.accept().await?;
        let (mut rule, carried) = (rule.clone(), Arc::clone(&carried));
        tokio::task::spawn_local(async move {
            let mut ruled = rule.clone();
            tokio::select! {
                // either side may go away at any time
                _ = relay(near, rule.clone(), &carried) => {}
                _ = ruled.wait_for(|rule| rule.way == Way::Cut) => {}
            }
            rule.mark_unchanged();
        });
    }
}

async fn relay(near: TcpStream, mut rule: watch::Receiver<Rule>, carried: &AtomicU64) -> Result<()> {
    let Some(target) = rule.wait_for(|rule| rule.way == Way::Open).await?.target else { return Ok(()) };
    let far = timeout(CONNECT, TcpStream::connect(target)).await??;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        ended = pass(near_in, far_out, rule.clone(), None) => ended,
        ended = pass(far_in, near_out, rule.clone(), Some(carried)) => ended,
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut rule: watch::Receiver<Rule>,
    carried: Option<&AtomicU64>,
) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let delay = rule.borrow().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
        rule.wait_for(|rule| rule.way == Way::Open).await?;
        to.write_all(buffer.get(..length).unwrap_or_default()).await?;
        if let Some(carried) = carried {
            carried.fetch_add(u64::try_from(length)?, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_target_sends_is_counted_and_what_it_is_sent_is_not() -> Result<()> {
        let target = TcpListener::bind(("127.0.0.1", 0)).await?;
        let relay = Relay::to(target.local_addr()?)?;
        let mut near = TcpStream::connect(relay.address()).await?;
        near.write_all(b"a question").await?;
        let (mut far, _) = target.accept().await?;
        far.read_exact(&mut [0; 10]).await?;
        far.write_all(b"an answer").await?;
        drop(far);
        near.read_to_end(&mut Vec::new()).await?;
        // counted once it was passed on, which may be seen here first
        crate::process::eventually("it is counted", CONNECT * 30, async || Ok((relay.carried() == 9).then_some(())))
            .await
    }
}
