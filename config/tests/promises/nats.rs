//! Storage on NATS: servers, a user, TLS, copies; what is secret stays out of sight.

use std::path::Path;

use portcullis_config::{CertificatePair, Config, NatsLogin, NatsStorage, NatsTls, Problems, Secret, Storage};
use tempfile::TempDir;

use crate::{LEAST, SECRET};

const SEED: &str = "SUAIO3FHUX5PNV2LQIIP7TZ3N4L7TX3W53MQGEIVYFIGA635OZCKEYHFLM";
const NATS: &str = "databroker_storage_connection_string: nats://a\n";

fn load(keys: &str) -> Result<Config, Problems> {
    let shared = format!("databroker_storage_type: nats\nshared_secret: {SECRET}\ncookie_secret: {SECRET}\n");
    portcullis_config::parse("f", &format!("{LEAST}{shared}{keys}"), &|_| None)
}

fn storage(keys: &str) -> NatsStorage {
    match load(keys).unwrap().storage {
        Storage::Nats(nats) => nats,
        other => panic!("{other:?}"),
    }
}

fn refused(keys: &str) -> String {
    let problems = load(keys).unwrap_err();
    assert_eq!(problems.0.len(), 1, "{problems}");
    problems.to_string()
}

fn file(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn addresses(storage: &NatsStorage) -> Vec<&str> {
    storage.servers.iter().map(|url| url.as_str()).collect()
}

#[test]
fn several_servers_may_speak_tls() {
    let found = storage("databroker_storage_connection_string: 'tls://a, nats://b:4000,c'\n");
    assert_eq!(addresses(&found), ["tls://a:4222", "nats://b:4000", "nats://c:4222"]);
    assert_eq!((found.login, found.tls, found.replicas), (None, None, 1));
    for wrong in ["ws://a", "http://a", "nats://a/path", "nats://", "nats://user@a", "nats://:password@a"] {
        refused(&format!("databroker_storage_connection_string: {wrong}\n"));
    }
}

#[test]
fn a_user_comes_from_a_secret_file_and_is_never_seen() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "connection", "nats://gate%40way:hunter%2F2@a,b\n");
    let found = storage(&format!("databroker_storage_connection_string_file: {path}\n"));
    assert_eq!(addresses(&found), ["nats://a:4222", "nats://b:4222"]);
    let login = NatsLogin::Password { user: Secret::new("gate@way"), password: Secret::new("hunter/2") };
    assert_eq!(found.login, Some(login));
    assert!(!format!("{found:?}").contains("hunter"), "{found:?}");

    let said = refused("databroker_storage_connection_string: nats://gateway:hunter2@a\n");
    assert!(said.contains("databroker_storage_connection_string_file") && !said.contains("hunter2"), "{said}");
    let path = file(&dir, "several", "nats://one:hunter2@a,two:hunter2@b");
    let said = refused(&format!("databroker_storage_connection_string_file: {path}\n"));
    assert!(said.contains("names several users") && !said.contains("hunter2"), "{said}");
}

#[test]
fn a_user_may_come_from_a_variable() {
    let text = format!("{LEAST}databroker_storage_type: nats\nshared_secret: {SECRET}\ncookie_secret: {SECRET}\n");
    let variable = |name: &str| {
        (name == "DATABROKER_STORAGE_CONNECTION_STRING").then(|| "nats://gateway:hunter2@nats.example.com".to_owned())
    };
    let config = portcullis_config::parse("f", &text, &variable).unwrap();
    let Storage::Nats(found) = config.storage else { panic!() };
    assert!(matches!(found.login, Some(NatsLogin::Password { .. })));
    let warned = config.warnings.iter().any(|warning| warning.wrong.contains("without TLS"));
    assert!(warned, "a password in plain text to another machine: {:?}", config.warnings);
}

