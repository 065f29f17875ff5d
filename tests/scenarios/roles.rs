//! The components in processes of their own, with nothing but NATS between them.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use async_nats::jetstream::object_store::Config;
use bytes::Bytes;
use futures_util::TryStreamExt;
use http::header::CONTENT_TYPE;
use http::{Request, StatusCode};
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::idp::{CLIENT_ID, CLIENT_SECRET, Person, ScriptedIdp};
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_out;
use portcullis_harness::websocket::WebSocket;
use portcullis_harness::world::{ADMIN, APP, AUTHENTICATE, BOB, Configuration, PUBLIC, World};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// Generous, for what is waited for and not measured.
const LONG: Duration = Duration::from_secs(60);
const ROLES: [&str; 4] = ["databroker", "authorize", "authenticate", "proxy"];

struct Apart {
    world: World,
    idp: ScriptedIdp,
    nats: NatsServer,
}

impl Apart {
    async fn new() -> Result<Self> {
        Ok(Self { world: World::new(BINARY).await?, idp: ScriptedIdp::start(), nats: NatsServer::start()? })
    }

    fn config(&self, services: &str) -> Configuration {
        let mut config = self.world.config();
        config.on_nats(self.nats.url().as_str());
        config.set("services", services);
        config.set("metrics_address", "127.0.0.1:0");
        config.set("idp_provider_url", &self.idp.issuer());
        config.set("idp_client_id", CLIENT_ID);
        config.set("idp_client_secret", &format!("'{CLIENT_SECRET}'"));
        config
    }

    async fn begin(&self, services: &str) -> Result<Gateway> {
        self.world.launcher.begin(&self.config(services).text()).await
    }

    /// A process for each, all of them ready.
    async fn processes(&self, services: &[&str]) -> Result<Vec<Gateway>> {
        let mut processes = Vec::new();
        for services in services {
            processes.push(self.begin(services).await?);
        }
        for (process, services) in processes.iter_mut().zip(services) {
            process.ready().await.with_context(|| (*services).to_owned())?;
        }
        Ok(processes)
    }

    /// Whoever the provider signs in from now on.
    fn person(&self, sub: &str, sid: &str, email: &str) {
        self.idp.set_person(Person { sub: sub.into(), sid: sid.into(), email: email.into(), ..Person::default() });
    }
}

/// What an application answers, once somebody can say: a deadline that passed on a busy machine is asked again.
async fn status(visitor: &Visitor, url: &str) -> Result<StatusCode> {
    let visitor = visitor.clone().accepting("application/json");
    let look = async || {
        let status = visitor.get(url).await?.status;
        Ok((status != StatusCode::SERVICE_UNAVAILABLE).then_some(status))
    };
    eventually("an answer", LONG, look).await
}

/// Signs in as whoever the provider has, as somebody would who tries again when told to.
async fn sign_in(visitor: &Visitor) -> Result<()> {
    let look = async || {
        let answer = visitor.follow(visitor.get(APP).await?, 20).await?;
        Ok((answer.status == StatusCode::OK).then_some(()))
    };
    eventually("signed in", LONG, look).await
}

/// The status at the end of the way to an application, by a sign-in that asks for nothing.
async fn visit(visitor: &Visitor, url: &str) -> Result<StatusCode> {
    let look = async || {
        let answer = visitor.follow(visitor.get(url).await?, 20).await?;
        Ok((answer.status != StatusCode::SERVICE_UNAVAILABLE).then_some(answer.status))
    };
    eventually("an answer", LONG, look).await
}

async fn becomes(visitor: &Visitor, url: &str, expected: StatusCode) -> Result<()> {
    let look = async || Ok((status(visitor, url).await? == expected).then_some(()));
    eventually(&format!("{expected}"), LONG, look).await
}

fn last(processes: &[Gateway]) -> Result<&Gateway> {
    processes.last().context("no process")
}

#[tokio::test]
async fn a_sign_in_a_decision_and_a_sign_out_go_through_four_processes() -> Result<()> {
    let apart = Apart::new().await?;
    let processes = apart.processes(&ROLES).await?;
    let proxy = last(&processes)?;
    let stranger = apart.world.visitor(proxy).await?;
    assert_eq!(status(&stranger, APP).await?, StatusCode::UNAUTHORIZED);
    assert_eq!(status(&stranger, PUBLIC).await?, StatusCode::OK);

    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(proxy).await?;
    sign_in(&alice).await?;
    // what is decided, and what the upstream is told, comes from authorize
    let seen = alice.get(APP).await?;
    assert!(seen.text().contains("alice@example.com"), "{}", seen.text());
    assert!(seen.text().to_lowercase().contains("x-pomerium-jwt-assertion"), "{}", seen.text());
    assert_eq!(visit(&alice, BOB).await?, StatusCode::FORBIDDEN);
    assert_eq!(visit(&alice, ADMIN).await?, StatusCode::OK);
    let decided = async || {
        let lines = proxy.request_log("authorize check");
        Ok(lines.into_iter().find(|line| line["allow"] == true && line["session-id"].is_string()))
    };
    let decided = eventually("the decision line", LONG, decided).await?;
    assert!(decided["log-sequence"].as_u64() > Some(0) && decided["policy-revision"].is_string(), "{decided}");

    // our own pages ask too
    let user: Value =
        alice.clone().accepting("application/json").get(&format!("{APP}/.pomerium/user")).await?.json()?;
    assert_eq!(user["email"], "alice@example.com");
    let page = alice.get(&format!("{APP}/.pomerium/")).await?.text();
    assert!(page.contains("alice@example.com"), "{page}");
    let page = alice.get(&format!("{AUTHENTICATE}/.pomerium/")).await?.text();
    assert!(page.contains("alice@example.com"), "{page}");
    let keys: Value = alice.get(&format!("{APP}/.well-known/pomerium/jwks.json")).await?.json()?;
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1));

    let stolen = apart.world.visitor(proxy).await?;
    *stolen.cookies() = alice.cookies().clone();
    assert_eq!(status(&stolen, APP).await?, StatusCode::OK);
    sign_out(&alice, APP).await?;
    becomes(&stolen, APP, StatusCode::UNAUTHORIZED).await
}

