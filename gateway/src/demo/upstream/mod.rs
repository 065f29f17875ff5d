//! The demo's upstream: it shows what reached it, and whether the assertion that came along is genuine.

mod assertion;
mod streams;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::{ACCEPT, CACHE_CONTROL, HOST, HeaderMap, X_CONTENT_TYPE_OPTIONS};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Result;
use askama::Template;
use futures_util::StreamExt;
use serde_json::{Map, Value, json};

use self::assertion::{Verdict, Verifier};
use super::configuration::{ROUTES, origin};
use super::page;

/// Starts the upstream on a thread of its own, behind the gateway at this address, whose certificate `ca` vouches for.
/// It stops with the handle.
///
/// # Errors
/// The system refuses the socket, or `ca` holds no certificate.
pub fn start(listener: TcpListener, gateway: SocketAddr, ca: &Path) -> Result<ServerHandle> {
    let tls = Arc::new(assertion::trusting(ca)?);
    let server = HttpServer::new(move || {
        let verifier = Rc::new(Verifier::new(gateway, Arc::clone(&tls)));
        App::new().configure(|service| routes(service, verifier, gateway.port()))
    });
    let server = server.workers(1).disable_signals().shutdown_timeout(0).listen(listener)?.run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(handle)
}

fn routes(service: &mut web::ServiceConfig, verifier: Rc<Verifier>, port: u16) {
    service
        .app_data(web::Data::new(verifier))
        .app_data(web::Data::new(GatewayPort(port)))
        .route("/sse", web::get().to(streams::events))
        .route("/ws", web::get().to(streams::socket))
        .route("/echo", web::route().to(streams::echo))
        .route("/slow", web::get().to(streams::slow))
        .default_service(web::route().to(show));
}

/// The port in the links to the other routes.
struct GatewayPort(u16);

/// What reached us.
struct Received {
    method: String,
    target: String,
    body_bytes: usize,
    /// By name, in lower case.
    headers: Vec<(String, String)>,
}

/// Everything else: the request, told back as a page or as JSON.
async fn show(
    verifier: web::Data<Rc<Verifier>>,
    port: web::Data<GatewayPort>,
    request: HttpRequest,
    body: web::Payload,
) -> actix_web::Result<HttpResponse> {
    let headers = request.headers();
    let host = first(headers, "x-forwarded-host").or_else(|| first(headers, HOST.as_str())).unwrap_or_default();
    let verdict = verifier.judge(first(headers, "x-pomerium-jwt-assertion"), host).await;
    let named = headers.iter().map(|(name, value)| (name.to_string(), shown(value.as_bytes())));
    let mut named: Vec<_> = named.collect();
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    let received = Received {
        method: request.method().to_string(),
        target: request.uri().to_string(),
        body_bytes: length(body).await?,
        headers: named,
    };
    if first(headers, ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/html")) {
        let shown = ReceivedPage::new(host, port.0, &received, &verdict);
        return page::html(StatusCode::OK, &shown, "'none'").map_err(actix_web::error::ErrorInternalServerError);
    }
    Ok(HttpResponse::Ok()
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .json(told(host, &received, &verdict)))
}

async fn length(mut body: web::Payload) -> actix_web::Result<usize> {
    let mut bytes = 0_usize;
    while let Some(part) = body.next().await {
        bytes = bytes.saturating_add(part?.len());
    }
    Ok(bytes)
}

fn first<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `headers` maps each name to its value, or to a list where there were several.
fn told(host: &str, received: &Received, verdict: &Verdict) -> Value {
    let mut headers: Map<String, Value> = Map::new();
    for (name, value) in &received.headers {
        match headers.get_mut(name) {
            None => drop(headers.insert(name.clone(), value.as_str().into())),
            Some(Value::Array(values)) => values.push(value.as_str().into()),
            Some(single) => *single = json!([single.take(), value]),
        }
    }
    let assertion = match verdict {
        Verdict::Absent => Value::Null,
        Verdict::Verified(claims) => json!({"verified": true, "claims": claims}),
        Verdict::Refused(reason) => json!({"verified": false, "reason": reason}),
    };
    json!({
        "host": host,
        "method": received.method,
        "target": received.target,
        "body_bytes": received.body_bytes,
        "headers": headers,
        "assertion": assertion,
    })
}

