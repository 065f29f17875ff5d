//! A node that stopped in order begins with its snapshot; one whose log is gone serves nobody and says so.

use std::time::Duration;

use anyhow::Result;
use http::StatusCode;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::world::{APP, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const SOON: Duration = Duration::from_secs(10);

async fn stop(gateway: &mut Gateway) -> Result<()> {
    gateway.interrupt()?;
    assert!(gateway.wait_exit(SOON).await?.success());
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
    gateway.restart().await?;
    assert!(gateway.stderr().text().contains("begins with a snapshot"), "{}", gateway.stderr().text());
    let gate = gateway.address().await?;
    let alice = alice.through(gate).accepting("application/json");
    assert_eq!(alice.get(APP).await?.status, StatusCode::OK);
    let again = world.visitor(&gateway).await?.accepting("application/json");
    bobs.into_iter().for_each(|cookie| again.cookies().plant(cookie));
    assert_eq!(again.get(APP).await?.status, StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn a_node_whose_log_is_gone_and_whose_snapshot_is_not_serves_nobody_and_says_why() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut gateway = world.gateway().await?;
    sign_in(&world.visitor(&gateway).await?, APP, "alice").await?;
    stop(&mut gateway).await?;
    for file in std::fs::read_dir(gateway.state_dir())? {
        let path = file?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log.db")) {
            std::fs::remove_file(path)?;
        }
    }
    let [config, state] = [gateway.config_file(), gateway.state_dir()].map(|path| path.to_string_lossy().into_owned());
    let again = world.launcher.run_with(&["run", "-c", &config], &[("STATE_DIRECTORY", &state)]).await?;
    let refused = again.stderr().find(SOON, |line| line.contains("cannot be followed any further").then_some(()));
    refused.await?;
    let why = again.unready(SOON).await?;
    assert!(why.contains("the log ends at 0, behind a snapshot of it"), "{why}");
    Ok(())
}
