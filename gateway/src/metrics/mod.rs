//! The metrics listener: Prometheus' text format (OpenMetrics 1.0) at `/metrics`, on an address of its own.

mod render;
pub mod tally;

use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::ServerHandle;
use actix_web::http::header::{AUTHORIZATION, CACHE_CONTROL, WWW_AUTHENTICATE};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Result;
use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_config::Secret;

pub use render::Measures;

/// What the listener answers from.
struct Office {
    measures: Measures,
    /// `user:password`; without it everybody may read.
    credentials: Option<Secret>,
}

/// Starts the listener.
///
/// # Errors
/// The system refuses the socket.
pub fn start(listener: TcpListener, measures: Measures, credentials: Option<Secret>) -> Result<ServerHandle> {
    let office = web::Data::from(Arc::new(Office { measures, credentials }));
    let server = HttpServer::new(move || App::new().app_data(office.clone()).route("/metrics", web::get().to(metrics)))
        .workers(1)
        .disable_signals()
        .shutdown_timeout(0)
        .listen(listener)?
        .run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(handle)
}

async fn metrics(request: HttpRequest, office: web::Data<Office>) -> HttpResponse {
    let authorization = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    if !office.credentials.as_ref().is_none_or(|wanted| is_authorized(wanted, authorization)) {
        return HttpResponse::Unauthorized()
            .insert_header((WWW_AUTHENTICATE, "Basic realm=\"metrics\", charset=\"UTF-8\""))
            .insert_header((CACHE_CONTROL, "no-store"))
            .finish();
    }
    match office.measures.text() {
        Ok(text) => HttpResponse::Ok()
            .content_type("application/openmetrics-text; version=1.0.0; charset=utf-8")
            .insert_header((CACHE_CONTROL, "no-store"))
            .body(text),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

/// RFC 7617 §2.
fn is_authorized(wanted: &Secret, authorization: Option<&[u8]>) -> bool {
    let Some((scheme, given)) = authorization.and_then(|value| value.split_at_checked(6)) else { return false };
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return false;
    }
    STANDARD.decode(given.trim_ascii()).is_ok_and(|given| verify_slices_are_equal(&given, wanted.expose()).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_credentials_open_the_metrics() {
        let wanted = Secret::new(*b"scraper:hunter2");
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert!(is_authorized(&wanted, Some(basic("scraper:hunter2").as_bytes())));
        assert!(is_authorized(&wanted, Some(basic("scraper:hunter2").replacen("Basic", "bASIC", 1).as_bytes())));
        for wrong in [basic("scraper:hunter"), basic("scraper:hunter22"), basic(""), "Basic".into(), "Bearer x".into()]
        {
            assert!(!is_authorized(&wanted, Some(wrong.as_bytes())), "{wrong}");
        }
        assert!(!is_authorized(&wanted, None));
    }
}