#[test]
fn credentials_and_nkeys_come_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let creds = format!(
        "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
    );
    let found = storage(&format!("{NATS}databroker_storage_credentials_file: {}\n", file(&dir, "creds", &creds)));
    assert_eq!(found.login, Some(NatsLogin::Credentials(Secret::new(creds.trim()))));
    let marked = format!("-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n");
    for text in [format!("{SEED}\n"), marked] {
        let found = storage(&format!("{NATS}databroker_storage_nkey_file: {}\n", file(&dir, "nkey", &text)));
        assert_eq!(found.login, Some(NatsLogin::Nkey(Secret::new(SEED))));
        assert!(!format!("{found:?}").contains(SEED));
    }
    for key in ["databroker_storage_credentials_file", "databroker_storage_nkey_file"] {
        for text in ["something else", "SUSHORT", ""] {
            refused(&format!("{NATS}{key}: {}\n", file(&dir, "wrong", text)));
        }
        refused(&format!("{NATS}{key}: /nonexistent\n"));
    }
    let (creds, nkey) = (file(&dir, "creds", &creds), file(&dir, "nkey", SEED));
    let both = format!("{NATS}databroker_storage_credentials_file: {creds}\ndatabroker_storage_nkey_file: {nkey}\n");
    assert!(refused(&both).contains("keep one of the two"));
}

#[test]
fn tls_has_roots_a_certificate_of_our_own_or_no_check_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, cert, key) = (file(&dir, "ca", "x"), file(&dir, "cert", "x"), file(&dir, "key", "x"));
    let pair = format!("databroker_storage_cert_file: {cert}\ndatabroker_storage_key_file: {key}\n");
    let found = storage(&format!("{NATS}databroker_storage_ca_file: {ca}\n{pair}"));
    let client = CertificatePair { cert: Path::new(&cert).into(), key: Path::new(&key).into() };
    assert_eq!(found.tls, Some(NatsTls { ca: Some(Path::new(&ca).into()), client: Some(client), skip_verify: false }));

    let config = load(&format!("{NATS}databroker_storage_tls_skip_verify: true\n")).unwrap();
    assert!(config.warnings.iter().any(|warning| warning.key == "databroker_storage_tls_skip_verify"));
    let Storage::Nats(found) = config.storage else { panic!() };
    assert_eq!(found.tls, Some(NatsTls { ca: None, client: None, skip_verify: true }));
    assert_eq!(storage(&format!("{NATS}databroker_storage_tls_skip_verify: false\n")).tls, None);

    assert!(refused(&format!("{NATS}databroker_storage_cert_file: {cert}\n")).contains("give both"));
    assert!(refused(&format!("{NATS}databroker_storage_key_file: {key}\n")).contains("give both"));
    refused(&format!("{NATS}databroker_storage_ca_file: /nonexistent\n"));
}

#[test]
fn streams_lie_on_one_three_or_five_servers() {
    for number in [1, 3, 5] {
        assert_eq!(storage(&format!("{NATS}databroker_storage_replicas: {number}\n")).replicas, number);
    }
    for wrong in ["0", "2", "many", "-1"] {
        refused(&format!("{NATS}databroker_storage_replicas: {wrong}\n"));
    }
}

#[test]
fn an_account_that_imports_jetstream_says_under_which_name() {
    assert_eq!(storage(NATS).api_prefix, None);
    for right in ["portcullis.js", "'$JS.hub.API'", "a-b_c"] {
        let found = storage(&format!("{NATS}databroker_storage_api_prefix: {right}\n"));
        assert_eq!(found.api_prefix.as_deref(), Some(right.trim_matches('\'')));
    }
    let long = "x".repeat(65);
    for wrong in ["'*'", "'a.>'", "a..b", "'.a'", "a.", "'a b'", "'a\u{e9}'", &long] {
        refused(&format!("{NATS}databroker_storage_api_prefix: {wrong}\n"));
    }
}

#[test]
fn what_concerns_nats_has_no_meaning_elsewhere() {
    for key in [
        "databroker_storage_replicas: 3",
        "databroker_storage_api_prefix: a",
        "databroker_storage_ca_file: /x",
        "databroker_storage_nkey_file: /x",
    ] {
        let said = portcullis_config::parse("f", &format!("{LEAST}{key}\n"), &|_| None).unwrap_err().to_string();
        assert!(said.contains("has no meaning without databroker_storage_type: nats"), "{said}");
    }
}
