//! A canonical request as it travels to another process that decides on it: all that policy may look at, no credential.

use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use http::header::{AUTHORIZATION, COOKIE, REFERER};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_config::Reading;
use portcullis_config::limits::{REQUEST_HEAD_BYTES, REQUEST_HEADERS};
use serde::{Deserialize, Serialize};

use super::authority::Authority;
use super::certificate::{ClientCertificate, Shown};
use super::forwarded::{Told, Way};
use super::presented::HEADER;
use super::{BadRequest, Canonical, framing, hygiene, path_of};

/// What a request is, in plain values.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    method: String,
    authority: String,
    /// Path and query as they came, but for a handle.
    target: String,
    /// Names and values, a byte a character; without cookies and credentials.
    headers: Vec<(String, String)>,
    websocket: bool,
    address: IpAddr,
    https: bool,
    /// The client's certificate, and whether it held.
    certificate: Option<Shown>,
    /// How it is to be read, wherever that is done.
    reading: Reading,
}

fn without_handle(target: &PathAndQuery) -> String {
    match hygiene::query_for_upstream(target.query()) {
        Some(query) => format!("{}?{query}", target.path()),
        None => target.path().to_owned(),
    }
}

/// Names a described request: SHA-256 over all that it says.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHash([u8; 32]);

impl Described {
    /// Describes a request.
    #[must_use]
    pub fn of(request: &Canonical) -> Self {
        // the page that a request comes from may have been asked for with a handle in its query
        let is_plain = |name: &HeaderName| ![COOKIE, AUTHORIZATION, REFERER].contains(name) && name.as_str() != HEADER;
        let headers = request.headers.iter().filter(|(name, _)| is_plain(name));
        let text = |value: &HeaderValue| value.as_bytes().iter().map(|byte| char::from(*byte)).collect();
        Self {
            method: request.method.as_str().to_owned(),
            authority: match request.tunnel() {
                // with the port that is left out elsewhere
                Some((host, port)) => format!("{host}:{port}"),
                None => request.authority.as_str().to_owned(),
            },
            target: without_handle(&request.target),
            headers: headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
            websocket: request.websocket,
            address: request.client(),
            https: request.https(),
            certificate: request.certificate().map(Shown::of),
            reading: request.reading,
        }
    }

