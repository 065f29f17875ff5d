//! The pages as templates, and the policy under which a browser may run them.

use std::sync::LazyLock;

use askama::Template;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};

/// The style of every page, inline: a page needs no second request.
pub const STYLE: &str = include_str!("../../templates/style.css");

/// Submits the only form of the page; without it the form's button does.
pub const SUBMIT: &str = "document.forms[0].submit()";

/// A refusal or a fault.
#[derive(Template)]
#[template(path = "refusal.html")]
pub struct Refused<'a> {
    /// The status.
    pub status: u16,
    /// Its name.
    pub title: &'a str,
    /// What happened, in a sentence or two.
    pub message: &'a str,
    /// Where it can go on.
    pub way: Option<Way>,
    /// Which criteria were not met, where that may be told.
    pub details: &'a [&'a str],
    /// The request.
    pub request_id: &'a str,
}

/// A link out of a refusal.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where to.
    pub href: String,
    /// What it says.
    pub label: &'static str,
}

/// Who the person is to us.
#[derive(Template)]
#[template(path = "user.html")]
pub struct User<'a> {
    /// The host that was asked.
    pub host: &'a str,
    /// The person, if signed in.
    pub person: Option<Person>,
    /// Where to sign in, if not.
    pub sign_in: Option<String>,
    /// The method that signs out: `post` where the request's origin is the proof, `get` where a question comes first.
    pub sign_out: &'static str,
}

/// What the user page shows: exactly this, and no token.
pub struct Person {
    /// The display name, or what else the person is known by.
    pub name: String,
    /// The user id.
    pub user: String,
    /// The e-mail address.
    pub email: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// The session.
    pub session: String,
    /// RFC 3339.
    pub issued_at: String,
    /// RFC 3339.
    pub expires_at: String,
}

impl Person {
    /// When the session began, as it is read.
    fn issued(&self) -> String {
        spoken(&self.issued_at)
    }

    /// When it ends, as it is read.
    fn expires(&self) -> String {
        spoken(&self.expires_at)
    }
}

/// A time of RFC 3339 in UTC, for people: `2026-11-24 15:35 UTC`.
fn spoken(time: &str) -> String {
    let to_the_minute = time.ends_with('Z').then(|| time.get(..16)?.split_once('T')).flatten();
    to_the_minute.map_or_else(|| time.to_owned(), |(day, hour)| format!("{day} {hour} UTC"))
}

/// Asks before a session is ended.
#[derive(Template)]
#[template(path = "sign_out.html")]
pub struct SignOut {
    /// Proof that the form is ours; empty where the request's origin is the proof.
    pub form: String,
}

/// The end of a session.
#[derive(Template)]
#[template(path = "signed_out.html")]
pub struct SignedOut;

/// The end of a sign-in, where a redirect cannot be.
#[derive(Template)]
#[template(path = "arrived.html")]
pub struct Arrived<'a> {
    /// Where the person wanted to go.
    pub onward: &'a str,
}

/// A hand-over that is too long for a URL.
#[derive(Template)]
#[template(path = "hand_over.html")]
pub struct HandOverForm<'a> {
    /// The host it goes to.
    pub host: &'a str,
    /// Where it is posted.
    pub action: &'a str,
    /// Its fields.
    pub fields: &'a [(String, String)],
}

/// Renders a page. It may style itself, run [`SUBMIT`], and post forms to https addresses; nothing else.
pub fn page(status: StatusCode, template: &impl Template) -> Response<Bytes> {
    // a template of ours that cannot be rendered leaves an empty page with the right status
    let body = template.render().unwrap_or_default();
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    response
}

/// The content security policy of every page (CSP Level 3). `form-action` names https as a whole, because browsers hold
/// the redirects after a form to it as well, and sign-out ends at the identity provider.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; style-src '{}'; script-src '{}'; img-src data:; form-action 'self' https: http://127.0.0.1:*; \
         base-uri 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SUBMIT)
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_for_people() {
        assert_eq!(spoken("2026-11-24T15:35:54.699Z"), "2026-11-24 15:35 UTC");
        for other in ["", "2026-11-24T15:35:54+01:00", "soon", "2026-11-24", "ääääääääääääZ"] {
            assert_eq!(spoken(other), other);
        }
    }

    #[test]
    fn nothing_a_page_shows_can_become_markup() {
        let markup = "<script>alert(1)</script>\"'&";
        let person = Person {
            name: markup.into(),
            user: markup.into(),
            email: Some(markup.into()),
            groups: vec![markup.into()],
            session: markup.into(),
            issued_at: markup.into(),
            expires_at: markup.into(),
        };
        let pages = [
            User { host: markup, person: Some(person), sign_in: None, sign_out: "post" }.render().unwrap(),
            User { host: markup, person: None, sign_in: Some(markup.into()), sign_out: "get" }.render().unwrap(),
            SignOut { form: markup.into() }.render().unwrap(),
            Arrived { onward: markup }.render().unwrap(),
            HandOverForm { host: markup, action: markup, fields: &[(markup.into(), markup.into())] }.render().unwrap(),
            Refused { status: 400, title: markup, message: markup, way: None, details: &[markup], request_id: markup }
                .render()
                .unwrap(),
        ];
        for page in pages {
            assert!(!page.contains("<script>alert"), "{page}");
            assert!(!page.contains("\"'&"), "{page}");
        }
    }

    #[test]
    fn a_page_runs_nothing_but_what_its_policy_names() {
        let response = page(StatusCode::OK, &SignedOut);
        let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"));
        assert!(!policy.contains("unsafe"));
        assert!(policy.contains("frame-ancestors 'none'"));
    }
}
