//! What is said through a tunnel to an upstream that speaks first, gives back what it gets, and says `bye` at the end.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Far longer than anything takes here: a deadline, not a measure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says something, ends its side, and hears the rest.
///
/// # Errors
/// The tunnel breaks, or does not end.
pub async fn converse(stream: impl AsyncRead + AsyncWrite, said: &[u8]) -> Result<Vec<u8>> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut heard = Vec::new();
    let saying = async {
        writer.write_all(said).await?;
        writer.shutdown().await
    };
    let (said, read) = tokio::join!(saying, timeout(PATIENCE, reader.read_to_end(&mut heard)));
    said?;
    read.context("the tunnel does not end")??;
    Ok(heard)
}

/// What is heard.
#[must_use]
pub fn expected(said: &[u8]) -> Vec<u8> {
    [b"hello\n", said, b"bye\n"].concat()
}
