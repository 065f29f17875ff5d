//! Memory of the peers, idle and with idle connections, and the connections that are held open to it meanwhile.

use std::io::{BufRead, BufReader};
use std::process::Child;

use anyhow::{Context, Result, ensure};

use crate::cpu::family;
use crate::figures::Table;
use crate::load::{Task, Work, begin_apart};
use crate::peer::Peer;
use crate::peer::nginx::ANSWER_BYTES;
use crate::row::{Row, Way};
use crate::stage::Stage;
use crate::{Options, say};

/// Of a hundred idle connections, how many must still be there when they have been counted.
const STILL_OPEN: u32 = 95;

/// Measures memory: idle, and with many idle connections.
///
/// # Errors
/// A peer does not start, or does not keep the connections.
pub async fn measure(stage: &Stage, options: &Options) -> Result<Table> {
    let peers: Vec<Peer> = options.peers.iter().copied().filter(|peer| *peer != Peer::NginxBuffered).collect();
    let note = format!(
        "idle: as it has started, code included; connections: {} of them, after one request on each, without code",
        options.idle
    );
    let mut table = Table::new(Row::Memory.title(), note, peers.iter().map(|peer| peer.title().to_owned()));
    for _ in 0..options.rounds {
        for (subject, peer) in peers.iter().enumerate() {
            for (way, name) in [(Way::Plain, "a connection, KB"), (Way::Tls, "a TLS connection, KB")] {
                let running = stage.start(*peer, way, stage.kilobyte.address).await?;
                if way == Way::Plain {
                    table.add("idle, MB", 1, subject, occupied(&running.processes)? / 1e6);
                }
                // what the first requests need is not theirs
                let few = stage.task(way, "/", Work::Hold(ANSWER_BYTES), options, &running)?;
                Held::open(&few)?.close()?;
                let before = held_by(&running.processes)?;
                let many = Task { under_way: options.idle, ..few };
                let held = Held::open(&many).with_context(|| format!("{}: {name}", peer.title()))?;
                let after = held_by(&running.processes)?;
                let open = options.idle - held.close()?.min(options.idle);
                let enough = u64::from(open) * 100 >= u64::from(options.idle) * u64::from(STILL_OPEN);
                ensure!(enough, "{} has kept {open} of {} connections", peer.title(), options.idle);
                let each = (after - before) / f64::from(open) / 1024.0;
                table.add(name, 2, subject, each);
                say(&format!("  {:<20} {name}: {each:.2}\n", peer.title()))?;
                running.stop().await?;
            }
        }
    }
    Ok(table)
}

/// Bytes that `roots` and the processes below them occupy, code and files too. What several share is counted once
/// (`Pss`, proc(5)).
///
/// # Errors
/// One of `roots` does not run.
pub fn occupied(roots: &[u32]) -> Result<f64> {
    sum(roots, &["Pss:"])
}

/// Bytes that they hold themselves: without files, whose pages come as they are read and belong to whoever reads them.
///
/// # Errors
/// As [`occupied`].
pub fn held_by(roots: &[u32]) -> Result<f64> {
    sum(roots, &["Pss_Anon:", "Pss_Shmem:"])
}

fn sum(roots: &[u32], names: &[&str]) -> Result<f64> {
    let mut bytes = 0.0;
    for process in family(roots)? {
        // it may have ended since
        let Ok(text) = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup")) else { continue };
        for name in names {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).context("no figure")?;
            bytes += line.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0;
        }
    }
    Ok(bytes)
}

/// Connections that a process of its own holds open, idle. They close when it is dropped.
pub struct Held {
    child: Child,
}

impl Held {
    /// Opens them, one request on each, and waits until all of them are there.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn open(task: &Task) -> Result<Self> {
        let mut held = Self { child: begin_apart(task)? };
        ensure!(held.line()? == "open", "the connections were not opened");
        Ok(held)
    }

    /// Lets them go, and says how many the other side had closed before.
    ///
    /// # Errors
    /// The process that holds them has failed.
    pub fn close(mut self) -> Result<u32> {
        drop(self.child.stdin.take());
        Ok(self.line()?.parse()?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        BufReader::new(self.child.stdout.as_mut().context("no stdout")?).read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_grows_with_what_is_taken_and_is_a_part_of_what_is_occupied() {
        let own = [std::process::id()];
        let before = held_by(&own).unwrap();
        let taken = vec![7_u8; 64_000_000];
        assert!(held_by(&own).unwrap() - before > 60e6, "{} bytes are taken", taken.len());
        assert!(occupied(&own).unwrap() > held_by(&own).unwrap());
    }
}
