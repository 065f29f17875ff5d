//! `host[:port]` of a request, in its one canonical spelling (RFC 3986 §3.2.2, narrowed to what names a web host).

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::BadRequest;

/// The port that a URL of scheme `https` need not name.
const HTTPS: u16 = 443;

/// A host and perhaps a port. Two are equal if they name the same place.
#[derive(Debug, Clone, Eq)]
pub(super) struct Authority {
    text: String,
    host: usize,
    port: Option<u16>,
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Authority {
    /// Reads one as it stands in `Host`, in `:authority` or in an absolute target.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadRequest> {
        // no userinfo, path, list, white space, escape or name beyond ASCII gets past this
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']');
        let whole = std::str::from_utf8(bytes).map_err(|_| BadRequest::Host)?;
        if !whole.bytes().all(known) {
            return Err(BadRequest::Host);
        }
        let (mut text, port) = match whole.strip_prefix('[') {
            Some(rest) => {
                let (address, port) = rest.split_once(']').ok_or(BadRequest::Host)?;
                let address: Ipv6Addr = address.parse().map_err(|_| BadRequest::Host)?;
                let port = match port.strip_prefix(':') {
                    Some(port) => Some(port),
                    None if port.is_empty() => None,
                    None => return Err(BadRequest::Host),
                };
                (format!("[{address}]"), port)
            }
            None => {
                let (host, port) = whole.split_once(':').map_or((whole, None), |(host, port)| (host, Some(port)));
                (name(host)?, port)
            }
        };
        let host = text.len();
        let port = port.map(number).transpose()?;
        if let Some(port) = port.filter(|port| *port != HTTPS) {
            // writing to a text cannot fail
            let _ = write!(text, ":{port}");
        }
        Ok(Self { text, host, port })
    }

    pub(super) fn host(&self) -> &str {
        self.text.get(..self.host).unwrap_or_default()
    }

    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }
}

/// A name or an IPv4 address, in lower case, without the dot of the root.
fn name(host: &str) -> Result<String, BadRequest> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let labels_hold = host.split('.').all(|label| (1..=63).contains(&label.len()) && !label.contains(['[', ']']));
    if host.len() > 253 || !labels_hold {
        return Err(BadRequest::Host);
    }
    // what ends in a number is an address to some and a name to others, unless it is written in full
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_hex = last.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("0x"));
    if (last.bytes().all(|byte| byte.is_ascii_digit()) || is_hex) && host.parse::<Ipv4Addr>().is_err() {
        return Err(BadRequest::Host);
    }
    Ok(host.to_ascii_lowercase())
}

fn number(port: &str) -> Result<u16, BadRequest> {
    let is_number = (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|number| *number != 0);
    number.filter(|_| is_number).ok_or(BadRequest::Host)
}