#[tokio::test]
async fn a_web_socket_is_cut_by_a_revocation_that_the_proxy_never_reads() -> Result<()> {
    let apart = Apart::new().await?;
    let processes = apart.processes(&ROLES).await?;
    let (databroker, proxy) = (processes.first().context("none")?, last(&processes)?);
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(proxy).await?;
    sign_in(&alice).await?;
    apart.person("bob-0002", "sid-2", "bob@example.com");
    let bob = apart.world.visitor(proxy).await?;
    sign_in(&bob).await?;
    let mut hers = WebSocket::open(&alice, &format!("{APP}/ws")).await?.ok().context("refused")?;
    let mut his = WebSocket::open(&bob, &format!("{APP}/ws")).await?.ok().context("refused")?;
    apart.world.upstream.has_open(2).await?;

    let revoked = databroker.command(&["sessions", "revoke", "--user", "alice@example.com"]).await?;
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    assert_eq!(hers.close_code(LONG).await?, Some(1008));
    becomes(&alice, APP, StatusCode::UNAUTHORIZED).await?;
    his.say("still here").await?;
    his.hear().await?;
    apart.world.upstream.has_open(1).await?;

    // the provider logs him out, at a process that never sees the log
    let token = apart.idp.logout_token(&json!({}), &json!({"sub": "bob-0002", "sid": "sid-2"}));
    let request = Request::post(format!("{AUTHENTICATE}/.pomerium/backchannel_logout"));
    let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let provider = apart.world.visitor(proxy).await?;
    let answer = provider.send(request.body(Bytes::from(format!("logout_token={token}")))?).await?;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    assert_eq!(his.close_code(LONG).await?, Some(1008));
    becomes(&bob, APP, StatusCode::UNAUTHORIZED).await
}

#[tokio::test]
async fn two_components_beside_two_others_are_a_gateway() -> Result<()> {
    let apart = Apart::new().await?;
    let processes = apart.processes(&["authenticate,databroker", "proxy,authorize"]).await?;
    let proxy = last(&processes)?;
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(proxy).await?;
    sign_in(&alice).await?;
    let mut socket = WebSocket::open(&alice, &format!("{APP}/ws")).await?.ok().context("refused")?;
    assert_eq!(visit(&alice, BOB).await?, StatusCode::FORBIDDEN);
    let stolen = apart.world.visitor(proxy).await?;
    *stolen.cookies() = alice.cookies().clone();
    sign_out(&alice, APP).await?;
    assert_eq!(socket.close_code(LONG).await?, Some(1008));
    becomes(&stolen, APP, StatusCode::UNAUTHORIZED).await
}

#[tokio::test]
async fn a_process_says_whom_it_waits_for() -> Result<()> {
    let apart = Apart::new().await?;
    let (proxy, authenticate) = (apart.begin("proxy").await?, apart.begin("authenticate").await?);
    let why = async |process: &Gateway, word: &str| {
        let look = async || {
            let (status, body) = process.health("/readyz").await?;
            let why = body["why"].as_str().unwrap_or_default().to_owned();
            Ok((status == 503 && why.contains(word)).then_some(body))
        };
        eventually(word, LONG, look).await
    };
    let body = why(&proxy, "authorize does not answer").await?;
    assert_eq!(body["services"], json!(["proxy"]));
    assert!(body["depends-on"]["databroker"].as_str().is_some_and(|wrong| wrong != "answers"), "{body}");
    why(&authenticate, "databroker does not answer").await?;
    // what needs a decision is refused, in the caller's format, and never let in
    let stranger = apart.world.visitor(&proxy).await?.accepting("application/json");
    let answer = stranger.get(PUBLIC).await?;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.json().is_ok(), "{}", answer.text());

    let mut others = apart.processes(&["databroker", "authorize"]).await?;
    for mut process in [proxy, authenticate] {
        process.ready().await?;
        let (_, body) = process.health("/readyz").await?;
        assert_eq!(body["depends-on"]["databroker"], "answers", "{body}");
        if body["services"] == json!(["proxy"]) {
            assert_eq!(status(&stranger, PUBLIC).await?, StatusCode::OK);
            let (_, metrics) = process.metrics(None).await?;
            assert!(metrics.contains("portcullis_component_answers{component=\"authorize\"} 1"), "{metrics}");
            others.pop().context("no authorize")?.kill_9()?;
            why(&process, "authorize does not answer").await?;
        }
    }
    Ok(())
}

