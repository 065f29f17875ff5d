//! Programs that sign in through their person's browser: where they may wait, who is asked, and what their handles open.

use std::time::Duration;

use anyhow::{Context, Result};
use http::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, SET_COOKIE};
use http::{HeaderName, HeaderValue, StatusCode};
use portcullis_harness::client::{Answer, Visitor, request};
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{go_on, sign_in, sign_out};
use portcullis_harness::world::{ADMIN, APP, AUTHENTICATE, BOB, PUBLIC, World};
use url::{Url, form_urlencoded};

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");
/// Where the program waits. Nobody does: nothing of ours ever goes there by itself.
const PLACE: &str = "http://127.0.0.1:9/in";

async fn world() -> Result<(World, Gateway)> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    Ok((world, gateway))
}

/// The address of the login endpoint with a place to wait at.
fn login(host: &str, place: &str) -> String {
    let place: String = form_urlencoded::byte_serialize(place.as_bytes()).collect();
    format!("{host}/.pomerium/api/v1/login?pomerium_redirect_uri={place}")
}

/// What a program gets there: the address for its person's browser.
async fn address(program: &Visitor, host: &str) -> Result<String> {
    let answer = program.get(&login(host, PLACE)).await?;
    anyhow::ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.text());
    assert_eq!(answer.header(CONTENT_TYPE.as_str()), "text/plain; charset=utf-8");
    assert!(answer.headers.get(SET_COOKIE).is_none());
    Ok(answer.text())
}

/// The handle in the link of the question's page.
fn handle(answer: &Answer) -> Result<String> {
    let text = answer.text();
    let start = format!("href=\"{PLACE}?pomerium_jwt=");
    let (_, rest) = text.split_once(&start).with_context(|| format!("{} {}: {text}", answer.status, answer.url))?;
    Ok(rest.split('"').next().context("no end of the link")?.to_owned())
}

async fn by_handle(program: &Visitor, url: &str, header: HeaderName, value: String) -> Result<Answer> {
    let mut request = request("GET", url)?;
    request.headers_mut().insert(header, HeaderValue::from_str(&value)?);
    program.clone().accepting("application/json").send(request).await
}

async fn opens(program: &Visitor, url: &str, handle: &str) -> Result<StatusCode> {
    Ok(by_handle(program, url, AUTHORIZATION, format!("Pomerium {handle}")).await?.status)
}

#[tokio::test]
async fn a_program_gets_a_handle_for_one_host_once_its_person_has_signed_in_and_said_yes() -> Result<()> {
    let (world, gateway) = world().await?;
    let (program, browser) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    let start = address(&program, APP).await?;
    assert!(start.starts_with(&format!("{AUTHENTICATE}/.pomerium/sign_in?")), "{start}");
    for parameter in ["pomerium_programmatic=true", "pomerium_callback_uri=", "pomerium_expiry=", "pomerium_signature="]
    {
        assert!(start.contains(parameter), "{start}");
    }

    let question = go_on(&browser, browser.get(&start).await?, "alice", "alice").await?;
    assert_eq!(question.status, StatusCode::OK);
    for said in ["app.localhost", "127.0.0.1:9", "alice@example.com", "Let it in"] {
        assert!(question.text().contains(said), "{said}: {}", question.text());
    }
    assert_eq!(question.header("cache-control"), "no-store");
    assert_eq!(question.header("referrer-policy"), "no-referrer");
    let handle = handle(&question)?;

    for (header, value) in [
        (AUTHORIZATION, format!("Pomerium {handle}")),
        (AUTHORIZATION, format!("Bearer Pomerium-{handle}")),
        (HeaderName::from_static("x-pomerium-authorization"), handle.clone()),
    ] {
        let answer = by_handle(&program, APP, header.clone(), value).await?;
        assert_eq!(answer.status, StatusCode::OK, "{header}");
        let seen = answer.text();
        assert!(!seen.contains(&handle), "the upstream sees the handle");
    }
    // ADMIN would take alice, and knows nothing of this handle
    for other in [ADMIN, BOB] {
        assert_eq!(opens(&program, other, &handle).await?, StatusCode::UNAUTHORIZED, "{other}");
    }
    assert!(!gateway.stdout().text().contains(&handle), "the log holds the handle");
    Ok(())
}

