//! `downstream_mtls`: whose certificates clients may show, and what follows where they show none.

use std::path::PathBuf;

use crate::limits::{CLIENT_CA_BYTES, CRL_BYTES, VERIFY_DEPTH};
use crate::node::{Fields, Node};
use crate::pattern::{Pattern, PatternError};
use crate::policy::{Actions, Criterion, Policy, Rule};
use crate::{files, keys};

/// Who vouches for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuthority {
    /// `ca` or `ca_file`: certificates in PEM.
    pub ca: String,
    /// `crl` or `crl_file`: revocation lists in PEM.
    pub crl: Option<String>,
    /// `enforcement`.
    pub enforcement: Enforcement,
    /// `match_subject_alt_names`: one of them must match, if there is any.
    pub names: Vec<NamePattern>,
    /// `max_verify_depth`: how many authorities may stand above a client's certificate, the trusted one included;
    /// `None` for any number.
    pub max_depth: Option<usize>,
    /// The files that this was read from.
    pub files: Vec<PathBuf>,
}

/// What follows where a client shows no certificate, or none that holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Enforcement {
    /// `policy_with_default_deny`: every route refuses it.
    #[default]
    DefaultDeny,
    /// `policy`: what the routes' policies say.
    Policy,
    /// `reject_connection`: there is no connection.
    Reject,
}

/// A kind of name in a certificate (RFC 5280 §4.2.1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the language's own")]
pub enum AlternativeName {
    Dns,
    Email,
    IpAddress,
    Uri,
    UserPrincipalName,
}

/// What a name of one kind must look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern {
    /// The kind.
    pub kind: AlternativeName,
    /// An expression for the whole name.
    pub pattern: Pattern,
}

const CA: &str = "PEM (or PEM in base64) of the certificates of those who issue certificates to clients";
const CRL: &str = "PEM (or PEM in base64) of certificate revocation lists";

/// The whole block. `None` only where something was reported: without an authority nobody could be told apart.
pub fn decode(node: &Node<'_>, insecure_server: bool) -> Option<ClientAuthority> {
    let fields = node.fields()?;
    let known = ["ca", "ca_file", "crl", "crl_file", "enforcement", "match_subject_alt_names", "max_verify_depth"];
    keys::check_names(&fields, &known);
    if insecure_server {
        node.wrong("has no meaning with insecure_server", "end TLS here, or remove it");
    }
    let ca = material(&fields, "ca", "CERTIFICATE", CLIENT_CA_BYTES, CA);
    if ca.is_none() && fields.get("ca").is_none() && fields.get("ca_file").is_none() {
        fields.missing("ca", CA);
    }
    let crl = material(&fields, "crl", "X509 CRL", CRL_BYTES, CRL);
    let here = [
        ("policy_with_default_deny", Enforcement::DefaultDeny),
        ("policy", Enforcement::Policy),
        ("reject_connection", Enforcement::Reject),
    ];
    let enforcement = fields.get("enforcement").map_or(Some(Enforcement::default()), |node| node.choice(&here, &[]));
    let names = fields.get("match_subject_alt_names").map_or(Some(Vec::new()), |node| patterns(&node));
    let max_depth = fields.get("max_verify_depth").map_or(Some(Some(1)), |node| depth(&node));
    let (ca, ca_path) = ca?;
    let (crl, crl_path) = crl.map_or((None, None), |(crl, path)| (Some(crl), path));
    let files = ca_path.into_iter().chain(crl_path).collect();
    Some(ClientAuthority { ca, crl, enforcement: enforcement?, names: names?, max_depth: max_depth?, files })
}

/// PEM in place, or in the file that the key beside it names, which is told too.
fn material(fields: &Fields<'_>, name: &str, kind: &str, most: u64, right: &str) -> Option<(String, Option<PathBuf>)> {
    match (fields.get(name), fields.get(&format!("{name}_file"))) {
        (None, None) => None,
        (Some(_), Some(file)) => file.refuse(&format!("is given beside {name}"), "keep one of the two"),
        (Some(node), None) => {
            let pem = files::pem(&node, &[kind], right)?;
            Some((String::from_utf8_lossy(pem.expose()).into_owned(), None))
        }
        (None, Some(file)) => files::pem_file(&file, kind, most, right).map(|(pem, path)| (pem, Some(path))),
    }
}

/// `[{dns: REGEX}, …]`, one kind in each.
fn patterns(node: &Node<'_>) -> Option<Vec<NamePattern>> {
    let Some(items) = node.items() else {
        return node.refuse("is not a list", "a list such as [{email: '.*@example\\.com'}]");
    };
    let read: Vec<_> = items.iter().map(pattern).collect();
    read.into_iter().collect()
}

fn pattern(node: &Node<'_>) -> Option<NamePattern> {
    let kinds = [
        ("dns", AlternativeName::Dns),
        ("email", AlternativeName::Email),
        ("ip_address", AlternativeName::IpAddress),
        ("uri", AlternativeName::Uri),
        ("user_principal_name", AlternativeName::UserPrincipalName),
    ];
    let fields = node.fields()?;
    let mut entries = fields.entries();
    let (Some((name, data)), None) = (entries.next(), entries.next()) else {
        return node.refuse("is not exactly one pattern", "one kind of name behind each dash");
    };
    let Some((_, kind)) = kinds.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = kinds.iter().map(|(name, _)| *name).collect();
        keys::check_names(&fields, &names);
        return None;
    };
    match Pattern::new(&data.text()?) {
        Ok(pattern) => Some(NamePattern { kind: *kind, pattern }),
        Err(PatternError::Syntax(_)) => {
            data.refuse("is no regular expression", "an expression of RE2 for the whole name")
        }
        Err(error) => data.refuse(&error.to_string(), "a shorter one"),
    }
}

fn depth(node: &Node<'_>) -> Option<Option<usize>> {
    let text = node.scalar().map(|scalar| scalar.text.as_str()).unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<usize>().ok().filter(|depth| digits && *depth <= VERIFY_DEPTH) {
        Some(0) => Some(None),
        Some(depth) => Some(Some(depth)),
        None => node.refuse("is not a number of certificates", &format!("0 (any number) to {VERIFY_DEPTH}")),
    }
}

impl ClientAuthority {
    /// Puts what follows from it before the rules of a route.
    pub(crate) fn guard(&self, policy: &mut Policy) {
        if self.enforcement != Enforcement::Policy {
            let deny = Actions { or: vec![Criterion::InvalidClientCertificate], ..Actions::default() };
            policy.rules.insert(0, Rule { allow: None, deny: Some(deny) });
        }
    }
}
