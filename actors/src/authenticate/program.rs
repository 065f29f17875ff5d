//! The sign-in of a program: it has no browser, so that a person's browser goes, and its handle is handed over there.

use portcullis_events::Time;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::start::{ArrivalError, parameter};
use crate::keyring::signed_url::UrlSigner;
use crate::request::SIGN_IN_PATH;

/// The host that stands for this very machine, in all its spellings.
const LOCALHOST: &str = "localhost";
/// Says that a program waits at the end of a sign-in.
const PROGRAMMATIC: &str = "pomerium_programmatic";
/// What carries the handle to it.
const HANDLE: &str = "pomerium_jwt";

/// Who waits at the end of a sign-in, and where it comes home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Waiting {
    /// The browser that set out on it, at the host it wanted to go to.
    Browser {
        /// The hash of its start cookie.
        start: String,
    },
    /// A program, whose handle is made at this callback.
    Program {
        /// The callback at a route's host.
        callback_uri: Url,
    },
}

impl Waiting {
    /// What a signed URL says: of a browser or of a program, never of both.
    pub(super) fn read(url: &Url) -> Result<Self, ArrivalError> {
        if !is_for_program(url)? {
            return Ok(Self::Browser { start: parameter(url, "pomerium_start")? });
        }
        let callback_uri = Url::parse(&parameter(url, "pomerium_callback_uri")?);
        Ok(Self::Program { callback_uri: callback_uri.map_err(|_| ArrivalError::Malformed)? })
    }

    /// Where it comes home, without parameters.
    pub(super) fn callback(&self, redirect_uri: &Url) -> Url {
        let mut callback = match self {
            Self::Browser { .. } => redirect_uri.clone(),
            Self::Program { callback_uri } => callback_uri.clone(),
        };
        callback.set_path("/.pomerium/callback/");
        callback.set_query(None);
        callback.set_fragment(None);
        callback
    }

    /// The parameter by which the proxy knows it.
    pub(super) fn mark(&self) -> (&'static str, &str) {
        match self {
            Self::Browser { start } => ("pomerium_start", start),
            Self::Program { .. } => (PROGRAMMATIC, "true"),
        }
    }
}

/// Whether a signed URL speaks of a program.
pub(super) fn is_for_program(url: &Url) -> Result<bool, ArrivalError> {
    let has = |name: &str| url.query_pairs().any(|(key, _)| key == name);
    match (has(PROGRAMMATIC), has("pomerium_start")) {
        (false, _) => Ok(false),
        (true, false) if parameter(url, PROGRAMMATIC)? == "true" => Ok(true),
        (true, _) => Err(ArrivalError::Malformed),
    }
}

/// Where a program has its person sign in: a signed URL at authenticate, for a handle that `callback_host` (with the port,
/// if any) will make.
///
/// # Errors
/// The host is none that a URL can have.
pub fn depart_for_program(
    authenticate: &Url,
    callback_host: &str,
    redirect_uri: &Url,
    signer: &UrlSigner,
    now: Time,
) -> Result<Url, url::ParseError> {
    let callback = Url::parse(&format!("https://{callback_host}/.pomerium/callback/"))?;
    let mut url = authenticate.clone();
    url.set_path(SIGN_IN_PATH);
    url.query_pairs_mut()
        .clear()
        .append_pair("pomerium_redirect_uri", redirect_uri.as_str())
        .append_pair("pomerium_callback_uri", callback.as_str())
        .append_pair(PROGRAMMATIC, "true");
    Ok(signer.sign(url, now))
}

/// Where a program waits for its handle, if that may be sent there: a web address at one of `hosts`, of which `localhost`
/// stands for this machine however it is spelled. What leaves this machine goes by https.
#[must_use]
pub fn waiting_place(text: &str, hosts: &[String]) -> Option<Url> {
    // URL parsers drop tabs and line ends, and turn backslashes into slashes; other parsers do not
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return None;
    }
    let url = Url::parse(text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let brings_a_handle = url.query_pairs().any(|(name, _)| name == HANDLE);
    (is_plain && !brings_a_handle && may_wait_at(&url, hosts)).then_some(url)
}

