//! The body of a client's request, whichever version of HTTP it comes by.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use crate::forward::body::BodyError;
use crate::h1;
use crate::h1::Duplex;

/// A body that is coming.
pub enum ClientBody {
    /// By HTTP/1.1: framed by us.
    H1(h1::Body),
    /// By HTTP/2.
    H2(Incoming),
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::H1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
            Self::H2(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::from),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::H1(body) => body.is_end_stream(),
            Self::H2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(body) => body.size_hint(),
            Self::H2(body) => body.size_hint(),
        }
    }
}

/// The way from a request to what its connection or stream becomes once it is HTTP no longer.
pub enum Switch {
    /// A connection of HTTP/1.1.
    H1(h1::Switch),
    /// A stream of HTTP/2.
    H2(OnUpgrade),
}

/// A client's half that is not there: the connection has ended, or the answer said no.
#[derive(Debug, thiserror::Error)]
#[error("the connection did not switch")]
pub struct NotSwitched;

impl Switch {
    /// That of a request.
    pub fn of(request: &mut Request<ClientBody>) -> Self {
        match request.body() {
            ClientBody::H1(body) => Self::H1(body.switch()),
            ClientBody::H2(_) => Self::H2(hyper::upgrade::on(request)),
        }
    }

    /// Takes over; to be called before the request is answered. The future ends once the answer has been written.
    pub fn take_over(self) -> impl Future<Output = Result<Box<dyn Duplex>, NotSwitched>> {
        let coming = match self {
            Self::H1(switch) => Ok(switch.take_over()),
            Self::H2(upgrade) => Err(upgrade),
        };
        async move {
            let half: Box<dyn Duplex> = match coming {
                Ok(coming) => Box::new(coming.ok_or(NotSwitched)?.await.map_err(|_| NotSwitched)?),
                Err(upgrade) => Box::new(TokioIo::new(upgrade.await.map_err(|_| NotSwitched)?)),
            };
            Ok(half)
        }
    }
}
