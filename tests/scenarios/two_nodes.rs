//! Two nodes on one NATS server, with nothing else between them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use async_nats::HeaderMap;
use http::StatusCode;
use portcullis_events::{Envelope, Event, EventId, Hash, session};
use portcullis_harness::client::Visitor;
use portcullis_harness::form::Form;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{credentials, sign_in, sign_out, submit, to_the_form};
use portcullis_harness::world::{ADMIN, APP, World};
use uuid::Uuid;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// The name of the stream that is the log.
const STREAM: &str = "PORTCULLIS_EVT";
/// A change is in force everywhere within this.
const A_SECOND: Duration = Duration::from_secs(1);

struct Cluster {
    world: World,
    nats: NatsServer,
}

impl Cluster {
    async fn new() -> Result<Self> {
        Ok(Self { world: World::new(BINARY).await?, nats: NatsServer::start()? })
    }

    fn config(&self) -> String {
        self.world.config().on_nats(self.nats.url().as_str()).text()
    }

    async fn node(&self) -> Result<Gateway> {
        self.world.launcher.run(&self.config()).await
    }

    async fn client(&self) -> Result<async_nats::jetstream::Context> {
        let client = async_nats::connect(self.nats.url().as_str()).await?;
        Ok(async_nats::jetstream::new(client))
    }
}

/// Whether the visitor is let in at a node, without a sign-in on the way.
async fn status(visitor: &Visitor, node: &Gateway, url: &str) -> Result<StatusCode> {
    let there = visitor.clone().through(node.address().await?).accepting("application/json");
    Ok(there.get(url).await?.status)
}

async fn becomes(visitor: &Visitor, node: &Gateway, expected: StatusCode, deadline: Duration) -> Result<Duration> {
    let began = Instant::now();
    let look = async || Ok((status(visitor, node, APP).await? == expected).then(|| began.elapsed()));
    eventually(&format!("{expected}"), deadline, look).await
}

#[tokio::test]
async fn who_signed_in_on_one_node_is_served_by_the_other_without_a_word_to_the_provider() -> Result<()> {
    let cluster = Cluster::new().await?;
    let (a, b) = (cluster.node().await?, cluster.node().await?);
    let alice = cluster.world.visitor(&a).await?;
    sign_in(&alice, APP, "alice").await?;
    let asked = cluster.world.provider.requests().len();
    // the very first request there: the other node waits for the position in the handle
    assert_eq!(status(&alice, &b, APP).await?, StatusCode::OK);
    let at_b = alice.clone().through(b.address().await?);
    let page = at_b.follow(at_b.get(ADMIN).await?, 10).await?;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(cluster.world.provider.requests().len(), asked, "{:?}", cluster.world.provider.requests());
    Ok(())
}

