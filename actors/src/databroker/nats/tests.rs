//! Servers that fail over, want TLS, want to know who we are, or deny us something.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use nkeys::KeyPair;
use portcullis_config::{CertificatePair, NatsLogin, NatsStorage, NatsTls, Secret};
use portcullis_events::{Aggregate, EventId, SessionId};
use portcullis_harness::certificate::{Authority, Certificate};
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use serde_json::json;

use super::*;
use crate::databroker::log::jetstream::{JetStreamLog, STREAM};
use crate::databroker::log::{AppendError, Expected, Log, NewRecord, Tailed};
use crate::databroker::vault::jetstream::JetStreamVault;
use crate::databroker::vault::{Shelf, Vault, VaultError};

const SOON: Duration = Duration::from_secs(10);
/// An nkey made for this test, and its public half.
const SEED: &str = "SUAE5VE66HCQ6CSTC4WCDVF2KPFIY5JKC7T7NGXE47S43MJC3526DCCA44";
const PUBLIC: &str = "UA67SRINLZOD3JGEICWX2CPJN3OKQ222LIQ6KXO7QIPYRAQSSET3N7FJ";

fn at(server: &NatsServer) -> NatsStorage {
    NatsStorage::at(vec![server.url()])
}

fn password(user: &str, password: &str) -> Option<NatsLogin> {
    Some(NatsLogin::Password { user: Secret::new(user), password: Secret::new(password) })
}

async fn log(storage: &NatsStorage) -> JetStreamLog {
    JetStreamLog::new(&Nats::connect(storage).await.unwrap(), 1)
}

/// Why the log cannot be had.
async fn why(log: &JetStreamLog) -> String {
    log.head().await.unwrap_err().to_string()
}

fn record() -> NewRecord {
    let aggregate = Aggregate::session(SessionId::new(Uuid::from_u128(1)));
    NewRecord { aggregate, expected: Expected::NoStream, id: EventId::new(Uuid::now_v7()), body: b"event".to_vec() }
}

#[actix::test]
async fn of_several_servers_one_that_is_there_is_enough() {
    let (mut gone, there) = (NatsServer::start().unwrap(), NatsServer::start().unwrap());
    gone.kill().unwrap();
    let log = log(&NatsStorage::at(vec![gone.url(), there.url()])).await;
    let look = async || Ok(Some(log.head().await?));
    assert_eq!(eventually("the log is reached", SOON, look).await.unwrap().last, 0);
}

#[actix::test]
async fn a_user_with_the_wrong_password_is_told_so_and_one_with_the_right_one_is_let_in() {
    let users = "authorization { users: [{ user: gateway, password: 'hunter/2' }] }";
    let server = NatsServer::start_with("nats", users).unwrap();
    for wrong in [None, password("gateway", "wrong")] {
        let log = log(&NatsStorage { login: wrong, ..at(&server) }).await;
        let look = async || Ok(Some(why(&log).await).filter(|why| why.contains("authorization violation")));
        let why = eventually("the server's word", SOON, look).await.unwrap();
        assert!(!why.contains("wrong"), "{why}");
    }
    let right = NatsStorage { login: password("gateway", "hunter/2"), ..at(&server) };
    assert_eq!(log(&right).await.head().await.unwrap().last, 0);
    let nats = Nats::connect(&right).await.unwrap();
    assert!(!format!("{right:?}{nats:?}").contains("hunter"), "a password is printed");
}

#[actix::test]
async fn an_nkey_opens_a_server_that_knows_its_public_half() {
    let server = NatsServer::start_with("nats", &format!("authorization {{ users: [{{ nkey: {PUBLIC} }}] }}")).unwrap();
    let storage = NatsStorage { login: Some(NatsLogin::Nkey(Secret::new(SEED))), ..at(&server) };
    assert_eq!(log(&storage).await.head().await.unwrap().last, 0);
}

#[actix::test]
async fn credentials_that_are_none_are_found_before_anything_is_asked() {
    let login = Some(NatsLogin::Credentials(Secret::new("hunter2")));
    let error = Nats::connect(&NatsStorage { login, ..NatsStorage::at(Vec::new()) }).await.unwrap_err();
    assert_eq!(error, BadOption::Credentials);
    assert!(!error.to_string().contains("hunter2"));
}

struct Tls {
    dir: tempfile::TempDir,
    ours: Certificate,
    server: NatsServer,
}

