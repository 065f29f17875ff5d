//! A node begins with its snapshot, or with the newest that another shared; one that is damaged is not used; one that
//! the log does not fit keeps the node from serving, and it says why.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use async_nats::jetstream::object_store::{Config, ObjectStore};
use http::StatusCode;
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::nats::NatsServer;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::world::{APP, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const SOON: Duration = Duration::from_secs(60);
const BUCKET: &str = "PORTCULLIS_SNAP";
const STREAM: &str = "PORTCULLIS_EVT";

async fn stop(gateway: &mut Gateway) -> Result<()> {
    gateway.interrupt()?;
    ensure!(gateway.wait_exit(SOON).await?.success());
    Ok(())
}

/// Files of a directory whose names end so, the oldest first.
fn files(dir: &Path, suffix: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let mut files: Vec<_> = entries.into_iter().filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    files.sort();
    Ok(files)
}

/// Where a gateway keeps its own.
fn snapshots(gateway: &Gateway) -> PathBuf {
    let on_nats = gateway.state_dir().join("nats/snapshots");
    if on_nats.exists() { on_nats } else { gateway.state_dir().join("snapshots") }
}

/// Waits until a gateway has said that it begins with a snapshot: that it is ready may be heard before what it said.
async fn begins_with_a_snapshot(gateway: &Gateway) -> Result<()> {
    let said = |line: &str| line.contains("begins with a snapshot").then_some(());
    gateway.stderr().find(SOON, said).await
}

/// Waits until a gateway has said why it passes a snapshot over, and has read the log; it began with none.
async fn passes_over(gateway: &Gateway, word: &str) -> Result<()> {
    gateway.stderr().find(SOON, |line| line.contains(word).then_some(())).await?;
    let read = gateway.stderr().find(SOON, |line| line.contains("the log was read to its end").then_some(()));
    read.await?;
    let said = gateway.stderr().text();
    ensure!(!said.contains("begins with a snapshot"), "{said}");
    Ok(())
}

/// The newest snapshot of a gateway.
fn newest(gateway: &Gateway) -> Result<PathBuf> {
    files(&snapshots(gateway), ".snapshot")?.pop().context("no snapshot was stored")
}

async fn status(visitor: &Visitor, gateway: &Gateway) -> Result<StatusCode> {
    let there = visitor.clone().through(gateway.address().await?).accepting("application/json");
    Ok(there.get(APP).await?.status)
}

/// Starts a gateway again that is not to become ready; why it is not.
async fn refusal(world: &World, gateway: &Gateway) -> Result<String> {
    let [config, state] = [gateway.config_file(), gateway.state_dir()].map(|path| path.to_string_lossy().into_owned());
    let again = world.launcher.run_with(&["run", "-c", &config], &[("STATE_DIRECTORY", &state)]).await?;
    let refused = again.stderr().find(SOON, |line| line.contains("cannot be followed any further").then_some(()));
    refused.await?;
    again.unready(SOON).await
}

/// The log's own files are gone.
fn lose_log(gateway: &Gateway) -> Result<()> {
    for entry in fs::read_dir(gateway.state_dir())? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.db")) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[tokio::test]
async fn nobody_signs_in_again_after_an_orderly_stop_and_who_signed_out_stays_out() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut gateway = world.gateway().await?;
    let (alice, bob) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    sign_in(&alice, APP, "alice").await?;
    sign_in(&bob, APP, "bob").await?;
    let bobs: Vec<_> = bob.cookies().iter().cloned().collect();
    sign_out(&bob, APP).await?;
    stop(&mut gateway).await?;
    newest(&gateway)?;
    gateway.restart().await?;
    begins_with_a_snapshot(&gateway).await?;
    assert_eq!(status(&alice, &gateway).await?, StatusCode::OK);
    let again = world.visitor(&gateway).await?;
    bobs.into_iter().for_each(|cookie| again.cookies().plant(cookie));
    assert_eq!(status(&again, &gateway).await?, StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn a_snapshot_that_is_damaged_or_cut_is_passed_over_with_a_word_and_the_log_is_read() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut gateway = world.gateway().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    stop(&mut gateway).await?;
    let path = newest(&gateway)?;
    let good = fs::read(&path)?;
    let mut flipped = good.clone();
    *flipped.get_mut(good.len() / 2).context("it is empty")? ^= 1;
    let cut = good.get(..good.len() / 2).context("it is empty")?;
    for bad in [flipped.as_slice(), cut, b""] {
        fs::write(&path, bad)?;
        gateway.restart().await?;
        passes_over(&gateway, "a snapshot is not used").await?;
        assert_eq!(status(&alice, &gateway).await?, StatusCode::OK);
        assert!(fs::read(&path)? == bad, "it is left for somebody to look at");
        gateway.kill_9()?;
    }
    fs::write(&path, good)?;
    gateway.restart().await?;
    begins_with_a_snapshot(&gateway).await?;
    Ok(())
}

#[tokio::test]
async fn a_node_killed_while_it_stores_a_snapshot_loses_nothing() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut gateway = world.gateway().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    stop(&mut gateway).await?;
    // as one leaves it that was killed in the middle: half of a file beside its place
    let whole = fs::read(newest(&gateway)?)?;
    let half = snapshots(&gateway).join(".00000000-0000-4000-8000-000000000000.staged");
    fs::write(&half, whole.get(..whole.len() / 2).context("it is empty")?)?;
    for milliseconds in [0, 1, 2, 5, 10, 20, 50] {
        gateway.restart().await?;
        begins_with_a_snapshot(&gateway).await?;
        assert_eq!(status(&alice, &gateway).await?, StatusCode::OK);
        // something to store
        sign_in(&world.visitor(&gateway).await?, APP, "bob").await?;
        gateway.interrupt()?;
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        gateway.kill_9()?;
    }
    gateway.restart().await?;
    assert_eq!(status(&alice, &gateway).await?, StatusCode::OK);
    assert!(files(&snapshots(&gateway), ".snapshot")?.len() <= 2);
    Ok(())
}

#[tokio::test]
async fn a_node_whose_log_is_gone_and_whose_snapshot_is_not_serves_nobody_and_says_why() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut gateway = world.gateway().await?;
    sign_in(&world.visitor(&gateway).await?, APP, "alice").await?;
    stop(&mut gateway).await?;
    lose_log(&gateway)?;
    let why = refusal(&world, &gateway).await?;
    assert!(why.contains("the log ends at 0, behind a snapshot of it"), "{why}");
    Ok(())
}

