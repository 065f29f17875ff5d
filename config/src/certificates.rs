//! The certificates towards clients: in place (PEM, or PEM in base64) or as files, one pair or a list of them.

use crate::node::{Fields, Node};
use crate::{Certificate, CertificatePair, files, keys};

/// Each key of a certificate at the top level, with that of its private key.
const PAIRS: [(&str, &str); 2] = [("certificate", "certificate_key"), ("certificate_file", "certificate_key_file")];

/// `certificate` with `certificate_key`, `certificate_file` with `certificate_key_file`, and `certificates`, in file
/// order.
pub fn decode(top: &Fields<'_>, insecure_server: bool) -> Vec<Certificate> {
    let mut decoded = Vec::new();
    let mut given = false;
    for (name, node) in top.entries().filter(|(name, _)| top.get(name).is_some()) {
        if name == "certificates" {
            match node.items() {
                Some(items) => {
                    given = given || !items.is_empty();
                    decoded.extend(items.iter().filter_map(listed).map(Certificate::Files));
                }
                None => node.wrong("is not a list", "a list of maps with `cert` and `key`"),
            }
        } else if let Some((_, key_name)) = PAIRS.iter().find(|(cert, _)| *cert == name) {
            given = true;
            let key = top.get(key_name);
            if key.is_none() {
                node.wrong(&format!("is given without {key_name}"), "give both");
            }
            decoded.extend(match name {
                "certificate" => in_place(&node, key.as_ref()),
                _ => pair(&node, key.as_ref()).map(Certificate::Files),
            });
        } else if let Some((cert_name, _)) = PAIRS.iter().find(|(_, key)| *key == name) {
            given = true;
            if top.get(cert_name).is_none() {
                node.wrong(&format!("is given without {cert_name}"), "give both");
            }
        }
    }
    if !given && !insecure_server {
        let right = "certificate_file and certificate_key_file, or insecure_server: true where TLS is ended in front";
        top.missing("certificates", right);
    }
    decoded
}

/// Whether they belong together is seen when they are used.
fn in_place(cert: &Node<'_>, key: Option<&Node<'_>>) -> Option<Certificate> {
    let chain = files::pem(cert, &["CERTIFICATE"], "PEM (or PEM in base64) of a certificate chain, leaf first");
    let kinds = ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"];
    let key = key.and_then(|key| files::pem(key, &kinds, "PEM (or PEM in base64) of the certificate's private key"));
    Some(Certificate::InPlace { chain: chain?, key: key? })
}

fn listed(node: &Node<'_>) -> Option<CertificatePair> {
    let fields = node.fields()?;
    keys::check_names(&fields, &["cert", "key"]);
    let cert = fields.required("cert", "the path of a PEM certificate chain");
    let key = fields.required("key", "the path of a PEM private key");
    pair(&cert?, key.as_ref())
}

/// Both files are looked at, so that both problems are said.
fn pair(cert: &Node<'_>, key: Option<&Node<'_>>) -> Option<CertificatePair> {
    let cert = files::readable(cert);
    let key = key.and_then(files::readable);
    Some(CertificatePair { cert: cert?, key: key? })
}
