//! Every key of the top level: what it gives, its default, and what it refuses.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_config::{
    Certificate, CertificatePair, IssuerFormat, LogLevel, NatsStorage, SameSite, Secret, Staleness, Storage,
};

use crate::{LEAST, SECRET, problems, with};

const PEM: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----";

fn file(content: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

#[test]
fn absent_keys_have_pomeriums_defaults() {
    let config = with("").unwrap();
    assert_eq!(config.address.to_string(), ":443");
    assert_eq!(config.health_check_addr.to_string(), "127.0.0.1:28080");
    assert_eq!((config.metrics_address, config.metrics_basic_auth), (None, None));
    assert_eq!(config.max_staleness, Staleness::Within(Duration::from_secs(300)));
    assert_eq!(config.cookie.name, "_pomerium");
    assert_eq!(config.cookie.domain, None);
    assert!(config.cookie.http_only);
    assert_eq!(config.cookie.expire, Duration::from_secs(14 * 3600));
    assert_eq!(config.cookie.same_site, None);
    assert_eq!(config.session_idle_timeout, None);
    assert_eq!(config.idp.as_ref().unwrap().scopes, ["openid", "profile", "email", "offline_access"]);
    assert!(config.idp.as_ref().unwrap().client_secret.is_none());
    assert_eq!(config.storage, Storage::File(None));
    assert_eq!(config.log_level, LogLevel::Info);
    assert_eq!(config.jwt_issuer_format, IssuerFormat::HostOnly);
    assert!(!config.pass_identity_headers);
    assert!(config.shared_secret.is_none() && config.cookie_secret.is_none() && config.signing_key.is_none());
    assert!(config.routes.is_empty() && config.certificates.is_empty() && config.signout_redirect_url.is_none());
    // ended in front of us, TLS is not ours to promise
    let names: Vec<_> = config.set_response_headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-frame-options", "x-xss-protection"]);
}

#[test]
fn every_key_gives_what_was_written() {
    let cert = file("cert");
    let key = file("key");
    let (cert, key) = (cert.path().display(), key.path().display());
    let secret = file(&format!("{SECRET}\n"));
    let text = format!(
        "\
services: all
address: '[::1]:8443'
insecure_server: false
certificates:
- {{cert: {cert}, key: {key}}}
certificate_file: {cert}
certificate_key_file: {key}
authenticate_service_url: https://AUTH.example.com.:8443
shared_secret: {SECRET}
cookie_secret_file: {secret}
signing_key: |
  -----BEGIN EC PRIVATE KEY-----
  AAAA
  -----END EC PRIVATE KEY-----
cookie_name: gate
cookie_domain: .Example.com
cookie_http_only: true
cookie_expire: 1h30m
session_idle_timeout: 30m
cookie_same_site: lax
idp_provider: oidc
idp_provider_url: http://127.0.0.1:4000
idp_client_id: id
idp_client_secret: s3cret
idp_scopes: [openid, groups]
idp_request_params: {{prompt: login}}
databroker_storage_type: nats
databroker_storage_connection_string: nats://a:4000,b
jwt_claims_headers: [email, given_name]
pass_identity_headers: true
jwt_issuer_format: uri
signout_redirect_url: https://example.com/bye
set_response_headers: {{X-One: '1'}}
log_level: debug
health_check_addr: :0
routes: []
",
        secret = secret.path().display()
    );
    let config = portcullis_config::parse("f", &text, &|_| None).unwrap();
    assert_eq!(config.address.to_string(), "[::1]:8443");
    assert_eq!(config.certificates.len(), 2);
    let pair = CertificatePair { cert: PathBuf::from(cert.to_string()), key: PathBuf::from(key.to_string()) };
    assert_eq!(config.certificates[0], Certificate::Files(pair));
    assert_eq!(config.authenticate_service_url.as_str(), "https://auth.example.com:8443/");
    let bytes: Vec<u8> = (0..32).collect();
    assert_eq!(config.shared_secret, Some(Secret::new(bytes.clone())));
    assert_eq!(config.cookie_secret, Some(Secret::new(bytes)));
    assert!(config.signing_key.unwrap().expose_str().unwrap().starts_with("-----BEGIN EC PRIVATE KEY-----\nAAAA"));
    assert_eq!(config.cookie.name, "gate");
    assert_eq!(config.cookie.domain.as_deref(), Some("example.com"));
    assert_eq!(config.cookie.expire, Duration::from_secs(5400));
    assert_eq!(config.session_idle_timeout, Some(Duration::from_secs(1800)));
    assert_eq!(config.cookie.same_site, Some(SameSite::Lax));
    assert_eq!(config.idp.as_ref().unwrap().issuer, "http://127.0.0.1:4000");
    assert_eq!(config.idp.as_ref().unwrap().client_id, "id");
    assert_eq!(config.idp.as_ref().unwrap().client_secret, Some(Secret::new("s3cret")));
    assert_eq!(config.idp.as_ref().unwrap().scopes, ["openid", "groups"]);
    assert_eq!(config.idp.as_ref().unwrap().request_params, [("prompt".to_owned(), "login".to_owned())]);
    let Storage::Nats(nats) = config.storage else { panic!() };
    assert_eq!(nats, NatsStorage::at(nats.servers.clone()));
    assert_eq!(nats.servers.iter().map(|url| url.as_str()).collect::<Vec<_>>(), ["nats://a:4000", "nats://b:4222"]);
    let claims: Vec<_> = config.jwt_claims_headers.iter().map(|(name, claim)| (name.as_str(), &**claim)).collect();
    assert_eq!(claims, [("x-pomerium-claim-email", "email"), ("x-pomerium-claim-given-name", "given_name")]);
    assert!(config.pass_identity_headers);
    assert_eq!(config.jwt_issuer_format, IssuerFormat::Uri);
    assert_eq!(config.signout_redirect_url.unwrap().as_str(), "https://example.com/bye");
    assert_eq!(config.set_response_headers.len(), 1);
    assert_eq!(config.log_level, LogLevel::Debug);
    assert_eq!(config.health_check_addr.to_string(), ":0");
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
}

#[test]
fn an_address_has_every_form_that_go_takes() {
    for address in [":443", "0.0.0.0:443", "localhost:8443", "[::1]:8443", "node-1.example.com:1"] {
        assert_eq!(with(&format!("address: '{address}'\n")).unwrap().address.to_string(), address);
    }
    for address in ["443", "host", "host:", "host:65536", "host:+1", "::1:443", "[::1]", "[host]:1", "a b:1", ":https"]
    {
        assert_eq!(problems(&format!("address: '{address}'\n")).len(), 1, "{address}");
    }
}

#[test]
fn a_secret_is_32_bytes_with_or_without_padding() {
    let unpadded = SECRET.trim_end_matches('=');
    assert!(with(&format!("shared_secret: {unpadded}\n")).unwrap().shared_secret.is_some());
    for wrong in ["c2hvcnQ=", "'%%%'", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISI="] {
        assert_eq!(problems(&format!("shared_secret: {wrong}\n")).len(), 1, "{wrong}");
    }
    let both = problems(&format!("shared_secret: {SECRET}\nshared_secret_file: /x\n"));
    assert_eq!(both, ["2 shared_secret_file: is given beside shared_secret; keep one of the two"]);
}

#[test]
fn a_signing_key_is_pem_or_base64_of_pem() {
    use base64::Engine;
    let packed = base64::engine::general_purpose::STANDARD.encode(PEM);
    assert_eq!(with(&format!("signing_key: {packed}\n")).unwrap().signing_key, Some(Secret::new(PEM)));
    let from_file = file(PEM);
    let path = from_file.path().display();
    assert_eq!(with(&format!("signing_key_file: {path}\n")).unwrap().signing_key, Some(Secret::new(PEM)));
    for wrong in ["AAAA", "nonsense!", "'-----BEGIN CERTIFICATE----- -----END CERTIFICATE-----'"] {
        assert_eq!(problems(&format!("signing_key: {wrong}\n")).len(), 1, "{wrong}");
    }
}

#[test]
fn an_issuer_over_plain_http_is_on_this_machine() {
    for host in ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"] {
        let text = LEAST.replace("https://idp.example.com", &format!("http://{host}:4000/realm"));
        let config = portcullis_config::parse("f", &text, &|_| None).unwrap();
        assert_eq!(config.idp.as_ref().unwrap().issuer, format!("http://{host}:4000/realm"));
    }
    for host in ["idp.example.com", "10.0.0.1", "localhost.example.com"] {
        let text = LEAST.replace("https://idp.example.com", &format!("http://{host}"));
        assert!(portcullis_config::parse("f", &text, &|_| None).is_err(), "{host}");
    }
}

