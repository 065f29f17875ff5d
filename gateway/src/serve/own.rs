//! Requests to our own pages: their bodies are read whole, and what actix leaves empty is said in the caller's format.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_ENCODING;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use portcullis_config::limits::{OWN_BODY_BYTES, OWN_BODY_TIMEOUT};

use super::Exchange;
use super::answers::own_headers;
use crate::answer::Answer;
use crate::client_body::ClientBody;
use crate::forward::body::AnswerBody;
use crate::pages::bridge::Own;
use crate::pages::desk::UNAVAILABLE;

impl Exchange {
    /// One of our own pages.
    pub(super) async fn own(self, at_authenticate: bool, body: ClientBody) -> Response<AnswerBody> {
        if self.request.headers().contains_key(CONTENT_ENCODING) {
            let answer = Answer::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Encoded bodies are not accepted here.");
            return self.refuse(answer, "own", None);
        }
        let body = match tokio::time::timeout(OWN_BODY_TIMEOUT, collect(body)).await {
            Ok(Some(body)) => body,
            Ok(None) => {
                return self.refuse(Answer::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is too long."), "own", None);
            }
            Err(_) => {
                let answer = Answer::new(StatusCode::REQUEST_TIMEOUT, "The body took too long to come.");
                return self.refuse(answer, "own", None);
            }
        };
        let own = Own { request: Rc::clone(&self.request), request_id: Rc::clone(&self.request_id), at_authenticate };
        let response = self.worker.pages.answer(own, body).await;
        let response = match response.status() {
            StatusCode::NOT_FOUND if response.body().is_empty() => {
                self.rendered(Answer::new(StatusCode::NOT_FOUND, "There is nothing at this address."), &response)
            }
            StatusCode::METHOD_NOT_ALLOWED if response.body().is_empty() => self
                .rendered(Answer::new(StatusCode::METHOD_NOT_ALLOWED, "This address takes other methods."), &response),
            status if status.is_server_error() && response.body().is_empty() => self.rendered(UNAVAILABLE, &response),
            _ => response,
        };
        self.finish(own_headers(response), "own", None)
    }

    /// Our own rendering of a status that actix gave, with its headers (`Allow`).
    fn rendered(&self, answer: Answer, given: &Response<Bytes>) -> Response<Bytes> {
        let mut response = answer.render(self.format, &self.request_id);
        if let Some(allow) = given.headers().get(http::header::ALLOW) {
            response.headers_mut().insert(http::header::ALLOW, allow.clone());
        }
        response
    }
}

/// A request's whole body; `None` where it is too long or breaks off.
async fn collect(mut body: ClientBody) -> Option<Bytes> {
    let mut collected = BytesMut::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            if collected.len() + data.len() > OWN_BODY_BYTES {
                return None;
            }
            collected.extend_from_slice(&data);
        }
    }
    Some(collected.freeze())
}
