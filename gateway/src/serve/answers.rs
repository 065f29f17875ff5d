//! Answers on their way out: an upstream's, dressed; our own, rendered; each with its access line.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use portcullis_config::Route;

use super::Exchange;
use crate::answer::Answer;
use crate::forward::body::AnswerBody;
use crate::forward::rewrite;
use crate::telemetry::{AccessRecord, RequestLine};
use crate::worker::Worker;

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

impl Exchange {
    /// The upstream's answer, with the headers that the configuration and the gateway add.
    pub(super) fn dressed(&self, mut response: Response<AnswerBody>, route: &Route) -> Response<AnswerBody> {
        let cookie = &self.worker.desk.cookie().name;
        let headers = response.headers_mut();
        if headers.contains_key(SET_COOKIE) {
            without_our_cookies(headers, cookie);
        }
        rewrite::response_headers(headers, &route.rewrites.response_headers);
        let added = &self.worker.blueprint.config.set_response_headers;
        for (name, value) in added.iter().chain(&route.set_response_headers) {
            headers.insert(name.clone(), value.clone());
        }
        response
    }

    /// A refusal or a fault, in the caller's format.
    pub(super) fn refuse(
        self,
        answer: Answer,
        detail: &'static str,
        route: Option<Arc<Route>>,
    ) -> Response<AnswerBody> {
        let response = own_headers(answer.render(self.format, &self.request_id));
        self.finish(response, detail, route)
    }

    /// An answer of our own, with the headers that the configuration adds.
    pub(super) fn finish(
        self,
        response: Response<Bytes>,
        detail: &'static str,
        route: Option<Arc<Route>>,
    ) -> Response<AnswerBody> {
        let mut response = response;
        for (name, value) in &self.worker.blueprint.config.set_response_headers {
            response.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        self.recorded(response.map(AnswerBody::own), detail, route)
    }

    /// An answer with its access line.
    pub(super) fn recorded(
        self,
        mut response: Response<AnswerBody>,
        detail: &'static str,
        route: Option<Arc<Route>>,
    ) -> Response<AnswerBody> {
        if let Ok(id) = HeaderValue::try_from(&*self.request_id) {
            response.headers_mut().insert(X_REQUEST_ID, id);
        }
        if self.switching && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let mut record = self.record;
        record.answered(response.status().as_u16(), detail, route);
        response.map(|body| body.recorded(record))
    }
}

/// What every answer of our own says: keep it nowhere, tell nobody where you came from, believe its type.
pub(super) fn own_headers(mut response: Response<Bytes>) -> Response<Bytes> {
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.entry(REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    headers.entry(X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    response
}

/// An answer to a request that never became an exchange.
pub(super) fn finish(
    worker: &Rc<Worker>,
    response: Response<Bytes>,
    began: Instant,
    line: RequestLine,
    detail: &'static str,
) -> Response<AnswerBody> {
    let mut response = response;
    if let Ok(id) = HeaderValue::try_from(&*line.request_id) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    let mut record = AccessRecord::new(Rc::clone(&worker.log), began, line);
    record.answered(response.status().as_u16(), detail, None);
    response.map(|body| AnswerBody::own(body).recorded(record))
}

/// An upstream sets no cookie that is ours: it could sign its visitors in as somebody else, or out.
fn without_our_cookies(headers: &mut HeaderMap, cookie: &str) {
    let ours = |value: &HeaderValue| {
        // a cookie without a name comes back as its value alone (RFC 6265bis §5.7): `=name=value` is `name=value`
        let blank = |byte: &u8| *byte == b'=' || byte.is_ascii_whitespace();
        let mut words = value.as_bytes().split(|byte| *byte == b'=').filter(|word| !word.iter().all(blank));
        let name = words.next().unwrap_or_default().trim_ascii();
        let bare = name.strip_prefix(b"__Host-").unwrap_or(name);
        bare == cookie.as_bytes()
            || bare.strip_prefix(cookie.as_bytes()).is_some_and(|rest| {
                [b"_authenticate".as_slice(), b"_start_", b"_pkce_", b"_csrf"].iter().any(|ours| rest.starts_with(ours))
            })
    };
    let kept: Vec<_> = headers.get_all(SET_COOKIE).iter().filter(|value| !ours(value)).cloned().collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_cannot_set_our_cookies() {
        let mut headers = HeaderMap::new();
        for value in ["_pomerium=x; Path=/", "a=b", "_pomerium_authenticate=x", " _pomerium =x", "_pomerium_theme=dark"]
        {
            headers.append(SET_COOKIE, HeaderValue::from_static(value));
        }
        for nameless in ["=_pomerium=x", " = _pomerium=x", "=_pomerium_authenticate=x; Path=/"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(nameless));
        }
        without_our_cookies(&mut headers, "_pomerium");
        let kept: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(kept, ["a=b", "_pomerium_theme=dark"]);
    }
}