#[test]
fn on_nats_what_nodes_share_must_be_given() {
    let said = problems("databroker_storage_type: nats\n");
    let keys: Vec<_> = said.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
    assert_eq!(keys, ["databroker_storage_connection_string:", "shared_secret:", "cookie_secret:"]);
}

#[test]
fn a_log_on_files_may_name_its_directory() {
    for (text, path) in [("file:///var/lib/gate", "/var/lib/gate"), ("/var/lib/gate", "/var/lib/gate")] {
        let config = with(&format!("databroker_storage_connection_string: {text}\n")).unwrap();
        assert_eq!(config.storage, Storage::File(Some(PathBuf::from(path))));
    }
    for wrong in ["postgresql://db/x", "nats://a", "file://host/dir", "redis://a"] {
        assert_eq!(problems(&format!("databroker_storage_connection_string: {wrong}\n")).len(), 1, "{wrong}");
    }
}

#[test]
fn response_headers_replace_the_defaults_as_a_whole() {
    assert!(with("set_response_headers: {disable: true}\n").unwrap().set_response_headers.is_empty());
    assert!(with("set_response_headers: {}\n").unwrap().set_response_headers.is_empty());
    assert_eq!(with("set_response_headers: {X-A: b}\n").unwrap().set_response_headers.len(), 1);
    assert_eq!(problems("set_response_headers: {disable: true, X-A: b}\n").len(), 1);
    assert_eq!(problems("set_response_headers: {X-A: b, x-a: c}\n").len(), 1);
    assert_eq!(problems("set_response_headers: {Transfer-Encoding: chunked}\n").len(), 1);
}

