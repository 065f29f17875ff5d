//! The configuration that the demo runs on: a file to read and to start from.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, anyhow};
use url::Url;

use super::certificate::Certificates;
use super::people::Person;
use super::provider::Client;

/// The host of the authenticate component.
pub const AUTHENTICATE: &str = "authenticate.localhost";

/// Who may use a route of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everybody, without signing in.
    Public,
    /// Whoever signed in.
    SignedIn,
    /// Whoever is in this group.
    Group(&'static str),
    /// The person with this e-mail address.
    User(&'static str),
}

/// A route of the demo.
#[derive(Debug, Clone, Copy)]
pub struct DemoRoute {
    /// Its name, and the first label of its host.
    pub name: &'static str,
    /// Who may use it.
    pub access: Access,
}

/// Every route.
pub const ROUTES: [DemoRoute; 4] = [
    DemoRoute { name: "app", access: Access::SignedIn },
    DemoRoute { name: "admin", access: Access::Group("admins") },
    DemoRoute { name: "bob", access: Access::User("bob@example.com") },
    DemoRoute { name: "public", access: Access::Public },
];

impl DemoRoute {
    /// The host.
    pub fn host(&self) -> String {
        format!("{}.localhost", self.name)
    }

    /// Who may use it, in words.
    pub fn whom(&self) -> String {
        match self.access {
            Access::Public => "everybody, without signing in".to_owned(),
            Access::SignedIn => "whoever signed in".to_owned(),
            Access::Group(group) => format!("the group {group}"),
            Access::User(email) => format!("{email} alone"),
        }
    }
}

impl Access {
    /// Whether this person may.
    pub fn admits(self, person: &Person) -> bool {
        match self {
            Self::Public | Self::SignedIn => true,
            Self::Group(group) => person.groups.contains(&group),
            Self::User(email) => person.email == email,
        }
    }

    fn yaml(self) -> String {
        match self {
            Self::Public => "    allow_public_unauthenticated_access: true\n".to_owned(),
            Self::SignedIn => "    allow_any_authenticated_user: true\n    allow_websockets: true\n".to_owned(),
            Self::User(email) => format!("    allowed_users: [{email}]\n"),
            Self::Group(group) => format!(
                "    policy:\n      - allow:\n          and:\n            - groups:\n                has: {group}\n"
            ),
        }
    }
}

/// Every host that the gateway answers for.
pub fn hosts() -> Vec<String> {
    std::iter::once(AUTHENTICATE.to_owned()).chain(ROUTES.iter().map(DemoRoute::host)).collect()
}

/// `https://host:port`, the port only where it is not the scheme's own.
pub fn origin(host: &str, port: u16) -> String {
    if port == 443 { format!("https://{host}") } else { format!("https://{host}:{port}") }
}

/// What the configuration is made from.
pub struct Setting<'a> {
    /// Where the gateway listens.
    pub gateway: SocketAddr,
    /// The data directory, absolute.
    pub dir: &'a Path,
    /// The certificates.
    pub certificates: &'a Certificates,
    /// The provider's issuer.
    pub issuer: &'a str,
    /// What the provider knows the gateway as.
    pub client: &'a Client,
    /// Where the upstream listens.
    pub upstream: SocketAddr,
}

/// The configuration as YAML.
///
/// # Errors
/// A path that cannot be written in YAML.
pub fn text(setting: &Setting<'_>) -> Result<String> {
    let port = setting.gateway.port();
    let log = Url::from_file_path(setting.dir.join("log"))
        .map_err(|()| anyhow!("the data directory {} is not absolute", setting.dir.display()))?;
    let mut yaml = format!(
        "# The configuration of the Portcullis demo: Pomerium's keys, with their meanings.
# To start from it: put your own hosts, certificate, provider and upstreams where the demo's are.

# Where the gateway listens, and the certificate it shows: made by the demo, and trusted by nobody else.
address: {address}
certificate_file: {cert}
certificate_key_file: {key}

# Where people are sent to sign in. The provider must know its callback,
# {callback}
authenticate_service_url: {authenticate}

# The provider: the demo's own, whose passwords are no secret. Plain http is accepted on loopback only.
idp_provider: oidc
idp_provider_url: {issuer}
idp_client_id: {client_id}
idp_client_secret: {client_secret}

# 32 bytes in base64 each. Nodes that belong together share them.
shared_secret_file: {shared_secret}
cookie_secret_file: {cookie_secret}

# Where the event log is kept. `nats` with nats://host:port is the log of several nodes.
databroker_storage_type: file
databroker_storage_connection_string: {log}

# What an upstream is told: the signed assertion, and these claims as X-Pomerium-Claim-… headers.
pass_identity_headers: true
jwt_claims_headers: [email, groups, name]

# The usual headers of every answer but Strict-Transport-Security: a browser would remember it for localhost.
set_response_headers:
  X-Frame-Options: SAMEORIGIN
  X-XSS-Protection: 1; mode=block

# /healthz, /readyz and /startupz; port 0 takes any that is free.
health_check_addr: 127.0.0.1:0

# One entry for each external address, with who may use it. No rule at all lets nobody in.
routes:
",
        address = quoted(&setting.gateway.to_string())?,
        cert = path(&setting.certificates.cert)?,
        key = path(&setting.certificates.key)?,
        callback = setting.client.redirect_uri,
        authenticate = origin(AUTHENTICATE, port),
        issuer = setting.issuer,
        client_id = quoted(&setting.client.id)?,
        client_secret = quoted(setting.client.secret.expose_str().unwrap_or_default())?,
        shared_secret = path(&setting.dir.join("shared_secret"))?,
        cookie_secret = path(&setting.dir.join("cookie_secret"))?,
        log = quoted(log.as_str())?,
    );
    for route in &ROUTES {
        let (name, from) = (route.name, origin(&route.host(), port));
        let whom = route.whom();
        write!(yaml, "  # {whom}\n  - name: {name}\n    from: {from}\n    to: http://{}\n", setting.upstream)?;
        yaml.push_str(&route.access.yaml());
    }
    Ok(yaml)
}

