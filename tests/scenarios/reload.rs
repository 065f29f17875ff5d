//! Routes and policy change while requests pass: as one step, or not at all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use http::StatusCode;
use portcullis_harness::certificate::Authority;
use portcullis_harness::client::Visitor;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::upstream::Upstream;
use portcullis_harness::world::Configuration;
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
const RELOADS: usize = 200;
/// Who asks at the same time.
const VISITORS: usize = 4;
const SOON: Duration = Duration::from_secs(20);
/// A change of the file applies within this.
const FILE_APPLIES: Duration = Duration::from_secs(5);

/// What every configuration here has, without routes. Nobody signs in, so there is no provider.
fn base() -> Configuration {
    let mut config = Configuration::without_sign_in();
    config.set("insecure_server", "true");
    config
}

/// Revision `n`: every route marks what passes with `n`; of two hosts one is open and one is shut, by turns; routes
/// before them come and go, so that a policy found by the index of another revision would be another route's.
fn revision(n: usize, to: &str) -> String {
    let mut config = base();
    for filler in 0..n % 3 {
        config.route(&format!("https://a{filler}.localhost"), to, "allow_public_unauthenticated_access: true");
    }
    for (parity, host) in ["even", "odd"].iter().enumerate() {
        let policy = if n % 2 == parity { "allow: {or: [{accept: true}]}" } else { "deny: {or: [{reject: true}]}" };
        let keys = format!(
            "set_request_headers: {{X-Marker: 'n{n}'}}\nset_response_headers: {{X-Marker: 'n{n}'}}\npolicy: {{{policy}}}"
        );
        config.route(&format!("https://{host}.localhost"), to, &keys);
    }
    config.text()
}

/// A configuration with two problems on lines that are known.
fn broken() -> String {
    let mut config = base();
    config.route("https://even.localhost", "http://127.0.0.1:1", "policy: {allow: {or: [{acept: true}]}}");
    config.text().replacen("insecure_server: true", "insecure_server: perhaps", 1)
}

async fn visitor(gateway: &Gateway) -> Result<Visitor> {
    let visitor = Visitor::new(&Authority::new()?.trust()?)?.through(gateway.address().await?);
    Ok(visitor.accepting("application/json"))
}

async fn ready(gateway: &Gateway, name: &str) -> Result<String> {
    let (_, body) = gateway.health("/readyz").await?;
    Ok(body.get(name).and_then(Value::as_str).context("not in /readyz")?.to_owned())
}

/// What a visitor has seen: the id of each request, the host's parity, and the marker where it was let in.
type Seen = Vec<(String, usize, Option<usize>)>;

fn marker(text: Option<&str>) -> Result<usize> {
    text.and_then(|text| text.strip_prefix('n')).and_then(|text| text.parse().ok()).context("no marker")
}

