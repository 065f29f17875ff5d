//! Our own pages: what is served under `/.pomerium/`, `/.well-known/pomerium`, `/oauth2/callback` and beside them.
//!
//! Server-rendered, without a script that anything depends on. None of them needs a session to be asked for, except
//! `/.pomerium/user`; none shows a token.

mod authenticate_host;
mod back_channel;
pub mod bridge;
pub mod desk;
mod program;
mod route_host;
pub mod templates;
mod well_known;

use std::rc::Rc;

use actix_service::ServiceFactory;
use actix_web::body::BoxBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::guard::{Any, Get, Head};
use actix_web::{App, Error, Route, web};

pub use bridge::Pages;
pub use desk::Desk;
pub use templates::{STYLE, SUBMIT};

/// The pages as an application of one worker.
fn app(
    desk: Rc<Desk>,
) -> App<
    impl ServiceFactory<ServiceRequest, Config = (), Response = ServiceResponse<BoxBody>, Error = Error, InitError = ()>,
> {
    let at_authenticate = |context: &actix_web::guard::GuardContext<'_>| {
        context.req_data().get::<bridge::Own>().is_some_and(|own| own.at_authenticate)
    };
    App::new()
        .app_data(desk)
        .service(
            web::scope("")
                .guard(actix_web::guard::fn_guard(at_authenticate))
                .service(web::resource("/").route(show().to(authenticate_host::home)))
                .service(
                    web::resource("/oauth2/callback")
                        .route(web::get().to(authenticate_host::callback))
                        .route(web::post().to(authenticate_host::callback_form)),
                )
                .service(web::resource("/.pomerium/sign_in").route(web::get().to(authenticate_host::sign_in)))
                .service(
                    web::resource("/.pomerium/sign_out")
                        .route(web::get().to(authenticate_host::sign_out))
                        .route(web::post().to(authenticate_host::sign_out_form)),
                )
                .service(web::resource("/.pomerium/backchannel_logout").route(web::post().to(back_channel::logout)))
                .service(web::resource("/.pomerium/signed_out").route(show().to(authenticate_host::signed_out)))
                .service(web::resource(["/.pomerium", "/.pomerium/"]).route(show().to(authenticate_host::user_page)))
                .configure(everywhere),
        )
        .service(web::resource(["/.pomerium", "/.pomerium/"]).route(show().to(route_host::user_page)))
        .service(
            web::resource("/.pomerium/sign_out")
                .route(web::get().to(route_host::sign_out))
                .route(web::post().to(route_host::sign_out_form)),
        )
        .configure(everywhere)
}

/// The callback and the claims too: the authenticate host may have routes of its own, whose sign-in ends there.
fn everywhere(service: &mut web::ServiceConfig) {
    service
        .service(web::resource("/.pomerium/api/v1/login").route(web::route().to(program::login)))
        .service(web::resource("/.pomerium/user").route(show().to(route_host::user)))
        .service(
            web::resource(["/.pomerium/callback", "/.pomerium/callback/"])
                .route(web::get().to(route_host::callback))
                .route(web::post().to(route_host::callback_form)),
        )
        .service(
            web::resource(["/.well-known/pomerium", "/.well-known/pomerium/"]).route(show().to(well_known::metadata)),
        )
        .service(web::resource("/.well-known/pomerium/jwks.json").route(show().to(well_known::jwks)))
        .service(web::resource(["/ping", "/healthz"]).route(show().to(well_known::ping)))
        .service(web::resource("/robots.txt").route(show().to(well_known::robots)));
}

/// What only shows something: a `HEAD` of it is harmless.
fn show() -> Route {
    web::route().guard(Any(Get()).or(Head()))
}
