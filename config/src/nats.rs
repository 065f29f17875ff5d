//! What `databroker_storage_type: nats` is told: servers, who we are to them, TLS, and how many copies they keep.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::files::{self, Given};
use crate::limits::NATS_PREFIX_BYTES;
use crate::node::{Fields, NOT_YET, Node};
use crate::urls::scheme;
use crate::{CertificatePair, NatsLogin, NatsStorage, NatsTls, Secret, global};

/// The port of a NATS server.
const NATS_PORT: u16 = 4222;

/// What a connection string looks like.
pub const RIGHT: &str = "nats://host:4222, more servers after commas";

/// Keys that have a meaning with `databroker_storage_type: nats` alone.
const OURS: [&str; 8] = [
    "databroker_storage_ca_file",
    "databroker_storage_cert_file",
    "databroker_storage_key_file",
    "databroker_storage_tls_skip_verify",
    "databroker_storage_credentials_file",
    "databroker_storage_nkey_file",
    "databroker_storage_replicas",
    "databroker_storage_api_prefix",
];

/// Reports what would have no effect on another type of storage.
pub fn refuse_all(top: &Fields<'_>) {
    for node in OURS.iter().filter_map(|name| top.get(name)) {
        node.wrong("has no meaning without databroker_storage_type: nats", "remove it");
    }
}

/// Everything about the servers. `None` only where something was reported.
pub fn decode(top: &Fields<'_>, connection: Option<Given<'_>>) -> Option<NatsStorage> {
    let servers = connection.as_ref().and_then(servers);
    let tls = tls(top);
    let login = login(top, connection.as_ref().zip(servers.as_ref()));
    let replicas = replicas(top);
    let api_prefix = api_prefix(top);
    let (servers, user) = servers.map(|servers| (servers.urls, servers.user))?;
    if let Some(node) = connection.map(|given| given.node).filter(|_| user.is_some() && tls.is_none()) {
        warn_of_plain_passwords(&node, &servers);
    }
    Some(NatsStorage { servers, login: login?, tls, replicas: replicas?, api_prefix: api_prefix? })
}

/// The servers of a connection string, and the one user that they all know.
struct Servers {
    urls: Vec<Url>,
    user: Option<(Secret, Secret)>,
}

/// `nats://host:port`, several separated by commas; after the first the scheme may be left out.
fn servers(given: &Given<'_>) -> Option<Servers> {
    let Given { node, text, .. } = given;
    if scheme(text).is_none() {
        return node.refuse("does not begin with nats://", RIGHT);
    }
    let servers: Option<Vec<_>> = text.split(',').map(|server| self::server(node, server.trim())).collect();
    let (urls, users): (Vec<Url>, Vec<_>) = servers?.into_iter().unzip();
    let mut users = users.into_iter().flatten();
    let user = users.next();
    if users.any(|other| Some(&other) != user.as_ref()) {
        return node.refuse("names several users", "one user, at one of the servers or the same at each");
    }
    if user.is_some() && given.in_place && !node.is_from_variable() {
        let right = "name a file that holds the whole value with databroker_storage_connection_string_file";
        return node.refuse("holds a password in a file that is not secret", right);
    }
    Some(Servers { urls, user })
}

/// An address without what is secret in it, and that.
fn server(node: &Node<'_>, text: &str) -> Option<(Url, Option<(Secret, Secret)>)> {
    let text = match scheme(text) {
        Some("nats" | "tls") => Cow::Borrowed(text),
        Some("ws" | "wss") => return node.refuse(NOT_YET, RIGHT),
        Some(_) => return node.refuse("does not begin with nats:// or tls://", RIGHT),
        None => Cow::Owned(format!("nats://{text}")),
    };
    let Ok(mut url) = Url::parse(&text) else {
        return node.refuse("has an address that is not a URL", RIGHT);
    };
    let user = match (url.username(), url.password()) {
        ("", None) => None,
        (user, Some(password)) if !user.is_empty() => Some((plain(user), plain(password))),
        _ => return node.refuse("has a user without a password, or a password without a user", "user:password@host"),
    };
    let is_bare = matches!(url.path(), "" | "/") && url.query().is_none() && url.fragment().is_none();
    if !is_bare || url.host_str().is_none_or(str::is_empty) {
        return node.refuse("has an address with more or less than host and port", RIGHT);
    }
    let is_set = url.set_username("").is_ok() && url.set_password(None).is_ok();
    if !is_set || (url.port().is_none() && url.set_port(Some(NATS_PORT)).is_err()) {
        return node.refuse("has an address that takes no port", RIGHT);
    }
    Some((url, user))
}

fn plain(encoded: &str) -> Secret {
    Secret::new(percent_decode_str(encoded).collect::<Vec<u8>>())
}