/// Asks until told to stop; anything but a whole answer by one revision is an error.
async fn ask_on(visitor: Visitor, over: Arc<AtomicBool>, asked: Arc<AtomicUsize>) -> Result<Seen> {
    let mut seen = Vec::new();
    while !over.load(Ordering::Acquire) {
        for (parity, host) in ["even", "odd"].iter().enumerate() {
            let answer = visitor.get(&format!("http://{host}.localhost/")).await?;
            let let_in = match answer.status {
                StatusCode::OK => {
                    let back = marker(Some(answer.header("x-marker")))?;
                    let received = answer.json()?;
                    let headers = received.get("headers").and_then(Value::as_array).context("no headers")?;
                    let lines = headers.iter().map(|line| (line.pointer("/0"), line.pointer("/1")));
                    let there = lines.filter(|(name, _)| name.is_some_and(|name| name == "x-marker"));
                    let there = there.filter_map(|(_, value)| value.and_then(Value::as_str)).next();
                    ensure!(marker(there)? == back, "there and back by two revisions");
                    Some(back)
                }
                StatusCode::FORBIDDEN => None,
                other => bail!("{other} {}", answer.text()),
            };
            seen.push((answer.header("x-request-id").to_owned(), parity, let_in));
            asked.fetch_add(1, Ordering::AcqRel);
        }
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_or_is_decided_on_half_of_a_change_during_two_hundred_reloads() -> Result<()> {
    let upstream = Upstream::start()?;
    let mut gateway = Gateway::binary(BINARY).run(&revision(0, &upstream.url())).await?;
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..VISITORS {
        asking.spawn(ask_on(visitor(&gateway).await?, Arc::clone(&over), Arc::clone(&asked)));
    }
    let mut by_revision = HashMap::from([(ready(&gateway, "revision").await?, 0)]);
    let witness = visitor(&gateway).await?;
    for n in 1..=RELOADS {
        let before = asked.load(Ordering::Acquire);
        let in_force = ready(&gateway, "revision").await?;
        if n % 5 == 0 {
            gateway.replace_config(&broken())?;
            gateway.hang_up()?;
            let look = async || Ok((ready(&gateway, "last-reload").await? == "refused").then_some(()));
            eventually("the file is refused", SOON, look).await?;
            assert_eq!(ready(&gateway, "revision").await?, in_force);
        } else {
            gateway.replace_config(&revision(n, &upstream.url()))?;
            gateway.hang_up()?;
            let look = async || Ok(Some(ready(&gateway, "revision").await?).filter(|now| *now != in_force));
            let now = eventually("the file is in force", SOON, look).await?;
            assert_eq!(by_revision.insert(now, n), None, "two configurations of one name");
            // whoever asks from now on is answered by it
            let open = ["even", "odd"][n % 2];
            let answer = witness.get(&format!("http://{open}.localhost/")).await?;
            assert_eq!((answer.status, answer.header("x-marker")), (StatusCode::OK, format!("n{n}").as_str()));
        }
        // some requests under each of them
        let look = async || Ok((asked.load(Ordering::Acquire) >= before + 2).then_some(()));
        if let Some(ended) = asking.try_join_next() {
            bail!("a visitor gave up: {:?}", ended?.err());
        }
        eventually("requests go on", SOON, look).await?;
    }
    over.store(true, Ordering::Release);
    let mut seen = Vec::new();
    while let Some(outcome) = asking.join_next().await {
        seen.extend(outcome??);
    }
    assert!(seen.len() >= RELOADS * 2, "{}", seen.len());
    decided_by_one_revision_each(&gateway, &seen, &by_revision).await
}

fn text(line: &Value, name: &str) -> String {
    line.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Holds every answer against the decision line of its request.
async fn decided_by_one_revision_each(
    gateway: &Gateway,
    seen: &Seen,
    revisions: &HashMap<String, usize>,
) -> Result<()> {
    // lines are handed over in batches: the last ones may still be on their way
    let lines = async || {
        let lines = gateway.request_log("authorize check");
        let by_id: HashMap<_, _> = lines.into_iter().map(|line| (text(&line, "request-id"), line)).collect();
        Ok(seen.iter().all(|(id, _, _)| by_id.contains_key(id)).then_some(by_id))
    };
    let lines = eventually("every decision is logged", SOON, lines).await?;
    for (id, parity, let_in) in seen {
        let line = lines.get(id).context("no decision")?;
        let n = revisions.get(&text(line, "policy-revision")).context("an unknown revision")?;
        let is_open = n % 2 == *parity;
        assert_eq!(let_in.is_some(), is_open, "revision {n}: {line}");
        assert_eq!(line.get("allow").and_then(Value::as_bool), Some(is_open), "revision {n}: {line}");
        assert!(let_in.is_none_or(|marker| marker == *n), "decided by {n}, forwarded by {let_in:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_edit_of_the_file_applies_by_itself_and_a_bad_one_says_every_problem_with_its_place() -> Result<()> {
    let upstream = Upstream::start()?;
    let gateway = Gateway::binary(BINARY).run(&revision(0, &upstream.url())).await?;
    let visitor = visitor(&gateway).await?;
    assert_eq!(visitor.get("http://odd.localhost/").await?.status, StatusCode::FORBIDDEN);

    gateway.replace_config(&revision(1, &upstream.url()))?;
    let look = async || Ok((visitor.get("http://odd.localhost/").await?.status == StatusCode::OK).then_some(()));
    eventually("the edit applies", FILE_APPLIES, look).await?;

    // written in place, as editors do that keep the file
    std::fs::write(gateway.config_file(), broken())?;
    let said = |words: &'static str| move |line: &str| line.contains(words).then(|| line.to_owned());
    gateway.stderr().find(FILE_APPLIES, said("the one in force stays")).await?;
    let file = gateway.config_file().display().to_string();
    for place in
        [":7: insecure_server: is neither true nor false", "routes[0].policy.allow.or[0].acept: is not a known"]
    {
        let line = gateway.stderr().find(SOON, said(place)).await?;
        assert!(line.contains(&file), "{line}");
    }
    assert_eq!(visitor.get("http://odd.localhost/").await?.status, StatusCode::OK);
    assert_eq!(ready(&gateway, "last-reload").await?, "refused");

    std::fs::remove_file(gateway.config_file())?;
    gateway.stderr().find(FILE_APPLIES, said("no such file")).await?;
    assert_eq!(visitor.get("http://odd.localhost/").await?.status, StatusCode::OK);

    gateway.replace_config(&revision(2, &upstream.url()))?;
    let look = async || Ok((visitor.get("http://even.localhost/").await?.status == StatusCode::OK).then_some(()));
    eventually("the next good one applies", FILE_APPLIES, look).await?;
    assert_eq!(ready(&gateway, "last-reload").await?, "ok");
    Ok(())
}

#[tokio::test]
async fn what_waits_for_a_restart_is_named_and_the_routes_change_all_the_same() -> Result<()> {
    let upstream = Upstream::start()?;
    let mut gateway = Gateway::binary(BINARY).run(&revision(0, &upstream.url())).await?;
    let changed = revision(1, &upstream.url()).replacen("routes:", "cookie_name: other\nlog_level: debug\nroutes:", 1);
    gateway.replace_config(&changed.replacen("authenticate.localhost", "sign-in.localhost", 1))?;
    gateway.hang_up()?;
    let keys = |line: &str| line.contains("wait for a restart").then(|| line.to_owned());
    let line = gateway.stderr().find(SOON, keys).await?;
    assert!(line.contains("authenticate_service_url, cookie_name, log_level"), "{line}");
    let visitor = visitor(&gateway).await?;
    let look = async || Ok((visitor.get("http://odd.localhost/").await?.status == StatusCode::OK).then_some(()));
    eventually("the routes are in force", SOON, look).await?;
    // what waits is not in force by half
    assert_eq!(visitor.get("http://authenticate.localhost/.pomerium/").await?.status, StatusCode::OK);
    assert_eq!(visitor.get("http://sign-in.localhost/.pomerium/").await?.status, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn a_pipe_in_the_place_of_the_file_is_refused_and_nobody_waits_for_it() -> Result<()> {
    let upstream = Upstream::start()?;
    let launcher = Gateway::binary(BINARY);
    let mut gateway = launcher.run(&revision(1, &upstream.url())).await?;
    let before = ready(&gateway, "revision").await?;
    let pipe = gateway.home().join("pipe");
    ensure!(std::process::Command::new("mkfifo").arg(&pipe).status()?.success());
    std::fs::rename(&pipe, gateway.config_file())?;
    gateway.hang_up()?;
    let refused = async || Ok((ready(&gateway, "last-reload").await? == "refused").then_some(()));
    eventually("the pipe is refused", SOON, refused).await?;
    assert_eq!(ready(&gateway, "revision").await?, before);
    gateway.replace_config(&revision(2, &upstream.url()))?;
    gateway.hang_up()?;
    let taken = async || Ok((ready(&gateway, "revision").await? != before).then_some(()));
    eventually("the next file is in force", SOON, taken).await?;
    gateway.interrupt()?;
    assert_eq!(gateway.wait_exit(SOON).await?.code(), Some(0));
    Ok(())
}