fn may_wait_at(url: &Url, hosts: &[String]) -> bool {
    let Some(host) = url.host() else { return false };
    let host = host.to_string();
    let host = host.strip_suffix('.').unwrap_or(&host);
    let here = is_here(url);
    let is_named = hosts.iter().any(|known| known == host || (here && known == LOCALHOST));
    is_named && (url.scheme() == "https" || (url.scheme() == "http" && here))
}

/// Whether a URL leads to the machine of whoever follows it (RFC 6761 §6.3), without asking a resolver.
#[must_use]
pub fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            name == LOCALHOST || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// The address that hands a handle over to the program that waits at `place`.
#[must_use]
pub fn with_handle(place: &Url, handle: &str) -> Url {
    let mut url = place.clone();
    url.query_pairs_mut().append_pair(HANDLE, handle);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_program_waits_on_this_machine_in_whatever_spelling() {
        for place in [
            "http://localhost:8000",
            "http://LOCALHOST.:8000/a?b=c",
            "http://127.0.0.1:1/",
            "http://127.9.9.9/",
            "http://2130706433/",
            "http://[::1]:8/",
            "https://tool.localhost/",
        ] {
            assert!(waiting_place(place, &hosts(&["localhost"])).is_some(), "{place}");
            assert!(waiting_place(place, &hosts(&["tools.example.com"])).is_none(), "{place}");
            assert!(waiting_place(place, &[]).is_none(), "{place}");
        }
    }

    #[test]
    fn what_is_not_plainly_a_place_of_a_named_host_is_refused() {
        for place in [
            "",
            "x",
            "/relative",
            "//localhost/",
            "http:localhost\\@evil.example",
            "http://evil.example/",
            "http://localhost.evil.example/",
            "http://evil.example/?localhost",
            "http://localhost@evil.example/",
            "http://user@localhost/",
            "http://:secret@localhost/",
            "http://localhost/#fragment",
            "http://localhost/?pomerium_jwt=planted",
            "http://local\thost/",
            "http://localhost/\n",
            "http://localhost\\.evil.example/",
            "http://0.0.0.0/",
            "http://[::]/",
            "http://[::ffff:10.0.0.1]/",
            "http://128.0.0.1/",
            "http://notlocalhost/",
            "ftp://localhost/",
            "javascript:alert(1)",
            "javascript://localhost/%0aalert(1)",
            "data:text/html,localhost",
            "file://localhost/etc/passwd",
            "program://localhost/",
            "http://tools.example.com/",
            "https://a.tools.example.com/",
            "https://tools.example.com.evil.example/",
        ] {
            assert!(waiting_place(place, &hosts(&["localhost", "tools.example.com"])).is_none(), "{place}");
        }
        let place = waiting_place("https://tools.example.com:8443/in?a=b", &hosts(&["tools.example.com"])).unwrap();
        assert_eq!(
            with_handle(&place, "v1.x&y").as_str(),
            "https://tools.example.com:8443/in?a=b&pomerium_jwt=v1.x%26y"
        );
    }

    #[test]
    fn a_sign_in_is_for_a_browser_or_for_a_program_and_never_for_both() {
        let read = |query: &str| Waiting::read(&Url::parse(&format!("https://a/?{query}")).unwrap());
        assert_eq!(read("pomerium_start=x"), Ok(Waiting::Browser { start: "x".into() }));
        let program = "pomerium_programmatic=true&pomerium_callback_uri=https%3A%2F%2Fapp%2Fx%3Fy%23z";
        let waiting = read(program).unwrap();
        let place = Url::parse("http://localhost:1/").unwrap();
        assert_eq!(waiting.callback(&place).as_str(), "https://app/.pomerium/callback/");
        for wrong in [
            "",
            "pomerium_start=x&pomerium_start=y",
            "pomerium_programmatic=true",
            "pomerium_programmatic=false&pomerium_callback_uri=https://app/",
            "pomerium_programmatic=true&pomerium_callback_uri=app",
            &format!("{program}&pomerium_start=x"),
            &format!("{program}&pomerium_programmatic=true"),
            &format!("{program}&pomerium_callback_uri=https://b/"),
        ] {
            assert_eq!(read(wrong), Err(ArrivalError::Malformed), "{wrong}");
        }
    }
}