fn warn_of_plain_passwords(node: &Node<'_>, servers: &[Url]) {
    let is_here = |url: &Url| matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if servers.iter().any(|url| url.scheme() != "tls" && !is_here(url)) {
        node.warn("sends a password without TLS, unless the server insists on it", "write tls:// for nats://");
    }
}

/// Who we are: by the connection string, a credentials file or an nkey; at most one of them.
fn login(top: &Fields<'_>, given: Option<(&Given<'_>, &Servers)>) -> Option<Option<NatsLogin>> {
    let password = given.and_then(|(given, servers)| servers.user.clone().map(|user| (given.node.clone(), user)));
    let credentials = top.get("databroker_storage_credentials_file");
    let nkey = top.get("databroker_storage_nkey_file");
    let mut ways = password.iter().map(|(node, _)| node).chain(&credentials).chain(&nkey);
    if let (Some(first), Some(second)) = (ways.next(), ways.next()) {
        return second.refuse(&format!("is given beside a user in {}", first.key()), "keep one of the two");
    }
    if let Some((_, (user, password))) = password {
        return Some(Some(NatsLogin::Password { user, password }));
    }
    if let Some(node) = credentials {
        return self::credentials(&node).map(|credentials| Some(NatsLogin::Credentials(credentials)));
    }
    match nkey {
        Some(node) => self::nkey(&node).map(|seed| Some(NatsLogin::Nkey(seed))),
        None => Some(None),
    }
}

fn credentials(node: &Node<'_>) -> Option<Secret> {
    let text = files::secret_file(node)?;
    if !text.contains("-----BEGIN NATS USER JWT-----") || seed(&text).is_none() {
        return node
            .refuse("names a file without a user's JWT and seed", "a .creds file as `nsc generate creds` makes it");
    }
    Some(Secret::new(text.as_bytes().to_vec()))
}

fn nkey(node: &Node<'_>) -> Option<Secret> {
    let text = files::secret_file(node)?;
    match seed(&text) {
        Some(seed) => Some(Secret::new(seed.as_bytes().to_vec())),
        None => node.refuse("names a file without the seed of a user", "the seed that `nk -gen user` makes, SU…"),
    }
}

/// The seed of a user in a text, alone or between the lines that mark it.
fn seed(text: &str) -> Option<&str> {
    let is_seed = |line: &&str| {
        line.len() == 58 && line.starts_with("SU") && line.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    text.lines().map(str::trim).find(is_seed)
}

/// TLS is required of every server as soon as one of its keys is given.
fn tls(top: &Fields<'_>) -> Option<NatsTls> {
    let ca = top.get("databroker_storage_ca_file");
    let (cert, key) = (top.get("databroker_storage_cert_file"), top.get("databroker_storage_key_file"));
    let skip_verify = global::flag(top, "databroker_storage_tls_skip_verify", false);
    for (one, other, name) in
        [(&cert, &key, "databroker_storage_key_file"), (&key, &cert, "databroker_storage_cert_file")]
    {
        if let Some(node) = one.as_ref().filter(|_| other.is_none()) {
            node.wrong(&format!("is given without {name}"), "give both");
        }
    }
    if let Some(node) = top.get("databroker_storage_tls_skip_verify").filter(|_| skip_verify) {
        node.warn(
            "lets anyone between here and the servers read the log and write to it",
            "give databroker_storage_ca_file",
        );
    }
    let is_given = ca.is_some() || cert.is_some() || key.is_some() || skip_verify;
    let client = cert.as_ref().and_then(files::readable).zip(key.as_ref().and_then(files::readable));
    let client = client.map(|(cert, key)| CertificatePair { cert, key });
    is_given.then(|| NatsTls { ca: ca.as_ref().and_then(files::readable), client, skip_verify })
}

/// What JetStream takes: an odd number, so that more than half is no matter of luck.
fn replicas(top: &Fields<'_>) -> Option<usize> {
    let here = [("1", 1), ("3", 3), ("5", 5)];
    top.get("databroker_storage_replicas").map_or(Some(1), |node| node.choice(&here, &[]))
}

/// Tokens of a subject, as a server's `import … to:` names them.
fn api_prefix(top: &Fields<'_>) -> Option<Option<String>> {
    let Some(node) = top.get("databroker_storage_api_prefix") else { return Some(None) };
    let text = node.text()?;
    let is_token = |token: &str| {
        !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"$_-".contains(&byte))
    };
    if text.len() > NATS_PREFIX_BYTES || !text.split('.').all(is_token) {
        return node.refuse("is no subject that questions can begin with", "portcullis.js, as roles.conf imports them");
    }
    Some(Some(text))
}