    /// The same request, made canonical anew: nothing is believed of how it was read elsewhere.
    ///
    /// # Errors
    /// [`BadRequest`].
    pub fn canonical(&self) -> Result<Canonical, BadRequest> {
        let method = Method::from_bytes(self.method.as_bytes()).map_err(|_| BadRequest::Method)?;
        let target: PathAndQuery = self.target.parse().map_err(|_| BadRequest::Target)?;
        let path = path_of(&target, &method, self.reading)?;
        if self.headers.len() > REQUEST_HEADERS {
            return Err(BadRequest::TooManyHeaders);
        }
        let mut headers = HeaderMap::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| BadRequest::HeaderName)?;
            let bytes: Option<Vec<u8>> = value.chars().map(|character| u8::try_from(character).ok()).collect();
            let value = HeaderValue::from_bytes(&bytes.ok_or(BadRequest::HeaderValue)?);
            headers.append(name, value.map_err(|_| BadRequest::HeaderValue)?);
        }
        if target.as_str().len() + framing::size(&headers) > REQUEST_HEAD_BYTES {
            return Err(BadRequest::HeadersTooLarge);
        }
        let authority = Authority::parse(self.authority.as_bytes())?;
        if method == Method::CONNECT && (authority.port().is_none() || self.target != "/") {
            return Err(BadRequest::Target);
        }
        Ok(Canonical {
            authority,
            method,
            target,
            path,
            headers,
            websocket: self.websocket,
            way: Way { client: self.address, https: self.https, told: Told::Client },
            certificate: self.certificate.as_ref().map(|shown| Arc::new(shown.again())),
            reading: self.reading,
        })
    }

    /// Whether the client's certificate holds as it did then.
    #[must_use]
    pub fn has_the_certificate_of(&self, request: &Canonical) -> bool {
        self.certificate.as_ref().map(|shown| shown.holds) == request.certificate().map(ClientCertificate::holds)
    }

    /// Its name.
    #[must_use]
    pub fn hash(&self) -> RequestHash {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut part = |bytes: &[u8]| {
            // the length first, so that no two requests read alike
            context.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(bytes);
        };
        for text in [&self.method, &self.authority, &self.target] {
            part(text.as_bytes());
        }
        part(&[u8::from(self.websocket), u8::from(self.https)]);
        part(self.address.to_string().as_bytes());
        part(format!("{:?}", self.reading).as_bytes());
        if let Some(Shown { details, holds }) = &self.certificate {
            part(&[u8::from(*holds)]);
            part(details.fingerprint.as_bytes());
            part(details.spki_hash.as_bytes());
            for names in [&details.dns, &details.email, &details.uri] {
                part(&u64::try_from(names.len()).unwrap_or(u64::MAX).to_be_bytes());
                names.iter().for_each(|name| part(name.as_bytes()));
            }
        }
        for (name, value) in &self.headers {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        let mut hash = [0; 32];
        hash.iter_mut().zip(context.finish().as_ref()).for_each(|(byte, of)| *byte = *of);
        RequestHash(hash)
    }

    /// About how many bytes it takes on its way.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 8);
        let names = self.certificate.iter().flat_map(|shown| {
            [&shown.details.dns, &shown.details.email, &shown.details.uri]
                .into_iter()
                .flatten()
                .map(|name| name.len() + 4)
        });
        names.sum::<usize>()
            + self.method.len()
            + self.authority.len()
            + self.target.len()
            + headers.sum::<usize>()
            + 512
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::super::Peer;
    use super::super::certificate::CertificateDetails;
    use super::*;

    fn canonical(uri: &str, headers: &[(&str, &[u8])]) -> Canonical {
        let mut request = Request::get(uri).header("host", "App.Example.com:443");
        for (name, value) in headers {
            request = request.header(*name, HeaderValue::from_bytes(value).unwrap());
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        Canonical::of(head, Peer { address: "192.0.2.7".parse().unwrap(), https: true, certificate: None }).unwrap()
    }

    fn through_bytes(described: &Described) -> Described {
        serde_json::from_slice(&serde_json::to_vec(described).unwrap()).unwrap()
    }

    #[test]
    fn a_request_is_the_same_after_its_journey() {
        let before = canonical("/a/../b//c;x?q=%20", &[("origin", b"https://a"), ("x-odd", b"\xe4\xff")]);
        let described = Described::of(&before);
        let after = through_bytes(&described).canonical().unwrap();
        assert_eq!(
            (after.method(), after.authority(), after.path()),
            (before.method(), before.authority(), before.path())
        );
        assert_eq!(
            (after.query(), after.headers(), after.client()),
            (before.query(), before.headers(), before.client())
        );
        assert_eq!((after.is_odd(), after.https(), after.is_websocket()), (before.is_odd(), true, false));
        assert!(Described::of(&after).hash() == described.hash());
    }

    #[test]
    fn a_tunnel_keeps_its_port_on_the_journey() {
        for named in ["db.test:443", "db.test:22"] {
            let request = Request::connect(named).header("host", named).body(()).unwrap();
            let peer = Peer { address: "192.0.2.7".parse().unwrap(), https: true, certificate: None };
            let before = Canonical::of(request.into_parts().0, peer).unwrap();
            let described = Described::of(&before);
            let after = through_bytes(&described).canonical().unwrap();
            assert_eq!(after.tunnel(), before.tunnel());
            assert!(after.tunnel().is_some() && Described::of(&after).hash() == described.hash());
            for wrong in [
                Described { authority: "db.test".into(), ..described.clone() },
                Described { target: "/x".into(), ..described },
            ] {
                assert!(wrong.canonical().is_err());
            }
        }
    }

    #[test]
    fn credentials_stay_at_home() {
        let referer = ("referer", &b"https://a/?pomerium_session=handle"[..]);
        let credentials = [("cookie", &b"a=b"[..]), ("authorization", b"Bearer x"), (HEADER, b"handle"), referer];
        let request = canonical("/a?b=c&pomerium_session=handle", &credentials);
        let text = serde_json::to_string(&Described::of(&request)).unwrap();
        assert!(["cookie", "Bearer", "handle"].iter().all(|word| !text.contains(word)), "{text}");
    }

    #[test]
    fn whatever_differs_makes_another_hash() {
        let base = Described::of(&canonical("/a", &[("origin", b"https://a")]));
        let shown = |names: [&str; 2], holds| {
            let [dns, email] = names.map(|name| vec![name.to_owned()]);
            let (fingerprint, spki_hash) = ("ab".to_owned(), "cd".to_owned());
            Some(Shown { details: CertificateDetails { fingerprint, spki_hash, dns, email, uri: vec![] }, holds })
        };
        let mut others: [Described; 12] = std::array::from_fn(|_| base.clone());
        others[0].method = "PUT".into();
        others[1].target = "/b".into();
        others[2].authority = "b.example.com".into();
        others[3].headers[0].1.push('b');
        others[4].websocket = true;
        others[5].address = "192.0.2.8".parse().unwrap();
        others[6].https = !base.https;
        others[7].certificate = shown(["a", "b"], true);
        others[8].certificate = shown(["a", "b"], false);
        others[9].certificate = shown(["b", "a"], true);
        others[10].reading.merge_slashes = false;
        others[11].reading.escaped_slashes = portcullis_config::EscapedSlashes::Keep;
        for (index, one) in others.iter().enumerate() {
            assert!(others.iter().skip(index + 1).all(|other| other.hash() != one.hash()), "{index}");
        }
        assert!(others.iter().all(|other| other.hash() != base.hash()));
        assert!(through_bytes(&base).hash() == base.hash());
    }

    #[test]
    fn what_no_request_can_be_is_refused() {
        let base = Described::of(&canonical("/a", &[("origin", b"https://a")]));
        for wrong in [
            Described { method: "GET x".into(), ..base.clone() },
            Described { target: "/%2f".into(), ..base.clone() },
            Described { authority: "a@b".into(), ..base.clone() },
            Described { headers: vec![("a".into(), "\u{100}".into())], ..base.clone() },
            Described { headers: vec![("a".into(), "b".into()); REQUEST_HEADERS + 1], ..base },
        ] {
            assert!(wrong.canonical().is_err());
        }
    }
}