/// The users of `deploy/nats/roles.conf`, each with the services that its process runs.
const USERS: [(&str, &str); 7] = [
    ("databroker", "databroker"),
    ("authorize", "authorize"),
    ("authenticate", "authenticate"),
    ("proxy", "proxy"),
    ("authenticate-databroker", "authenticate,databroker"),
    ("authorize-proxy", "proxy,authorize"),
    ("auditor", ""),
];

/// Those whose account imports the streams of another, and where they then find them.
const READS_ELSEWHERE: [&str; 3] = ["authorize", "authorize-proxy", "auditor"];
const PREFIX: (&str, &str) = ("DATABROKER_STORAGE_API_PREFIX", "portcullis.js");

/// Authenticate runs beside databroker: its account answers for it.
fn beside_databroker(text: String) -> String {
    let import = "{ service: { account: LOG, subject: \"portcullis.role.authenticate.*\" } }";
    let commented = format!("# {import}");
    assert!(text.contains(&commented));
    text.replace(&commented, import)
}

/// The permissions of the deployment, each password the name of its user.
fn permissions() -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nats/roles.conf");
    let mut text = std::fs::read_to_string(file)?;
    let mut variables: Vec<_> = USERS.iter().map(|(user, _)| *user).collect();
    // the longest first: some names begin as others do
    variables.sort_by_key(|user| std::cmp::Reverse(user.len()));
    for user in variables {
        let variable = format!("$NATS_{}", user.to_uppercase().replace('-', "_"));
        assert!(text.contains(&variable), "{variable}");
        text = text.replace(&variable, user);
    }
    Ok(text)
}

impl Apart {
    /// On a server with the permissions of the deployment, changed by `change`.
    async fn permitted(change: impl Fn(String) -> String) -> Result<Self> {
        let nats = NatsServer::start_with("nats", &change(permissions()?))?;
        Ok(Self { world: World::new(BINARY).await?, idp: ScriptedIdp::start(), nats })
    }

    fn as_user(&self, user: &str) -> String {
        self.nats.url().as_str().replace("nats://", &format!("nats://{user}:{user}@"))
    }

    async fn begin_as(&self, user: &str, services: &str) -> Result<Gateway> {
        let mut config = self.config(services);
        config.remove("databroker_storage_connection_string");
        let variable = self.as_user(user);
        let mut environment = vec![("DATABROKER_STORAGE_CONNECTION_STRING", variable.as_str())];
        environment.extend(READS_ELSEWHERE.contains(&user).then_some(PREFIX));
        self.world.launcher.begin_with(&config.text(), &environment).await
    }

    async fn processes_of_users(&self, users: &[&str]) -> Result<Vec<Gateway>> {
        let mut processes = Vec::new();
        for user in users {
            let services = USERS.iter().find(|(known, _)| known == user).context("no such user")?.1;
            processes.push(self.begin_as(user, services).await?);
        }
        for (process, user) in processes.iter_mut().zip(users) {
            process.ready().await.with_context(|| (*user).to_owned())?;
        }
        Ok(processes)
    }
}

#[tokio::test]
async fn components_do_their_work_with_the_permissions_of_the_deployment() -> Result<()> {
    for users in [&ROLES[..], &["authenticate-databroker", "authorize-proxy"]] {
        let is_apart = users.len() == ROLES.len();
        let apart = Apart::permitted(|text| if is_apart { text } else { beside_databroker(text) }).await?;
        let processes = apart.processes_of_users(users).await?;
        let proxy = last(&processes)?;
        apart.person("alice-0001", "sid-1", "alice@example.com");
        let alice = apart.world.visitor(proxy).await?;
        sign_in(&alice).await?;
        let mut socket = WebSocket::open(&alice, &format!("{APP}/ws")).await?.ok().context("refused")?;
        sign_out(&alice, APP).await?;
        assert_eq!(socket.close_code(LONG).await?, Some(1008));
        becomes(&alice, APP, StatusCode::UNAUTHORIZED).await?;
        for process in &processes {
            let denied = process.stderr().text().to_lowercase();
            assert!(!denied.contains("permissions violation"), "{denied}");
        }
    }
    Ok(())
}

/// Somebody with a user's password and a client of NATS, and everything that the server objects to.
async fn intruder(apart: &Apart, user: &str) -> Result<(async_nats::Client, Arc<Mutex<String>>)> {
    client(apart, user, async_nats::ConnectOptions::new()).await
}