#[tokio::test]
async fn a_sign_in_may_change_nodes_at_every_step() -> Result<()> {
    let cluster = Cluster::new().await?;
    let (a, b) = (cluster.node().await?, cluster.node().await?);
    let gates = [a.address().await?, b.address().await?];
    let alice = cluster.world.visitor(&a).await?;
    let mut answer = alice.get(APP).await?;
    for hop in 1..20 {
        let here = alice.clone().through(gates[hop % 2]);
        answer = match answer.redirect()? {
            Some(next) => here.get(next.as_str()).await?,
            None if answer.url.as_str().starts_with(APP) => break,
            None => {
                let form = Form::all(&answer.text()).pop().context("no form")?;
                submit(&here, &answer, &credentials(form, "alice", "alice")?).await?
            }
        };
    }
    assert_eq!(answer.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn who_signs_out_on_one_node_is_refused_by_the_other_within_a_second() -> Result<()> {
    let cluster = Cluster::new().await?;
    let (a, b) = (cluster.node().await?, cluster.node().await?);
    let alice = cluster.world.visitor(&a).await?;
    sign_in(&alice, APP, "alice").await?;
    let stolen = cluster.world.visitor(&b).await?;
    *stolen.cookies() = alice.cookies().clone();
    assert_eq!(status(&stolen, &b, APP).await?, StatusCode::OK);
    let mut stream = stolen.open(get(&format!("{APP}/sse"))?).await?;
    stream.event().await?.context("no event")?;

    sign_out(&alice, APP).await?;
    becomes(&stolen, &b, StatusCode::UNAUTHORIZED, A_SECOND).await?;
    // what was open is cut as well
    stream.ended(A_SECOND).await
}

#[tokio::test]
async fn a_revocation_by_another_client_of_the_log_takes_effect_within_a_second() -> Result<()> {
    let cluster = Cluster::new().await?;
    let (a, b) = (cluster.node().await?, cluster.node().await?);
    let alice = cluster.world.visitor(&a).await?;
    sign_in(&alice, APP, "alice").await?;
    assert_eq!(status(&alice, &b, APP).await?, StatusCode::OK);

    revoke_every_session(&cluster).await?;
    becomes(&alice, &a, StatusCode::UNAUTHORIZED, A_SECOND).await?;
    becomes(&alice, &b, StatusCode::UNAUTHORIZED, A_SECOND).await?;
    Ok(())
}

/// Appends a `Revoked` for each open session, as an administrator's tool would: by compare-and-append.
async fn revoke_every_session(cluster: &Cluster) -> Result<()> {
    let log = cluster.client().await?;
    let stream = log.get_stream(STREAM).await?;
    let last = stream.get_info().await?.state.last_sequence;
    for sequence in 1..=last {
        let message = stream.get_raw_message(sequence).await?;
        let before = Envelope::decode(&message.payload)?;
        if !matches!(before.event, Event::Session(session::Event::SignedIn(_))) {
            continue;
        }
        let id = EventId::new(Uuid::now_v7());
        let revoked = Envelope {
            id,
            source: "/portcullis/a-test".into(),
            prev: Some(Hash::of(&message.payload)),
            event: Event::Session(session::Event::Revoked(session::Revoked { reason: "laptop lost".into() })),
            ..before
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id.to_string().as_str());
        headers.insert("Nats-Expected-Last-Subject-Sequence", sequence.to_string().as_str());
        let body = revoked.encode()?;
        log.publish_with_headers(message.subject.to_string(), headers, body.into()).await?.await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_that_loses_its_data_directory_loses_nothing() -> Result<()> {
    let cluster = Cluster::new().await?;
    let mut node = cluster.node().await?;
    let alice = cluster.world.visitor(&node).await?;
    sign_in(&alice, APP, "alice").await?;
    let sign_ins = || cluster.world.provider.requests().iter().filter(|line| *line == "GET /auth").count();
    let before = sign_ins();

    node.kill_9()?;
    if node.state_dir().exists() {
        std::fs::remove_dir_all(node.state_dir())?;
    }
    node.restart().await?;
    let there = alice.through(node.address().await?);
    for url in [APP, ADMIN] {
        let page = there.follow(there.get(url).await?, 10).await?;
        assert_eq!(page.status, StatusCode::OK);
    }
    assert_eq!(sign_ins(), before, "nobody was sent to the provider again");
    Ok(())
}

#[tokio::test]
async fn a_node_killed_in_the_middle_of_sign_ins_loses_no_one_who_was_let_in() -> Result<()> {
    let cluster = Cluster::new().await?;
    let mut node = cluster.node().await?;
    let mut let_in = Vec::new();
    for round in 0..4 {
        let person = cluster.world.visitor(&node).await?;
        sign_in(&person, APP, ["alice", "bob", "carol"][round % 3]).await?;
        let_in.push(person);
        // one more is on the way when it happens: its code has just been redeemed
        let late = cluster.world.visitor(&node).await?;
        let redeemed = || cluster.world.provider.requests().iter().filter(|line| *line == "POST /token").count();
        let before = redeemed();
        let kill = async {
            let look = async || Ok((redeemed() > before).then_some(()));
            eventually("the code is redeemed", Duration::from_secs(20), look).await?;
            node.kill_9()
        };
        let (_, killed) = tokio::join!(sign_in(&late, APP, "alice"), kill);
        killed?;
        node.restart().await?;
        let gate = node.address().await?;
        let_in = let_in.into_iter().map(|person: Visitor| person.through(gate)).collect();
        for person in &let_in {
            assert_eq!(status(person, &node, APP).await?, StatusCode::OK);
        }
    }
    Ok(())
}

#[tokio::test]
async fn without_nats_at_the_start_a_node_waits_is_not_ready_and_says_why() -> Result<()> {
    let mut cluster = Cluster::new().await?;
    cluster.nats.kill()?;
    let mut node = cluster.world.launcher.begin(&cluster.config()).await?;
    let why = node.unready(Duration::from_secs(10)).await?;
    assert!(!why.is_empty());
    let (alive, _) = node.health("/healthz").await?;
    assert_eq!(alive, 200);

    cluster.nats.restart()?;
    node.ready().await?;
    let alice = cluster.world.visitor(&node).await?;
    assert_eq!(sign_in(&alice, APP, "alice").await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn without_nats_people_signed_in_go_on_and_a_sign_in_is_told_to_come_back() -> Result<()> {
    let mut cluster = Cluster::new().await?;
    let node = cluster.node().await?;
    let alice = cluster.world.visitor(&node).await?;
    sign_in(&alice, APP, "alice").await?;

    cluster.nats.kill()?;
    assert_eq!(status(&alice, &node, APP).await?, StatusCode::OK);
    let bob = cluster.world.visitor(&node).await?;
    let refused = sign_in(&bob, APP, "bob").await?;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE, "{}", refused.url);
    assert!(refused.header("retry-after").parse::<u32>().is_ok(), "{:?}", refused.headers);
    assert!(bob.cookies().named("_pomerium").is_empty(), "half a session");
    assert_eq!(status(&alice, &node, APP).await?, StatusCode::OK);

    cluster.nats.restart()?;
    let deadline = Duration::from_secs(30);
    let again = async || {
        let page = sign_in(&cluster.world.visitor(&node).await?, APP, "bob").await?;
        Ok((page.status == StatusCode::OK).then_some(()))
    };
    eventually("bob is let in once the log is back", deadline, again).await?;
    assert_eq!(status(&alice, &node, APP).await?, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_log_that_was_deleted_makes_the_node_unready_and_it_says_so() -> Result<()> {
    let cluster = Cluster::new().await?;
    let node = cluster.node().await?;
    let alice = cluster.world.visitor(&node).await?;
    sign_in(&alice, APP, "alice").await?;
    cluster.client().await?.delete_stream(STREAM).await?;
    let why = node.unready(Duration::from_secs(10)).await?;
    assert!(why.contains("log"), "{why}");
    // a fault is no permission, and no sign-out either: the answer is "unavailable"
    becomes(&alice, &node, StatusCode::SERVICE_UNAVAILABLE, Duration::from_secs(10)).await?;
    Ok(())
}

#[tokio::test]
async fn another_log_in_its_place_is_noticed() -> Result<()> {
    let cluster = Cluster::new().await?;
    let node = cluster.node().await?;
    let alice = cluster.world.visitor(&node).await?;
    sign_in(&alice, APP, "alice").await?;
    let client = cluster.client().await?;
    let config = client.get_stream(STREAM).await?.get_info().await?.config;
    client.delete_stream(STREAM).await?;
    client.create_stream(config).await?;
    let why = node.unready(Duration::from_secs(10)).await?;
    assert!(!why.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_handle_of_another_cluster_opens_nothing() -> Result<()> {
    let (ours, theirs) = (Cluster::new().await?, Cluster::new().await?);
    let (here, there) = (ours.node().await?, theirs.node().await?);
    let alice = theirs.world.visitor(&there).await?;
    sign_in(&alice, APP, "alice").await?;
    // the secrets are the same, the log is not
    let stranger = ours.world.visitor(&here).await?;
    *stranger.cookies() = alice.cookies().clone();
    let answer = stranger.clone().accepting("application/json").get(APP).await?;
    assert!(answer.status.is_client_error() || answer.status == StatusCode::SERVICE_UNAVAILABLE, "{}", answer.status);
    assert!(ours.world.upstream.requests().is_empty());
    stranger.cookies().forget(|cookie| cookie.domain == "app.localhost");
    to_the_form(&stranger, APP).await?;
    Ok(())
}

fn get(url: &str) -> Result<http::Request<http_body_util::Full<bytes::Bytes>>> {
    Ok(http::Request::get(url).body(http_body_util::Full::default())?)
}
