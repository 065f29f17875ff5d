//! Addresses: the external and internal side of a route, the services' URLs, and what to listen on.

use std::net::{Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

use crate::node::{NOT_YET, Node};
use crate::{From, ListenAddress};

/// `from`: scheme, host and perhaps a port. `plain` allows `http`.
pub fn from(node: &Node<'_>, plain: bool) -> Option<From> {
    let right = "https://app.example.com";
    let text = node.text()?;
    match scheme(&text) {
        Some("https") => {}
        Some("http") if plain => {}
        Some("http") => return node.refuse("is http, which only works with insecure_server: true", right),
        Some("tcp+https" | "tcp+http" | "udp+https" | "udp+http" | "ssh") => return node.refuse(NOT_YET, right),
        Some(_) | None => return node.refuse("does not begin with https://", right),
    }
    let url = parsed(node, &text, right)?;
    if url.path() != "/" {
        return node.refuse("has a path", "put it into prefix or path");
    }
    let host = host_of(node, &url, right)?;
    let inner = host.strip_prefix("*.").unwrap_or(&host);
    if inner.contains('*') {
        return node.refuse("has a wildcard elsewhere than as its whole first label", "https://*.example.com");
    }
    if inner.len() < host.len() && inner.parse::<std::net::IpAddr>().is_ok() {
        return node.refuse("has a wildcard before an address", right);
    }
    Some(From { host, port: url.port() })
}

/// The text of one address of `to`, without its weight: `http` or `https`.
pub fn upstream(node: &Node<'_>, text: &str, right: &str) -> Option<Url> {
    let url = parsed(node, text, right)?;
    host_of(node, &url, right)?;
    Some(url)
}

/// `authenticate_service_url`: https, host and perhaps a port.
pub fn service(node: &Node<'_>) -> Option<Url> {
    let right = "https://authenticate.example.com";
    let text = node.text()?;
    if scheme(&text) != Some("https") {
        return node.refuse("does not begin with https://", right);
    }
    let mut url = parsed(node, &text, right)?;
    if url.path() != "/" {
        return node.refuse("has a path", right);
    }
    let host = host_of(node, &url, right)?;
    if url.set_host(Some(&host)).is_err() {
        return node.refuse("has a host that cannot be used", right);
    }
    Some(url)
}

/// `idp_provider_url`: the issuer; http only on this machine (for a demo). Also the issuer as it was written.
pub fn issuer(node: &Node<'_>) -> Option<(Url, String)> {
    let right = "the issuer, such as https://idp.example.com";
    let text = node.text()?;
    match scheme(&text) {
        Some("https" | "http") => {}
        Some(_) | None => return node.refuse("does not begin with https://", right),
    }
    let url = parsed(node, &text, right)?;
    host_of(node, &url, right)?;
    if url.scheme() == "http" && !is_loopback(&url) {
        return node.refuse("is http on another machine: sign-ins could be read and forged", right);
    }
    Some((url, text))
}

/// `signout_redirect_url`: any web address.
pub fn page(node: &Node<'_>) -> Option<Url> {
    let right = "https://www.example.com/goodbye";
    let text = node.text()?;
    if !matches!(scheme(&text), Some("https" | "http")) {
        return node.refuse("does not begin with https://", right);
    }
    if !is_clean(&text) {
        return node.refuse("has white space or a backslash in it", right);
    }
    match Url::parse(&text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            node.refuse("has a user name or password", right)
        }
        Ok(url) => Some(url),
        Err(error) => node.refuse(&format!("is not a URL: {error}"), right),
    }
}

/// `host:port`, `:port`, `[address]:port`.
pub fn listen(node: &Node<'_>) -> Option<ListenAddress> {
    let right = "host:port, such as :443, 127.0.0.1:8443 or [::1]:8443";
    let text = node.text()?;
    let Some((host, port)) = text.rsplit_once(':') else {
        return node.refuse("has no port", right);
    };
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let Some(port) = port.parse::<u16>().ok().filter(|_| digits) else {
        return node.refuse("has no port between 0 and 65535 after its last colon", right);
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match (host, bracketed) {
        ("", _) => Some(ListenAddress { host: None, port }),
        (_, Some(inner)) if inner.parse::<Ipv6Addr>().is_ok() => {
            Some(ListenAddress { host: Some(inner.to_owned()), port })
        }
        (_, Some(_)) => node.refuse("has no IPv6 address in its brackets", right),
        (host, None) if host.contains(':') => node.refuse("has an IPv6 address without brackets", right),
        (host, None) if host.parse::<Ipv4Addr>().is_ok() || is_name(host) => {
            Some(ListenAddress { host: Some(host.to_owned()), port })
        }
        (_, None) => node.refuse("has no host that can be listened on", right),
    }
}

/// A domain name, as a cookie may carry: lower case, A-labels, no leading dot.
pub fn domain(node: &Node<'_>) -> Option<String> {
    let right = "a domain, such as example.com";
    let text = node.text()?;
    match Host::parse(text.strip_prefix('.').unwrap_or(&text)) {
        Ok(Host::Domain(name)) if is_name(&name) && !name.ends_with('.') => Some(name),
        Ok(Host::Domain(_)) | Err(_) => node.refuse("is not a domain", right),
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) => node.refuse("is an address; cookies of addresses have no domain", right),
    }
}

/// Whether a URL leads to this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A URL without what none of ours may have: user name, query, fragment, white space.
pub fn parsed(node: &Node<'_>, text: &str, right: &str) -> Option<Url> {
    if !is_clean(text) {
        return node.refuse("has white space or a backslash in it", right);
    }
    match Url::parse(text) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            node.refuse("has a user name or password", right)
        }
        Ok(url) if url.query().is_some() || url.fragment().is_some() => node.refuse("has a query or fragment", right),
        Ok(url) if url.port() == Some(0) => node.refuse("has port 0", right),
        Ok(url) => Some(url),
        Err(error) => node.refuse(&format!("is not a URL: {error}"), right),
    }
}

/// The host in lower-case A-labels, without the dot of a fully qualified name; an IPv6 address in brackets.
pub fn host_of(node: &Node<'_>, url: &Url, right: &str) -> Option<String> {
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() || host.starts_with('.') || host.ends_with('.') {
        return node.refuse("has no host", right);
    }
    Some(host.to_ascii_lowercase())
}

/// URL parsers drop tabs and line ends and turn backslashes into slashes; other parsers do not.
fn is_clean(text: &str) -> bool {
    !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\')
}

/// What stands before `://`.
pub fn scheme(text: &str) -> Option<&str> {
    text.split_once("://").map(|(scheme, _)| scheme)
}

fn is_name(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}