/// A server that takes nobody without a certificate of its authority.
fn mutual_tls() -> Tls {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    let theirs = authority.issue(dir.path(), "server", &["127.0.0.1"]).unwrap();
    let ours = authority.issue(dir.path(), "client", &["gateway"]).unwrap();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let quoted = |path: &Path| serde_json::to_string(path).unwrap();
    let tls = include_str!("../../../../deploy/nats/tls.conf")
        .replace("$NATS_CERT_FILE", &quoted(&theirs.cert))
        .replace("$NATS_KEY_FILE", &quoted(&theirs.key))
        .replace("$NATS_CA_FILE", &quoted(&dir.path().join("ca.pem")));
    let server = NatsServer::start_with("tls", &tls).unwrap();
    Tls { dir, ours, server }
}

impl Tls {
    fn storage(&self, ca: bool, cert: bool, skip_verify: bool) -> NatsStorage {
        let client = cert.then(|| CertificatePair { cert: self.ours.cert.clone(), key: self.ours.key.clone() });
        let ca = ca.then(|| self.dir.path().join("ca.pem"));
        NatsStorage { tls: Some(NatsTls { ca, client, skip_verify }), ..at(&self.server) }
    }
}

#[actix::test]
async fn tls_is_spoken_with_our_certificate_to_servers_that_our_authority_knows() {
    let tls = mutual_tls();
    assert_eq!(log(&tls.storage(true, true, false)).await.head().await.unwrap().last, 0);
    // an address without TLS is no way around it
    let mut plain = tls.storage(true, true, false);
    plain.servers = vec![tls.server.url().as_str().replace("tls://", "nats://").parse().unwrap()];
    assert_eq!(log(&plain).await.head().await.unwrap().last, 0);
    assert_eq!(log(&tls.storage(false, true, true)).await.head().await.unwrap().last, 0);
    for wrong in [tls.storage(false, true, false), tls.storage(true, false, false), at(&tls.server)] {
        assert!(why(&log(&wrong).await).await.contains("not connected"), "{wrong:?}");
    }
}

#[actix::test]
async fn a_server_without_tls_is_not_spoken_to_where_tls_is_wanted() {
    let server = NatsServer::start_with("tls", "").unwrap();
    assert!(why(&log(&at(&server)).await).await.contains("not connected"));
}