async fn client(
    apart: &Apart,
    user: &str,
    options: async_nats::ConnectOptions,
) -> Result<(async_nats::Client, Arc<Mutex<String>>)> {
    let objections = Arc::new(Mutex::new(String::new()));
    let noted = Arc::clone(&objections);
    let client = options
        .user_and_password(user.to_owned(), user.to_owned())
        .event_callback(move |event| {
            if let (async_nats::Event::ServerError(error), Ok(mut noted)) = (event, noted.lock()) {
                noted.push_str(&error.to_string().to_lowercase());
            }
            async {}
        })
        .connect(apart.nats.url().as_str())
        .await?;
    Ok((client, objections))
}

#[tokio::test]
async fn whoever_keeps_the_log_may_share_snapshots_of_it() -> Result<()> {
    let apart = Apart::permitted(|text| text).await?;
    for user in ["databroker", "authenticate-databroker"] {
        let inbox = async_nats::ConnectOptions::new().custom_inbox_prefix(format!("_INBOX.portcullis.{user}"));
        let (client, objections) = client(&apart, user, inbox).await?;
        let jetstream = async_nats::jetstream::new(client);
        let config = Config { bucket: "PORTCULLIS_SNAP".into(), ..Config::default() };
        let shared = async {
            jetstream.create_object_store(config).await?;
            let bucket = jetstream.get_object_store("PORTCULLIS_SNAP").await?;
            // more than one message of the stream, so that the server asks the reader to keep pace
            let snapshot = vec![7; 4 << 20];
            bucket.put(user, &mut snapshot.as_slice()).await?;
            let names: Vec<_> = bucket.list().await?.try_collect().await?;
            assert!(names.iter().any(|info| info.name == user), "{names:?}");
            let mut read = Vec::new();
            bucket.get(user).await?.read_to_end(&mut read).await?;
            assert_eq!(read, snapshot);
            anyhow::Ok(bucket.delete(user).await?)
        };
        let shared = shared.await;
        assert_eq!(*objections.lock().map_err(|_| anyhow!("poisoned"))?, "", "{user}");
        shared?;
    }
    Ok(())
}

#[tokio::test]
async fn whoever_takes_over_a_component_may_do_no_more_than_it() -> Result<()> {
    let apart = Apart::permitted(|text| text).await?;
    let _databroker = apart.processes_of_users(&["databroker"]).await?;
    let session = "00000000-0000-4000-8000-000000000001";
    let write = format!("portcullis.evt.session.{session}");
    let (secret, data_key) = (format!("$KV.PORTCULLIS_SECRET.{session}"), format!("$KV.PORTCULLIS_DEK.{session}"));
    let of = |what: &str, stream: &str| format!("$JS.API.{what}.{stream}");
    let (evt, tokens, keys) = ("PORTCULLIS_EVT", "KV_PORTCULLIS_SECRET", "KV_PORTCULLIS_DEK");
    let direct = |stream: &str| format!("$JS.API.DIRECT.GET.{stream}");
    let read = |stream: &str| [of("STREAM.MSG.GET", stream), of("CONSUMER.CREATE", stream) + ".x", direct(stream)];
    let elsewhere = |what: &str, stream: &str| format!("portcullis.js.{what}.{stream}");
    let nobody_but_databroker = [
        vec![write, secret, data_key, of("STREAM.PURGE", evt), of("STREAM.DELETE", evt), of("STREAM.UPDATE", evt)],
        [evt, keys, tokens].iter().flat_map(|stream| read(stream)).collect(),
        vec![of("STREAM.MSG.DELETE", tokens), of("STREAM.MSG.DELETE", keys), of("STREAM.CREATE", "MIRROR")],
        ["STREAM.INFO", "STREAM.MSG.GET", "CONSUMER.MSG.NEXT"].map(|what| elsewhere(what, tokens)).to_vec(),
        // whoever begins a consumer says where the servers send what it brings
        [evt, keys].iter().flat_map(|stream| [elsewhere("CONSUMER.CREATE", stream) + ".x"]).collect(),
        [evt, keys].iter().flat_map(|stream| [elsewhere("CONSUMER.DURABLE.CREATE", stream) + ".x"]).collect(),
        [evt, keys].iter().flat_map(|stream| [elsewhere("CONSUMER.DELETE", stream) + ".x"]).collect(),
    ]
    .concat();
    let log = [elsewhere("STREAM.MSG.GET", evt), elsewhere("CONSUMER.MSG.NEXT", evt) + ".x"];
    let data_keys = [elsewhere("STREAM.MSG.GET", keys), elsewhere("CONSUMER.MSG.NEXT", keys) + ".x"];
    let lend = "portcullis.role.databroker.lend".to_owned();
    let all = "portcullis.role.>".to_owned();
    let cases: [(&str, Vec<String>, Vec<String>); 4] = [
        (
            "proxy",
            [&nobody_but_databroker[..], &log, &data_keys, std::slice::from_ref(&lend)].concat(),
            vec![all.clone(), "portcullis.evt.>".into(), "portcullis.role.databroker.open".into()],
        ),
        (
            "authenticate",
            [&nobody_but_databroker[..], &log, &data_keys, &[lend.clone(), "portcullis.role.databroker.open".into()]]
                .concat(),
            vec![all.clone(), "portcullis.evt.>".into(), "portcullis.role.authorize.check".into()],
        ),
        (
            "authorize",
            [&nobody_but_databroker[..], &["portcullis.role.databroker.end".into()]].concat(),
            vec![all.clone(), "portcullis.evt.>".into(), "portcullis.role.authenticate.return".into()],
        ),
        (
            "auditor",
            [&nobody_but_databroker[..], &data_keys, &log[1..], &[lend, "portcullis.role.databroker.end".into()]]
                .concat(),
            vec![all, "portcullis.role.authorize.check".into()],
        ),
    ];
    for (user, publish, subscribe) in cases {
        let (client, objections) = intruder(&apart, user).await?;
        let mut wanted = Vec::new();
        for subject in publish {
            client.publish(subject.clone(), Bytes::new()).await?;
            wanted.push(format!("publish to \"{}\"", subject.to_lowercase()));
        }
        // the answers that others get are for them alone
        let others = USERS.iter().map(|(other, _)| *other).filter(|other| *other != user);
        let inboxes = others.map(|other| format!("_INBOX.portcullis.{other}.>"));
        for subject in subscribe.into_iter().chain(inboxes).chain(["_INBOX.>".to_owned(), ">".to_owned()]) {
            let _ = client.subscribe(subject.clone()).await?;
            wanted.push(format!("subscription to \"{}\"", subject.to_lowercase()));
        }
        client.flush().await?;
        let look = async || {
            let objections = objections.lock().map_or_else(|_| String::new(), |text| text.clone());
            Ok(wanted.iter().all(|wanted| objections.contains(wanted)).then_some(()))
        };
        let denied = eventually("every one is denied", Duration::from_secs(20), look).await;
        let objections = objections.lock().map_or_else(|_| String::new(), |text| text.clone());
        let missing: Vec<_> = wanted.iter().filter(|wanted| !objections.contains(*wanted)).collect();
        denied.with_context(|| format!("{user} may {missing:?}"))?;
    }
    Ok(())
}

