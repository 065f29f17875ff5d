//! What a browser keeps for us while it is at the provider: sealed, in as many cookies as it takes, and bounded.

use std::time::Duration;

use portcullis_config::limits::{COOKIE_BYTES, KEEPSAKE_COOKIES, SIGN_IN_COOKIES, SIGN_IN_COOKIES_BYTES, SIGN_IN_LIFE};
use portcullis_events::Time;
use serde::{Deserialize, Serialize};
use url::Url;

use super::cookie::{SetCookie, state_prefix};
use super::program::Waiting;
use super::start::short;

/// A sign-in under way. Its URL may be long, so that it may need several cookies: a browser drops one that is longer
/// than 4096 bytes (RFC 6265bis §5.6), and the sign-in with it.
#[derive(Serialize, Deserialize)]
pub(super) struct Keepsake {
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) verifier: String,
    pub(super) redirect_uri: Url,
    #[serde(flatten)]
    pub(super) waiting: Waiting,
    pub(super) idp: String,
    pub(super) made_at: Time,
}

/// The cookies that keep `sealed` for the sign-in with this `state`; `None` where it is too long to be kept.
pub(super) fn kept(cookie_name: &str, state: &str, sealed: &str) -> Option<Vec<SetCookie>> {
    let parts = sealed.as_bytes().chunks(COOKIE_BYTES);
    if parts.len() > KEEPSAKE_COOKIES {
        return None;
    }
    let cookie = |(part, value)| {
        let value = String::from_utf8_lossy(value).into_owned();
        SetCookie::transient(name(cookie_name, state, part), value, SIGN_IN_LIFE)
    };
    Some(parts.enumerate().map(cookie).collect())
}

/// The end of the cookies that kept `sealed`.
pub(super) fn spent(cookie_name: &str, state: &str, sealed: &str) -> Vec<SetCookie> {
    let parts = 0..sealed.len().div_ceil(COOKIE_BYTES);
    parts.map(|part| gone(name(cookie_name, state, part))).collect()
}

/// The end of a state cookie.
pub(super) fn gone(name: String) -> SetCookie {
    SetCookie::transient(name, String::new(), Duration::ZERO)
}

/// What a browser's cookies keep for the sign-in with this `state`, still sealed.
pub fn found<'a>(cookie_name: &str, state: &str, cookies: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let prefix = state_prefix(cookie_name);
    let cookies: Vec<_> = cookies.filter(|(held, _)| held.starts_with(&prefix)).collect();
    let named = |part| {
        let name = name(cookie_name, state, part);
        cookies.iter().filter(move |(held, _)| *held == name).map(|(_, value)| *value)
    };
    let rest: String = (1..KEEPSAKE_COOKIES).map_while(|part| named(part).next()).collect();
    named(0).take(SIGN_IN_COOKIES).map(|first| format!("{first}{rest}")).collect()
}

/// The state cookies that a browser holds beyond what it may: the oldest, which it sends first (RFC 6265bis §5.8.3).
/// Sign-ins that nobody ended would otherwise grow the request until nothing takes it.
pub fn surplus<'a>(cookie_name: &str, cookies: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let prefix = state_prefix(cookie_name);
    let held: Vec<_> = cookies.filter(|(held, _)| held.starts_with(&prefix)).collect();
    let mut bytes = 0;
    let newest = held.iter().rev().take_while(|(name, value)| {
        bytes += name.len() + value.len();
        bytes <= SIGN_IN_COOKIES_BYTES
    });
    let oldest = held.len() - newest.count();
    held.into_iter().take(oldest).map(|(name, _)| name.to_owned()).collect()
}

fn name(cookie_name: &str, state: &str, part: usize) -> String {
    let first = format!("{}{}", state_prefix(cookie_name), short(state));
    if part == 0 { first } else { format!("{first}.{part}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(cookie: &SetCookie) -> (String, String) {
        let text = cookie.to_string();
        let (name, rest) = text.split_once('=').unwrap();
        (name.to_owned(), rest.split_once(';').unwrap().0.to_owned())
    }

    fn jar(cookies: &[SetCookie]) -> Vec<(String, String)> {
        cookies.iter().map(pair).collect()
    }

    fn sent(jar: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
        jar.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    #[test]
    fn what_is_too_long_for_one_cookie_is_kept_in_several_that_every_browser_takes() {
        let sealed: String = "0123456789".repeat(2000);
        let cookies = kept("_pomerium", "state", &sealed).unwrap();
        let jar = jar(&cookies);
        assert!(jar.len() > 1 && jar.iter().all(|(name, value)| name.len() + value.len() <= 4096));
        assert_eq!(found("_pomerium", "state", sent(&jar)).as_slice(), std::slice::from_ref(&sealed));
        assert_eq!(found("_pomerium", "other", sent(&jar)), [""; 0]);
        let ended: Vec<_> = spent("_pomerium", "state", &sealed).iter().map(|cookie| pair(cookie).0).collect();
        assert_eq!(ended, jar.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    }

    #[test]
    fn what_no_number_of_cookies_should_keep_is_refused() {
        assert!(kept("_pomerium", "state", &"x".repeat(COOKIE_BYTES * KEEPSAKE_COOKIES)).is_some());
        assert!(kept("_pomerium", "state", &"x".repeat(COOKIE_BYTES * KEEPSAKE_COOKIES + 1)).is_none());
    }

    #[test]
    fn the_oldest_sign_ins_give_way_when_a_browser_holds_too_many() {
        let value = "x".repeat(1000);
        let jar: Vec<_> = (0..100).map(|n| (format!("__Host-_pomerium_pkce_{n}"), value.clone())).collect();
        let surplus = surplus("_pomerium", sent(&jar));
        assert_eq!(surplus.first().unwrap(), "__Host-_pomerium_pkce_0");
        let left = &jar[surplus.len()..];
        assert!(left.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= SIGN_IN_COOKIES_BYTES);
        assert!(super::surplus("_pomerium", sent(left)).is_empty());
        assert!(super::surplus("other", sent(&jar)).is_empty());
    }
}
