//! Our own pages are an actix-web `App`, called in-process on the worker that holds the connection.
//!
//! `http` 1 on our side and `http` 0.2 on actix's meet here and nowhere else. Handlers take scheme, host and peer from
//! the canonical request ([`Own`] in the extensions), never from actix's connection info.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use actix_http::{HttpMessage, Payload, Request};
use actix_service::{IntoServiceFactory, Service, ServiceFactory};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::{HttpRequest, HttpResponse, Responder};
use anyhow::{Result, anyhow};
use bytes::Bytes;
use http::Response;
use portcullis_actors::request::Canonical;

use super::{Desk, app};

/// The request as a handler sees it, in actix's request extensions.
#[derive(Clone)]
pub struct Own {
    /// What came in.
    pub request: Rc<Canonical>,
    /// Its id.
    pub request_id: Rc<str>,
    /// Whether the host is the authenticate component's.
    pub at_authenticate: bool,
}

type Answering = Pin<Box<dyn Future<Output = Result<ServiceResponse<BoxBody>, actix_web::Error>>>>;

/// The pages of one worker.
pub struct Pages {
    call: Box<dyn Fn(Request) -> Answering>,
}

impl Pages {
    /// Builds the `App` for this worker.
    ///
    /// # Errors
    /// actix-web refuses the routes.
    pub async fn build(desk: Rc<Desk>) -> Result<Self> {
        let factory = app(desk).into_factory();
        let service = factory.new_service(AppConfig::default()).await;
        let service = service.map_err(|()| anyhow!("the pages cannot be built"))?;
        Ok(Self { call: Box::new(move |request| Box::pin(service.call(request))) })
    }

    /// Answers a request to one of our own paths.
    pub async fn answer(&self, own: Own, body: Bytes) -> Response<Bytes> {
        let request = to_actix(own, body);
        let outcome = match (self.call)(request).await {
            Ok(response) => from_actix(response.into_parts().1).await,
            Err(error) => from_actix(error.error_response().map_into_boxed_body()).await,
        };
        outcome.unwrap_or_else(|| {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}

fn to_actix(own: Own, body: Bytes) -> Request {
    let mut request = Request::with_payload(Payload::from(body));
    let head = request.head_mut();
    let canonical = &own.request;
    if let Ok(method) = canonical.method().as_str().parse() {
        head.method = method;
    }
    let target =
        canonical.query().map_or_else(|| canonical.path().to_owned(), |query| format!("{}?{query}", canonical.path()));
    if let Ok(uri) = target.parse() {
        head.uri = uri;
    }
    for (name, value) in canonical.headers() {
        let name = actix_http::header::HeaderName::from_bytes(name.as_str().as_bytes());
        let value = actix_http::header::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            head.headers.append(name, value);
        }
    }
    request.extensions_mut().insert(own);
    request
}

async fn from_actix(response: HttpResponse<BoxBody>) -> Option<Response<Bytes>> {
    let status = http::StatusCode::from_u16(response.status().as_u16()).ok()?;
    let headers: Vec<_> = response
        .headers()
        .iter()
        .filter_map(|(name, value)| {
            let name = http::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            Some((name, http::HeaderValue::from_bytes(value.as_bytes()).ok()?))
        })
        .collect();
    let body = match response.into_body().try_into_bytes() {
        Ok(bytes) => bytes,
        Err(body) => actix_web::body::to_bytes(body).await.ok()?,
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    for (name, value) in headers {
        answer.headers_mut().append(name, value);
    }
    Some(answer)
}

/// An answer made by our own rendering, on its way through actix.
pub struct Reply(pub Response<Bytes>);

impl Responder for Reply {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse<BoxBody> {
        let (parts, body) = self.0.into_parts();
        let status = actix_web::http::StatusCode::from_u16(parts.status.as_u16());
        let mut response = HttpResponse::build(status.unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR));
        for (name, value) in &parts.headers {
            response.append_header((name.as_str(), value.as_bytes()));
        }
        response.body(body)
    }
}