/// What the streams hold, as databroker sees it: sequences and counts.
async fn held(apart: &Apart) -> Result<Vec<Value>> {
    let inbox = async_nats::ConnectOptions::new().custom_inbox_prefix("_INBOX.portcullis.databroker");
    let (client, _) = client(apart, "databroker", inbox).await?;
    let mut held = Vec::new();
    for stream in ["PORTCULLIS_EVT", "KV_PORTCULLIS_DEK", "KV_PORTCULLIS_SECRET"] {
        let answer = client.request(format!("$JS.API.STREAM.INFO.{stream}"), Bytes::new()).await?;
        let info: Value = serde_json::from_slice(&answer.payload)?;
        let number = |name: &str| info.pointer(&format!("/state/{name}")).and_then(Value::as_u64);
        let state = number("last_seq").zip(number("messages"));
        held.push(json!([stream, state.with_context(|| info.to_string())?]));
    }
    Ok(held)
}

/// Where somebody would have others write who may not write there themselves.
fn targets() -> [String; 4] {
    let session = "00000000-0000-4000-8000-000000000001";
    [
        format!("portcullis.evt.session.{session}"),
        format!("$KV.PORTCULLIS_DEK.{session}"),
        format!("$KV.PORTCULLIS_SECRET.{session}"),
        "$JS.API.STREAM.DELETE.KV_PORTCULLIS_SECRET".into(),
    ]
}

/// Asks, in every way that there is, that the answer be written to a target.
async fn deflect(client: &async_nats::Client, question: &str, target: &str) -> Result<()> {
    let consumer = json!({ "stream_name": "PORTCULLIS_EVT", "config": { "deliver_subject": target,
        "deliver_policy": "all", "ack_policy": "none", "replay_policy": "instant" } });
    for payload in [Vec::new(), b"{\"seq\":1}".to_vec(), b"1".to_vec(), serde_json::to_vec(&consumer)?] {
        client.publish_with_reply(question.to_owned(), target.to_owned(), payload.into()).await?;
    }
    Ok(())
}

