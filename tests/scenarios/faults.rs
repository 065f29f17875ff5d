//! Three gateways on three NATS servers, and one fault at a time: nothing acknowledged is lost, whoever is signed in is
//! served, and afterwards all nodes hold the same.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::try_join_all;
use http::StatusCode;
use portcullis_harness::agreement;
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::nats_cluster::{NatsCluster, SERVERS, ask};
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::world::{APP, World};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// The name of the stream that is the log.
const STREAM: &str = "PORTCULLIS_EVT";
/// How long nodes may take to be as before once a fault is over: an election takes up to nine seconds.
const HEALED: Duration = Duration::from_secs(30);
/// A node says that it is stale when the log has kept silent for ten seconds.
const STALE: Duration = Duration::from_secs(25);

struct Ground {
    world: World,
    nats: NatsCluster,
    nodes: Vec<Gateway>,
    alice: Visitor,
}

impl Ground {
    /// Three nodes that are ready, and alice, who is signed in.
    async fn new() -> Result<Self> {
        let nats = NatsCluster::start().await?;
        let string = nats.connection_string();
        Self::on(nats, &[&string, &string, &string]).await
    }

    /// As [`Self::new`], with a connection string for each node.
    async fn on(nats: NatsCluster, strings: &[&str]) -> Result<Self> {
        let world = World::new(BINARY).await?;
        let configs = strings.iter().map(|string| config(&world, string)).collect::<Vec<_>>();
        let nodes = try_join_all(configs.iter().map(|config| world.launcher.run(config))).await?;
        let alice = world.visitor(nodes.first().context("no node")?).await?;
        let page = sign_in(&alice, APP, "alice").await?;
        ensure!(page.status == StatusCode::OK, "{}", page.status);
        Ok(Self { world, nats, nodes, alice })
    }

    fn node(&self, number: usize) -> Result<&Gateway> {
        self.nodes.get(number).context("no such node")
    }

    /// Somebody new at a node, and whether they were let in.
    async fn newcomer(&self, number: usize) -> Result<(Visitor, StatusCode)> {
        let bob = self.world.visitor(self.node(number)?).await?;
        let page = sign_in(&bob, APP, "bob").await?;
        Ok((bob, page.status))
    }

    /// Waits until a sign-in at a node succeeds.
    async fn let_in(&self, number: usize) -> Result<Visitor> {
        let look = async || match self.newcomer(number).await? {
            (bob, StatusCode::OK) => Ok(Some(bob)),
            (_, status) => bail!("{status}"),
        };
        eventually("somebody new is let in", HEALED, look).await
    }

    /// Everyone here is served by these nodes, without a sign-in on the way.
    async fn serve(&self, nodes: &[usize], people: &[&Visitor]) -> Result<()> {
        for number in nodes {
            for person in people {
                let status = status(person, self.node(*number)?).await?;
                ensure!(status == StatusCode::OK, "node {number}: {status}");
            }
        }
        Ok(())
    }

    /// After a fault: all nodes are ready, have applied the same, and the log has no hole; how many sessions there are.
    async fn agree(&self) -> Result<u64> {
        let events = eventually("the log is read", HEALED, async || Ok(Some(self.node(0)?.events().await?))).await?;
        let sequences = events.iter().map(|event| event["sequence"].as_str().unwrap_or_default().to_owned());
        ensure!(sequences.eq((1..=events.len()).map(|sequence| sequence.to_string())), "the log has a hole");
        let least = u64::try_from(events.len())?;
        Ok(agreement::of(self.nodes.iter(), least, HEALED).await?.sessions)
    }
}

fn config(world: &World, string: &str) -> String {
    world.config().on_nats(string).set("databroker_storage_replicas", "3").text()
}

async fn status(visitor: &Visitor, node: &Gateway) -> Result<StatusCode> {
    let there = visitor.clone().through(node.address().await?).accepting("application/json");
    Ok(there.get(APP).await?.status)
}

