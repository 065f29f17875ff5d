//! HTTP/1.1 by hand, as little of it as the load generator needs: its own work takes time from what it measures.

use anyhow::{Context, Result, ensure};
use portcullis_harness::connect::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Room for what comes at one time.
const BUFFER: usize = 64 * 1024;
/// Longest head of an answer.
const HEAD: usize = 16 * 1024;

/// A connection that requests go out on one after another.
pub struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
}

impl Wire {
    /// On an open stream.
    pub fn new(stream: Stream) -> Self {
        Self { stream, buffer: vec![0; BUFFER] }
    }

    /// On an open stream, for as little as an idle connection needs.
    pub fn small(stream: Stream) -> Self {
        Self { stream, buffer: vec![0; 4096] }
    }

    /// Sends a request, head and body, and reads the whole answer: its status, and the bytes of its body.
    ///
    /// # Errors
    /// The connection ended, or the answer does not say how long it is.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<(u16, usize)> {
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let mut filled = 0;
        let (status, length, mut have) = loop {
            let free = self.buffer.get_mut(filled..).filter(|free| !free.is_empty() && filled < HEAD);
            let read = self.stream.read(free.context("an answer whose head does not end")?).await?;
            ensure!(read > 0, "the connection ended instead of an answer");
            filled += read;
            let bytes = self.buffer.get(..filled).unwrap_or_default();
            if let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                let (status, length) = read_head(bytes.get(..head).unwrap_or_default())?;
                break (status, length, filled - head - 4);
            }
        };
        while have < length {
            let read = self.stream.read(&mut self.buffer).await?;
            ensure!(read > 0, "the connection ended within an answer");
            have += read;
        }
        ensure!(have == length, "{have} bytes where {length} were announced");
        Ok((status, length))
    }

    /// The stream, for whatever comes after.
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

/// Status and `Content-Length` of a head without its last line end.
fn read_head(head: &[u8]) -> Result<(u16, usize)> {
    let head = std::str::from_utf8(head).context("a head that is no text")?;
    let status = head.get(9..12).and_then(|code| code.parse().ok()).context("no status line")?;
    let length = head.lines().skip(1).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    Ok((status, length.context("an answer without Content-Length")?))
}