#[tokio::test]
async fn a_programs_sign_in_leaves_no_cookie_in_the_browser_and_asks_who_is_signed_in_already() -> Result<()> {
    let (world, gateway) = world().await?;
    let (program, browser) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    sign_in(&browser, BOB, "alice").await?;
    // no form of the provider lies on the way any more: only the question is between the browser and the program
    let first = browser.get(&address(&program, APP).await?).await?;
    let question = browser.follow(first, 10).await?;
    let handle = handle(&question)?;
    assert!(question.headers.get(SET_COOKIE).is_none(), "{:?}", question.headers);
    let app = Url::parse(APP)?;
    assert!(browser.cookies().at(&app, "_pomerium").is_none());
    assert_eq!(browser.clone().accepting("application/json").get(APP).await?.status, StatusCode::UNAUTHORIZED);
    assert_eq!(opens(&program, APP, &handle).await?, StatusCode::OK);

    // one session: who signs out takes the program along
    sign_out(&browser, BOB).await?;
    let refused = eventually("the end of the handle", Duration::from_secs(60), async || {
        Ok((opens(&program, APP, &handle).await? == StatusCode::UNAUTHORIZED).then_some(()))
    });
    refused.await?;
    // and what leads there is no way back in
    let again = browser.get(question.url.as_str()).await?;
    assert_eq!(again.status, StatusCode::BAD_REQUEST, "{}", again.text());
    Ok(())
}

#[tokio::test]
async fn a_handle_goes_nowhere_but_to_this_machine_and_to_hosts_that_are_named() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.set("programmatic_redirect_domain_whitelist", "[localhost, tools.example.com]");
    let gateway = world.launcher.run(&config.text()).await?;
    let program = world.visitor(&gateway).await?;
    for place in [
        "",
        "/",
        "https://evil.example",
        "http://localhost.evil.example/",
        "http://localhost@evil.example/",
        "http://evil.example\\@localhost/",
        "//evil.example/",
        "javascript:alert(1)",
        "javascript://localhost/%0aalert(1)",
        "data:text/html,x",
        "file://localhost/etc/passwd",
        "http://localhost/\r\nSet-Cookie: a=b",
        "http://localhost/#x",
        "http://localhost/?pomerium_jwt=planted",
        "http://tools.example.com/",
        "https://a.tools.example.com/",
        "http://0.0.0.0/",
        "http://[::ffff:192.0.2.1]/",
        "http://",
        "http://localhost:99999/",
    ] {
        let answer = program.get(&login(APP, place)).await?;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{place}");
        assert!(!answer.text().contains("pomerium_signature"), "{place}: {}", answer.text());
    }
    let twice = format!("{}&pomerium_redirect_uri=http%3A%2F%2Flocalhost%2F", login(APP, PLACE));
    assert_eq!(program.get(&twice).await?.status, StatusCode::BAD_REQUEST);
    for place in ["http://localhost", "http://[::1]:1/", "http://127.1.2.3:1", "https://tools.example.com/in?a=b"] {
        assert_eq!(program.get(&login(APP, place)).await?.status, StatusCode::OK, "{place}");
    }
    Ok(())
}

