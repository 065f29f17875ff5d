//! An upstream that answers with exactly the bytes it was given: bad framing, answers to nobody, and the like.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::stage::{self, Playing};

/// What becomes of the connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// It is closed.
    Close,
    /// It stays open, and the next request gets the same answer.
    Stay,
}

/// The running upstream, on a thread of its own. Gone when dropped.
pub struct RawUpstream {
    address: SocketAddr,
    script: Arc<Mutex<(Vec<u8>, After)>>,
    received: Arc<Mutex<Vec<u8>>>,
    _stop: Playing,
}

impl RawUpstream {
    /// Starts one that closes every connection until it is told an answer.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let script = Arc::new(Mutex::new((Vec::new(), After::Close)));
        let received = Arc::new(Mutex::new(Vec::new()));
        let (reading, hearing) = (Arc::clone(&script), Arc::clone(&received));
        let stop = stage::play(move || accept(listener, reading, hearing))?;
        Ok(Self { address, script, received, _stop: stop })
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What every request gets from now on.
    pub fn answer(&self, bytes: &[u8], after: After) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = (bytes.to_vec(), after);
    }

    /// Every byte it received, of all connections.
    #[must_use]
    pub fn received(&self) -> String {
        String::from_utf8_lossy(&self.received.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

type Script = Arc<Mutex<(Vec<u8>, After)>>;
type Received = Arc<Mutex<Vec<u8>>>;

async fn accept(listener: std::net::TcpListener, script: Script, received: Received) -> Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (script, received) = (Arc::clone(&script), Arc::clone(&received));
        tokio::task::spawn_local(async move {
            // a connection that is cut is no concern of ours
            let _ = play(stream, script, received).await;
        });
    }
}

async fn play(mut stream: TcpStream, script: Script, received: Received) -> Result<()> {
    let mut head = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        let bytes = buffer.get(..read).unwrap_or_default();
        received.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(bytes);
        if !head.windows(4).any(|end| end == b"\r\n\r\n") {
            continue;
        }
        head.clear();
        let (answer, after) = script.lock().unwrap_or_else(PoisonError::into_inner).clone();
        stream.write_all(&answer).await?;
        stream.flush().await?;
        if after == After::Close {
            stream.shutdown().await?;
            return Ok(());
        }
    }
}
