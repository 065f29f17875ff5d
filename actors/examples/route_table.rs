//! How long finding a route takes, by how many there are: on one host, and each on a host of its own. A program, never a
//! timed test: `cargo run --release -p portcullis-actors --example route_table`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Instant;

use anyhow::Result;
use portcullis_actors::proxy::routes::{Located, RouteTable};
use portcullis_actors::request::{Canonical, Peer};

const ASKED: usize = 20_000;

fn main() -> Result<()> {
    let mut out = std::io::stdout().lock();
    for kind in ["prefix", "path", "regex", "host", "wildcard"] {
        for count in [1, 10, 100, 1_000, 10_000] {
            let (built, found) = measure(kind, count)?;
            writeln!(out, "{count:>6} routes by {kind:<8} built in {built:>8.1} ms, found in {found:>7.0} ns")?;
        }
    }
    Ok(())
}

/// Milliseconds for the table, nanoseconds for one look into it.
fn measure(kind: &str, count: usize) -> Result<(f64, f64)> {
    let mut text = "authenticate_service_url: https://auth.test\ninsecure_server: true\nidp_provider: oidc\n\
                    idp_provider_url: https://idp.test\nidp_client_id: gate\nroutes:\n"
        .to_owned();
    for number in 0..count {
        let (host, matcher) = match kind {
            "host" => (format!("app-{number}.test"), String::new()),
            "wildcard" => (format!("*.app-{number}.test"), String::new()),
            "regex" => ("app.test".to_owned(), format!(", regex: '/app-{number}/[a-z]+/.*'")),
            kind => ("app.test".to_owned(), format!(", {kind}: /app-{number}/x")),
        };
        writeln!(text, "- {{from: 'https://{host}', to: 'http://u', allowed_users: [x]{matcher}}}")?;
    }
    let config = portcullis_config::parse("routes", &text, &|_| None).map_err(|error| anyhow::anyhow!("{error}"))?;
    let began = Instant::now();
    let table = RouteTable::new(&config);
    let built = began.elapsed().as_secs_f64() * 1e3;
    let requests: Vec<_> = (0..ASKED.min(count)).map(|index| ask(kind, index * count / ASKED.min(count))).collect();
    let requests = requests.into_iter().collect::<Result<Vec<_>>>()?;
    // an expression makes itself ready when it is tried for the first time
    for request in &requests {
        let _ = table.locate(request);
    }
    let began = Instant::now();
    for request in requests.iter().cycle().take(ASKED) {
        let found = table.locate(request);
        anyhow::ensure!(matches!(found, Ok(Located::Route { .. })), "{kind} {count}: not found");
    }
    Ok((built, began.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(ASKED)?)))
}

fn ask(kind: &str, number: usize) -> Result<Canonical> {
    let (host, path) = match kind {
        "host" => (format!("app-{number}.test"), "/some/path".to_owned()),
        "wildcard" => (format!("one.app-{number}.test"), "/some/path".to_owned()),
        "regex" => ("app.test".to_owned(), format!("/app-{number}/some/path")),
        _ => ("app.test".to_owned(), format!("/app-{number}/x")),
    };
    let (head, ()) = http::Request::get(path).header("host", host).body(())?.into_parts();
    Ok(Canonical::of(head, Peer { address: std::net::Ipv4Addr::LOCALHOST.into(), https: true, certificate: None })?)
}
