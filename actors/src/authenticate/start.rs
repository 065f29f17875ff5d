//! The beginning of a sign-in at the proxy, and its end there: a callback belongs to the browser that set out.

use aws_lc_rs::{constant_time, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_config::limits::{SIGN_IN_COOKIES, SIGN_IN_LIFE};
use portcullis_events::Time;
use url::Url;

use super::cookie::{SetCookie, start_prefix};
use super::program::is_for_program;
use crate::keyring::signed_url::{SignatureError, UrlSigner};
use crate::keyring::{KeyError, random};
use crate::request::SIGN_IN_PATH;

/// A way to the sign-in page: where to, and the cookie that remembers this browser.
pub struct Departure {
    /// The signed URL at authenticate.
    pub url: Url,
    /// The start cookie, for as long as a sign-in that begins now may take.
    pub cookie: SetCookie,
}

/// Sends a browser to sign in and come back to `redirect_uri`. A start cookie it already holds is used again, so that
/// several tabs at once do not undo each other, and is set again, so that the last of them has its full time.
///
/// # Errors
/// [`KeyError`] where the operating system gives no randomness.
pub fn depart(
    authenticate: &Url,
    redirect_uri: &str,
    cookie_name: &str,
    held: Option<&str>,
    signer: &UrlSigner,
    now: Time,
) -> Result<Departure, KeyError> {
    let start = match held.filter(|held| is_start(held)) {
        Some(held) => held.to_owned(),
        None => URL_SAFE_NO_PAD.encode(random::<32>()?),
    };
    let name = format!("{}{}", start_prefix(cookie_name), short(&start));
    let mut url = authenticate.clone();
    url.set_path(SIGN_IN_PATH);
    url.query_pairs_mut()
        .clear()
        .append_pair("pomerium_redirect_uri", redirect_uri)
        .append_pair("pomerium_start", &hash(&start));
    Ok(Departure { url: signer.sign(url, now), cookie: SetCookie::transient(name, start, SIGN_IN_LIFE) })
}

/// What a callback at a route host brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Where the browser wanted to go, or where a program waits for its handle.
    pub redirect_uri: Url,
    /// Whether a program waits there: the callback is nobody's cookie then, and says nothing of which browser it is.
    pub for_program: bool,
    /// The sealed hand-over for databroker.
    pub hand_over: String,
}

/// Why a callback is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArrivalError {
    /// The URL is forged or too old.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// A parameter is missing, doubled, or leads to another host.
    #[error("the callback is malformed")]
    Malformed,
    /// Another browser set out on this sign-in.
    #[error("the sign-in was begun in another browser")]
    OtherBrowser,
}

/// Accepts a callback: `url` as it arrived (a form's fields as its query), `starts` the browser's start cookies.
///
/// # Errors
/// [`ArrivalError`].
pub fn arrive<'a>(
    url: &str,
    starts: impl Iterator<Item = &'a str>,
    signer: &UrlSigner,
    now: Time,
) -> Result<Arrival, ArrivalError> {
    signer.verify(url, now)?;
    let url = Url::parse(url).map_err(|_| ArrivalError::Malformed)?;
    let for_program = is_for_program(&url)?;
    if !for_program {
        let wanted = parameter(&url, "pomerium_start")?;
        let mine = starts.take(SIGN_IN_COOKIES).any(|start| {
            is_start(start) && constant_time::verify_slices_are_equal(hash(start).as_bytes(), wanted.as_bytes()).is_ok()
        });
        if !mine {
            return Err(ArrivalError::OtherBrowser);
        }
    }
    let redirect_uri = parameter(&url, "pomerium_redirect_uri")?;
    let redirect_uri = Url::parse(&redirect_uri).map_err(|_| ArrivalError::Malformed)?;
    if !for_program && redirect_uri.origin() != url.origin() {
        return Err(ArrivalError::Malformed);
    }
    Ok(Arrival { redirect_uri, for_program, hand_over: parameter(&url, "pomerium_session_encrypted")? })
}

/// The value of a parameter that must stand exactly once.
pub(super) fn parameter(url: &Url, name: &str) -> Result<String, ArrivalError> {
    let mut values = url.query_pairs().filter(|(key, _)| key == name);
    match (values.next(), values.next()) {
        (Some((_, value)), None) => Ok(value.into_owned()),
        (_, _) => Err(ArrivalError::Malformed),
    }
}

