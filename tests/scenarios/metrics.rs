//! What a node tells Prometheus of itself.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{sign_in, sign_out};
use portcullis_harness::world::{APP, BOB, PUBLIC, World};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const SOON: Duration = Duration::from_secs(20);
/// `scraper:hunter2`
const CREDENTIALS: &str = "c2NyYXBlcjpodW50ZXIy";

/// Every sample by its name with labels; anything that is no line of the format is an error.
fn samples(text: &str) -> Result<BTreeMap<String, f64>> {
    ensure!(text.ends_with("# EOF\n"), "no end: {text}");
    let mut samples = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').with_context(|| format!("no sample: {line}"))?;
        let bare = name.split('{').next().unwrap_or_default();
        ensure!(bare.starts_with("portcullis_") || bare.starts_with("pomerium_"), "a stranger: {line}");
        let twice = samples.insert(name.to_owned(), value.parse().with_context(|| line.to_owned())?);
        ensure!(twice.is_none(), "twice: {line}");
    }
    Ok(samples)
}

async fn scrape(gateway: &Gateway) -> Result<BTreeMap<String, f64>> {
    let (status, text) = gateway.metrics(Some(&format!("Basic {CREDENTIALS}"))).await?;
    ensure!(status == 200, "{status} {text}");
    samples(&text)
}

/// Waits until a sample has this value: workers hand over what they count now and then.
async fn counts(gateway: &Gateway, name: &str, value: f64) -> Result<()> {
    let look = async || {
        let found = scrape(gateway).await?.get(name).copied();
        if found == Some(value) { Ok(Some(())) } else { anyhow::bail!("{found:?}") }
    };
    eventually(&format!("{name} is {value}"), SOON, look).await
}

fn config(world: &World) -> String {
    let mut config = world.config();
    config.set("metrics_address", "127.0.0.1:0");
    config.set("metrics_basic_auth", CREDENTIALS);
    config.text().replacen("- from: https://app.localhost\n", "- from: https://app.localhost\n  name: the \"app\"\n", 1)
}

#[tokio::test]
async fn what_happens_at_a_node_is_counted() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.launcher.run(&config(&world)).await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    sign_in(&alice, BOB, "alice").await?;
    for _ in 0..3 {
        assert_eq!(alice.get(PUBLIC).await?.status, StatusCode::OK);
    }
    counts(&gateway, "portcullis_decisions_total{outcome=\"allowed\"}", 4.0).await?;
    counts(&gateway, "portcullis_decisions_total{outcome=\"denied\"}", 1.0).await?;
    counts(&gateway, "portcullis_decisions_total{outcome=\"sign_in\"}", 2.0).await?;
    // two hosts, one session
    counts(&gateway, "portcullis_sign_ins_total{outcome=\"completed\"}", 2.0).await?;
    counts(&gateway, "portcullis_sessions", 1.0).await?;

    let page = scrape(&gateway).await?;
    let of = |name: &str| page.get(name).copied().with_context(|| format!("no {name}: {page:#?}"));
    let by_route = |host: &str, class: &str| -> f64 {
        let has =
            |name: &str| name.starts_with("portcullis_requests_total{") && name.contains(host) && name.contains(class);
        page.iter().filter(|(name, _)| has(name)).map(|(_, count)| count).sum()
    };
    // a name is a label whatever is in it
    assert_eq!(by_route("name=\"the \\\"app\\\"\"", "class=\"2xx\""), 1.0);
    assert_eq!(by_route("name=\"the \\\"app\\\"\"", "class=\"3xx\""), 1.0);
    assert!(by_route("route=\"none\"", "class") >= 4.0, "{page:#?}");
    assert!(of("portcullis_request_duration_seconds_count")? >= 7.0);
    assert_eq!(
        of("portcullis_request_duration_seconds_bucket{le=\"+Inf\"}")?,
        of("portcullis_request_duration_seconds_count")?
    );
    let appended = of("portcullis_log_appends_total{outcome=\"stored\"}")?;
    assert_eq!(of("portcullis_log_append_duration_seconds_count")?, appended);
    // the log's own first event is the replica's
    assert_eq!(of("portcullis_log_applied_sequence")?, appended + 1.0);
    assert_eq!(of("portcullis_replica_apply_duration_seconds_count")?, appended + 1.0);
    assert!(of("portcullis_log_read_back_duration_seconds_count")? >= 1.0);
    assert_eq!((of("portcullis_log_lag_records")?, of("portcullis_log_ready")?), (0.0, 1.0));
    assert!(of("portcullis_log_staleness_seconds")? < 2.0);
    assert!(of("portcullis_open_connections{kind=\"upstream\"}")? >= 1.0);
    for name in ["portcullis_open_connections{kind=\"client\"}", "portcullis_open_connections{kind=\"long_lived\"}"] {
        assert!(of(name)? >= 0.0);
    }
    for outcome in ["refreshed", "postponed", "refused", "in_doubt"] {
        assert_eq!(of(&format!("portcullis_token_refreshes_total{{outcome=\"{outcome}\"}}"))?, 0.0);
    }
    assert_eq!(of("portcullis_revocation_apply_duration_seconds_count")?, 0.0);

    sign_out(&alice, APP).await?;
    counts(&gateway, "portcullis_revocation_apply_duration_seconds_count", 1.0).await?;
    counts(&gateway, "portcullis_sessions", 0.0).await
}