#[tokio::test]
async fn nobody_who_may_only_ask_has_a_component_or_a_server_write_for_them() -> Result<()> {
    let apart = Apart::permitted(|text| text).await?;
    let mut processes = apart.processes_of_users(&ROLES).await?;
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(last(&processes)?).await?;
    sign_in(&alice).await?;
    let before = held(&apart).await?;
    let streams = ["PORTCULLIS_EVT", "KV_PORTCULLIS_DEK"];
    let of_js = |what: &str| streams.map(|stream| format!("portcullis.js.{what}.{stream}")).to_vec();
    let of = |component: &str, words: &[&str]| -> Vec<String> {
        words.iter().map(|word| format!("portcullis.role.{component}.{word}")).collect()
    };
    let creates = ["CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE"].map(of_js).concat();
    let creates = creates.iter().flat_map(|subject| [format!("{subject}.x"), subject.clone()]).collect::<Vec<_>>();
    let asks = [
        (
            "proxy",
            [
                of("databroker", &["ping", "open", "end"]),
                of("authenticate", &["ping", "arrive"]),
                of("authorize", &["ping", "check"]),
            ]
            .concat(),
        ),
        ("authenticate", of("databroker", &["ping", "standing"])),
        (
            "authorize",
            [of("databroker", &["ping", "lend"]), of_js("STREAM.INFO"), of_js("STREAM.MSG.GET"), creates.clone()]
                .concat(),
        ),
        ("auditor", [of_js("STREAM.INFO"), of_js("STREAM.MSG.GET"), creates].concat()),
    ];
    for (user, questions) in asks {
        let inbox = async_nats::ConnectOptions::new().custom_inbox_prefix(format!("_INBOX.portcullis.{user}"));
        let (client, _) = client(&apart, user, inbox).await?;
        for (question, target) in questions.iter().flat_map(|question| targets().map(|target| (question, target))) {
            deflect(&client, question, &target).await?;
        }
        // after all of them, the same question with an answer for whoever asks: it is permitted, and it is answered
        let permitted =
            questions.iter().find(|question| question.ends_with("ping") || question.contains("STREAM.INFO"));
        let permitted = permitted.context("nothing is permitted")?.clone();
        let answer = client.request(permitted, Bytes::new()).await.with_context(|| user.to_owned())?;
        assert!(!answer.payload.is_empty(), "{user}");
        assert_eq!(held(&apart).await?, before, "{user} had something written");
    }
    for process in &mut processes {
        process.ready().await?;
    }
    becomes(&alice, APP, StatusCode::OK).await?;

    // the control: where all are in one account, a user who may ask two questions of JetStream writes what they like
    let reader = "authorization { users: [ { user: databroker, password: databroker }, { user: reader, password: reader, \
        permissions: { subscribe: [\"_INBOX.>\"], publish: [\"$JS.API.STREAM.INFO.PORTCULLIS_EVT\", \
        \"$JS.API.CONSUMER.CREATE.PORTCULLIS_EVT.>\"] } } ] }";
    let nats = NatsServer::start_with("nats", reader)?;
    let apart = Apart { world: World::new(BINARY).await?, idp: ScriptedIdp::start(), nats };
    let mut all = apart.begin_as("databroker", "all").await?;
    all.ready().await?;
    let (client, _) = intruder(&apart, "reader").await?;
    for question in ["$JS.API.STREAM.INFO.PORTCULLIS_EVT", "$JS.API.CONSUMER.CREATE.PORTCULLIS_EVT.x"] {
        let [_, data_key, ..] = targets();
        let before = held(&apart).await?;
        deflect(&client, question, &data_key).await?;
        let look = async || Ok((held(&apart).await? != before).then_some(()));
        eventually("the control: it is written", LONG, look).await.context(question)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_header_that_only_authorize_manages_is_taken_from_clients_by_the_proxy() -> Result<()> {
    let apart = Apart::new().await?;
    let mut processes = Vec::new();
    for services in ROLES {
        let mut config = apart.config(services);
        if services == "authorize" {
            config.set("jwt_claims_headers", "{X-Boss: email}");
        }
        processes.push(apart.world.launcher.begin(&config.text()).await?);
    }
    for process in &mut processes {
        process.ready().await?;
    }
    let proxy = last(&processes)?;
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(proxy).await?;
    sign_in(&alice).await?;
    let forged = |url: &str| Request::get(url).header("X-Boss", "root@example.com");
    for url in [APP, PUBLIC] {
        let look = async || {
            let answer = alice.send(forged(url).body(Bytes::new())?).await?;
            Ok((answer.status == StatusCode::OK).then_some(answer.text()))
        };
        let echo = eventually("served", LONG, look).await?.to_lowercase();
        assert!(!echo.contains("root@example.com"), "{url}: {echo}");
        assert_eq!(echo.contains("x-boss"), url == APP, "{url}: {echo}");
    }
    assert_eq!(proxy.stderr().text().matches("jwt_claims_headers").count(), 1, "{}", proxy.stderr().text());
    Ok(())
}

#[tokio::test]
async fn an_auditor_reads_the_log_and_a_permission_that_is_missing_is_named() -> Result<()> {
    let apart = Apart::permitted(|text| {
        // a proxy that may not open sessions, an authorize that may not answer checks, a databroker without the log
        let text = text.replacen("        \"portcullis.role.databroker.open\"\n", "", 1);
        let mut parts = text.splitn(2, "user: authorize,").map(str::to_owned);
        let (before, after) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let lacking = ["check", "void"]
            .iter()
            .fold(after, |text, word| text.replacen(&format!("        \"portcullis.role.authorize.{word}\"\n"), "", 1));
        format!("{before}user: authorize,{lacking}")
    })
    .await?;
    let processes = apart.processes_of_users(&["databroker"]).await?;
    let auditor = apart.as_user("auditor");
    let file = processes.first().context("none")?.config_file();
    let outcome = apart
        .world
        .launcher
        .outcome(
            &["events", "-c", &file.to_string_lossy()],
            &[("DATABROKER_STORAGE_CONNECTION_STRING", auditor.as_str()), PREFIX],
        )
        .await?;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stdout.contains("portcullis.log.created"), "{}", outcome.stdout);

    for (user, subject) in [
        ("proxy", "portcullis.role.databroker.open"),
        ("authorize", "portcullis.role.authorize.check"),
        ("authorize", "portcullis.role.authorize.void"),
    ] {
        let process = apart.begin_as(user, user).await?;
        let look = async || {
            let (status, body) = process.health("/readyz").await?;
            let why = body["why"].as_str().unwrap_or_default();
            Ok((status == 503 && why.contains(subject) && why.contains("permission is missing")).then_some(()))
        };
        eventually("the permission is named", LONG, look).await.with_context(|| process.stderr().text())?;
    }
    Ok(())
}

/// What goes on while any of the processes is killed: somebody who is signed in and asks again and again.
struct Regular {
    alice: Visitor,
}

impl Regular {
    /// Every answer is a right one, or says that it is to be asked again; and there is a right one in the end.
    async fn is_served(&self) -> Result<()> {
        let alice = self.alice.clone().accepting("application/json");
        let look = async || {
            let status = alice.get(APP).await?.status;
            assert!(
                matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE),
                "somebody who is signed in got {status}"
            );
            Ok((status == StatusCode::OK).then_some(()))
        };
        eventually("served", LONG, look).await
    }
}

