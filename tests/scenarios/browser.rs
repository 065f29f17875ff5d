//! A real browser in front of the gateway: at the demo's provider and at a certified one, with scripts and without.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use portcullis_harness::chromium::visit;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::world::{APP, BOB, World};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

/// Where the pictures of a visit are left to be looked at.
fn pictures(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("browser").join(name)
}

/// What every visit must have seen.
fn check(seen: &Value, name: &str) {
    let text = |pointer: &str| seen.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    assert!(text("/page/text").contains(&format!("{name}@example.com")), "{seen:#}");
    assert_eq!(seen.pointer("/refused/status"), Some(&json!(403)), "{seen:#}");
    assert!(!text("/refused/title").is_empty(), "{seen:#}");
    assert_eq!(seen.pointer("/user/status"), Some(&json!(200)), "{seen:#}");
    assert!(text("/user/text").contains(&format!("{name}@example.com")), "{seen:#}");
    let policy = text("/user/headers/content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe-inline"), "{policy}");
    assert!(seen.pointer("/tabsToSignOut").and_then(Value::as_u64).is_some_and(|tabs| tabs <= 5), "{seen:#}");
    assert_eq!(seen.pointer("/afterwards/asksForPassword"), Some(&json!(true)), "{seen:#}");
    assert_eq!(seen.pointer("/complaints"), Some(&json!([])), "{seen:#}");
    for (page, barriers) in seen.pointer("/barriers").and_then(Value::as_object).into_iter().flatten() {
        // the page of an application is the application's business
        if page != "page" {
            assert_eq!(barriers, &json!([]), "{page}: {seen:#}");
        }
    }
}

async fn at_the_demo(name: &str, more: Value) -> Result<Value> {
    let data = tempfile::tempdir()?;
    let dir = data.path().to_string_lossy().into_owned();
    let launcher = Gateway::binary(BINARY);
    let mut demo = launcher.run_with(&["demo", "--address", "127.0.0.1:0", "--data-dir", &dir], &[]).await?;
    demo.ready().await?;
    let app = demo.printed_url("app.localhost").await?;
    let bob = demo.printed_url("bob.localhost").await?;
    let options = json!({
        "url": app, "refusedUrl": bob, "username": "alice", "password": "alice", "shots": pictures(name),
    });
    visit("sign-in", &with(options, more)?).await
}

async fn at_the_certified_provider(who: &str, name: &str, more: Value) -> Result<Value> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let options = json!({
        "url": format!("{APP}/"), "refusedUrl": format!("{BOB}/"), "username": who, "password": who,
        "gate": gateway.address().await?.to_string(), "shots": pictures(name),
    });
    visit("sign-in", &with(options, more)?).await
}

fn with(mut options: Value, more: Value) -> Result<Value> {
    let fields = options.as_object_mut().context("no object")?;
    fields.extend(more.as_object().context("no object")?.clone());
    Ok(options)
}

#[tokio::test]
async fn alice_signs_in_at_the_demo_is_refused_at_bobs_and_signs_out() -> Result<()> {
    check(&at_the_demo("demo", json!({})).await?, "alice");
    Ok(())
}

#[tokio::test]
async fn alice_needs_no_scripts_at_the_demo() -> Result<()> {
    check(&at_the_demo("demo-without-scripts", json!({ "javaScript": false })).await?, "alice");
    Ok(())
}

#[tokio::test]
async fn alice_signs_in_at_a_certified_provider_is_refused_at_bobs_and_signs_out() -> Result<()> {
    check(&at_the_certified_provider("alice", "certified", json!({})).await?, "alice");
    Ok(())
}

#[tokio::test]
async fn a_profile_too_long_for_a_url_arrives_by_a_form() -> Result<()> {
    check(&at_the_certified_provider("dora", "long-profile", json!({ "colorScheme": "dark" })).await?, "dora");
    let seen =
        at_the_certified_provider("dora", "long-profile-without-scripts", json!({ "javaScript": false })).await?;
    check(&seen, "dora");
    Ok(())
}