/// Waits until nobody is let in any more, and is told to come back; nobody is left with half a session.
async fn refused(ground: &Ground, number: usize) -> Result<()> {
    let bob = ground.world.visitor(ground.node(number)?).await?;
    let page = sign_in(&bob, APP, "bob").await?;
    ensure!(page.status == StatusCode::SERVICE_UNAVAILABLE, "{}", page.status);
    ensure!(page.header("retry-after").parse::<u32>().is_ok(), "{:?}", page.headers);
    ensure!(bob.cookies().named("_pomerium").is_empty(), "half a session");
    Ok(())
}

#[tokio::test]
async fn a_gateway_killed_and_started_again_is_as_the_others() -> Result<()> {
    let mut ground = Ground::new().await?;
    ground.nodes.get_mut(0).context("no node")?.kill_9()?;
    ground.serve(&[1, 2], &[&ground.alice]).await?;
    let bob = ground.let_in(1).await?;
    ground.nodes.get_mut(0).context("no node")?.restart().await?;
    ground.serve(&[0, 1, 2], &[&ground.alice, &bob]).await?;
    assert_eq!(ground.agree().await?, 2);
    Ok(())
}

#[tokio::test]
async fn when_the_leader_of_the_log_is_killed_nobody_is_signed_out_and_sign_ins_go_on() -> Result<()> {
    let mut ground = Ground::new().await?;
    let leader = ground.nats.leader(STREAM).await?;
    ground.nats.kill(leader)?;
    ground.serve(&[0, 1, 2], &[&ground.alice]).await?;
    let bob = ground.let_in(0).await?;
    ground.serve(&[0, 1, 2], &[&ground.alice, &bob]).await?;
    ground.nats.restart(leader)?;
    ground.nats.current(STREAM).await?;
    // signed out on one node is signed out on all
    sign_out(&bob, APP).await?;
    for node in &ground.nodes {
        let look = async || Ok((status(&bob, node).await? == StatusCode::UNAUTHORIZED).then_some(()));
        eventually("bob is refused", Duration::from_secs(2), look).await?;
    }
    ground.agree().await?;
    Ok(())
}

#[tokio::test]
async fn without_a_quorum_people_signed_in_are_served_and_afterwards_nothing_is_missing() -> Result<()> {
    let mut ground = Ground::new().await?;
    let bob = ground.let_in(1).await?;
    let before = ground.node(0)?.events().await?;
    let began = Instant::now();
    for number in [0, 1] {
        ground.nats.kill(number)?;
    }
    ground.serve(&[0, 1, 2], &[&ground.alice, &bob]).await?;
    refused(&ground, 2).await?;
    // ten seconds and more: every node says that it no longer knows
    for node in &ground.nodes {
        let why = node.unready(STALE).await?;
        ensure!(why.contains("log"), "{why}");
    }
    ensure!(began.elapsed() >= Duration::from_secs(9));
    ground.serve(&[0, 1, 2], &[&ground.alice, &bob]).await?;
    for number in [0, 1] {
        ground.nats.restart(number)?;
    }
    let carol = ground.let_in(0).await?;
    ground.agree().await?;
    ground.serve(&[0, 1, 2], &[&ground.alice, &bob, &carol]).await?;
    let after = ground.node(2)?.events().await?;
    ensure!(after.starts_with(&before), "what stood on the log is not there any more");
    Ok(())
}

#[tokio::test]
async fn a_leader_that_stands_still_for_ten_seconds_does_no_harm() -> Result<()> {
    let mut ground = Ground::new().await?;
    let leader = ground.nats.leader(STREAM).await?;
    let began = Instant::now();
    ground.nats.pause(leader)?;
    ground.serve(&[0, 1, 2], &[&ground.alice]).await?;
    // another one leads, and whoever asks long enough is let in there
    let look = async || {
        ground.serve(&[0, 1, 2], &[&ground.alice]).await?;
        Ok((began.elapsed() > Duration::from_secs(10)).then_some(()))
    };
    eventually("ten seconds have passed", HEALED, look).await?;
    ground.nats.resume(leader)?;
    let bob = ground.let_in(0).await?;
    ground.nats.current(STREAM).await?;
    ground.agree().await?;
    ground.serve(&[0, 1, 2], &[&ground.alice, &bob]).await?;
    Ok(())
}

