//! How clients are spoken to: the listener that sends them to https, the protocol, what stands in front of us, and
//! whose certificates they may show.

use crate::node::{Fields, Node};
use crate::{ListenAddress, hygiene, mtls, urls};

pub use crate::hygiene::{EscapedSlashes, Reading, Underscores};
pub use crate::mtls::{AlternativeName, ClientAuthority, Enforcement, NamePattern};

/// Everything between a client and its request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Downstream {
    /// `http_redirect_addr`: where plain HTTP is answered with the way to https; nowhere by default.
    pub http_redirect_addr: Option<ListenAddress>,
    /// `codec_type`.
    pub codec: Codec,
    /// `use_proxy_protocol`: every connection begins with a header of the PROXY protocol, which names its client.
    pub proxy_protocol: bool,
    /// How requests are read: what a client, a path and a header name are.
    pub reading: Reading,
    /// `downstream_mtls`: clients are asked for a certificate.
    pub mtls: Option<ClientAuthority>,
}

/// Which versions of HTTP clients may speak.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Codec {
    /// `auto`: whichever the client chooses.
    #[default]
    Auto,
    /// `http1`.
    Http1,
    /// `http2`, on a plain listener with prior knowledge.
    Http2,
}

impl Codec {
    /// The protocols that TLS offers, the preferred one first (RFC 7301).
    #[must_use]
    pub fn alpn(self) -> Vec<Vec<u8>> {
        let (h2, h1) = (b"h2".to_vec(), b"http/1.1".to_vec());
        match self {
            Self::Auto => vec![h2, h1],
            Self::Http1 => vec![h1],
            Self::Http2 => vec![h2],
        }
    }
}

/// The keys of the top level that it is made of.
pub fn decode(top: &Fields<'_>, insecure_server: bool) -> Downstream {
    Downstream {
        http_redirect_addr: top.get("http_redirect_addr").as_ref().and_then(urls::listen),
        codec: top.get("codec_type").as_ref().and_then(codec).unwrap_or_default(),
        proxy_protocol: crate::global::flag(top, "use_proxy_protocol", false),
        reading: hygiene::decode(top),
        mtls: top.get("downstream_mtls").as_ref().and_then(|node| mtls::decode(node, insecure_server)),
    }
}

fn codec(node: &Node<'_>) -> Option<Codec> {
    node.choice(&[("auto", Codec::Auto), ("http1", Codec::Http1), ("http2", Codec::Http2)], &["http3"])
}