#[test]
fn claims_fill_headers_of_their_own() {
    let config = with("jwt_claims_headers: {X-Mail: email, Authorization: token}\n").unwrap();
    assert_eq!(config.jwt_claims_headers.len(), 2);
    assert_eq!(with("jwt_claims_headers: email, groups\n").unwrap().jwt_claims_headers.len(), 2);
    for wrong in [
        "[a_b, a-b]",
        "[https://example.com/roles]",
        "{Host: email}",
        "{Cookie: email}",
        "{Connection: email}",
        "{X-Pomerium-Jwt-Assertion: email}",
        "{'X A': email}",
    ] {
        assert_eq!(problems(&format!("jwt_claims_headers: {wrong}\n")).len(), 1, "{wrong}");
    }
}

#[test]
fn an_idle_timeout_is_long_enough_to_be_kept_on_the_log() {
    assert_eq!(with("session_idle_timeout: 4s\n").unwrap().session_idle_timeout, Some(Duration::from_secs(4)));
    for wrong in ["0s", "3999ms"] {
        let said = problems(&format!("session_idle_timeout: {wrong}\n"));
        assert_eq!(
            said,
            [
                "1 session_idle_timeout: is too short a time to be idle for; 4s or longer, such as 30m; remove it for no bound"
            ]
        );
    }
    assert_eq!(problems("session_idle_timeout: 30\n").len(), 1);
}

/// `text` in base64 over several lines, as `base64` writes it.
fn packed(text: &str) -> String {
    let packed = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    packed.as_bytes().chunks(20).map(|line| format!("  {}\n", String::from_utf8_lossy(line))).collect()
}