#[tokio::test]
async fn with_two_of_each_any_process_may_be_killed_at_any_time() -> Result<()> {
    let apart = Apart::new().await?;
    let twice: Vec<&str> = ROLES.into_iter().chain(ROLES).collect();
    let mut processes = apart.processes(&twice).await?;
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(last(&processes)?).await?;
    sign_in(&alice).await?;
    let rounds = processes.len();
    for victim in 0..rounds {
        // through the proxy that stays
        let stays = if victim == 3 { 7 } else { 3 };
        let gate = processes.get(stays).context("no proxy")?.address().await?;
        let regular = Regular { alice: alice.clone().through(gate) };
        let killed = processes.get_mut(victim).context("no victim")?;
        killed.kill_9()?;
        for _ in 0..5 {
            regular.is_served().await?;
        }
        // whoever comes anew is signed in by those that are left, and out again
        apart.person(&format!("carol-{victim}"), &format!("sid-carol-{victim}"), "carol@example.com");
        let carol = apart.world.visitor(processes.get(stays).context("no proxy")?).await?;
        sign_in(&carol).await.with_context(|| format!("without process {victim}"))?;
        let mut socket = open_web_socket(&carol).await?;
        sign_out_in_the_end(&carol).await?;
        assert_eq!(socket.close_code(LONG).await?, Some(1008));
        regular.is_served().await?;
        processes.get_mut(victim).context("no victim")?.restart().await?;
    }
    Ok(())
}

async fn open_web_socket(visitor: &Visitor) -> Result<WebSocket> {
    let look = async || match WebSocket::open(visitor, &format!("{APP}/ws")).await? {
        Ok(socket) => Ok(Some(socket)),
        Err(StatusCode::SERVICE_UNAVAILABLE) => Ok(None),
        Err(status) => anyhow::bail!("refused with {status}"),
    };
    eventually("a web socket", LONG, look).await
}

async fn sign_out_in_the_end(visitor: &Visitor) -> Result<()> {
    let look = async || {
        // the page that the sign-out is on may say "try again" as well
        let _ = sign_out(visitor, APP).await;
        let status = visitor.clone().accepting("application/json").get(APP).await?.status;
        Ok((status == StatusCode::UNAUTHORIZED).then_some(()))
    };
    eventually("signed out", LONG, look).await
}

#[tokio::test]
async fn a_policy_that_authorize_reads_anew_cuts_what_a_proxy_has_open() -> Result<()> {
    let apart = Apart::new().await?;
    let processes = apart.processes(&ROLES).await?;
    let (authorize, proxy) = (processes.get(1).context("none")?, last(&processes)?);
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(proxy).await?;
    sign_in(&alice).await?;
    let mut hers = open_web_socket(&alice).await?;
    let stranger = apart.world.visitor(proxy).await?;
    let mut public = WebSocket::open(&stranger, &format!("{PUBLIC}/ws")).await?.ok().context("refused")?;
    let text = apart.config("authorize").text();
    let shut = text.replacen("  allow_any_authenticated_user: true\n", "  allowed_users: [bob@example.com]\n", 1);
    assert_ne!(shut, text);
    authorize.replace_config(&shut)?;
    assert_eq!(hers.close_code(LONG).await?, Some(1008));
    becomes(&alice, APP, StatusCode::FORBIDDEN).await?;
    public.say("still here").await?;
    public.hear().await?;
    Ok(())
}

