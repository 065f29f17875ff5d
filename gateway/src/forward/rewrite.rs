//! What a route makes of a request on its way out: path, `Host` and the headers it sets; and of an answer's headers.

use std::borrow::Cow;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_actors::request::hygiene::query_for_upstream;
use portcullis_actors::request::{Canonical, is_canonical_path, is_host, leads_above};
use portcullis_config::{HeaderRewrite, HeaderText, HostRewrite, PathMatcher, PathRewrite, Route, TemplatePart};

use super::outgoing::NotPassed;

/// Path and query for an upstream: the route's rewrite, then the upstream's own path before it.
///
/// # Errors
/// What the rewrite makes could be read as another path: what was whole before can come apart (`/app` taken from
/// `/app../x` leaves `../x`). Or it could lead out of the upstream's own path.
pub fn target(route: &Route, upstream_path: &str, request: &Canonical) -> Result<String, NotPassed> {
    let base = upstream_path.trim_end_matches('/');
    let path: Cow<'_, str> = match &route.rewrites.path {
        None => request.path().into(),
        Some(PathRewrite::Prefix(rewrite)) => with_prefix(route, request.path(), rewrite).into(),
        Some(PathRewrite::Regex(replacement)) => replacement.of(request.path()).into(),
    };
    if *path != *request.path() && !is_canonical_path(&path, request.reading()) {
        return Err(NotPassed::Path);
    }
    if !base.is_empty() && leads_above(&path) {
        return Err(NotPassed::Path);
    }
    let mut target = String::with_capacity(base.len() + path.len() + 16);
    target.push_str(base);
    target.push_str(&path);
    if let Some(query) = query_for_upstream(request.query()) {
        target.push('?');
        target.push_str(&query);
    }
    Ok(target)
}

/// A path with `rewrite` in place of what its route has matched of it.
pub fn with_prefix(route: &Route, path: &str, rewrite: &str) -> String {
    let rest = match &route.matcher {
        PathMatcher::Prefix(matched) | PathMatcher::Path(matched) => {
            path.strip_prefix(matched.as_str()).unwrap_or(path)
        }
        // it has matched the whole
        PathMatcher::Regex(_) => "",
    };
    match (rewrite.strip_suffix('/'), rest.strip_prefix('/')) {
        (Some(rewrite), Some(_)) => format!("{rewrite}{rest}"),
        _ => format!("{rewrite}{rest}"),
    }
}

/// The `Host` that an upstream is told. `headers` are those that go out.
///
/// # Errors
/// What the route makes of the request is no host.
pub fn host(route: &Route, upstream: &str, request: &Canonical, headers: &HeaderMap) -> Result<HeaderValue, NotPassed> {
    let told = |host: &str| HeaderValue::try_from(host).map_err(|_| NotPassed::Host);
    match &route.rewrites.host {
        HostRewrite::Upstream => told(upstream),
        HostRewrite::Preserve => told(request.authority()),
        HostRewrite::Fixed(host) => Ok(host.clone()),
        HostRewrite::Header(name) => {
            let mut values = headers.get_all(name).iter();
            match (values.next(), values.next()) {
                (None, _) => told(request.authority()),
                (Some(host), None) if is_host(host.as_bytes()) => Ok(host.clone()),
                (Some(_), _) => Err(NotPassed::Host),
            }
        }
        HostRewrite::Path(replacement) => {
            let host = replacement.of(request.path());
            if is_host(host.as_bytes()) { told(&host) } else { Err(NotPassed::Host) }
        }
    }
}

/// What the route sets, made for this request from what its client said (`headers`: what of it goes on) and from the
/// assertion.
pub fn set_headers(
    route: &Route,
    request: &Canonical,
    headers: &HeaderMap,
    assertion: Option<&HeaderValue>,
) -> Vec<(HeaderName, HeaderValue)> {
    let made = |text: &HeaderText| match text {
        HeaderText::Plain(value) => Some(value.clone()),
        HeaderText::Template(parts) => made_of(parts, request, headers, assertion),
    };
    let set = route.set_request_headers.iter();
    set.filter_map(|(name, text)| Some((name.clone(), made(text)?))).collect()
}

fn made_of(
    parts: &[TemplatePart],
    request: &Canonical,
    headers: &HeaderMap,
    assertion: Option<&HeaderValue>,
) -> Option<HeaderValue> {
    let mut made = Vec::new();
    for part in parts {
        match part {
            TemplatePart::Text(text) => made.extend_from_slice(text.as_bytes()),
            TemplatePart::Assertion => made.extend_from_slice(assertion.map_or(b"", HeaderValue::as_bytes)),
            TemplatePart::RequestHeader(name) if *name == HOST => {
                made.extend_from_slice(request.authority().as_bytes())
            }
            TemplatePart::RequestHeader(name) => {
                for (index, value) in headers.get_all(name).iter().enumerate() {
                    if index > 0 {
                        made.push(b',');
                    }
                    made.extend_from_slice(value.as_bytes());
                }
            }
        }
    }
    // made of header values and of texts that were looked at: always one itself
    HeaderValue::from_bytes(&made).ok()
}

/// Puts other beginnings in place of those that the route names.
pub fn response_headers(headers: &mut HeaderMap, rewrites: &[HeaderRewrite]) {
    for rewrite in rewrites {
        if let http::header::Entry::Occupied(mut entry) = headers.entry(&rewrite.header) {
            for value in entry.iter_mut() {
                let rest = value.as_bytes().strip_prefix(rewrite.prefix.as_bytes());
                let rewritten = rest.map(|rest| HeaderValue::from_bytes(&[rewrite.value.as_bytes(), rest].concat()));
                if let Some(Ok(rewritten)) = rewritten {
                    *value = rewritten;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::LOCATION;

    use super::*;

    #[test]
    fn every_value_that_begins_so_begins_otherwise() {
        let mut headers = HeaderMap::new();
        for value in ["http://internal:8080/a", "http://elsewhere/", "http://internal:8080"] {
            headers.append(LOCATION, HeaderValue::from_static(value));
        }
        let rewrite = |prefix: &str, value: &str| HeaderRewrite {
            header: LOCATION,
            prefix: prefix.to_owned(),
            value: value.to_owned(),
        };
        response_headers(
            &mut headers,
            &[rewrite("http://internal:8080", "https://app.example.com"), rewrite("x", "y")],
        );
        let values: Vec<_> = headers.get_all(LOCATION).iter().collect();
        assert_eq!(values, ["https://app.example.com/a", "http://elsewhere/", "https://app.example.com"]);
    }
}