#[tokio::test]
async fn a_gateway_cut_off_from_the_log_says_so_and_catches_up_by_itself() -> Result<()> {
    let nats = NatsCluster::start().await?;
    let (ways, direct) = (nats.ways()?, nats.connection_string());
    let ground = Ground::on(nats, &[&direct, &direct, &ways.connection_string()]).await?;
    let (bob, carol) = (ground.let_in(0).await?, ground.let_in(1).await?);
    ground.serve(&[2], &[&ground.alice, &bob, &carol]).await?;

    // packets are lost, and nobody is told
    ways.hold();
    sign_out(&bob, APP).await?;
    let dave = ground.let_in(1).await?;
    ground.serve(&[0, 1], &[&ground.alice, &carol, &dave]).await?;
    let why = ground.node(2)?.unready(STALE).await?;
    ensure!(why.contains("log"), "{why}");
    // within the staleness bound, and no longer
    ground.serve(&[2], &[&ground.alice, &carol]).await?;

    ways.heal();
    ground.agree().await?;
    ground.serve(&[0, 1, 2], &[&ground.alice, &carol, &dave]).await?;
    assert_eq!(status(&bob, ground.node(2)?).await?, StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn an_administrator_deletes_nothing_and_a_limit_on_the_log_is_noticed_before_it_bites() -> Result<()> {
    let ground = Ground::new().await?;
    let client = ground.nats.client().await?;
    let info = ask(&client, &format!("STREAM.INFO.{STREAM}"), &json!({})).await?;
    // as it is, it loses nothing by an administrator's word
    let deleted = ask(&client, &format!("STREAM.MSG.DELETE.{STREAM}"), &json!({ "seq": 2 })).await?;
    ensure!(deleted.get("error").is_some(), "{deleted}");
    let mut config = info.get("config").cloned().context("no configuration")?;
    config["deny_delete"] = json!(false);
    let updated = ask(&client, &format!("STREAM.UPDATE.{STREAM}"), &config).await?;
    ensure!(updated.get("error").is_some(), "{updated}");
    // and what an administrator may change about it is noticed before anything is lost
    config["deny_delete"] = json!(true);
    config["max_msgs"] = json!(1_000_000);
    let updated = ask(&client, &format!("STREAM.UPDATE.{STREAM}"), &config).await?;
    ensure!(updated.get("error").is_none(), "{updated}");
    for node in &ground.nodes {
        let why = node.unready(Duration::from_secs(10)).await?;
        ensure!(why.contains("max_msgs is 1000000"), "{why}");
        let look = async || Ok((status(&ground.alice, node).await? == StatusCode::SERVICE_UNAVAILABLE).then_some(()));
        eventually("nobody is served from it", Duration::from_secs(5), look).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_log_made_anew_without_its_safeguards_is_served_from_by_nobody() -> Result<()> {
    let ground = Ground::new().await?;
    let client = ground.nats.client().await?;
    let info = ask(&client, &format!("STREAM.INFO.{STREAM}"), &json!({})).await?;
    let mut config = info.get("config").cloned().context("no configuration")?;
    config["deny_delete"] = json!(false);
    ask(&client, &format!("STREAM.DELETE.{STREAM}"), &json!({})).await?;
    let made = ask(&client, &format!("STREAM.CREATE.{STREAM}"), &config).await?;
    ensure!(made.get("error").is_none(), "{made}");
    for node in &ground.nodes {
        let why = node.unready(Duration::from_secs(10)).await?;
        ensure!(why.contains("replaced"), "{why}");
    }
    // and a node that starts does not take it for a log at all
    let said = started(&ground.world, &ground.nats.connection_string()).await?;
    ensure!(said.contains("deny_delete is false"), "{said}");
    Ok(())
}

/// What a node says that does not start.
async fn started(world: &World, string: &str) -> Result<String> {
    let home = tempfile::tempdir()?;
    let file = home.path().join("config.yaml");
    std::fs::write(&file, config(world, string))?;
    let outcome = world.launcher.outcome(&["run", "-c", &file.to_string_lossy()], &[]).await?;
    ensure!(outcome.code == Some(70), "{outcome:?}");
    Ok(outcome.stderr)
}

#[tokio::test]
async fn a_user_that_the_servers_do_not_know_is_named_in_readyz_until_they_do() -> Result<()> {
    let world = World::new(BINARY).await?;
    let nats = NatsCluster::start().await?;
    let port = nats.url(0).port().context("no port")?;
    let secret = tempfile::tempdir()?;
    let file = secret.path().join("connection");
    std::fs::write(&file, format!("nats://nobody:hunter2@127.0.0.1:{port}"))?;
    let mut config = world.config();
    config.on_nats("x").remove("databroker_storage_connection_string");
    config.set("databroker_storage_connection_string_file", &format!("'{}'", file.display()));
    let node = world.launcher.begin(&config.text()).await?;
    let look = async || {
        let (status, body) = node.health("/readyz").await?;
        let why = body.get("why").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok((status == 503 && why.contains("authorization violation")).then_some(why))
    };
    let why = eventually("the server's word", HEALED, look).await?;
    ensure!(!why.contains("hunter2") && !node.stderr().text().contains("hunter2"), "{why}");
    Ok(())
}

#[tokio::test]
async fn the_cluster_of_the_deployment_carries_three_gateways_while_each_server_is_restarted() -> Result<()> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/nats/cluster.conf");
    let nats = NatsCluster::start_on(&file).await?;
    let string = nats.connection_string();
    let mut ground = Ground::on(nats, &[&string, &string, &string]).await?;
    for number in 0..SERVERS {
        ground.nats.stop(number)?;
        ground.let_in(number).await?;
        ground.nats.restart(number)?;
        ground.nats.current(STREAM).await?;
    }
    assert_eq!(ground.agree().await?, 1 + u64::try_from(SERVERS)?);
    Ok(())
}

/// Bytes that each server may store, and those of a piece of what fills them.
const STORE: usize = 16 * 1024 * 1024;
const PIECE: usize = 512 * 1024;

#[tokio::test]
async fn with_the_servers_stores_full_somebody_new_is_told_so_at_once_and_whoever_is_signed_in_is_served() -> Result<()>
{
    let nats = NatsCluster::start_with(&format!("max_file_store: {STORE}")).await?;
    let string = nats.connection_string();
    let ground = Ground::on(nats, &[&string, &string, &string]).await?;
    let client = ground.nats.client().await?;
    let stream = json!({ "name": "FILL", "subjects": ["fill"], "num_replicas": SERVERS, "storage": "file" });
    let made = ask(&client, "STREAM.CREATE.FILL", &stream).await?;
    ensure!(made.get("error").is_none(), "{made}");
    let log = async_nats::jetstream::new(client.clone());
    for sent in 0.. {
        // the last pieces are small: there is no room for anything
        let length = if sent * PIECE < STORE { PIECE } else { 64 };
        if log.publish("fill", vec![0; length].into()).await?.await.is_err() {
            break;
        }
        ensure!(sent * PIECE < 2 * STORE, "the servers store more than they may");
    }
    let look = async || {
        let began = Instant::now();
        let (_, status) = ground.newcomer(0).await?;
        ensure!(status != StatusCode::OK, "somebody was let in by a log that takes nothing");
        Ok((status == StatusCode::SERVICE_UNAVAILABLE && began.elapsed() < AT_ONCE).then_some(()))
    };
    eventually("a refusal that nobody waited for", HEALED, look).await?;
    ground.serve(&[0, 1, 2], &[&ground.alice]).await?;
    // servers that have no room may leave the question without an answer, and have done it all the same
    let delete = async || {
        let deleted = ask(&client, "STREAM.DELETE.FILL", &json!({})).await?;
        let refused = deleted.pointer("/error/err_code").and_then(Value::as_u64);
        ensure!(refused.is_none_or(|code| code == NO_SUCH_STREAM), "{deleted}");
        Ok(Some(()))
    };
    eventually("the stream that took the room is gone", HEALED, delete).await?;
    ground.let_in(0).await?;
    Ok(())
}

/// JetStream's code for a stream that is not there.
const NO_SUCH_STREAM: u64 = 10059;
/// Less than any deadline of a write.
const AT_ONCE: Duration = Duration::from_secs(5);