#[actix::test]
async fn files_of_tls_that_cannot_be_used_are_named_at_start() {
    let tls = mutual_tls();
    let other = Authority::new().unwrap().issue(tls.dir.path(), "other", &["other"]).unwrap();
    let junk = tls.dir.path().join("junk.pem");
    std::fs::write(&junk, "junk").unwrap();
    let good = tls.storage(true, true, false);
    let with = |ca: Option<&Path>, cert: &Path, key: &Path| {
        let client = Some(CertificatePair { cert: cert.to_owned(), key: key.to_owned() });
        NatsStorage { tls: Some(NatsTls { ca: ca.map(Path::to_owned), client, skip_verify: false }), ..good.clone() }
    };
    for (wrong, named) in [
        (with(Some(&junk), &tls.ours.cert, &tls.ours.key), "databroker_storage_ca_file"),
        (with(None, &junk, &tls.ours.key), "databroker_storage_cert_file"),
        (with(None, &tls.ours.cert, &junk), "databroker_storage_key_file"),
        (with(None, &tls.ours.cert, &other.key), "databroker_storage_key_file"),
    ] {
        let error = Nats::connect(&wrong).await.unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
}

/// A server on which the user `gateway` may do everything but what is denied; the stream is there.
async fn denying(publish: &str, subscribe: &str) -> (NatsServer, NatsStorage) {
    let users = format!(
        "authorization {{ users: [\n\
         {{ user: admin, password: admin }}\n\
         {{ user: gateway, password: gateway, permissions: {{ publish: {{ allow: \">\", deny: [{publish}] }}, subscribe: {{ \
         allow: \">\", deny: [{subscribe}] }} }} }}\n] }}"
    );
    let server = NatsServer::start_with("nats", &users).unwrap();
    let admin = Nats::connect(&NatsStorage { login: password("admin", "admin"), ..at(&server) }).await.unwrap();
    let log = JetStreamLog::new(&admin, 1);
    log.append(record()).await.unwrap();
    JetStreamVault::new(&admin, 1).scan(Shelf::DataKey).await.unwrap();
    let storage = NatsStorage { login: password("gateway", "gateway"), ..at(&server) };
    (server, storage)
}

#[actix::test]
async fn a_subject_that_is_denied_is_named_at_once() {
    for (denied, subject) in [
        ("\"$JS.API.STREAM.INFO.>\"", format!("$JS.API.STREAM.INFO.{STREAM}")),
        ("\"$JS.API.STREAM.MSG.GET.>\"", format!("$JS.API.STREAM.MSG.GET.{STREAM}")),
        ("\"portcullis.evt.>\"", Aggregate::LOG.subject()),
    ] {
        let (_server, storage) = denying(denied, "").await;
        let log = log(&storage).await;
        let began = tokio::time::Instant::now();
        let why = why(&log).await;
        assert!(why.contains(&subject), "{why}");
        assert!(began.elapsed() < Duration::from_secs(1), "it waited for an answer");
    }
}

#[actix::test]
async fn an_append_that_is_denied_is_refused_and_not_tried_for_ever() {
    let (_server, storage) = denying("\"portcullis.evt.>\"", "").await;
    let outcome = log(&storage).await.append(record()).await;
    assert!(
        matches!(&outcome, Err(AppendError::Refused(why)) if why.contains("portcullis.evt.session")),
        "{outcome:?}"
    );
}

#[actix::test]
async fn a_tail_that_may_not_read_says_what_is_denied() {
    for denied in ["\"$JS.API.CONSUMER.CREATE.>\"", "\"$JS.API.CONSUMER.MSG.NEXT.>\""] {
        let (_server, storage) = denying(denied, "").await;
        let mut tail = log(&storage).await.tail(0);
        let told = async {
            loop {
                if let Tailed::Away(why) = tail.next().await.unwrap().unwrap() {
                    return why;
                }
            }
        };
        let why = tokio::time::timeout(SOON, told).await.unwrap();
        assert!(why.contains("$JS.API.CONSUMER."), "{why}");
    }
}

#[actix::test]
async fn answers_that_may_not_reach_us_are_named() {
    let (_server, storage) = denying("", "\"_INBOX.>\"").await;
    assert!(why(&log(&storage).await).await.contains("_INBOX.portcullis"));
}

#[actix::test]
async fn a_vault_that_may_not_be_written_is_found_at_the_first_reading() {
    for denied in
        ["\"$KV.PORTCULLIS_SECRET.>\"", "\"$KV.PORTCULLIS_DEK.>\"", "\"$JS.API.CONSUMER.CREATE.KV_PORTCULLIS_DEK.>\""]
    {
        let (_server, storage) = denying(denied, "").await;
        let vault = JetStreamVault::new(&Nats::connect(&storage).await.unwrap(), 1);
        let began = tokio::time::Instant::now();
        let outcome = vault.scan(Shelf::DataKey).await;
        let named = denied.trim_matches('"').trim_end_matches(".>");
        assert!(matches!(&outcome, Err(VaultError::Unavailable(why)) if why.contains(named)), "{outcome:?}");
        assert!(began.elapsed() < SOON);
    }
}

/// A token of the kind that `nsc` makes: `subject` is what `issuer` says it is.
fn token(issuer: &KeyPair, subject: &KeyPair, says: serde_json::Value) -> String {
    let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = json!({
        "jti": "1", "iat": 1, "name": "test", "iss": issuer.public_key(), "sub": subject.public_key(), "nats": says
    });
    let signed = format!("{head}.{}", part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[actix::test]
async fn credentials_open_a_server_that_trusts_their_operator() {
    let (operator, user) = (KeyPair::new_operator(), KeyPair::new_user());
    let (account, system) = (KeyPair::new_account(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1
    });
    let is_operator = json!({ "type": "operator", "version": 2, "system_account": system.public_key() });
    let is_account = json!({ "type": "account", "version": 2, "limits": limits });
    let mut no_storage = is_account.clone();
    for kind in ["mem_storage", "disk_storage"] {
        no_storage["limits"][kind] = json!(0);
    }
    let config = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {}, {}: {} }}",
        token(&operator, &operator, is_operator),
        system.public_key(),
        account.public_key(),
        token(&operator, &account, is_account),
        system.public_key(),
        token(&operator, &system, no_storage),
    );
    let server = NatsServer::start_with("nats", &config).unwrap();
    let is_user = json!({ "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1 });
    let credentials = |seed: &str| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
            token(&account, &user, is_user.clone()),
        )
    };
    let with = |seed: &str| {
        let login = Some(NatsLogin::Credentials(Secret::new(credentials(seed))));
        NatsStorage { login, ..at(&server) }
    };
    assert_eq!(log(&with(&user.seed().unwrap())).await.head().await.unwrap().last, 0);
    let stolen = log(&with(&KeyPair::new_user().seed().unwrap())).await;
    let look = async || Ok(Some(why(&stolen).await).filter(|why| why.contains("authorization violation")));
    eventually("a token without its key opens nothing", SOON, look).await.unwrap();
}