#[tokio::test]
async fn a_node_whose_log_is_another_than_its_snapshots_serves_nobody_and_says_why() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut gateway = world.gateway().await?;
    sign_in(&world.visitor(&gateway).await?, APP, "alice").await?;
    stop(&mut gateway).await?;
    let kept = newest(&gateway)?;
    let old = fs::read(&kept)?;
    fs::remove_file(&kept)?;
    lose_log(&gateway)?;
    gateway.restart().await?;
    // the new log goes further than the old one did
    for _ in 0..2 {
        sign_in(&world.visitor(&gateway).await?, APP, "alice").await?;
    }
    gateway.kill_9()?;
    fs::write(&kept, old)?;
    let why = refusal(&world, &gateway).await?;
    assert!(why.contains("the snapshot is of another log"), "{why}");
    Ok(())
}

async fn bucket(nats: &NatsServer) -> Result<ObjectStore> {
    let context = async_nats::jetstream::new(async_nats::connect(nats.url().as_str()).await?);
    let config = Config { bucket: BUCKET.into(), ..Config::default() };
    Ok(context.create_object_store(config).await?)
}

#[tokio::test]
async fn a_new_node_begins_with_what_another_shared_unless_it_was_tampered_with() -> Result<()> {
    let (world, nats) = (World::new(BINARY).await?, NatsServer::start()?);
    let config = world.config().on_nats(nats.url().as_str()).text();
    let mut gateway = world.launcher.run(&config).await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    stop(&mut gateway).await?;
    let path = newest(&gateway)?;
    let name = path.file_name().context("no name")?.to_string_lossy().into_owned();
    let good = fs::read(&path)?;
    let bucket = bucket(&nats).await?;

    bucket.put(name.as_str(), &mut good.as_slice()).await?;
    let fresh = world.launcher.run(&config).await?;
    begins_with_a_snapshot(&fresh).await?;
    assert_eq!(status(&alice, &fresh).await?, StatusCode::OK);
    assert_eq!(fs::read(newest(&fresh)?)?, good, "it is its own from now on");

    let mut bad = good.clone();
    *bad.get_mut(good.len() / 2).context("it is empty")? ^= 1;
    bucket.put(name.as_str(), &mut bad.as_slice()).await?;
    let fresh = world.launcher.run(&config).await?;
    passes_over(&fresh, "a shared snapshot is not used").await?;
    assert_eq!(status(&alice, &fresh).await?, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn nodes_whose_stream_was_deleted_serve_nobody_and_say_why() -> Result<()> {
    let (world, nats) = (World::new(BINARY).await?, NatsServer::start()?);
    let mut gateway = world.launcher.run(&world.config().on_nats(nats.url().as_str()).text()).await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    stop(&mut gateway).await?;
    let context = async_nats::jetstream::new(async_nats::connect(nats.url().as_str()).await?);
    context.delete_stream(STREAM).await?;
    let deleted = eventually("no stream", SOON, async || Ok(context.get_stream(STREAM).await.is_err().then_some(())));
    deleted.await?;
    let why = refusal(&world, &gateway).await?;
    assert!(why.contains("behind a snapshot of it"), "{why}");
    Ok(())
}