fn is_start(text: &str) -> bool {
    text.len() == 43 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

/// Base64url of the SHA-256 of a text.
pub(super) fn hash(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

/// A short name for a secret text that tells nothing of it.
pub(super) fn short(text: &str) -> String {
    hash(text).chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use portcullis_config::Secret;

    use super::*;
    use crate::keyring::{Keyring, Purpose};

    const NOW: Time = Time::from_secs(1_000_000);

    fn signer() -> UrlSigner {
        Keyring::new(vec![Secret::new(vec![1; 32])]).unwrap().signer(Purpose::SignedUrl).unwrap()
    }

    fn callback(start: &str, redirect_uri: &str) -> String {
        let mut url = Url::parse("https://app.localhost/.pomerium/callback/").unwrap();
        url.query_pairs_mut()
            .append_pair("pomerium_redirect_uri", redirect_uri)
            .append_pair("pomerium_start", &hash(start))
            .append_pair("pomerium_session_encrypted", "sealed");
        signer().sign(url, NOW).to_string()
    }

    #[test]
    fn a_callback_in_another_browser_is_refused() {
        let (mine, theirs) = ("m".repeat(43), "t".repeat(43));
        let url = callback(&mine, "https://app.localhost/x?y");
        let arrival = arrive(&url, [theirs.as_str(), mine.as_str()].into_iter(), &signer(), NOW).unwrap();
        assert_eq!(arrival.redirect_uri.as_str(), "https://app.localhost/x?y");
        assert_eq!(arrive(&url, [theirs.as_str()].into_iter(), &signer(), NOW), Err(ArrivalError::OtherBrowser));
        assert_eq!(arrive(&url, std::iter::empty(), &signer(), NOW), Err(ArrivalError::OtherBrowser));
    }

    #[test]
    fn a_callback_leads_to_its_own_host_alone() {
        let mine = "m".repeat(43);
        for elsewhere in
            ["https://evil.example/", "https://app.localhost:444/", "http://app.localhost/", "/x", "javascript:x"]
        {
            let url = callback(&mine, elsewhere);
            assert_eq!(
                arrive(&url, [mine.as_str()].into_iter(), &signer(), NOW),
                Err(ArrivalError::Malformed),
                "{elsewhere}"
            );
        }
    }

    #[test]
    fn a_callback_for_a_program_is_marked_as_one_and_needs_no_browser() {
        let mut url = Url::parse("https://app.localhost/.pomerium/callback/").unwrap();
        url.query_pairs_mut()
            .append_pair("pomerium_redirect_uri", "http://127.0.0.1:8000/")
            .append_pair("pomerium_programmatic", "true")
            .append_pair("pomerium_session_encrypted", "sealed");
        let signed = signer().sign(url.clone(), NOW).to_string();
        let arrival = arrive(&signed, std::iter::empty(), &signer(), NOW).unwrap();
        assert!(arrival.for_program && arrival.redirect_uri.as_str() == "http://127.0.0.1:8000/");
        // what speaks of both is of neither
        url.query_pairs_mut().append_pair("pomerium_start", &hash(&"m".repeat(43)));
        let signed = signer().sign(url, NOW).to_string();
        let mine = "m".repeat(43);
        assert_eq!(arrive(&signed, [mine.as_str()].into_iter(), &signer(), NOW), Err(ArrivalError::Malformed));
    }

    #[test]
    fn a_start_cookie_is_used_again_by_the_next_tab_which_has_its_full_time() {
        let authenticate = Url::parse("https://auth.localhost").unwrap();
        let first = depart(&authenticate, "https://a/", "_pomerium", None, &signer(), NOW).unwrap();
        let cookie = first.cookie.to_string();
        let value = cookie.split(['=', ';']).nth(1).unwrap();
        assert!(
            cookie.starts_with("__Host-_pomerium_start_") && cookie.contains("Path=/") && !cookie.contains("Domain")
        );
        let second = depart(&authenticate, "https://a/", "_pomerium", Some(value), &signer(), NOW).unwrap();
        assert_eq!(second.cookie.to_string(), cookie);
        assert!(second.url.as_str().contains(&hash(value)));
    }
}
