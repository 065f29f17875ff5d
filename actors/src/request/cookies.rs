//! The cookies of a request (RFC 6265bis §5.6.3): read as they stand, none made up from two.

use http::HeaderMap;
use http::header::COOKIE;

/// Every cookie of every `Cookie` line, name and value without surrounding white space.
pub fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter();
    lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).filter_map(pair)
}

/// The value of the cookie of this name; `None` where there is none or where it stands twice, because one of them may
/// have been set by a neighbour.
#[must_use]
pub fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = pairs(headers).filter(|(found, _)| *found == name).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value),
        (_, _) => None,
    }
}

/// One `name=value`; `None` where it is not text or has no name.
fn pair(bytes: &[u8]) -> Option<(&str, &str)> {
    let (name, value) = std::str::from_utf8(bytes).ok()?.split_once('=')?;
    let name = name.trim_ascii();
    (!name.is_empty()).then(|| (name, value.trim_ascii()))
}
