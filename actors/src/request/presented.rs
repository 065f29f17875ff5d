//! The handle that a request presents, from the places where Pomerium looks for one, in its order.

use http::HeaderMap;
use http::header::AUTHORIZATION;
use url::form_urlencoded;

use super::{Canonical, cookies};

/// The header that carries nothing but a handle.
pub(super) const HEADER: &str = "x-pomerium-authorization";
/// The query parameter that carries one.
pub(super) const PARAMETER: &str = "pomerium_session";

/// Where a handle was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The session cookie.
    Cookie,
    /// `X-Pomerium-Authorization` or `Authorization`.
    Header,
    /// The parameter `pomerium_session`.
    Query,
}

/// A handle, not opened yet. It has no `Debug`: it is a credential.
pub struct Presented {
    /// As it was presented.
    pub handle: String,
    /// Where.
    pub source: Source,
}

impl Presented {
    /// The first that is there: the cookie `cookie_name`, `X-Pomerium-Authorization`, `Authorization: Pomerium …`,
    /// `Authorization: Bearer Pomerium-…`, the parameter `pomerium_session`. Where a place has two, neither counts.
    #[must_use]
    pub fn of(request: &Canonical, cookie_name: &str) -> Option<Self> {
        let headers = request.headers();
        let present = |handle: &&str| !handle.is_empty();
        if let Some(handle) = cookies::single(headers, cookie_name).filter(present) {
            return Some(Self { handle: handle.to_owned(), source: Source::Cookie });
        }
        let header = single(headers, HEADER).or_else(|| handle_in(single(headers, AUTHORIZATION.as_str())?));
        if let Some(handle) = header.filter(present) {
            return Some(Self { handle: handle.to_owned(), source: Source::Header });
        }
        let mut values = form_urlencoded::parse(request.query()?.as_bytes()).filter(|(name, _)| name == PARAMETER);
        match (values.next(), values.next()) {
            (Some((_, handle)), None) if !handle.is_empty() => {
                Some(Self { handle: handle.into_owned(), source: Source::Query })
            }
            (_, _) => None,
        }
    }
}

/// The handle in a value of `Authorization`: of scheme `Pomerium`, or of scheme `Bearer` with `Pomerium-` before it.
pub(super) fn handle_in(authorization: &str) -> Option<&str> {
    let authorization = authorization.trim_ascii();
    let (scheme, rest) = authorization.split_once([' ', '\t']).unwrap_or((authorization, ""));
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case("pomerium") {
        return Some(rest);
    }
    let (mark, handle) = rest.split_at_checked("Pomerium-".len())?;
    (scheme.eq_ignore_ascii_case("bearer") && mark.eq_ignore_ascii_case("Pomerium-")).then_some(handle)
}

fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        (_, _) => None,
    }
}
