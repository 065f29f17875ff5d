//! Routes that need no upstream: the client is sent elsewhere, or answered here.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Response, StatusCode};
use portcullis_actors::authorize::Permit;
use portcullis_actors::request::hygiene::query_for_upstream;
use portcullis_actors::request::{Canonical, is_canonical_path};
use portcullis_config::{DirectResponse, Redirect, RedirectPath, Route};

use super::Exchange;
use super::answers::own_headers;
use crate::answer::Answer;
use crate::forward::body::AnswerBody;
use crate::forward::rewrite::with_prefix;

impl Exchange {
    /// Sends the client elsewhere. The permit is spent.
    pub(super) fn redirected(self, permit: Permit, redirect: &Redirect, route: Arc<Route>) -> Response<AnswerBody> {
        let location = location(permit.request(), redirect, &route).and_then(|url| HeaderValue::try_from(url).ok());
        let Some(location) = location else {
            let answer = Answer::new(StatusCode::BAD_REQUEST, "The path could be read in more than one way.");
            return self.refuse(answer, "ambiguous_path", Some(route));
        };
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = redirect.status;
        response.headers_mut().insert(LOCATION, location);
        self.instead(response, "redirect", route)
    }

    /// Answers with what the route says. The permit is spent.
    pub(super) fn answered(self, _: Permit, answer: &DirectResponse, route: Arc<Route>) -> Response<AnswerBody> {
        let mut response = Response::new(Bytes::from(answer.body.clone()));
        *response.status_mut() = answer.status;
        if !answer.body.is_empty() {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        }
        self.instead(response, "direct_response", route)
    }

    fn instead(self, mut response: Response<Bytes>, detail: &'static str, route: Arc<Route>) -> Response<AnswerBody> {
        for (name, value) in &route.set_response_headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        self.finish(own_headers(response), detail, Some(route))
    }
}

/// Where the client is sent: what it asked for, with what the redirect changes of it; no handle of ours goes along.
/// `None` where a path comes out that could be read in more than one way.
fn location(request: &Canonical, redirect: &Redirect, route: &Route) -> Option<String> {
    let asked = request.authority();
    let host = redirect.host.as_deref().unwrap_or_else(|| request.host());
    let kept = || asked.get(request.host().len()..).filter(|port| redirect.host.is_none() && !port.is_empty());
    let scheme = redirect.scheme.as_ref().map_or("https", |scheme| scheme.as_str());
    let default = if scheme == "https" { 443 } else { 80 };
    let port = match redirect.port {
        Some(port) if port == default => String::new(),
        Some(port) => format!(":{port}"),
        None => kept().unwrap_or_default().to_owned(),
    };
    let path = match &redirect.path {
        RedirectPath::Kept if request.path() == "*" => "/".to_owned(),
        RedirectPath::Kept => request.path().to_owned(),
        RedirectPath::Whole(whole) => whole.path().to_owned(),
        RedirectPath::Prefix(rewrite) => {
            Some(with_prefix(route, request.path(), rewrite)).filter(|path| is_canonical_path(path))?
        }
    };
    let own_query = match &redirect.path {
        RedirectPath::Whole(whole) => whole.query().map(str::to_owned),
        RedirectPath::Kept | RedirectPath::Prefix(_) => None,
    };
    let query = own_query.or_else(|| query_for_upstream(request.query()).filter(|_| !redirect.strip_query));
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Some(format!("{scheme}://{host}{port}{path}{query}"))
}
