//! Whole sign-ins a second: from the first request of a fresh browser to the application's answer, each request on a
//! new TLS connection, each person somebody new.

use std::fmt::{self, Display, Formatter};
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use super::Options;
use super::ground::{Ground, Setup};
use super::meter::{Meter, Share};
use crate::say;
use crate::statistics::{Spread, percentile};

const ROUNDS: u32 = 5;

/// What was found.
pub struct Found {
    share: Share,
    browsers: u32,
    people: u32,
    rates: Vec<f64>,
    micros: Vec<u32>,
}

/// Measures.
///
/// # Errors
/// Somebody is not let in.
pub async fn measure(binary: &Path, options: &Options) -> Result<Found> {
    let ground = Ground::start(binary, Setup { access_life: 3600, relayed: false }).await?;
    let people = options.sign_ins;
    // discovery, keys and connections are there by then
    ground.sign_in(options.browsers, options.browsers).await?;
    let meter = Meter::start(&ground)?;
    let (mut rates, mut micros) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let arrived = ground.sign_in(people, options.browsers).await?;
        rates.push(f64::from(people) / began.elapsed().as_secs_f64());
        for person in arrived {
            micros.push(u32::try_from(person.took.as_micros())?);
        }
        say(&format!("  {:.0} sign-ins a second\n", rates.last().copied().unwrap_or_default()))?;
    }
    micros.sort_unstable();
    Ok(Found { share: meter.stop(&ground)?, browsers: options.browsers, people, rates, micros })
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { share, browsers, people, rates, micros } = self;
        write!(f, "{share}")?;
        writeln!(
            f,
            "  how       {ROUNDS} rounds of {people} people, {browsers} browsers at a time at the three gateways in turn; the"
        )?;
        writeln!(f, "            scripted provider in a process of its own; each request on a new TLS connection\n")?;
        let Spread { min, median, max } = Spread::of(rates.iter().copied());
        writeln!(f, "  {:<32} {:>10} {:>10} {:>10}", "", "least", "median", "greatest")?;
        writeln!(f, "  {:<32} {min:>10.1} {median:>10.1} {max:>10.1}", "sign-ins a second")?;
        let ms = |percent: usize| percentile(micros, percent) / 1000.0;
        writeln!(f, "  {:<32} {:>10} {:>10} {:>10}", "", "p50", "p99", "max")?;
        writeln!(f, "  {:<32} {:>10.0} {:>10.0} {:>10.0}", "one sign-in, ms", ms(50), ms(99), ms(100))?;
        let each = f64::from(ROUNDS * people);
        let [gateways, servers] = [share.gateways, share.servers].map(|time| time.as_secs_f64() * 1000.0 / each);
        writeln!(f, "  CPU for each: gateways {gateways:.1} ms, NATS servers {servers:.1} ms")
    }
}
