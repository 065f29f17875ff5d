//! The certificates of the upstream side: read here, so that a bad one is a problem with its place.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::{Authorities, ClientCertificate, Pem, UpstreamTls};
use crate::Secret;
use crate::files::{refuse_file, unpacked};
use crate::limits::CA_FILE_BYTES;
use crate::node::{Fields, Node};
use zeroize::Zeroizing;

/// The keys of a route.
pub fn decode(fields: &Fields<'_>, default: &Authorities) -> UpstreamTls {
    let authorities = certificates(fields, "tls_custom_ca").map_or_else(|| default.clone(), Authorities::Only);
    let (name, old) = (fields.get("tls_upstream_server_name"), fields.get("tls_server_name"));
    let name = name.or(old).and_then(|node| server_name(&node));
    if let Some(node) = fields.get("tls_upstream_allow_renegotiation").filter(|node| node.boolean() == Some(true)) {
        node.wrong("cannot be had: TLS is never renegotiated here", "remove it, and let the upstream speak TLS 1.3");
    }
    UpstreamTls { server_name: name, client: client(fields), ..UpstreamTls::trusting(authorities) }
}

fn server_name(node: &Node<'_>) -> Option<String> {
    let text = node.text()?;
    match ServerName::try_from(text.trim_matches(['[', ']']).to_owned()) {
        Ok(_) => Some(text),
        Err(_) => node.refuse("is no name that a certificate could have", "a host name"),
    }
}

/// One or more certificate authorities, in place (PEM, or PEM in base64) or in a file.
pub fn certificates(fields: &Fields<'_>, name: &str) -> Option<Pem> {
    let (node, text) = given(fields, name)?;
    let right = "PEM (or PEM in base64) of one or more certificates";
    let text = unpacked(&node, text, right)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        if certificate.map_err(|_| ()).and_then(|certificate| roots.add(certificate).map_err(|_| ())).is_err() {
            return node.refuse("holds a certificate that cannot be read", right);
        }
    }
    if roots.is_empty() {
        return node.refuse("holds no certificate", right);
    }
    Some(Pem::new(text.as_bytes()))
}

/// Our own certificate and its key: both, and belonging together.
fn client(fields: &Fields<'_>) -> Option<ClientCertificate> {
    let (cert, key) = match (given(fields, "tls_client_cert"), given(fields, "tls_client_key")) {
        (Some(cert), Some(key)) => (cert, key),
        (Some((node, _)), None) => return node.refuse("is given without tls_client_key", "give both"),
        (None, Some((node, _))) => return node.refuse("is given without tls_client_cert", "give both"),
        (None, None) => return None,
    };
    let chain_right = "PEM (or PEM in base64) of a certificate chain, leaf first";
    let key_right = "PEM (or PEM in base64) of the certificate's private key";
    let chain = unpacked(&cert.0, cert.1, chain_right);
    let key_text = unpacked(&key.0, key.1, key_right);
    let (chain, key_text) = (chain?, key_text?);
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let Some(certificates) = certificates.ok().filter(|certificates| !certificates.is_empty()) else {
        return cert.0.refuse("holds no certificate", chain_right);
    };
    let Ok(private) = PrivateKeyDer::from_pem_slice(key_text.as_bytes()) else {
        return key.0.refuse("holds no private key", key_right);
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(certificates, private, &provider) {
        Ok(_) => Some(ClientCertificate {
            chain: Pem::new(chain.as_bytes()),
            key: Secret::new(key_text.as_bytes().to_vec()),
        }),
        Err(_) => key.0.refuse("does not belong to tls_client_cert, or is of no known kind", key_right),
    }
}

/// The text at `name`, or in the file that `name_file` names.
fn given<'a>(fields: &Fields<'a>, name: &str) -> Option<(Node<'a>, Zeroizing<String>)> {
    match (fields.get(name), fields.get(&format!("{name}_file"))) {
        (Some(_), Some(file)) => file.refuse(&format!("is given beside {name}"), "keep one of the two"),
        (Some(node), None) => {
            let text = Zeroizing::new(node.text()?.trim().to_owned());
            Some((node, text))
        }
        (None, Some(node)) => {
            let text = read(&node)?;
            Some((node, text))
        }
        (None, None) => None,
    }
}

fn read(node: &Node<'_>) -> Option<Zeroizing<String>> {
    let path = node.text()?;
    let mut text = Zeroizing::new(String::new());
    let most = u64::try_from(CA_FILE_BYTES).unwrap_or(u64::MAX);
    match File::open(Path::new(&path)).and_then(|file| file.take(most.saturating_add(1)).read_to_string(&mut text)) {
        Ok(bytes) if bytes > CA_FILE_BYTES => {
            node.refuse("names a file that is too large", &format!("{CA_FILE_BYTES} bytes at most"))
        }
        Ok(_) => Some(text),
        Err(error) => refuse_file(node, &error),
    }
}
