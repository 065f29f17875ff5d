//! The demo's pages: templates, and the headers that go with all of them.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use anyhow::Result;
use askama::Template;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The style of every page, written into it.
pub const STYLE: &str = include_str!("../../templates/demo/style.css");

/// The provider asks for name and password.
#[derive(Template)]
#[template(path = "demo/sign_in.html")]
pub struct SignInPage<'a> {
    /// The sealed request.
    pub form: &'a str,
    /// The name that did not work, on a second attempt.
    pub tried: Option<&'a str>,
}

/// The provider asks whether to sign out.
#[derive(Template)]
#[template(path = "demo/sign_out.html")]
pub struct SignOutPage<'a> {
    /// The sealed request.
    pub form: &'a str,
}

/// The provider says one thing.
#[derive(Template)]
#[template(path = "demo/message.html")]
pub struct MessagePage<'a> {
    /// What it is about.
    pub title: &'a str,
    /// What there is to say.
    pub text: &'a str,
}

/// A page as an answer. It runs no script, loads nothing, is framed by nobody; its forms lead to `form_targets` (a
/// CSP source list) and nowhere else.
///
/// # Errors
/// The template cannot be rendered.
pub fn html(status: StatusCode, page: &impl Template, form_targets: &str) -> Result<HttpResponse> {
    let style = STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{style}'; img-src data:; connect-src 'self'; \
         form-action {form_targets}; frame-ancestors 'none'; base-uri 'none'"
    );
    Ok(HttpResponse::build(status)
        .insert_header((CONTENT_SECURITY_POLICY, policy))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((X_FRAME_OPTIONS, "DENY"))
        // with no referrer at all a browser would hide a form's origin from us as well
        .insert_header((REFERRER_POLICY, "same-origin"))
        .insert_header((CACHE_CONTROL, "no-store"))
        .content_type("text/html; charset=utf-8")
        .body(page.render()?))
}
