//! The client's side of a WebSocket.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{SinkExt, StreamExt};
use http::header::{COOKIE, ORIGIN};
use http::{HeaderValue, StatusCode};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use url::Url;

use crate::client::Visitor;
use crate::connect::Stream;

/// How long a handshake or the next message may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// An open WebSocket.
pub struct WebSocket {
    stream: WebSocketStream<Stream>,
}

impl WebSocket {
    /// Opens one at an `https` URL with the visitor's cookies, as a page of the same origin would. An answer other
    /// than 101 is given as its status.
    ///
    /// # Errors
    /// No answer, or one that is no proper handshake.
    pub async fn open(visitor: &Visitor, url: &str) -> Result<Result<Self, StatusCode>> {
        let url = Url::parse(url)?;
        let stream = visitor.connect(&url).await?;
        let uri = url.as_str().replacen("http", "ws", 1);
        let mut request = uri.into_client_request()?;
        request.headers_mut().insert(ORIGIN, HeaderValue::from_str(&url.origin().ascii_serialization())?);
        let cookies = visitor.cookies().header(&url);
        if let Some(cookies) = cookies {
            request.headers_mut().insert(COOKIE, HeaderValue::from_str(&cookies)?);
        }
        match timeout(PATIENCE, client_async(request, stream)).await.context("no handshake")? {
            Ok((stream, _)) => Ok(Ok(Self { stream })),
            Err(Error::Http(answer)) => Ok(Err(answer.status())),
            Err(error) => Err(anyhow!(error)).context("no handshake"),
        }
    }

    /// Sends a text.
    ///
    /// # Errors
    /// It is closed.
    pub async fn say(&mut self, text: &str) -> Result<()> {
        Ok(self.stream.send(Message::text(text)).await?)
    }

    /// The next text.
    ///
    /// # Errors
    /// It was closed, or nothing came for too long.
    pub async fn hear(&mut self) -> Result<String> {
        loop {
            match timeout(PATIENCE, self.stream.next()).await.context("nothing came")? {
                Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
                Some(Ok(Message::Close(frame))) => bail!("closed: {frame:?}"),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => bail!("ended"),
            }
        }
    }

    /// Waits until the other side closes it, and says with which code; `None` where it was cut without a word.
    ///
    /// # Errors
    /// It has not within `deadline`.
    pub async fn close_code(&mut self, deadline: Duration) -> Result<Option<u16>> {
        let end = async {
            loop {
                match self.stream.next().await {
                    Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => return None,
                }
            }
        };
        timeout(deadline, end).await.with_context(|| format!("still open after {deadline:?}"))
    }

    /// Waits until the other side has closed it or cut the connection.
    ///
    /// # Errors
    /// It has not within `deadline`.
    pub async fn closed(&mut self, deadline: Duration) -> Result<()> {
        let end = async { while matches!(self.stream.next().await, Some(Ok(_))) {} };
        timeout(deadline, end).await.with_context(|| format!("still open after {deadline:?}"))
    }
}
