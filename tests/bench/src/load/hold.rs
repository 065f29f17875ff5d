//! Connections that are opened, used once, and held.

use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::io::AsyncReadExt;

use super::lane::To;
use super::wire::Wire;
use super::{Task, Work};

/// How many are opened at one time.
const AT_ONCE: usize = 64;
/// How long the runtime may take to look at all of them.
const NOTICE: Duration = Duration::from_millis(100);

/// Opens them, says `open` on stdout, and holds them until stdin ends; then says how many the other side has closed.
///
/// # Errors
/// One cannot be opened, or its answer is wrong.
pub async fn open(task: &Task) -> Result<()> {
    let Work::Hold(bytes) = task.work else { bail!("nothing is to be held") };
    let to = Rc::new(To::of(task)?);
    let requests = to.requests(0);
    let request = requests.first().context("no cookie")?;
    let ask = async |mut wire: Wire| {
        let (status, got) = wire.exchange(request).await?;
        ensure!(status == 200 && got == bytes, "a wrong answer: {status}, {got} bytes and not {bytes}");
        anyhow::Ok(wire)
    };
    let begin = async || ask(Wire::small(to.connect().await?)).await;
    let opened = stream::iter(0..task.under_way).map(async |_| begin().await);
    let opened: Vec<Wire> = opened.buffer_unordered(AT_ONCE).try_collect().await?;
    // once more, as late as can be: who has waited long for a request may have been sent away, and comes again
    let again = stream::iter(opened).map(async |wire| match ask(wire).await {
        Ok(wire) => Ok(wire),
        Err(_) => begin().await,
    });
    let mut held: Vec<Wire> = again.buffer_unordered(AT_ONCE).try_collect().await?;
    say("open")?;
    // nothing else is to be done meanwhile
    std::io::stdin().read_to_end(&mut Vec::new())?;
    // what has come meanwhile is to be noticed
    tokio::time::sleep(NOTICE).await;
    let mut closed = 0_u32;
    for wire in &mut held {
        let mut byte = [0];
        // a read that is ready found an end, or what nobody asked for
        closed += u32::from(tokio::task::unconstrained(wire.stream().read(&mut byte)).now_or_never().is_some());
    }
    say(&closed.to_string())
}

fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
