//! The health listener: alive, started, ready, each with its reason.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Result;
use portcullis_actors::authorize::check::LogState;
use portcullis_actors::clock;
use portcullis_actors::databroker::digest;
use portcullis_actors::databroker::progress::Standing;
use portcullis_actors::databroker::view::Views;
use portcullis_actors::remote::lookout::Ties;
use portcullis_config::Services;
use serde_json::json;

use crate::in_force::InForce;
use crate::roles;

/// What health is judged by.
pub struct Vitals {
    /// The views of this node.
    pub views: Arc<Views>,
    /// Whether the gateway's listener is up.
    pub listening: AtomicBool,
    /// Whether the node is stopping.
    pub draining: AtomicBool,
    /// What is in force.
    pub in_force: Arc<InForce>,
    /// The components of this process.
    pub services: Services,
    /// What is known of those in others.
    pub ties: Option<Ties>,
}

impl Vitals {
    fn standing(&self) -> Standing {
        self.views.progress.standing(clock::now())
    }

    fn started(&self) -> bool {
        self.listening.load(Ordering::Acquire)
            && !(self.follows_the_log()
                && matches!(self.standing(), Standing::Waiting { .. } | Standing::CatchingUp { .. }))
    }

    fn follows_the_log(&self) -> bool {
        self.services.authorize || self.services.databroker
    }

    fn ready(&self) -> bool {
        self.started() && self.obstacle().is_none()
    }

    /// Why requests should not be sent here; `None` where nothing is in the way.
    fn obstacle(&self) -> Option<String> {
        if self.draining.load(Ordering::Acquire) {
            return Some("draining".to_owned());
        }
        let standing = self.standing();
        if self.follows_the_log() && !standing.is_ready() {
            return Some(standing.to_string());
        }
        self.ties.as_ref().and_then(|ties| roles::missing(ties, self.services))
    }

    fn answer(&self, good: bool) -> HttpResponse {
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let progress = &self.views.progress;
        let log = LogState::of(progress, clock::now());
        let why = self.obstacle().unwrap_or_else(|| "ready".to_owned());
        let others = self.ties.as_ref().map(|ties| {
            let said = |wrong: Option<String>| wrong.unwrap_or_else(|| "answers".to_owned());
            ties.others().into_iter().map(|(other, wrong)| (other, said(wrong))).collect::<BTreeMap<_, _>>()
        });
        // nobody can sign in without it, and whoever has is served: no reason to take the node out
        let vault = self.views.vault_trouble();
        let mut body = json!({
            "status": match (good, &vault) {
                (false, _) => "unavailable",
                (true, Some(_)) => "degraded",
                (true, None) => "ok",
            },
            "why": why,
            "applied": log.applied,
            "head": progress.head(),
            "lag": log.lag,
            "staleness": log.staleness,
            "epoch": progress.epoch().map(|epoch| epoch.to_string()),
            "sessions": self.views.sessions(),
            "revision": self.in_force.now().revision.as_str(),
            "last-reload": if self.views.metrics.last_reload_good.get() == 0 { "refused" } else { "ok" },
            "services": self.services.names().collect::<Vec<_>>(),
        });
        if let Some(body) = body.as_object_mut() {
            // the vault is databroker's
            if self.services.databroker {
                body.insert("vault".to_owned(), json!(vault.as_deref().map_or("ok", String::as_str)));
            }
            // where every component is here, nothing else is asked
            if let Some(others) = others {
                body.insert("depends-on".to_owned(), json!(others));
            }
        }
        HttpResponse::build(status).insert_header((CACHE_CONTROL, "no-store")).json(body)
    }
}

/// What the views come to, for whoever compares nodes: it takes a look at every session, so it is for this machine alone
/// and one look at a time.
async fn views(request: HttpRequest, vitals: web::Data<Vitals>, busy: web::Data<AtomicBool>) -> HttpResponse {
    if !is_from_here(&request) {
        return HttpResponse::NotFound().finish();
    }
    if busy.swap(true, Ordering::AcqRel) {
        return HttpResponse::TooManyRequests().finish();
    }
    let looked = web::block(move || digest::of(&vitals.views)).await;
    busy.store(false, Ordering::Release);
    match looked {
        Ok(Some(digest)) => HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(json!({
            "applied": digest.applied,
            "sessions": digest.sessions,
            "sha256": digest.sha256,
        })),
        // sessions come and go faster than they can be looked at
        Ok(None) | Err(_) => HttpResponse::ServiceUnavailable().finish(),
    }
}

fn is_from_here(request: &HttpRequest) -> bool {
    request.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// Starts the health listener.
///
/// # Errors
/// The system refuses the socket.
pub fn start(listener: TcpListener, vitals: Arc<Vitals>) -> Result<ServerHandle> {
    let vitals = web::Data::from(vitals);
    let busy = web::Data::new(AtomicBool::new(false));
    let server = HttpServer::new(move || {
        App::new()
            .app_data(vitals.clone())
            .app_data(busy.clone())
            .route("/views", web::get().to(views))
            .route("/healthz", web::get().to(|vitals: web::Data<Vitals>| async move { vitals.answer(true) }))
            .route(
                "/startupz",
                web::get().to(|vitals: web::Data<Vitals>| async move { vitals.answer(vitals.started()) }),
            )
            .route("/readyz", web::get().to(|vitals: web::Data<Vitals>| async move { vitals.answer(vitals.ready()) }))
            .route("/status", web::get().to(|vitals: web::Data<Vitals>| async move { vitals.answer(vitals.ready()) }))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(0)
    .listen(listener)?
    .run();
    let handle = server.handle();
    actix_rt::spawn(server);
    Ok(handle)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn what_the_views_come_to_is_told_on_this_machine_alone() {
        let from =
            |peer: &str| is_from_here(&TestRequest::default().peer_addr(peer.parse().unwrap()).to_http_request());
        assert!(from("127.0.0.1:40000") && from("[::1]:40000") && from("[::ffff:127.0.0.1]:40000"));
        assert!(!from("10.0.0.7:40000") && !from("[2001:db8::1]:40000") && !from("[::ffff:10.0.0.7]:40000"));
        assert!(!is_from_here(&TestRequest::default().to_http_request()));
    }
}
