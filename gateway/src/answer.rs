//! Answers that the gateway itself gives, in the caller's own format: a page, JSON, plain text or a gRPC status.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use portcullis_actors::authenticate::cookie::SetCookie;
use portcullis_actors::request::Canonical;
use serde_json::json;

use crate::pages::templates::{Refused, Way, page};

/// The format of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A page.
    Html,
    /// `{"error", "request_id"}`
    Json,
    /// One line of text.
    Plain,
    /// A gRPC status in headers (gRPC over HTTP/2, "Trailers-Only").
    Grpc,
    /// The same for gRPC-Web.
    GrpcWeb,
}

impl Format {
    /// What the caller asks for: gRPC by its content type, otherwise by the best match of `Accept` (RFC 9110 §12.5.1).
    pub fn of(headers: &HeaderMap) -> Self {
        if is_grpc(headers) {
            let web = |media: &HeaderValue| media.as_bytes().starts_with(b"application/grpc-web");
            return if headers.get(CONTENT_TYPE).is_some_and(web) { Self::GrpcWeb } else { Self::Grpc };
        }
        let quality = |media: &str| quality_of(headers, media);
        let (html, json, plain) = (quality("text/html"), quality("application/json"), quality("text/plain"));
        if html.explicit && html.weight >= json.weight && html.weight > 0 {
            Self::Html
        } else if json.explicit && json.weight >= plain.weight && json.weight > 0 {
            Self::Json
        } else {
            Self::Plain
        }
    }
}

/// Whether a redirect to the sign-in page makes sense to the caller: a browser that goes somewhere, or a client that
/// takes anything. Scripts in a page (`Sec-Fetch-Mode` other than `navigate`, `X-Requested-With`), gRPC, and whoever
/// prefers another format get 401.
pub fn is_navigation(request: &Canonical) -> bool {
    let headers = request.headers();
    if is_grpc(headers) || request.is_websocket() || headers.contains_key("x-requested-with") {
        return false;
    }
    if headers.get("sec-fetch-mode").is_some_and(|mode| mode != "navigate") {
        return false;
    }
    let html = quality_of(headers, "text/html").weight;
    html > 0
        && html >= quality_of(headers, "application/json").weight
        && html >= quality_of(headers, "text/plain").weight
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|media| media.as_bytes().starts_with(b"application/grpc"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quality {
    /// In thousandths.
    weight: u16,
    /// Named as such, not by a wildcard.
    explicit: bool,
}

/// How much a media type is wanted: by its own name, its family, or `*/*`, the most specific first.
fn quality_of(headers: &HeaderMap, media: &str) -> Quality {
    let family = media.split('/').next().unwrap_or_default();
    let mut best: Option<(u8, u16)> = None;
    let ranges = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    for range in ranges.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let specific = match name.split_once('/') {
            _ if name.eq_ignore_ascii_case(media) => 2,
            Some((of, "*")) if of.eq_ignore_ascii_case(family) => 1,
            Some(("*", "*")) => 0,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, thousandths);
        if best.is_none_or(|(before, _)| specific > before) {
            best = Some((specific, weight));
        }
    }
    best.map_or(Quality { weight: 0, explicit: false }, |(specific, weight)| Quality { weight, explicit: specific > 0 })
}

/// RFC 9110 §12.4.2: `0` to `1` with at most three digits; what is not that counts as not wanted.
fn thousandths(text: &str) -> u16 {
    match text.parse::<f32>() {
        Ok(weight) if (0.0..=1.0).contains(&weight) => {
            let digits = format!("{weight:.3}").replace('.', "");
            digits.parse().unwrap_or(0)
        }
        Ok(_) | Err(_) => 0,
    }
}

/// Something the gateway says instead of an upstream.
#[derive(Debug, Clone)]
pub struct Answer {
    status: StatusCode,
    message: &'static str,
    way: Option<Way>,
    /// When asking again makes sense, in seconds.
    again: Option<u64>,
    details: Vec<&'static str>,
}

impl Answer {
    /// An answer with a message that tells nothing of the inside.
    pub const fn new(status: StatusCode, message: &'static str) -> Self {
        let again = if status.as_u16() == 503 { Some(5) } else { None };
        Self { status, message, way: None, again, details: Vec::new() }
    }

    /// With a link to where it can go on.
    #[must_use]
    pub fn with_way(mut self, href: String, label: &'static str) -> Self {
        self.way = Some(Way { href, label });
        self
    }

    /// With the time after which asking again makes sense; whole seconds, rounded up (RFC 9110 §10.2.3).
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.again = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        self
    }

    /// With the reasons that a route shows (`show_error_details`).
    #[must_use]
    pub fn with_details(mut self, details: Vec<&'static str>) -> Self {
        self.details = details;
        self
    }

    /// Renders it.
    pub fn render(self, format: Format, request_id: &str) -> Response<Bytes> {
        let status = self.status;
        let mut response = match format {
            Format::Html => page(
                status,
                &Refused {
                    status: status.as_u16(),
                    title: status.canonical_reason().unwrap_or("Error"),
                    message: self.message,
                    way: self.way,
                    details: &self.details,
                    request_id,
                },
            ),
            Format::Json => {
                let mut body = json!({ "error": self.message, "request_id": request_id });
                if let (Some(body), false) = (body.as_object_mut(), self.details.is_empty()) {
                    body.insert("details".to_owned(), json!(self.details));
                }
                text(status, "application/json", body.to_string())
            }
            Format::Plain => {
                let details: String = self.details.iter().map(|detail| format!("- {detail}\n")).collect();
                text(status, "text/plain; charset=utf-8", format!("{status}: {}\n{details}", self.message))
            }
            Format::Grpc => grpc(status, self.message, "application/grpc"),
            Format::GrpcWeb => grpc(status, self.message, "application/grpc-web+proto"),
        };
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"portcullis\""));
        }
        if let Some(seconds) = self.again {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// A small answer of one media type.
pub fn text(status: StatusCode, media: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A redirect with cookies.
pub fn redirect<'a>(
    status: StatusCode,
    location: &str,
    cookies: impl Iterator<Item = &'a SetCookie>,
) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    set_cookies(&mut response, cookies);
    response
}

