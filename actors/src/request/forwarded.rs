//! What proxies in front of us say of the client (`X-Forwarded-For`, `X-Forwarded-Proto`): believed as far as they are
//! trusted, and no further.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_config::Reading;

use super::BadRequest;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The way that a request came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    /// The client: who was connected to the outermost proxy that is trusted.
    pub(super) client: IpAddr,
    /// Whether the client came by TLS.
    pub(super) https: bool,
    /// What the upstream is told.
    pub(super) told: Told,
}

/// What the upstream is told in `X-Forwarded-For`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    /// The client alone.
    Client,
    /// This.
    Chain(HeaderValue),
    /// Nothing.
    Nothing,
}

/// Reads the way of a request whose connection came from `address`.
pub(super) fn way(headers: &HeaderMap, address: IpAddr, https: bool, reading: &Reading) -> Result<Way, BadRequest> {
    let hops = reading.trusted_hops;
    if hops == 0 {
        let told = if reading.append_forwarded_for { Told::Client } else { unchanged(headers) };
        return Ok(Way { client: address, https, told });
    }
    let said: Vec<&[u8]> = entries(headers).collect();
    // whoever came past a proxy that is to be trusted is the client itself, and nobody speaks for it
    let trusted = said.len().checked_sub(hops).and_then(|outside| said.get(outside..)).unwrap_or_default();
    let trusted: Vec<IpAddr> = trusted.iter().map(|entry| address_in(entry)).collect::<Result<_, _>>()?;
    let appended = if reading.append_forwarded_for { Some(address) } else { None };
    let chain: Vec<String> = trusted.iter().chain(&appended).map(IpAddr::to_string).collect();
    let told = match HeaderValue::try_from(chain.join(", ")) {
        Ok(chain) if !chain.is_empty() => Told::Chain(chain),
        Ok(_) | Err(_) => Told::Nothing,
    };
    let https = if trusted.is_empty() { https } else { proto(headers).unwrap_or(https) };
    Ok(Way { client: trusted.first().copied().unwrap_or(address), https, told })
}

fn entries(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(FOR).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
}

/// An address, which some proxies write with a port.
fn address_in(entry: &[u8]) -> Result<IpAddr, BadRequest> {
    let text = std::str::from_utf8(entry).map_err(|_| BadRequest::ForwardedFor)?;
    let address = text.parse().or_else(|_| text.parse::<SocketAddr>().map(|socket| socket.ip()));
    address.map(|address: IpAddr| address.to_canonical()).map_err(|_| BadRequest::ForwardedFor)
}

/// As it came, as long as there are addresses in it and nothing else.
fn unchanged(headers: &HeaderMap) -> Told {
    let said: Result<Vec<String>, _> =
        entries(headers).map(|entry| address_in(entry).map(|it| it.to_string())).collect();
    match said.map(|said| HeaderValue::try_from(said.join(", "))) {
        Ok(Ok(chain)) if !chain.is_empty() => Told::Chain(chain),
        _ => Told::Nothing,
    }
}

fn proto(headers: &HeaderMap) -> Option<bool> {
    let mut said = headers.get_all(PROTO).iter();
    match (said.next()?.as_bytes(), said.next()) {
        (b"https", None) => Some(true),
        (b"http", None) => Some(false),
        (_, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1";

    fn read(lines: &[&str], hops: usize, append: bool) -> Result<(String, String), BadRequest> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FOR, line.parse().unwrap());
        }
        let reading = Reading { trusted_hops: hops, append_forwarded_for: append, ..Reading::default() };
        let way = way(&headers, PEER.parse().unwrap(), false, &reading)?;
        let told = match way.told {
            Told::Client => "client".into(),
            Told::Chain(chain) => chain.to_str().unwrap().to_owned(),
            Told::Nothing => String::new(),
        };
        Ok((way.client.to_string(), told))
    }

    #[test]
    fn a_client_is_believed_nothing_and_a_trusted_proxy_the_last_entry() {
        for (lines, hops, client, told) in [
            (&["6.6.6.6"][..], 0, PEER, "client"),
            (&[], 1, PEER, PEER),
            (&["1.2.3.4"], 1, "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            (&["6.6.6.6, 1.2.3.4"], 1, "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            (&["6.6.6.6", "1.2.3.4"], 1, "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            (&["evil, 1.2.3.4:999"], 1, "1.2.3.4", "1.2.3.4, 10.0.0.1"),
            (&["[2001:db8::1]:443"], 1, "2001:db8::1", "2001:db8::1, 10.0.0.1"),
            (&["6.6.6.6, 1.2.3.4, 10.0.0.2"], 2, "1.2.3.4", "1.2.3.4, 10.0.0.2, 10.0.0.1"),
            // it came past one of the two
            (&["6.6.6.6"], 2, PEER, PEER),
        ] {
            assert_eq!(read(lines, hops, true).unwrap(), (client.to_owned(), told.to_owned()), "{lines:?} {hops}");
        }
    }

    #[test]
    fn who_is_connected_is_left_out_where_that_is_wanted() {
        assert_eq!(read(&["6.6.6.6, 1.2.3.4"], 1, false).unwrap(), ("1.2.3.4".into(), "1.2.3.4".into()));
        assert_eq!(read(&["6.6.6.6, 1.2.3.4"], 0, false).unwrap(), (PEER.into(), "6.6.6.6, 1.2.3.4".into()));
        for nothing in [&["6.6.6.6, x"][..], &[""], &[]] {
            assert_eq!(read(nothing, 0, false).unwrap(), (PEER.into(), String::new()), "{nothing:?}");
        }
    }

    #[test]
    fn what_a_trusted_proxy_cannot_have_said_is_refused() {
        for line in ["a", "", "1.2.3.4,", "1.2.3.4 5", "1.2.3.4;x", "unknown", "300.1.1.1"] {
            assert_eq!(read(&[line], 1, true), Err(BadRequest::ForwardedFor), "{line}");
        }
    }

    #[test]
    fn the_scheme_is_believed_of_a_trusted_proxy_alone() {
        for (hops, said, https) in
            [(0, "https", false), (1, "https", true), (1, "http", false), (1, "javascript", false), (2, "https", false)]
        {
            let mut headers = HeaderMap::new();
            headers.insert(FOR, HeaderValue::from_static("1.2.3.4"));
            headers.insert(PROTO, said.parse().unwrap());
            let reading = Reading { trusted_hops: hops, ..Reading::default() };
            assert_eq!(way(&headers, PEER.parse().unwrap(), false, &reading).unwrap().https, https, "{hops} {said}");
        }
    }
}