#[tokio::test]
async fn the_configuration_in_force_is_told_under_our_names_and_pomeriums() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut gateway = world.launcher.run(&config(&world)).await?;
    let told = scrape(&gateway).await?;
    let (_, health) = gateway.health("/readyz").await?;
    let revision = health["revision"].as_str().context("no revision")?.to_owned();
    let of = |name: &str| told.get(name).copied().with_context(|| format!("no {name}"));
    assert_eq!(of(&format!("portcullis_config_revision_info{{revision=\"{revision}\"}}"))?, 1.0);
    let number: f64 = u64::from_str_radix(&revision, 16)?.to_string().parse()?;
    assert_eq!(of("pomerium_config_checksum_decimal")?, number);
    assert_eq!((of("portcullis_routes")?, of("pomerium_policy_count_total")?), (4.0, 4.0));
    assert_eq!(of("pomerium_config_last_reload_success")?, 1.0);
    assert!(of("pomerium_config_last_reload_success_timestamp")? > 1_700_000_000.0);
    let version = format!("build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!((of(&format!("portcullis_{version}"))?, of(&format!("pomerium_{version}"))?), (1.0, 1.0));

    gateway.replace_config("routes: 7\n")?;
    gateway.hang_up()?;
    counts(&gateway, "portcullis_config_reloads_total{outcome=\"refused\"}", 1.0).await?;
    counts(&gateway, "portcullis_config_last_reload_success", 0.0).await?;
    gateway.replace_config(&config(&world).replacen("name: the", "name: an", 1))?;
    gateway.hang_up()?;
    counts(&gateway, "portcullis_config_reloads_total{outcome=\"applied\"}", 1.0).await?;
    counts(&gateway, "portcullis_config_last_reload_success", 1.0).await?;
    let page = scrape(&gateway).await?;
    assert!(!page.contains_key(&format!("portcullis_config_revision_info{{revision=\"{revision}\"}}")), "{page:#?}");
    Ok(())
}

#[tokio::test]
async fn metrics_are_told_to_nobody_without_the_credentials() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.launcher.run(&config(&world)).await?;
    for wrong in
        [None, Some("Basic c2NyYXBlcjpodW50ZXI="), Some("Bearer c2NyYXBlcjpodW50ZXIy"), Some("Basic"), Some("Basic %")]
    {
        let (status, body) = gateway.metrics(wrong).await?;
        assert_eq!((status, body.as_str()), (401, ""), "{wrong:?}");
    }
    scrape(&gateway).await?;
    // neither the gateway's own listener nor that of health tells any
    let visitor = world.visitor(&gateway).await?;
    assert_eq!(
        visitor.accepting("application/json").get(&format!("{PUBLIC}/metrics")).await?.header("x-request-id").len(),
        36
    );
    assert_eq!(gateway.health("/metrics").await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn metrics_are_off_unless_an_address_is_given() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    gateway.address().await?;
    assert!(!gateway.stderr().text().contains("metrics on"));
    Ok(())
}