#[test]
fn a_certificate_may_stand_in_the_configuration_itself() {
    let chain = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for kind in ["PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"] {
        let key = format!("-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n");
        let expected = Certificate::InPlace { chain: Secret::new(chain), key: Secret::new(key.as_str()) };
        let text = format!("certificate: |\n{}certificate_key: |\n{}", packed(chain), packed(&key));
        assert_eq!(with(&text).unwrap().certificates, std::slice::from_ref(&expected), "{kind}");
        let variables = |name: &str| match name {
            "CERTIFICATE" => Some(chain.to_owned()),
            "CERTIFICATE_KEY" => Some(key.clone()),
            _ => None,
        };
        assert_eq!(portcullis_config::parse("f", LEAST, &variables).unwrap().certificates, [expected], "{kind}");
        let shown = format!("{:?}", with(&text).unwrap());
        assert!(!shown.contains("AAAA"), "{shown}");
    }
    let key = packed("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    for (text, said) in [
        (format!("certificate: |\n{}", packed(chain)), "1 certificate: is given without certificate_key; give both"),
        (format!("certificate_key: |\n{key}"), "1 certificate_key: is given without certificate; give both"),
        (format!("certificate: '%'\ncertificate_key: |\n{key}"), "1 certificate: is neither PEM nor base64 of PEM; "),
        (format!("certificate: |\n{key}certificate_key: |\n{key}"), "1 certificate: holds no certificate; "),
        (
            format!("certificate_key: |\n{}certificate: |\n{}", packed(chain), packed(chain)),
            "1 certificate_key: holds no private key; ",
        ),
        ("certificate: x\ncertificate_key: x\n".to_owned(), "1 certificate: is neither PEM"),
    ] {
        let problems = problems(&text);
        assert!(problems[0].starts_with(said), "{text}: {problems:?}");
    }
}

#[test]
fn staleness_is_strict_a_duration_or_unbounded() {
    let bound = |text: &str| with(&format!("max_staleness: {text}\n")).unwrap().max_staleness;
    assert_eq!(bound("strict"), Staleness::Within(Duration::from_secs(2)));
    assert_eq!(bound("2s"), Staleness::STRICT);
    assert_eq!(bound("1h30m"), Staleness::Within(Duration::from_secs(5400)));
    assert_eq!(bound("unbounded"), Staleness::Unbounded);
    for wrong in ["1999ms", "0", "-5s", "300", "forever", "true", "[strict]", "{a: b}"] {
        let said = problems(&format!("max_staleness: {wrong}\n"));
        assert!(matches!(said.as_slice(), [one] if one.starts_with("1 max_staleness: ")), "{wrong}: {said:?}");
    }
    let warned = with("max_staleness: unbounded\n").unwrap().warnings;
    assert!(warned.iter().any(|warning| warning.key == "max_staleness"));
}

#[test]
fn metrics_are_told_where_and_to_whom_the_file_says() {
    let config = with("metrics_address: 127.0.0.1:9090\nmetrics_basic_auth: c2NyYXBlcjpodW50ZXIy\n").unwrap();
    assert_eq!(config.metrics_address.unwrap().to_string(), "127.0.0.1:9090");
    assert_eq!(config.metrics_basic_auth, Some(Secret::new("scraper:hunter2")));
    assert!(!config.warnings.iter().any(|warning| warning.key.starts_with("metrics")));
    for wrong in ["hunter2", "'%%%'", "c2NyYXBlcg==", "c2NyYXBlcjo="] {
        let said = problems(&format!("metrics_address: 127.0.0.1:9090\nmetrics_basic_auth: {wrong}\n"));
        assert!(said[0].starts_with("2 metrics_basic_auth: "), "{wrong}: {said:?}");
    }
    assert_eq!(
        problems("metrics_certificate_file: /x\n")[0],
        "1 metrics_certificate_file: not supported by this version; remove it"
    );
    let warned = |more: &str| {
        let warnings = with(more).unwrap().warnings;
        warnings.into_iter().map(|warning| warning.key).find(|key| key.starts_with("metrics"))
    };
    assert_eq!(warned("metrics_address: ':9090'\n").as_deref(), Some("metrics_address"));
    assert_eq!(warned("metrics_address: 127.0.0.1:9090\n"), None);
    assert_eq!(warned("metrics_basic_auth: YTpi\n").as_deref(), Some("metrics_basic_auth"));
}

#[test]
fn what_works_but_is_unsafe_is_warned_of_by_its_place() {
    let config = with("cookie_http_only: false\naddress: 0.0.0.0:80\n").unwrap();
    let said: Vec<_> = config.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(said, ["insecure_server", "cookie_http_only"]);
    assert!(with("address: 127.0.0.1:80\n").unwrap().warnings.is_empty());
}
