//! Which addresses of a provider may be called: a discovery document must not make us knock on doors of our own house.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Whether an endpoint named by the discovery document of `issuer` may be called.
///
/// `https`, or `http` where issuer and endpoint both are on loopback; no user info, no fragment; no special-use address
/// and no cloud metadata host, unless the issuer itself is there. Names are not resolved here: a provider in one's own
/// network is the normal case, and its certificate says who it is.
pub(super) fn may_call(issuer: &Url, endpoint: &Url) -> bool {
    let (Some(home), Some(host)) = (issuer.host(), endpoint.host()) else { return false };
    let plain = endpoint.username().is_empty() && endpoint.password().is_none() && endpoint.fragment().is_none();
    let secure = match endpoint.scheme() {
        "https" => true,
        "http" => issuer.scheme() == "http" && is_loopback(&host),
        _ => false,
    };
    let at_home = host == home || (is_loopback(&host) && is_loopback(&home));
    plain && secure && (at_home || !is_special(&host))
}

/// Whether an issuer may be asked at all: `https`, or `http` on loopback; no query (OpenID Connect Discovery §3).
pub(super) fn may_be_issuer(issuer: &Url) -> bool {
    issuer.query().is_none() && may_call(issuer, issuer)
}

fn is_loopback(host: &Host<&str>) -> bool {
    match address(host) {
        Some(IpAddr::V4(address)) => address.is_loopback(),
        Some(IpAddr::V6(address)) => address.is_loopback(),
        None => matches!(host, Host::Domain(name) if is_local_name(name)),
    }
}

fn is_local_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name == "localhost" || name.ends_with(".localhost")
}

fn is_special(host: &Host<&str>) -> bool {
    match address(host) {
        Some(IpAddr::V4(address)) => is_special_v4(address),
        Some(IpAddr::V6(address)) => is_special_v6(address),
        None => matches!(host, Host::Domain(name) if is_local_name(name) || is_metadata_name(name)),
    }
}

fn is_metadata_name(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    ["metadata", "metadata.google.internal", "metadata.goog", "instance-data"].contains(&name)
}

/// The address behind a literal; an IPv4 address in IPv6 clothes is an IPv4 address.
fn address(host: &Host<&str>) -> Option<IpAddr> {
    match host {
        Host::Ipv4(address) => Some(IpAddr::V4(*address)),
        Host::Ipv6(address) => Some(address.to_canonical()),
        Host::Domain(_) => None,
    }
}

fn is_special_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    let shared = first == 100 && (64..128).contains(&second);
    let reserved = first == 0 || first >= 240;
    let local = address.is_loopback() || address.is_private() || address.is_link_local();
    local || shared || reserved || address.is_multicast() || address.is_documentation()
}

fn is_special_v6(address: Ipv6Addr) -> bool {
    let local = address.is_loopback() || address.is_unicast_link_local() || address.is_unique_local();
    // NAT64 and 6to4 carry an IPv4 address that is not looked at: no provider's literal is one
    let [first, second, ..] = address.segments();
    let translated = (first == 0x64 && second == 0xff9b) || first == 0x2002;
    local || translated || address.is_unspecified() || address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(issuer: &str, endpoint: &str) -> bool {
        may_call(&Url::parse(issuer).unwrap(), &Url::parse(endpoint).unwrap())
    }

    #[test]
    fn a_public_issuer_leads_to_public_https_alone() {
        let issuer = "https://idp.example";
        for good in ["https://idp.example/token", "https://keys.other.example:8443/x?y", "https://8.8.8.8/"] {
            assert!(may(issuer, good), "{good}");
        }
        for bad in [
            "http://idp.example/token",
            "http://169.254.169.254/",
            "https://169.254.169.254/latest",
            "https://2852039166/",
            "https://0xa9.0xfe.0xa9.0xfe/",
            "https://[::ffff:169.254.169.254]/",
            "https://[fe80::1]/",
            "https://[fd00:ec2::254]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://metadata.google.internal/",
            "https://127.0.0.1/",
            "https://localhost/",
            "https://x.localhost./",
            "https://10.0.0.1/",
            "https://100.100.100.200/",
            "https://0.0.0.0/",
            "https://[::]/",
            "https://[::1]/",
            "https://user@idp.example/",
            "https://idp.example/#x",
            "file:///etc/passwd",
            "ftp://idp.example/",
            "data:,x",
        ] {
            assert!(!may(issuer, bad), "{bad}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback_alone() {
        assert!(may("http://127.0.0.1:1", "http://127.0.0.1:2/keys"));
        assert!(may("http://localhost:1", "http://[::1]:1/keys"));
        assert!(!may("http://127.0.0.1:1", "http://10.0.0.1/keys"));
        assert!(!may("http://127.0.0.1:1", "http://169.254.169.254/keys"));
        assert!(!may("https://127.0.0.1:1", "http://127.0.0.1:1/keys"));
        assert!(may_be_issuer(&Url::parse("http://localhost:1/x").unwrap()));
        for bad in ["http://idp.example", "https://idp.example/?x", "https://idp.example/#x", "https://u:p@idp.example"]
        {
            assert!(!may_be_issuer(&Url::parse(bad).unwrap()), "{bad}");
        }
    }

    #[test]
    fn an_issuer_in_ones_own_network_keeps_its_endpoints_at_home() {
        assert!(may("https://10.0.0.5", "https://10.0.0.5:8443/keys"));
        assert!(!may("https://10.0.0.5", "https://10.0.0.6/keys"));
    }
}