#[tokio::test]
async fn the_endpoint_is_there_on_every_routes_host_and_for_whoever_says_where_to() -> Result<()> {
    let (world, gateway) = world().await?;
    let program = world.visitor(&gateway).await?;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"] {
        for host in [APP, PUBLIC] {
            let without = program.send(request(method, &format!("{host}/.pomerium/api/v1/login"))?).await?;
            assert_eq!(without.status, StatusCode::NOT_FOUND, "{method} {host}");
            let with = program.send(request(method, &login(host, PLACE))?).await?;
            if method == "GET" {
                assert_eq!(with.status, StatusCode::OK, "{host}");
                assert!(with.headers.get("access-control-allow-origin").is_none());
            } else {
                assert_eq!((with.status, &with.headers[ALLOW]), (StatusCode::METHOD_NOT_ALLOWED, &"GET".parse()?));
            }
        }
        for host in [AUTHENTICATE, "https://raw.localhost"] {
            let answer = program.send(request(method, &login(host, PLACE))?).await?;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {host}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_address_or_a_callback_that_was_changed_opens_nothing() -> Result<()> {
    let (world, gateway) = world().await?;
    let (program, browser) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    let start = address(&program, APP).await?;
    let evil = form_urlencoded::byte_serialize(b"http://127.0.0.1:10/in").collect::<String>();
    let mine = form_urlencoded::byte_serialize(PLACE.as_bytes()).collect::<String>();
    for changed in [
        start.replace(&mine, &evil),
        start.replace("app.localhost", "admin.localhost"),
        start.replace("pomerium_programmatic=true", "pomerium_start=x"),
        start.replace("pomerium_programmatic=true&", ""),
        format!("{start}&pomerium_start=x"),
        format!("{start}&pomerium_programmatic=true"),
    ] {
        assert_ne!(changed, start);
        let answer = browser.get(&changed).await?;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{changed}");
    }

    let question = go_on(&browser, browser.get(&start).await?, "alice", "alice").await?;
    handle(&question)?;
    let callback = question.url.to_string();
    for changed in [
        callback.replace(&mine, &evil),
        callback.replace("app.localhost", "admin.localhost"),
        callback.replace("pomerium_programmatic=true", "pomerium_programmatic=false"),
        callback.replace("pomerium_programmatic=true&", ""),
    ] {
        assert_ne!(changed, callback);
        let answer = browser.get(&changed).await?;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{changed}");
        assert!(!answer.text().contains("pomerium_jwt"));
        assert!(answer.headers.get(SET_COOKIE).is_none());
    }
    Ok(())
}

/// The cookies of this gateway open all of its hosts; a program's handle, the one that it asked for.
#[tokio::test]
async fn a_shared_cookie_domain_widens_no_programs_handle() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.set("cookie_domain", "localhost");
    let gateway = world.launcher.run(&config.text()).await?;
    let (program, browser) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    let question = go_on(&browser, browser.get(&address(&program, APP).await?).await?, "alice", "alice").await?;
    let handle = handle(&question)?;
    assert_eq!(opens(&program, APP, &handle).await?, StatusCode::OK);
    assert_eq!(opens(&program, ADMIN, &handle).await?, StatusCode::UNAUTHORIZED);
    // what a browser's cookie holds still opens both, whichever way it is presented; the visitor itself does not take a
    // cookie for a domain of one label
    let mut answer = browser.get(APP).await?;
    while !answer.url.path().starts_with("/.pomerium/callback") {
        answer = browser.get(answer.redirect()?.context("no redirect")?.as_str()).await?;
    }
    let mut set = answer.headers.get_all(SET_COOKIE).iter().filter_map(|line| line.to_str().ok());
    let cookie = set.find_map(|line| line.strip_prefix("_pomerium=")?.split(';').next()).context("no cookie")?;
    for host in [APP, ADMIN] {
        assert_eq!(opens(&program, host, cookie).await?, StatusCode::OK, "{host}");
    }
    Ok(())
}

#[tokio::test]
async fn a_place_that_is_no_longer_allowed_when_the_sign_in_ends_gets_nothing() -> Result<()> {
    let (world, gateway) = world().await?;
    let (program, browser) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    sign_in(&browser, APP, "alice").await?;
    let start = address(&program, APP).await?;
    let mut config = world.config();
    config.set("programmatic_redirect_domain_whitelist", "[tools.example.com]");
    gateway.replace_config(&config.text())?;
    let closed = eventually("the new configuration", Duration::from_secs(60), async || {
        let status = program.get(&login(APP, PLACE)).await?.status;
        Ok((status == StatusCode::BAD_REQUEST).then_some(()))
    });
    closed.await?;
    let end = browser.follow(browser.get(&start).await?, 10).await?;
    assert_eq!(end.status, StatusCode::BAD_REQUEST);
    assert!(!end.text().contains("pomerium_jwt"), "{}", end.text());
    Ok(())
}
