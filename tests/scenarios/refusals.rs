//! What is forged, stale, replayed or somebody else's opens nothing, and says so on a clear page.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use portcullis_harness::client::{Answer, Visitor};
use portcullis_harness::cookies::Cookie;
use portcullis_harness::gateway::Gateway;
use portcullis_harness::process::eventually;
use portcullis_harness::sign_in::{credentials, sign_in, submit, to_the_form};
use portcullis_harness::world::{ADMIN, APP, AUTHENTICATE, BOB, PUBLIC, World};
use url::Url;

const BINARY: &str = env!("CARGO_BIN_EXE_portcullis");

async fn world() -> Result<(World, Gateway)> {
    let world = World::new(BINARY).await?;
    let gateway = world.gateway().await?;
    Ok((world, gateway))
}

/// Goes through a sign-in until a redirect leads to `start`, and gives that URL unvisited.
async fn until(visitor: &Visitor, app: &str, who: &str, start: &str) -> Result<Url> {
    let (page, form) = to_the_form(visitor, app).await?;
    let mut answer = submit(visitor, &page, &credentials(form, who, who)?).await?;
    for _ in 0..20 {
        let next = answer.redirect()?.with_context(|| format!("no redirect to {start}: {}", answer.text()))?;
        if next.as_str().starts_with(start) {
            return Ok(next);
        }
        answer = visitor.get(next.as_str()).await?;
    }
    anyhow::bail!("no redirect to {start}")
}

/// Who brings nothing but this handle, as no browser, is told to sign in.
async fn is_refused(visitor: &Visitor, url: &str) -> Result<()> {
    let answer = visitor.clone().accepting("application/json").get(url).await?;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{url}: {}", answer.text());
    Ok(())
}

/// A page for people, with a status that is no success and without a session behind it.
fn is_a_clear_refusal(answer: &Answer, visitor: &Visitor) {
    assert!(answer.status.is_client_error(), "{} {}", answer.status, answer.url);
    assert!(answer.header("content-type").starts_with("text/html"), "{:?}", answer.headers);
    assert!(answer.text().contains("<h1>"), "{}", answer.text());
    assert!(visitor.cookies().named("_pomerium").is_empty());
}

fn handle(of: &Visitor, host: &str) -> Result<Cookie> {
    of.cookies().at(&Url::parse(host)?, "_pomerium").context("no session cookie")
}

fn plant(visitor: &Visitor, cookie: &Cookie, url: &str) -> Result<()> {
    let domain = Url::parse(url)?.host_str().context("no host")?.to_owned();
    visitor.cookies().plant(Cookie { domain, ..cookie.clone() });
    Ok(())
}

#[tokio::test]
async fn a_handle_with_a_character_changed_opens_nothing() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let genuine = handle(&alice, APP)?;
    let thief = world.visitor(&gateway).await?;
    let length = genuine.value.len();
    for at in [0, 3, 10, length / 2, length - 2] {
        let mut value: Vec<char> = genuine.value.chars().collect();
        value[at] = if value[at] == 'A' { 'B' } else { 'A' };
        plant(&thief, &Cookie { value: value.into_iter().collect(), ..genuine.clone() }, APP)?;
        is_refused(&thief, APP).await?;
    }
    for value in ["", "v1", "v1..", "v1.x.AAAA", &genuine.value[..length - 1], &format!("{}A", genuine.value)] {
        plant(&thief, &Cookie { value: value.to_owned(), ..genuine.clone() }, APP)?;
        is_refused(&thief, APP).await?;
    }
    plant(&thief, &genuine, APP)?;
    assert_eq!(thief.get(APP).await?.status, StatusCode::OK, "the control: unchanged, it opens");
    Ok(())
}

#[tokio::test]
async fn a_handle_opens_the_host_it_was_made_for_and_no_other() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let thief = world.visitor(&gateway).await?;
    plant(&thief, &handle(&alice, APP)?, ADMIN)?;
    is_refused(&thief, ADMIN).await?;
    // nor does the authenticate host's own session
    let own = alice.cookies().named("_pomerium_authenticate").pop().context("no session at authenticate")?;
    plant(&thief, &Cookie { name: "_pomerium".into(), ..own }, APP)?;
    is_refused(&thief, APP).await
}

