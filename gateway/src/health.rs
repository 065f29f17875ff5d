//! The health listener: alive, started, ready, each with its reason.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::http::header::CACHE_CONTROL;
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Result;
use portcullis_actors::clock;
use portcullis_actors::databroker::progress::Standing;
use portcullis_actors::databroker::view::Views;
use serde_json::json;

use crate::in_force::InForce;

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
}

impl Vitals {
    fn standing(&self) -> Standing {
        self.views.progress.standing(clock::now())
    }

    fn started(&self) -> bool {
        self.listening.load(Ordering::Acquire)
            && !matches!(self.standing(), Standing::Waiting { .. } | Standing::CatchingUp { .. })
    }

    fn ready(&self) -> bool {
        self.started() && !self.draining.load(Ordering::Acquire) && self.standing().is_ready()
    }

    fn answer(&self, good: bool) -> HttpResponse {
        let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let progress = &self.views.progress;
        let why =
            if self.draining.load(Ordering::Acquire) { "draining".to_owned() } else { self.standing().to_string() };
        // nobody can sign in without it, and whoever has is served: no reason to take the node out
        let vault = self.views.vault_trouble();
        HttpResponse::build(status).insert_header((CACHE_CONTROL, "no-store")).json(json!({
            "status": match (good, &vault) {
                (false, _) => "unavailable",
                (true, Some(_)) => "degraded",
                (true, None) => "ok",
            },
            "why": why,
            "vault": vault.as_deref().map_or("ok", String::as_str),
            "applied": progress.applied(),
            "head": progress.head(),
            "lag": progress.lag(),
            "staleness": progress.staleness(clock::now()).map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            "epoch": progress.epoch().map(|epoch| epoch.to_string()),
            "sessions": self.views.sessions(),
            "revision": self.in_force.now().revision.as_str(),
            "last-reload": if self.views.metrics.last_reload_good.get() == 0 { "refused" } else { "ok" },
        }))
    }
}

/// Starts the health listener.
///
/// # Errors
/// The system refuses the socket.
pub fn start(listener: TcpListener, vitals: Arc<Vitals>) -> Result<ServerHandle> {
    let vitals = web::Data::from(vitals);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(vitals.clone())
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
