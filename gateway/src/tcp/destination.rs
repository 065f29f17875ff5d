//! What a person names on the command line: where a tunnel ends, and the gateway that it goes through.

use portcullis_actors::authenticate::program::is_here;
use url::Url;

/// Where a tunnel ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    /// `host:port`, as the request names it.
    pub authority: String,
    /// The gateway, where the destination itself does not say it: its own host, or the host before its path.
    pub gateway: Gateway,
}

/// Where a gateway is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// A lower-case name or an address (IPv6 in brackets).
    pub host: String,
    /// The port.
    pub port: u16,
    /// Speak TLS.
    pub tls: bool,
}

impl Gateway {
    /// `host[:port]`, without the scheme's own port: what requests name.
    pub fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.clone(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

impl std::fmt::Display for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }
}

const RIGHT: &str = "write HOST:PORT as in the route's `from: tcp+https://HOST:PORT`, or the whole of that URL";

/// Reads `HOST:PORT`, `tcp+https://HOST:PORT` or `tcp+https://GATEWAY/HOST:PORT`.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn destination(text: &str) -> Result<Destination, String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("tcp+https", text));
    let tls = match scheme {
        "tcp+https" | "https" => true,
        "tcp+http" | "http" => false,
        _ => return Err(format!("{scheme} is no scheme of a tunnel; {RIGHT}")),
    };
    let (first, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority = authority(if path.is_empty() { first } else { path })?;
    let web = if tls { "https" } else { "http" };
    let gateway = if path.is_empty() {
        let (host, _) = authority.rsplit_once(':').unwrap_or((&authority, ""));
        gateway(&format!("{web}://{host}"))?
    } else {
        gateway(&format!("{web}://{first}"))?
    };
    Ok(Destination { authority, gateway })
}

/// `host:port` in one spelling.
fn authority(text: &str) -> Result<String, String> {
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("there is no port in {text:?}; {RIGHT}"))?;
    let port: u16 = port
        .parse()
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| format!("there is no port between 1 and 65535 after the last colon of {text:?}; {RIGHT}"))?;
    let url = parsed(&format!("https://{host}"))?;
    Ok(format!("{}:{port}", url.host_str().unwrap_or_default()))
}

/// Reads the address of a gateway. Plain http leads no further than this machine: a handle would travel with it.
///
/// # Errors
/// What is wrong, and what would be right.
pub fn gateway(text: &str) -> Result<Gateway, String> {
    let url = parsed(text)?;
    let tls = url.scheme() == "https";
    if !tls && (url.scheme() != "http" || !is_here(&url)) {
        return Err(format!(
            "{text:?} does not begin with https://; without TLS everybody on the way could read along"
        ));
    }
    if url.path() != "/" || url.query().is_some() {
        return Err(format!("{text:?} has a path; name scheme, host and port alone"));
    }
    let host = url.host_str().unwrap_or_default();
    let host = host.strip_suffix('.').unwrap_or(host).to_owned();
    let port = url.port_or_known_default().filter(|port| *port != 0);
    Ok(Gateway { host, port: port.ok_or_else(|| format!("{text:?} has no port"))?, tls })
}

fn parsed(text: &str) -> Result<Url, String> {
    let is_clean = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#');
    match Url::parse(text) {
        Ok(url) if is_clean && url.username().is_empty() && url.password().is_none() && url.has_host() => Ok(url),
        Ok(_) | Err(_) => Err(format!("{text:?} is no address; {RIGHT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, port: u16, tls: bool) -> Gateway {
        Gateway { host: host.into(), port, tls }
    }

    #[test]
    fn a_destination_names_its_gateway() {
        for (text, authority, gateway) in [
            ("redis.example.com:6379", "redis.example.com:6379", at("redis.example.com", 443, true)),
            ("Redis.Example.COM:6379", "redis.example.com:6379", at("redis.example.com", 443, true)),
            ("tcp+https://redis.example.com:22", "redis.example.com:22", at("redis.example.com", 443, true)),
            ("https://redis.example.com:22", "redis.example.com:22", at("redis.example.com", 443, true)),
            ("tcp+https://gate.example.com/redis:22", "redis:22", at("gate.example.com", 443, true)),
            ("tcp+https://gate.example.com:8443/redis:443", "redis:443", at("gate.example.com", 8443, true)),
            ("[::1]:22", "[::1]:22", at("[::1]", 443, true)),
            ("http://db.localhost:5432", "db.localhost:5432", at("db.localhost", 80, false)),
        ] {
            assert_eq!(destination(text), Ok(Destination { authority: authority.into(), gateway }), "{text}");
        }
        assert_eq!(at("a", 443, true).to_string(), "https://a");
        assert_eq!(at("a", 8443, true).authority(), "a:8443");
    }

    #[test]
    fn what_is_no_destination_is_said_with_what_would_be_right() {
        for text in [
            "",
            "redis",
            "redis:",
            ":22",
            "redis:0",
            "redis:65536",
            "redis:x",
            "ssh://redis:22",
            "udp+https://redis:53",
            "a b:22",
            "user@redis:22",
            "redis#x:22",
            "tcp+https://gate/redis",
            "tcp+https://gate/redis:22/x",
            "tcp+https:///redis:22",
            "http://redis.example.com:22",
            "-oProxyCommand=x:22\u{0}",
        ] {
            let error = destination(text).expect_err(text);
            assert!(error.contains(';') || error.contains("https://"), "{text}: {error}");
        }
        for text in ["gate", "gate:443", "https://gate/path", "https://gate?x", "http://gate", "https://", "ftp://gate"]
        {
            assert!(gateway(text).is_err(), "{text}");
        }
    }
}