#[tokio::test]
async fn what_nobody_vouches_for_is_closed_within_its_bound_and_the_rest_stays_open() -> Result<()> {
    let apart = Apart::new().await?;
    let mut processes = Vec::new();
    for services in ROLES {
        let mut config = apart.config(services);
        config.route("https://raw.localhost", &apart.world.upstream.url(), BOUND);
        processes.push(apart.world.launcher.begin(&config.text()).await?);
    }
    for process in &mut processes {
        process.ready().await?;
    }
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(last(&processes)?).await?;
    sign_in(&alice).await?;
    assert_eq!(visit(&alice, "https://raw.localhost").await?, StatusCode::OK);
    let mut lasting = open_web_socket(&alice).await?;
    let strict = async || Ok(WebSocket::open(&alice, "https://raw.localhost/ws").await?.ok());
    let mut strict = eventually("a web socket", LONG, strict).await?;
    // asked about again and again, it outlives its bound
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(9) {
        strict.say("ping").await?;
        strict.hear().await?;
    }
    processes.get_mut(1).context("none")?.kill_9()?;
    assert_eq!(strict.close_code(LONG).await?, Some(1008));
    lasting.say("still here").await?;
    lasting.hear().await?;
    // and nobody new is let in
    let answer = alice.clone().accepting("application/json").get(APP).await?;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    Ok(())
}

const BOUND: &str = "allow_any_authenticated_user: true\nallow_websockets: true\nmax_staleness: 6s";

#[tokio::test]
async fn a_session_in_use_at_a_proxy_is_told_to_the_log_by_way_of_authorize_and_databroker() -> Result<()> {
    let apart = Apart::new().await?;
    let mut processes = Vec::new();
    for services in ROLES {
        let mut config = apart.config(services);
        config.set("session_idle_timeout", "8s");
        processes.push(apart.world.launcher.begin(&config.text()).await?);
    }
    for process in &mut processes {
        process.ready().await?;
    }
    let databroker = processes.first().context("none")?;
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(last(&processes)?).await?;
    sign_in(&alice).await?;
    let seen = async || {
        status(&alice, APP).await?;
        let events = databroker.events().await?;
        Ok(events.iter().any(|event| event["type"] == "portcullis.session.seen.v1").then_some(()))
    };
    eventually("the log is told", LONG, seen).await?;
    assert_eq!(status(&alice, APP).await?, StatusCode::OK);
    // left alone, it is over everywhere
    let over = async || {
        let list = databroker.command(&["sessions", "list", "--json"]).await?;
        Ok((list.stdout.trim() == "[]").then_some(()))
    };
    eventually("the session is over", LONG, over).await?;
    becomes(&alice, APP, StatusCode::UNAUTHORIZED).await
}

#[tokio::test]
async fn a_process_that_is_told_to_stop_ends_in_order_and_is_not_missed() -> Result<()> {
    let apart = Apart::new().await?;
    let mut processes = apart.processes(&["databroker", "authorize", "authorize", "authenticate", "proxy"]).await?;
    apart.person("alice-0001", "sid-1", "alice@example.com");
    let alice = apart.world.visitor(last(&processes)?).await?;
    sign_in(&alice).await?;
    let mut stopping = processes.remove(1);
    let alice_asks = async || -> Result<usize> {
        let mut refused = 0;
        for _ in 0..100 {
            let status = alice.clone().accepting("application/json").get(APP).await?.status;
            assert!(matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE), "{status}");
            refused += usize::from(status != StatusCode::OK);
        }
        Ok(refused)
    };
    // the control: on a machine so slow that authorize does not answer in time, nothing can be said
    let slow = alice_asks().await? + alice_asks().await?;
    stopping.interrupt()?;
    let refused = alice_asks().await?;
    assert!(refused == 0 || slow > 0, "{refused} requests were refused while a process that is not needed left");
    let status = stopping.wait_exit(LONG).await?;
    assert!(status.success(), "{status}");
    becomes(&alice, APP, StatusCode::OK).await?;
    // what has no listener ends as well
    for process in &mut processes {
        process.interrupt()?;
        assert!(process.wait_exit(LONG).await?.success());
    }
    Ok(())
}

#[tokio::test]
async fn a_data_key_that_somebody_deletes_from_the_vault_shuts_its_person_out_where_authorize_runs_apart() -> Result<()>
{
    let apart = Apart::new().await?;
    let processes = apart.processes(&ROLES).await?;
    let proxy = last(&processes)?;
    let client = async_nats::jetstream::new(async_nats::connect(apart.nats.url().as_str()).await?);
    let bucket = client.get_stream("KV_PORTCULLIS_DEK").await?;

    apart.person("bob-0001", "sid-b", "bob@example.com");
    let bob = apart.world.visitor(proxy).await?;
    sign_in(&bob).await?;
    apart.person("alice-0001", "sid-a", "alice@example.com");
    let alice = apart.world.visitor(proxy).await?;
    sign_in(&alice).await?;
    assert_eq!(status(&alice, APP).await?, StatusCode::OK);

    // the last key that was made is hers
    let made = bucket.get_info().await?.state.last_sequence;
    bucket.delete_message(made).await?;
    becomes(&alice, APP, StatusCode::UNAUTHORIZED).await?;
    assert_eq!(status(&bob, APP).await?, StatusCode::OK);
    // another key is made for her, and authorize takes it for the one that it knew
    sign_in(&alice).await?;
    assert_eq!(status(&alice, APP).await?, StatusCode::OK);
    let other = bucket.get_info().await?.state.last_sequence;
    assert!(other > made);
    Ok(())
}