fn path(path: &Path) -> Result<String> {
    quoted(path.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", path.display()))?)
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> Result<String> {
    Ok(serde_json::to_string(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::people::PEOPLE;
    use portcullis_config::Secret;
    use saphyr::{LoadableYamlNode, Yaml};

    fn written(dir: &str, gateway: &str) -> String {
        let gateway: SocketAddr = gateway.parse().unwrap();
        let dir = Path::new(dir);
        let certificates =
            Certificates { ca: dir.join("ca.pem"), cert: dir.join("gateway.pem"), key: dir.join("gateway.key") };
        text(&Setting {
            gateway,
            dir,
            certificates: &certificates,
            issuer: "http://127.0.0.1:4000",
            client: &Client::new("id".to_owned(), Secret::new("s\"e: cret"), gateway.port()).unwrap(),
            upstream: "127.0.0.1:5000".parse().unwrap(),
        })
        .unwrap()
    }

    #[test]
    fn the_configuration_is_yaml_and_names_every_host() {
        let text = written("/tmp/a b: #c \"d\"", "[::1]:8443");
        let documents = Yaml::load_from_str(&text).unwrap();
        let yaml = &documents[0];
        assert_eq!(yaml["address"].as_str(), Some("[::1]:8443"));
        assert_eq!(yaml["certificate_file"].as_str(), Some("/tmp/a b: #c \"d\"/gateway.pem"));
        assert_eq!(yaml["idp_client_secret"].as_str(), Some("s\"e: cret"));
        assert_eq!(yaml["authenticate_service_url"].as_str(), Some("https://authenticate.localhost:8443"));
        assert_eq!(yaml["set_response_headers"]["X-XSS-Protection"].as_str(), Some("1; mode=block"));
        assert!(yaml["set_response_headers"].as_mapping().unwrap().len() == 2);
        let routes = yaml["routes"].as_sequence().unwrap();
        assert_eq!(routes.len(), ROUTES.len());
        for (route, demo) in routes.iter().zip(&ROUTES) {
            assert_eq!(route["from"].as_str(), Some(format!("https://{}:8443", demo.host()).as_str()));
            assert_eq!(route["to"].as_str(), Some("http://127.0.0.1:5000"));
        }
        assert_eq!(routes[1]["policy"][0]["allow"]["and"][0]["groups"]["has"].as_str(), Some("admins"));
        for host in hosts() {
            assert!(text.contains(&host), "{host}");
        }
    }

    #[test]
    fn the_schemes_own_port_is_not_written() {
        let text = written("/tmp/d", "127.0.0.1:443");
        assert!(text.contains("from: https://app.localhost\n"));
        assert!(text.contains("https://authenticate.localhost/oauth2/callback"));
    }

    #[test]
    fn each_person_may_see_what_the_demo_promises() {
        let may = |name: &str| -> Vec<&str> {
            let person = PEOPLE.iter().find(|person| person.username == name).unwrap();
            ROUTES.iter().filter(|route| route.access.admits(person)).map(|route| route.name).collect()
        };
        assert_eq!(may("alice"), ["app", "admin", "public"]);
        assert_eq!(may("bob"), ["app", "bob", "public"]);
        assert_eq!(may("carol"), ["app", "public"]);
    }
}
