//! Ways in and out that are not the usual one: long addresses, many tabs, strict cookies, one host for everything, and
//! links that somebody else had made.

use anyhow::{Context, Result};
use http::StatusCode;
use http::header::{AUTHORIZATION, REFERER};
use portcullis_config::limits::SIGN_IN_COOKIES_BYTES;
use portcullis_harness::client::{Visitor, request};
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::sign_in;
use portcullis_harness::world::{APP, AUTHENTICATE, BOB, World};
use std::time::Duration;
use url::Url;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

async fn status(visitor: &Visitor, url: &str) -> Result<StatusCode> {
    Ok(visitor.clone().accepting("application/json").get(url).await?.status)
}

#[tokio::test]
async fn a_sign_out_link_that_somebody_else_had_made_asks_before_it_ends_anything() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let (alice, mallory) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    sign_in(&alice, APP, "alice").await?;

    let of_nobody = mallory.get(&format!("{APP}/.pomerium/sign_out")).await?.redirect()?.context("no redirect")?;
    sign_in(&mallory, APP, "bob").await?;
    let of_bob = mallory.get(&format!("{APP}/.pomerium/sign_out")).await?.redirect()?.context("no redirect")?;
    for link in [of_nobody, of_bob] {
        let answer = alice.get(link.as_str()).await?;
        assert_eq!(answer.status, StatusCode::OK, "{link}");
        assert!(answer.text().contains("Sign out?"), "{}", answer.text());
        assert_eq!(status(&alice, APP).await?, StatusCode::OK);
    }

    let own = alice.get(&format!("{APP}/.pomerium/sign_out")).await?.redirect()?.context("no redirect")?;
    assert_eq!(alice.get(own.as_str()).await?.status, StatusCode::SEE_OTHER);
    assert_eq!(status(&alice, APP).await?, StatusCode::UNAUTHORIZED);
    Ok(())
}

#[tokio::test]
async fn a_person_comes_back_to_the_exact_address_however_long_it_is() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let plain = [2000, 3000, 8000, 15_000].map(|length| format!("{APP}/long?q={}", "x".repeat(length)));
    // each byte of them is three in the address of the sign-in page
    let escaped = ["%C3%A4".repeat(2500), "&=".repeat(8000)].map(|text| format!("{APP}/long?q={text}"));
    for url in plain.into_iter().chain(escaped) {
        let visitor = world.visitor(&gateway).await?;
        let answer = sign_in(&visitor, &url, "alice").await?;
        assert_eq!((answer.status, answer.url.as_str()), (StatusCode::OK, url.as_str()));
        let left = visitor.cookies().iter().filter(|cookie| cookie.name.contains("_pkce_")).count();
        assert_eq!(left, 0, "state cookies stay behind");
    }
    Ok(())
}

#[tokio::test]
async fn sign_ins_that_nobody_ends_do_not_grow_a_browsers_requests_for_ever() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let visitor = world.visitor(&gateway).await?;
    for tab in 0..60 {
        let url = format!("{APP}/{tab}?q={}", "x".repeat(2000));
        let away = visitor.get(&url).await?.redirect()?.context("no redirect")?;
        visitor.get(away.as_str()).await?;
    }
    let held = visitor.cookies().header(&Url::parse(AUTHENTICATE)?).map_or(0, |cookies| cookies.len());
    assert!(held < SIGN_IN_COOKIES_BYTES + 8 * 1024, "{held} bytes of cookies");
    let answer = sign_in(&visitor, APP, "alice").await?;
    assert_eq!((answer.status, answer.url.host_str()), (StatusCode::OK, Some("app.localhost")));
    Ok(())
}

#[tokio::test]
async fn the_authenticate_host_may_have_routes_of_its_own() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.route(AUTHENTICATE, &world.upstream.url(), "allow_any_authenticated_user: true");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    let url = format!("{AUTHENTICATE}/page");
    let answer = sign_in(&visitor, &url, "alice").await?;
    assert_eq!((answer.status, answer.url.as_str()), (StatusCode::OK, url.as_str()), "{}", answer.text());
    assert_eq!(sign_in(&visitor, APP, "alice").await?.status, StatusCode::OK);
    Ok(())
}

/// The visitor knows nothing of `SameSite`, but a browser sends no strict cookie along a redirect that another site is
/// behind; so there must be none between the cookie and the page.
#[tokio::test]
async fn a_strict_cookie_is_not_needed_before_a_page_of_ours_asks_for_it() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.set("cookie_same_site", "strict");
    let gateway = world.launcher.run(&config.text()).await?;
    let visitor = world.visitor(&gateway).await?;
    let url = format!("{APP}/page?x=1&y");
    let answer = sign_in(&visitor, &url, "alice").await?;
    assert_eq!((answer.status, answer.url.path()), (StatusCode::OK, "/.pomerium/callback/"));
    assert_eq!(answer.header("refresh"), format!("0; url={url}"));
    assert!(answer.text().contains("Continue"), "{}", answer.text());
    assert_eq!(visitor.get(&url).await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_program_with_a_handle_that_opens_nothing_is_never_sent_to_sign_in() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let visitor = world.visitor(&gateway).await?;
    for url in [format!("{APP}/"), format!("{APP}/.pomerium/user"), format!("{BOB}/.pomerium/user")] {
        let mut program = request("GET", &url)?;
        program.headers_mut().insert(AUTHORIZATION, "Bearer Pomerium-nonsense".parse()?);
        assert_eq!(visitor.send(program).await?.status, StatusCode::UNAUTHORIZED, "{url}");
    }
    Ok(())
}

#[tokio::test]
async fn a_handle_in_the_address_of_a_page_does_not_reach_the_log_by_the_referer() -> Result<()> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    let visitor = world.visitor(&gateway).await?;
    let mut seen = request("GET", &format!("{APP}/seen"))?;
    seen.headers_mut().insert(REFERER, format!("{APP}/before?pomerium_session=secret-of-mine").parse()?);
    visitor.send(seen).await?;
    let line = eventually("an access line", Duration::from_secs(5), async || {
        Ok(gateway.request_log("http-request").into_iter().find(|line| line["path"] == "/seen"))
    });
    assert_eq!(line.await?["referer"], format!("{APP}/before"));
    assert!(!gateway.stdout().text().contains("secret-of-mine"));
    Ok(())
}