#[tokio::test]
async fn a_handle_of_another_installation_opens_nothing() -> Result<()> {
    let (world, here) = world().await?;
    let there = world.gateway().await?;
    let alice = world.visitor(&there).await?;
    sign_in(&alice, APP, "alice").await?;
    is_refused(&alice.clone().through(here.address().await?), APP).await
}

#[tokio::test]
async fn two_session_cookies_count_as_none() -> Result<()> {
    let (world, gateway) = world().await?;
    let (alice, bob) = (world.visitor(&gateway).await?, world.visitor(&gateway).await?);
    sign_in(&alice, APP, "alice").await?;
    sign_in(&bob, APP, "bob").await?;
    let (a, b) = (handle(&alice, APP)?.value, handle(&bob, APP)?.value);
    for pair in [format!("_pomerium={a}; _pomerium={b}"), format!("_pomerium={b}; x=1; _pomerium={a}")] {
        let request =
            Request::get(APP).header("cookie", pair).header("accept", "application/json").body(Bytes::new())?;
        let answer = world.visitor(&gateway).await?.send(request).await?;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    Ok(())
}

#[tokio::test]
async fn a_session_ends_when_its_time_has_come() -> Result<()> {
    let world = World::new(BINARY).await?;
    let mut config = world.config();
    config.set("cookie_expire", "3s");
    let gateway = world.launcher.run(&config.text()).await?;
    let alice = world.visitor(&gateway).await?;
    assert_eq!(sign_in(&alice, APP, "alice").await?.status, StatusCode::OK);
    // the jar of a thief keeps what a browser would have dropped
    let look = async || {
        let status = alice.clone().accepting("application/json").get(APP).await?.status;
        Ok((status == StatusCode::UNAUTHORIZED).then_some(()))
    };
    eventually("the handle is worth nothing", Duration::from_secs(10), look).await?;
    assert_eq!(handle(&alice, APP)?.max_age.map(|age| (1..=3).contains(&age)), Some(true));
    Ok(())
}

#[tokio::test]
async fn a_handle_is_taken_from_every_place_where_pomerium_takes_one_and_never_passed_on() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let handle = handle(&alice, APP)?.value;
    let bare = || Request::get(APP).header("accept", "application/json");
    let requests = [
        bare().header("authorization", format!("Pomerium {handle}")).body(Bytes::new())?,
        bare().header("authorization", format!("Bearer Pomerium-{handle}")).body(Bytes::new())?,
        bare().header("x-pomerium-authorization", &handle).body(Bytes::new())?,
        bare().uri(format!("{APP}/a?b=c&pomerium_session={handle}&d=e")).body(Bytes::new())?,
        bare().header("cookie", format!("a=b; _pomerium={handle}; c=d")).body(Bytes::new())?,
    ];
    for request in requests {
        let shown = format!("{:?}", request.headers().keys().collect::<Vec<_>>());
        let answer = world.visitor(&gateway).await?.send(request).await?;
        assert_eq!(answer.status, StatusCode::OK, "{shown}");
        let received = format!("{:?}", world.upstream.last()?);
        assert!(!received.contains(&handle), "{shown}: {received}");
    }
    let last = world.upstream.last()?;
    assert_eq!(last.header("cookie"), Some("a=b; c=d"), "other cookies pass");
    Ok(())
}

#[tokio::test]
async fn a_callback_belongs_to_the_browser_that_set_out() -> Result<()> {
    let (world, gateway) = world().await?;
    let attacker = world.visitor(&gateway).await?;
    let callback = until(&attacker, APP, "bob", &format!("{APP}/.pomerium/callback/")).await?;
    // bob's finished sign-in in alice's browser would make her work under his name
    let alice = world.visitor(&gateway).await?;
    let refused = alice.get(callback.as_str()).await?;
    is_a_clear_refusal(&refused, &alice);
    // nor when her browser has set out on a sign-in of its own
    to_the_form(&alice, APP).await?;
    is_a_clear_refusal(&alice.get(callback.as_str()).await?, &alice);

    for _ in 0..2 {
        // delivered twice in the right browser, it leads to the same place
        let answer = attacker.get(callback.as_str()).await?;
        assert_eq!(answer.redirect()?.context("no redirect")?.as_str(), format!("{APP}/"));
    }
    let signed_in =
        gateway.events().await?.iter().filter(|event| event["type"] == "portcullis.session.signed_in.v1").count();
    assert_eq!(signed_in, 1);
    Ok(())
}