#[derive(Template)]
#[template(path = "demo/received.html")]
struct ReceivedPage<'a> {
    host: &'a str,
    person: Option<&'a str>,
    verdict: &'a Verdict,
    claims: Vec<(&'a str, String)>,
    received: &'a Received,
    elsewhere: Vec<(&'static str, String)>,
}

impl<'a> ReceivedPage<'a> {
    fn new(host: &'a str, port: u16, received: &'a Received, verdict: &'a Verdict) -> Self {
        let verified = match verdict {
            Verdict::Verified(claims) => Some(claims),
            Verdict::Absent | Verdict::Refused(_) => None,
        };
        let person = verified.and_then(|claims| {
            let texts = ["name", "email", "sub"].iter().filter_map(|claim| claims.get(*claim)?.as_str());
            texts.into_iter().find(|text| !text.is_empty())
        });
        let written = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let claims = verified.into_iter().flatten().map(|(name, value)| (name.as_str(), written(value))).collect();
        let elsewhere = ROUTES.iter().map(|route| (route.name, origin(&route.host(), port))).collect();
        Self { host, person, verdict, claims, received, elsewhere }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test;

    fn verifier() -> Rc<Verifier> {
        let dir = tempfile::tempdir().unwrap();
        let hosts = ["app.localhost".to_owned()];
        let made = crate::demo::certificate::ensure(dir.path(), &hosts, portcullis_actors::clock::now()).unwrap();
        let tls = assertion::trusting(&made.ca).unwrap();
        // nobody listens there
        Rc::new(Verifier::new("127.0.0.1:1".parse().unwrap(), Arc::new(tls)))
    }

    async fn asked(request: test::TestRequest) -> (String, String) {
        let app = test::init_service(App::new().configure(|service| routes(service, verifier(), 8443))).await;
        let response = test::call_service(&app, request.to_request()).await;
        let kind = response.headers().get("content-type").unwrap().to_str().unwrap().to_owned();
        (kind, String::from_utf8(test::read_body(response).await.to_vec()).unwrap())
    }

    #[actix_web::test]
    async fn what_arrived_is_told_as_json() {
        let request = test::TestRequest::post()
            .uri("/a/b?c=d")
            .append_header(("x-forwarded-host", "app.localhost:8443"))
            .append_header(("x-twice", "1"))
            .append_header(("x-twice", "2"))
            .set_payload("hello");
        let (kind, body) = asked(request).await;
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(kind, "application/json");
        assert_eq!(told["method"], "POST");
        assert_eq!(told["target"], "/a/b?c=d");
        assert_eq!(told["body_bytes"], 5);
        assert_eq!(told["host"], "app.localhost:8443");
        assert_eq!(told["headers"]["x-twice"], json!(["1", "2"]));
        assert_eq!(told["assertion"], Value::Null);
    }

    #[actix_web::test]
    async fn a_page_escapes_what_it_shows() {
        let request = test::TestRequest::get()
            .uri("/?q='%3Cb%3E'&c")
            .append_header(("accept", "text/html,*/*;q=0.8"))
            .append_header(("x-forwarded-host", "<script>alert(1)</script>"))
            .append_header(("x-evil", "<img src=x onerror=alert(1)>"));
        let (kind, body) = asked(request).await;
        assert_eq!(kind, "text/html; charset=utf-8");
        for raw in ["<script>", "<img", "q='"] {
            assert!(!body.contains(raw), "{raw}");
        }
        assert!(body.contains("onerror=alert(1)"));
    }

    #[actix_web::test]
    async fn an_assertion_that_cannot_be_checked_is_not_believed() {
        let request = |host: &'static str| {
            test::TestRequest::get()
                .append_header(("x-forwarded-host", host))
                // {"alg":"ES256","kid":"a"}
                .append_header(("x-pomerium-jwt-assertion", "eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.e30.AA"))
        };
        for (host, reason) in [("app.localhost", "out of reach"), ("elsewhere.example.com", "none of the demo's")] {
            let (_, body) = asked(request(host)).await;
            let told: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(told["assertion"]["verified"], false);
            assert!(told["assertion"]["reason"].as_str().unwrap().contains(reason), "{body}");
        }
    }
}
