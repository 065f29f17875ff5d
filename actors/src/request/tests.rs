//! One request, one meaning: what is refused, what becomes of the rest, and what goes on to the upstream.

mod heads;
mod passed;
pub(crate) mod paths;

use std::net::{IpAddr, Ipv4Addr};

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Uri, Version};

use super::{BadRequest, Canonical, Peer};

pub(crate) const PEER: Peer = Peer { address: IpAddr::V4(Ipv4Addr::LOCALHOST), https: true, certificate: None };

/// Header lines as a table writes them.
pub(crate) type Lines<'a> = &'a [(&'a str, &'a str)];

/// A head as a client sends it: `GET`, HTTP/1.1 and a good host, unless told otherwise.
pub(crate) struct Head<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub version: Version,
    pub headers: Vec<(&'a str, &'a str)>,
}

impl Default for Head<'_> {
    fn default() -> Self {
        Self { method: "GET", target: "/", version: Version::HTTP_11, headers: vec![("host", "app.test")] }
    }
}

impl<'a> Head<'a> {
    pub fn to(target: &'a str) -> Self {
        Self { target, ..Self::default() }
    }

    pub fn with(headers: &[(&'a str, &'a str)]) -> Self {
        let mut head = Self::default();
        head.headers.extend_from_slice(headers);
        head
    }

    pub fn http2(mut self) -> Self {
        self.version = Version::HTTP_2;
        self
    }

    /// `None` where the HTTP library takes no such head, so that it never reaches us.
    pub fn parts(&self) -> Option<Parts> {
        let mut request = Request::new(());
        *request.method_mut() = self.method.parse().ok()?;
        *request.uri_mut() = Uri::try_from(self.target).ok()?;
        *request.version_mut() = self.version;
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
        Some(request.into_parts().0)
    }

    pub fn canonical(&self) -> Result<Canonical, BadRequest> {
        Canonical::of(self.parts().expect("a head that the HTTP library takes"), PEER)
    }

    pub fn refusal(&self) -> Option<BadRequest> {
        self.canonical().err()
    }

    pub fn accepted(&self) -> Canonical {
        self.canonical().unwrap_or_else(|refusal| panic!("{} was refused: {refusal}", self.target))
    }
}