/// Adds cookies to an answer.
pub fn set_cookies<'a>(response: &mut Response<Bytes>, cookies: impl Iterator<Item = &'a SetCookie>) {
    for cookie in cookies {
        if let Ok(value) = HeaderValue::try_from(cookie.to_string()) {
            response.headers_mut().append(SET_COOKIE, value);
        }
    }
}

/// HTTP status to gRPC status, as the gRPC project maps them ("HTTP to gRPC Status Code Mapping"), but for 504: an upstream
/// that did not answer in time has exceeded a deadline.
fn grpc(status: StatusCode, message: &'static str, media: &'static str) -> Response<Bytes> {
    let code = match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 => "14",
        408 | 504 => "4",
        _ => "2",
    };
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    headers.insert("grpc-message", HeaderValue::from_static(message));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn every_caller_is_answered_in_the_format_it_asks_for() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(Format::of(&accept(browser)), Format::Html);
        assert_eq!(Format::of(&accept("application/json")), Format::Json);
        assert_eq!(Format::of(&accept("application/json, text/plain, */*")), Format::Json);
        assert_eq!(Format::of(&accept("text/html;q=0.1, application/json")), Format::Json);
        assert_eq!(Format::of(&accept("*/*")), Format::Plain);
        assert_eq!(Format::of(&accept("text/html;q=0")), Format::Plain);
        assert_eq!(Format::of(&accept(";;,q=,/")), Format::Plain);
        assert_eq!(Format::of(&HeaderMap::new()), Format::Plain);
    }

    #[test]
    fn grpc_callers_get_a_grpc_status() {
        let mut headers = accept("*/*");
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc+proto"));
        assert_eq!(Format::of(&headers), Format::Grpc);
        let response = Answer::new(StatusCode::FORBIDDEN, "no").render(Format::Grpc, "r");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "7");
        let code = |status| Answer::new(status, "no").render(Format::Grpc, "r").headers()["grpc-status"].clone();
        assert_eq!(code(StatusCode::UNAUTHORIZED), "16");
        assert_eq!(code(StatusCode::SERVICE_UNAVAILABLE), "14");
        assert_eq!(code(StatusCode::GATEWAY_TIMEOUT), "4");
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc-web-text"));
        assert_eq!(Format::of(&headers), Format::GrpcWeb);
        let response = Answer::new(StatusCode::FORBIDDEN, "no").render(Format::GrpcWeb, "r");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/grpc-web+proto");
    }
}