#[tokio::test]
async fn the_return_from_the_provider_belongs_to_the_browser_that_set_out() -> Result<()> {
    let (world, gateway) = world().await?;
    let attacker = world.visitor(&gateway).await?;
    let back = until(&attacker, APP, "bob", &format!("{AUTHENTICATE}/oauth2/callback")).await?;
    let alice = world.visitor(&gateway).await?;
    is_a_clear_refusal(&alice.get(back.as_str()).await?, &alice);
    assert!(!world.provider.requests().contains(&"POST /token".to_owned()), "the code was not spent for her");

    let page = attacker.follow(attacker.get(back.as_str()).await?, 10).await?;
    assert_eq!(page.status, StatusCode::OK);
    // its state is spent
    let again = attacker.get(back.as_str()).await?;
    assert!(again.status.is_client_error(), "{}", again.status);
    Ok(())
}

#[tokio::test]
async fn a_return_that_was_tampered_with_opens_nothing() -> Result<()> {
    let (world, gateway) = world().await?;
    let spoil: [fn(&str, &str) -> Vec<String>; 4] = [
        |_, _| Vec::new(),
        |name, value| vec![format!("{name}={value}x")],
        |name, value| vec![format!("{name}={value}"), format!("{name}={value}")],
        |name, _| vec![format!("{name}=")],
    ];
    for parameter in ["state", "code", "iss"] {
        for (way, spoil) in spoil.iter().enumerate() {
            let alice = world.visitor(&gateway).await?;
            let mut back = until(&alice, APP, "alice", &format!("{AUTHENTICATE}/oauth2/callback")).await?;
            let query = back.query().unwrap_or_default().split('&');
            let query: Vec<String> = query
                .flat_map(|pair| match pair.split_once('=') {
                    Some((name, value)) if name == parameter => spoil(name, value),
                    Some(_) | None => vec![pair.to_owned()],
                })
                .collect();
            back.set_query(Some(&query.join("&")));
            let refused = alice.follow(alice.get(back.as_str()).await?, 10).await?;
            assert!(refused.status.is_client_error(), "{parameter}, way {way}: {}", refused.status);
            assert!(alice.cookies().named("_pomerium").is_empty(), "{parameter}, way {way}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn an_error_of_the_provider_is_a_page_that_repeats_nothing_of_it() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    let back = until(&alice, APP, "alice", &format!("{AUTHENTICATE}/oauth2/callback")).await?;
    let state = back.query_pairs().find(|(name, _)| name == "state").context("no state")?.1.into_owned();
    let url = Url::parse_with_params(
        &format!("{AUTHENTICATE}/oauth2/callback"),
        [
            ("error", "access_denied"),
            ("error_description", "<script>canary</script>"),
            ("state", &state),
            ("iss", world.provider.issuer()),
        ],
    )?;
    let refused = alice.get(url.as_str()).await?;
    is_a_clear_refusal(&refused, &alice);
    assert!(!refused.text().contains("canary"), "{}", refused.text());
    Ok(())
}

#[tokio::test]
async fn a_signed_url_with_anything_changed_is_refused() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    let genuine = alice.get(&format!("{APP}/a?b=c")).await?.redirect()?.context("no redirect")?;
    assert!(genuine.as_str().starts_with(&format!("{AUTHENTICATE}/.pomerium/sign_in?")), "{genuine}");
    let pairs: Vec<(String, String)> = genuine.query_pairs().into_owned().collect();
    let with = |pairs: Vec<(String, String)>| {
        let mut url = genuine.clone();
        url.query_pairs_mut().clear().extend_pairs(pairs);
        url
    };
    for at in 0..pairs.len() {
        let mut changed = pairs.clone();
        changed[at].1.push('1');
        let mut missing = pairs.clone();
        missing.remove(at);
        let mut doubled = pairs.clone();
        doubled.push(pairs[at].clone());
        for forged in [changed, missing, doubled] {
            let answer = world.visitor(&gateway).await?.get(with(forged).as_str()).await?;
            assert!(answer.status.is_client_error(), "{}: {}", pairs[at].0, answer.status);
        }
    }
    let mut elsewhere = pairs.clone();
    for (name, value) in &mut elsewhere {
        if name == "pomerium_redirect_uri" {
            *value = "https://evil.example/".to_owned();
        }
    }
    assert!(alice.get(with(elsewhere).as_str()).await?.status.is_client_error());
    assert!(alice.get(&format!("{AUTHENTICATE}/.pomerium/sign_in")).await?.status.is_client_error());
    assert!(alice.get(genuine.as_str()).await?.status.is_redirection(), "the control: unchanged, it leads on");
    Ok(())
}

#[tokio::test]
async fn a_callback_with_anything_changed_is_refused() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    let genuine = until(&alice, APP, "alice", &format!("{APP}/.pomerium/callback/")).await?;
    let pairs: Vec<(String, String)> = genuine.query_pairs().into_owned().collect();
    for at in 0..pairs.len() {
        let mut changed = pairs.clone();
        changed[at].1.push('1');
        let mut url = genuine.clone();
        url.query_pairs_mut().clear().extend_pairs(changed);
        is_a_clear_refusal(&alice.get(url.as_str()).await?, &alice);
    }
    // another host's callback is not this one's
    let mut moved = genuine.clone();
    moved.set_host(Url::parse(BOB)?.host_str())?;
    is_a_clear_refusal(&alice.get(moved.as_str()).await?, &alice);
    Ok(())
}

#[tokio::test]
async fn no_parameter_leads_a_browser_off_to_another_site() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let spellings = [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example",
        "https:evil.example",
        "https:/\\evil.example",
        "https://app.localhost@evil.example/",
        "https://evil.example#app.localhost",
        "https://evil.example?app.localhost",
        "https://app.localhost.evil.example/",
        "https://evil.example%2f@app.localhost/",
        "javascript:alert(1)",
        "data:text/html,x",
        "\thttps://evil.example/",
        "https://evil.example\\.app.localhost/",
        "http://app.localhost%00.evil.example/",
    ];
    let places = [
        format!("{APP}/.pomerium/sign_out"),
        format!("{APP}/.pomerium/callback/"),
        format!("{APP}/.pomerium/"),
        format!("{APP}/"),
        format!("{AUTHENTICATE}/.pomerium/sign_in"),
        format!("{AUTHENTICATE}/.pomerium/sign_out"),
        format!("{AUTHENTICATE}/.pomerium/signed_out"),
        format!("{AUTHENTICATE}/"),
    ];
    for place in places {
        for spelling in spellings {
            for parameter in ["pomerium_redirect_uri", "redirect_uri", "post_logout_redirect_uri"] {
                let url = Url::parse_with_params(&place, [(parameter, spelling)])?;
                // a stranger: alice would be signed out on the way
                let stranger = world.visitor(&gateway).await?;
                let answer = stranger.get(url.as_str()).await?;
                if let Some(next) = answer.redirect()? {
                    let host = next.host_str().unwrap_or_default();
                    assert!(host.ends_with("localhost") || host == "127.0.0.1", "{url} leads to {next}");
                }
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_way_back_is_the_exact_url() -> Result<()> {
    let (world, gateway) = world().await?;
    for path in ["/", "/a/b?c=d&e=%2F&f", "/a%20b/%C3%BC?x=https%3A%2F%2Fevil.example%2F", "/?a=1&a=2#"] {
        let alice = world.visitor(&gateway).await?;
        let url = format!("{APP}{path}");
        let page = sign_in(&alice, url.trim_end_matches('#'), "alice").await?;
        assert_eq!(page.status, StatusCode::OK);
        assert_eq!(page.url.as_str(), url.trim_end_matches('#'));
        assert_eq!(world.upstream.last()?.target, path.trim_end_matches('#'));
    }
    Ok(())
}

#[tokio::test]
async fn several_tabs_sign_in_at_once_and_each_arrives_where_it_was_going() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    let urls = [format!("{APP}/one"), format!("{APP}/two"), format!("{ADMIN}/three")];
    let mut forms = Vec::new();
    for url in &urls {
        forms.push(to_the_form(&alice, url).await?);
    }
    for (url, (page, form)) in urls.iter().zip(forms) {
        let answer = submit(&alice, &page, &credentials(form, "alice", "alice")?).await?;
        let arrived = alice.follow(answer, 20).await?;
        assert_eq!((arrived.status, arrived.url.as_str()), (StatusCode::OK, url.as_str()));
    }
    Ok(())
}

#[tokio::test]
async fn a_sign_in_makes_a_new_session_each_time() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let planted = handle(&alice, APP)?;
    // whoever plants a handle before the sign-in does not hold the session after it
    let victim = world.visitor(&gateway).await?;
    plant(&victim, &Cookie { value: "v1.planted.handle".into(), ..planted.clone() }, APP)?;
    sign_in(&victim, APP, "bob").await?;
    assert_ne!(handle(&victim, APP)?.value, "v1.planted.handle");
    assert_ne!(handle(&victim, APP)?.value, planted.value);
    Ok(())
}

#[tokio::test]
async fn cookies_are_what_they_must_be() -> Result<()> {
    let (world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    to_the_form(&alice, APP).await?;
    let transient: Vec<Cookie> =
        alice.cookies().iter().filter(|cookie| cookie.name.starts_with("__Host-")).cloned().collect();
    assert!(transient.iter().any(|cookie| cookie.name.starts_with("__Host-_pomerium_start_")));
    assert!(transient.iter().any(|cookie| cookie.name.starts_with("__Host-_pomerium_pkce_")));
    sign_in(&alice, APP, "alice").await?;
    for name in ["_pomerium", "_pomerium_authenticate"] {
        let cookie = alice.cookies().named(name).pop().with_context(|| name.to_owned())?;
        assert!(cookie.secure && cookie.http_only && cookie.host_only && cookie.path == "/", "{cookie:?}");
    }
    for cookie in transient {
        assert!(cookie.secure && cookie.http_only, "{}", cookie.name);
        assert!(cookie.max_age.is_some_and(|age| age <= 600), "{}", cookie.name);
    }
    Ok(())
}

#[tokio::test]
async fn a_provider_that_is_down_is_explained_and_keeps_nobody_out_who_was_in() -> Result<()> {
    let (mut world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let bob = world.visitor(&gateway).await?;
    let back = until(&bob, APP, "bob", &format!("{AUTHENTICATE}/oauth2/callback")).await?;
    world.provider.kill()?;

    let refused = bob.get(back.as_str()).await?;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.header("retry-after").parse::<u32>().is_ok());
    assert!(!refused.text().contains("127.0.0.1"), "{}", refused.text());
    assert!(bob.cookies().named("_pomerium").is_empty());
    let said =
        gateway.stderr().find(Duration::from_secs(5), |line| line.contains("WARN").then(|| line.to_owned())).await?;
    assert!(!said.is_empty());
    assert_eq!(alice.get(APP).await?.status, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_provider_that_is_slow_costs_the_others_nothing() -> Result<()> {
    let (mut world, gateway) = world().await?;
    let alice = world.visitor(&gateway).await?;
    sign_in(&alice, APP, "alice").await?;
    let bob = world.visitor(&gateway).await?;
    let back = until(&bob, APP, "bob", &format!("{AUTHENTICATE}/oauth2/callback")).await?;
    world.provider.freeze()?;
    let others = async {
        for _ in 0..20 {
            assert_eq!(alice.get(APP).await?.status, StatusCode::OK);
            assert_eq!(alice.get(PUBLIC).await?.status, StatusCode::OK);
        }
        anyhow::Ok(())
    };
    let (waiting, served) = tokio::join!(bob.get(back.as_str()), others);
    served?;
    assert_eq!(waiting?.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(bob.cookies().named("_pomerium").is_empty());
    world.provider.thaw()
}
